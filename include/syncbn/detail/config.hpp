#pragma once

// What the compiler is, said once. Every macro here is always defined, so that a misspelt test cannot pass silently.

// Functions that CUDA code calls as well carry this mark; without nvcc it is empty.
#if defined(__CUDACC__)
#define SYNCBN_HOST_DEVICE __host__ __device__
#else
#define SYNCBN_HOST_DEVICE
#endif

// CPU kernels live in an inline namespace of this name. Two translation units compiled with different -m flags then have
// kernels of different names, and the linker cannot replace one by the other.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define SYNCBN_CPU_ISA isa_avx512
#elif defined(__AVX512F__)
#define SYNCBN_CPU_ISA isa_avx512f
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define SYNCBN_CPU_ISA isa_avx2_fma_f16c
#elif defined(__AVX2__) && defined(__FMA__)
#define SYNCBN_CPU_ISA isa_avx2_fma
#elif defined(__AVX2__)
#define SYNCBN_CPU_ISA isa_avx2
#elif defined(__AVX__)
#define SYNCBN_CPU_ISA isa_avx
#elif defined(__SSE4_2__)
#define SYNCBN_CPU_ISA isa_sse4_2
#elif defined(__SSE2__)
#define SYNCBN_CPU_ISA isa_sse2
#elif defined(__ARM_NEON)
#define SYNCBN_CPU_ISA isa_neon
#else
#define SYNCBN_CPU_ISA isa_portable
#endif
