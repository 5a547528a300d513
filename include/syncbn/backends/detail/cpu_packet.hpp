#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include <Eigen/Core>

#include <syncbn/detail/config.hpp>
#include <syncbn/scalar_kind.hpp>

// Packets, as many P as a register holds, and how elements of any format get in and out of them. This file,
// cpu_lanes.hpp and cpu_memory.hpp are the ones that know intrinsics.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

// f(0), f(1), ... with constants as arguments, for what is to stay in registers: at -O2 compilers leave loops over an array as
// they are, and the array in memory. Whatever f calls has to be inlined as well.
template <std::size_t count, class F>
SYNCBN_ALWAYS_INLINE void unrolled(const F& f) noexcept {
  [&]<int... k>(std::integer_sequence<int, k...>) SYNCBN_INLINE_LAMBDA {
    (f(std::integral_constant<int, k>()), ...);
  }(std::make_integer_sequence<int, static_cast<int>(count)>());
}

namespace packet_math = Eigen::internal;

template <class P>
using Packet = typename packet_math::packet_traits<P>::type;
template <class P>
inline constexpr int packet_size = packet_math::unpacket_traits<Packet<P>>::size;

// As many doubles as a register holds, from floats.
inline Packet<double> load_widened(const float* p) noexcept {
#if defined(EIGEN_VECTORIZE_AVX512)
  return _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(p));  // unmasked, it makes g++ 12 warn
#elif defined(EIGEN_VECTORIZE_AVX)
  return _mm256_cvtps_pd(_mm_loadu_ps(p));
#elif defined(EIGEN_VECTORIZE_SSE2)
  return _mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  double widened[packet_size<double>];
  for (int i = 0; i < packet_size<double>; ++i) widened[i] = static_cast<double>(p[i]);
  return packet_math::ploadu<Packet<double>>(widened);
#endif
}
inline Packet<double> load_widened(const double* p) noexcept { return packet_math::ploadu<Packet<double>>(p); }

// Rounded as std::sqrt is; Eigen's for AVX-512 is an approximation.
inline Packet<double> square_root(const Packet<double>& value) noexcept {
#if defined(EIGEN_VECTORIZE_AVX512)
  return _mm512_maskz_sqrt_pd(0xff, value);
#else
  return packet_math::psqrt(value);
#endif
}

// The elements' own formats -> the type in which a kernel computes.
inline float to_float(Float16 h) noexcept {
  std::uint16_t bits;
  std::memcpy(&bits, &h, sizeof bits);
  return static_cast<float>(Eigen::half(Eigen::half_impl::raw_uint16_to_half(bits)));
}
inline float to_float(BFloat16 h) noexcept {
  std::uint32_t bits = 0;
  std::uint16_t upper;
  std::memcpy(&upper, &h, sizeof upper);
  bits = static_cast<std::uint32_t>(upper) << 16U;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Reads one element that may belong to a foreign 16-bit type: by memcpy, as the aliasing rules want it.
template <class Compute, class Storage>
Compute load_element(const Storage* from) noexcept {
  Storage element;
  std::memcpy(&element, from, sizeof element);
  if constexpr (std::is_floating_point_v<Storage>) {
    return static_cast<Compute>(element);
  } else {
    return static_cast<Compute>(to_float(element));
  }
}

// To the nearest float, but away from it to an odd last bit where bits were lost: rounding the result once more, to 16
// bits, then gives what rounding the double at once would give.
inline float round_to_odd(double value) noexcept {
  const float nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) == value || value != value) return nearest;
  std::uint32_t bits;
  std::memcpy(&bits, &nearest, sizeof bits);
  if (std::abs(static_cast<double>(nearest)) > std::abs(value)) --bits;  // towards zero
  bits |= 1U;
  float odd;
  std::memcpy(&odd, &bits, sizeof odd);
  return odd;
}
inline float round_to_odd(float value) noexcept { return value; }

// Writes one element, rounded once to the nearest (even) value of its format; by memcpy like load_element().
template <class Storage, class Compute>
void store_element(Storage* to, Compute value) noexcept {
  if constexpr (std::is_floating_point_v<Storage>) {
    const Storage element = static_cast<Storage>(value);
    std::memcpy(to, &element, sizeof element);
  } else if constexpr (std::is_same_v<Storage, Float16>) {
    const auto bits =
        static_cast<std::uint16_t>(Eigen::half_impl::raw_half_as_uint16(Eigen::half(round_to_odd(value))));
    std::memcpy(to, &bits, sizeof bits);
  } else {
    const std::uint16_t bits = Eigen::bfloat16(round_to_odd(value)).value;
    std::memcpy(to, &bits, sizeof bits);
  }
}

// ---- Packets from and to elements of any format ----------------------------------------------------------------------

// 16-bit elements as floats, and the bits of floats rounded to them, as many as a packet has: the same results as load_element()
// and store_element() have.
#if defined(EIGEN_VECTORIZE_AVX512)

inline Packet<float> load_floats(const BFloat16* from) noexcept {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, bits), 16));
}
inline __m256i to_bits(BFloat16, const Packet<float>& value) noexcept {
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i odd = _mm512_and_si512(_mm512_maskz_srli_epi32(0xffff, bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i sign = _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0x80000000U)));
  const __m512i quiet = _mm512_or_si512(sign, _mm512_set1_epi32(0x7fc00000));
  const __m512i result = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q), quiet);
  return _mm512_maskz_cvtepi32_epi16(0xffff, _mm512_maskz_srli_epi32(0xffff, result, 16));
}
inline Packet<double> load_doubles(const BFloat16* from) noexcept {
  const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  return _mm512_maskz_cvtps_pd(0xff, _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)));
}
#define SYNCBN_CPU_CONVERTS_BF16 1

#elif defined(EIGEN_VECTORIZE_SSE2)

// Four floats as bfloat16 in the lower halves of four words, sign-extended.
inline __m128i rounded_to_bfloat16(__m128 value) noexcept {
  const __m128i bits = _mm_castps_si128(value);
  const __m128i odd = _mm_and_si128(_mm_srli_epi32(bits, 16), _mm_set1_epi32(1));
  const __m128i rounded = _mm_add_epi32(bits, _mm_add_epi32(odd, _mm_set1_epi32(0x7fff)));
  const __m128i sign = _mm_and_si128(bits, _mm_set1_epi32(static_cast<int>(0x80000000U)));
  const __m128i quiet = _mm_or_si128(sign, _mm_set1_epi32(0x7fc00000));
  const __m128i is_nan = _mm_castps_si128(_mm_cmpunord_ps(value, value));
  return _mm_srai_epi32(_mm_or_si128(_mm_and_si128(is_nan, quiet), _mm_andnot_si128(is_nan, rounded)), 16);
}
inline __m128 four_floats(const BFloat16* from) noexcept {
  const __m128i bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), bits));
}
#if defined(EIGEN_VECTORIZE_AVX2)
inline Packet<float> load_floats(const BFloat16* from) noexcept {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline __m128i to_bits(BFloat16, const Packet<float>& value) noexcept {
  const __m256i bits = _mm256_castps_si256(value);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i sign = _mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(0x80000000U)));
  const __m256i quiet = _mm256_or_si256(sign, _mm256_set1_epi32(0x7fc00000));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
  const __m256i result = _mm256_srai_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
  return _mm_packs_epi32(_mm256_castsi256_si128(result), _mm256_extracti128_si256(result, 1));
}
inline Packet<double> load_doubles(const BFloat16* from) noexcept { return _mm256_cvtps_pd(four_floats(from)); }
#elif defined(EIGEN_VECTORIZE_AVX)
inline Packet<float> load_floats(const BFloat16* from) noexcept {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(four_floats(from)), four_floats(from + 4), 1);
}
inline __m128i to_bits(BFloat16, const Packet<float>& value) noexcept {
  const __m128i low = rounded_to_bfloat16(_mm256_castps256_ps128(value));
  const __m128i high = rounded_to_bfloat16(_mm256_extractf128_ps(value, 1));
  return _mm_packs_epi32(low, high);
}
inline Packet<double> load_doubles(const BFloat16* from) noexcept { return _mm256_cvtps_pd(four_floats(from)); }
#else
inline Packet<float> load_floats(const BFloat16* from) noexcept { return four_floats(from); }
inline std::int64_t to_bits(BFloat16, const Packet<float>& value) noexcept {
  const __m128i rounded = rounded_to_bfloat16(value);
  std::int64_t bits;
  _mm_storel_epi64(reinterpret_cast<__m128i*>(&bits), _mm_packs_epi32(rounded, rounded));
  return bits;
}
inline Packet<double> load_doubles(const BFloat16* from) noexcept {
  std::int32_t two;
  std::memcpy(&two, from, sizeof two);
  return _mm_cvtps_pd(_mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), _mm_cvtsi32_si128(two))));
}
#endif
#define SYNCBN_CPU_CONVERTS_BF16 1

#else
#define SYNCBN_CPU_CONVERTS_BF16 0
#endif

#if defined(__F16C__) && defined(EIGEN_VECTORIZE_AVX512)

inline Packet<float> load_floats(const Float16* from) noexcept {
  return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline __m256i to_bits(Float16, const Packet<float>& value) noexcept {
  return _mm512_maskz_cvtps_ph(0xffff, value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Packet<double> load_doubles(const Float16* from) noexcept {
  return _mm512_maskz_cvtps_pd(0xff, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
#define SYNCBN_CPU_CONVERTS_F16 1

#elif defined(__F16C__) && defined(EIGEN_VECTORIZE_AVX)

inline Packet<float> load_floats(const Float16* from) noexcept {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline __m128i to_bits(Float16, const Packet<float>& value) noexcept {
  return _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Packet<double> load_doubles(const Float16* from) noexcept {
  return _mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}
#define SYNCBN_CPU_CONVERTS_F16 1

#else
#define SYNCBN_CPU_CONVERTS_F16 0
#endif

// Whether the functions above exist for a format.
template <class Storage>
inline constexpr bool converts = (std::is_same_v<Storage, BFloat16> && SYNCBN_CPU_CONVERTS_BF16 == 1) ||
                                 (std::is_same_v<Storage, Float16> && SYNCBN_CPU_CONVERTS_F16 == 1);

// As many neighbouring elements as a packet holds.
template <class P, class Storage>
Packet<P> load_packet(const Storage* from) noexcept {
  if constexpr (std::is_same_v<P, Storage>) {
    return packet_math::ploadu<Packet<P>>(from);
  } else if constexpr (std::is_same_v<P, double> && std::is_same_v<Storage, float>) {
    return load_widened(from);
  } else if constexpr (std::is_same_v<P, double> && converts<Storage>) {
    return load_doubles(from);
  } else if constexpr (converts<Storage>) {
    return load_floats(from);
  } else {
    P values[packet_size<P>];
    for (int i = 0; i < packet_size<P>; ++i) values[i] = load_element<P>(from + i);
    return packet_math::ploadu<Packet<P>>(values);
  }
}
template <class P, class Storage>
void store_packet(Storage* to, const Packet<P>& value) noexcept {
  if constexpr (std::is_same_v<P, Storage>) {
    packet_math::pstoreu(to, value);
  } else if constexpr (std::is_same_v<P, float> && converts<Storage>) {
    const auto bits = to_bits(Storage(), value);
    std::memcpy(to, &bits, sizeof bits);
  } else {
    P values[packet_size<P>];
    packet_math::pstoreu(values, value);
    for (int i = 0; i < packet_size<P>; ++i) store_element(to + i, values[i]);
  }
}

#undef SYNCBN_CPU_CONVERTS_BF16
#undef SYNCBN_CPU_CONVERTS_F16

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
