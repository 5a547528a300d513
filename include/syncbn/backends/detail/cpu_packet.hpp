#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <Eigen/Core>

#include <syncbn/detail/config.hpp>
#include <syncbn/scalar_kind.hpp>

// The one place that knows Eigen's packet functions. Kernels see two things: Lanes, eight doubles that are summed side
// by side, and Packet<P>, as many P as a register holds.
//
// Eight lanes at every instruction set: a register pair more or less changes nothing in what is added to what.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

namespace packet_math = Eigen::internal;

template <class P>
using Packet = typename packet_math::packet_traits<P>::type;
template <class P>
inline constexpr int packet_size = packet_math::unpacket_traits<Packet<P>>::size;

inline constexpr int lane_count = 8;

// As many doubles as a register holds, from floats.
inline Packet<double> load_widened(const float* p) noexcept {
#if defined(EIGEN_VECTORIZE_AVX512)
  return _mm512_cvtps_pd(_mm256_loadu_ps(p));
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

// Eight doubles in registers.
struct Lanes {
  static constexpr int width = packet_size<double>;
  static constexpr int count = lane_count / width;
  Packet<double> part[count];

  static Lanes all(double value) noexcept {
    Lanes result;
    for (auto& p : result.part) p = packet_math::pset1<Packet<double>>(value);
    return result;
  }
  template <class Load>
  static Lanes load(const Load* from) noexcept {
    Lanes result;
    for (int i = 0; i < count; ++i) result.part[i] = load_widened(from + i * width);
    return result;
  }
  // The first `n` < 8 of them; the others get `rest`.
  template <class Load>
  static Lanes load_some(const Load* from, Index n, double rest) noexcept {
    double values[lane_count];
    for (int i = 0; i < lane_count; ++i) values[i] = i < n ? static_cast<double>(from[i]) : rest;
    return load(values);
  }
  void store(double* to) const noexcept {
    for (int i = 0; i < count; ++i) packet_math::pstoreu(to + i * width, part[i]);
  }
  friend Lanes operator+(const Lanes& a, const Lanes& b) noexcept {
    Lanes result;
    for (int i = 0; i < count; ++i) result.part[i] = packet_math::padd(a.part[i], b.part[i]);
    return result;
  }
  friend Lanes operator-(const Lanes& a, const Lanes& b) noexcept {
    Lanes result;
    for (int i = 0; i < count; ++i) result.part[i] = packet_math::psub(a.part[i], b.part[i]);
    return result;
  }
  // a * b + c
  friend Lanes multiply_add(const Lanes& a, const Lanes& b, const Lanes& c) noexcept {
    Lanes result;
    for (int i = 0; i < count; ++i) result.part[i] = packet_math::pmadd(a.part[i], b.part[i], c.part[i]);
    return result;
  }
};

// The sum over lanes, always as the same tree: the layouts must agree in it to the bit.
inline double sum_of_lanes(const double* v) noexcept {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}
inline double sum_of_lanes(const Lanes& lanes) noexcept {
  double values[lane_count];
  lanes.store(values);
  return sum_of_lanes(values);
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
    const std::uint16_t bits = Eigen::half(round_to_odd(value)).x;
    std::memcpy(to, &bits, sizeof bits);
  } else {
    const std::uint16_t bits = Eigen::bfloat16(round_to_odd(value)).value;
    std::memcpy(to, &bits, sizeof bits);
  }
}

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
