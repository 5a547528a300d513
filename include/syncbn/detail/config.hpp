#pragma once

// What the compiler is, said once. Every macro here is always defined, so that a misspelt test cannot pass silently.

// Functions that CUDA code calls as well carry this mark; without nvcc it is empty.
#if defined(__CUDACC__)
#define SYNCBN_HOST_DEVICE __host__ __device__
#else
#define SYNCBN_HOST_DEVICE
#endif

// __ASSOCIATIVE_MATH__: of g++, for parts of -ffast-math alone.
#if (defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) ||      \
     (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0)) && \
    !defined(SYNCBN_ALLOW_FAST_MATH)
#error \
    "syncbn: -ffast-math reorders sums and denies NaNs, against docs/numerics.md; define SYNCBN_ALLOW_FAST_MATH to do so"
#endif

// Keeps a product apart from the sum it goes into: fused, it would be rounded otherwise, and where that is done is up to
// optimization.
#if defined(__CUDA_ARCH__)
#define SYNCBN_ROUND_HERE(value) (value = __dmul_rn(value, 1.0))
#elif defined(__GNUC__) && defined(__SSE2__)
#define SYNCBN_ROUND_HERE(value) __asm__("" : "+x"(value))
#elif defined(__GNUC__) && defined(__aarch64__)
#define SYNCBN_ROUND_HERE(value) __asm__("" : "+w"(value))
#else
#define SYNCBN_ROUND_HERE(value) static_cast<void>(value)
#endif

// Loops whose state lives in registers only if they are part of the function that holds it.
#if defined(__GNUC__)
#define SYNCBN_INLINE_LAMBDA __attribute__((always_inline))
#define SYNCBN_ALWAYS_INLINE SYNCBN_INLINE_LAMBDA inline
#else
#define SYNCBN_INLINE_LAMBDA
#define SYNCBN_ALWAYS_INLINE inline
#endif

// CPU kernels live in an inline namespace of this name, made of what decides about packets and fused products: isa_avx2_fma.
// Two translation units compiled with different -m flags then have kernels of different names, and the linker cannot
// replace one by the other.
#if defined(EIGEN_DONT_VECTORIZE)
#define SYNCBN_ISA_WIDTH scalar
#elif defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define SYNCBN_ISA_WIDTH avx512
#elif defined(__AVX512F__)
#define SYNCBN_ISA_WIDTH avx512f
#elif defined(__AVX2__)
#define SYNCBN_ISA_WIDTH avx2
#elif defined(__AVX__)
#define SYNCBN_ISA_WIDTH avx
#elif defined(__SSE4_2__)
#define SYNCBN_ISA_WIDTH sse4_2
#elif defined(__SSE4_1__)
#define SYNCBN_ISA_WIDTH sse4_1
#elif defined(__SSSE3__)
#define SYNCBN_ISA_WIDTH ssse3
#elif defined(__SSE3__)
#define SYNCBN_ISA_WIDTH sse3
#elif defined(__SSE2__)
#define SYNCBN_ISA_WIDTH sse2
#elif defined(__ARM_NEON)
#define SYNCBN_ISA_WIDTH neon
#else
#define SYNCBN_ISA_WIDTH portable
#endif

#if defined(__FMA__) || defined(__FMA4__)
#define SYNCBN_ISA_FMA _fma
#else
#define SYNCBN_ISA_FMA
#endif
#if defined(__F16C__)
#define SYNCBN_ISA_F16 _f16c
#else
#define SYNCBN_ISA_F16
#endif

#define SYNCBN_JOIN_4(a, b, c, d) a##b##c##d
#define SYNCBN_JOIN(a, b, c, d) SYNCBN_JOIN_4(a, b, c, d)
#define SYNCBN_CPU_ISA SYNCBN_JOIN(isa_, SYNCBN_ISA_WIDTH, SYNCBN_ISA_FMA, SYNCBN_ISA_F16)
