#pragma once

#include <syncbn/backends/detail/cpu_packet.hpp>

// Eight doubles that are summed side by side. Eight at every instruction set: a register pair more or less changes
// nothing in what is added to what.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

inline constexpr int lane_count = 8;

// Eight doubles in registers.
struct Lanes {
  static constexpr int width = packet_size<double>;
  static constexpr int count = lane_count / width;
  // Whether load_some() is an instruction.
#if defined(EIGEN_VECTORIZE_AVX512)
  template <class Load>
  static constexpr bool loads_some_at_once = std::is_floating_point_v<Load>;
#else
  template <class Load>
  static constexpr bool loads_some_at_once = false;
#endif
  Packet<double> part[count];

  SYNCBN_ALWAYS_INLINE static Lanes all(double value) noexcept {
    Lanes result;
    unrolled<count>([&](auto i) SYNCBN_INLINE_LAMBDA { result.part[i] = packet_math::pset1<Packet<double>>(value); });
    return result;
  }
  template <class Load>
  SYNCBN_ALWAYS_INLINE static Lanes load(const Load* from) noexcept {
    Lanes result;
    unrolled<count>([&](auto i) SYNCBN_INLINE_LAMBDA { result.part[i] = load_packet<double>(from + i * width); });
    return result;
  }
  // from[0], from[1], ... in the lanes [first, last), `rest` in the others.
  template <class Load>
  SYNCBN_ALWAYS_INLINE static Lanes load_some(const Load* from, Index first, Index last, double rest) noexcept {
#if defined(EIGEN_VECTORIZE_AVX512)
    if constexpr (std::is_floating_point_v<Load>) {
      const auto lanes = static_cast<__mmask8>((1U << last) - (1U << first));
      __m512d values;
      if constexpr (std::is_same_v<Load, double>) {
        values = _mm512_maskz_expandloadu_pd(lanes, from);
      } else {
        // Unmasked intrinsics, casts among them, make g++ 12 warn.
        const __m512d floats = _mm512_castps_pd(_mm512_maskz_expandloadu_ps(lanes, from));
        values = _mm512_maskz_cvtps_pd(0xff, _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xff, floats, 0)));
      }
      Lanes result;
      result.part[0] = _mm512_mask_mov_pd(_mm512_set1_pd(rest), lanes, values);
      return result;
    }
#endif
    double values[lane_count];
    for (Index i = 0; i < lane_count; ++i) {
      values[i] = i >= first && i < last ? load_element<double>(from + (i - first)) : rest;
    }
    return load(values);
  }
  SYNCBN_ALWAYS_INLINE void store(double* to) const noexcept {
    unrolled<count>([&](auto i) SYNCBN_INLINE_LAMBDA { packet_math::pstoreu(to + i * width, part[i]); });
  }
  SYNCBN_ALWAYS_INLINE friend Lanes operator+(const Lanes& a, const Lanes& b) noexcept {
    Lanes result;
    unrolled<count>([&](auto i) SYNCBN_INLINE_LAMBDA { result.part[i] = packet_math::padd(a.part[i], b.part[i]); });
    return result;
  }
  SYNCBN_ALWAYS_INLINE friend Lanes operator-(const Lanes& a, const Lanes& b) noexcept {
    Lanes result;
    unrolled<count>([&](auto i) SYNCBN_INLINE_LAMBDA { result.part[i] = packet_math::psub(a.part[i], b.part[i]); });
    return result;
  }
  // a * b + c
  SYNCBN_ALWAYS_INLINE friend Lanes multiply_add(const Lanes& a, const Lanes& b, const Lanes& c) noexcept {
    Lanes result;
    unrolled<count>([&](auto i)
                        SYNCBN_INLINE_LAMBDA { result.part[i] = packet_math::pmadd(a.part[i], b.part[i], c.part[i]); });
    return result;
  }
};

// The sum over lanes, always as the same tree: the layouts must agree in it to the bit.
inline double sum_of_lanes(const double* v) noexcept {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}
SYNCBN_ALWAYS_INLINE double sum_of_lanes(const Lanes& lanes) noexcept {
  double values[lane_count];
  lanes.store(values);
  return sum_of_lanes(values);
}

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
