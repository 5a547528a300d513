#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

/// @file
/// @brief The two 16-bit formats by their definition, and rounding to them by search: what conversions are judged by.
/// It includes nothing of the library.

namespace syncbn_test {

/// @brief A binary format of 16 bits: sign, exponent, fraction.
class SixteenBits {
 public:
  constexpr explicit SixteenBits(int exponent_bits) : exponent_bits_(exponent_bits) {}

  std::uint16_t infinity() const { return static_cast<std::uint16_t>(((1 << exponent_bits_) - 1) << fraction_bits()); }
  bool is_nan(std::uint16_t bits) const { return (bits & 0x7fffU) > infinity(); }

  /// @brief What the bits mean.
  long double value(std::uint16_t bits) const {
    const std::uint16_t magnitude = bits & 0x7fffU;
    if (is_nan(bits)) return std::numeric_limits<long double>::quiet_NaN();
    const long double size =
        magnitude == infinity() ? std::numeric_limits<long double>::infinity() : finite_value(magnitude);
    return (bits & 0x8000U) != 0 ? -size : size;
  }

  /// @brief The nearest value's bits; of two equally near ones, the even one's. Beyond half a step above the largest
  /// finite value it is infinity; a NaN is some NaN.
  std::uint16_t nearest(long double x) const {
    if (std::isnan(x)) return static_cast<std::uint16_t>(infinity() | 1U);
    const long double size = std::abs(x);
    // The bits of positive values are in the order of the values. Infinity stands where the next finite one would.
    std::uint16_t low = 0;
    std::uint16_t high = infinity();
    while (high - low > 1) {
      const auto middle = static_cast<std::uint16_t>((low + high) / 2);
      (finite_value(middle) <= size ? low : high) = middle;
    }
    const long double half_way = (finite_value(low) + finite_value(high)) / 2;  // a few bits: exact
    const bool up = size > half_way || (size == half_way && low % 2 == 1);
    return static_cast<std::uint16_t>((up ? high : low) | (std::signbit(x) ? 0x8000U : 0U));
  }

  /// @brief Half the distance from 1 to the next value: the largest relative error of rounding.
  long double unit_roundoff() const { return std::ldexp(1.0L, -fraction_bits() - 1); }
  /// @brief The smallest positive value.
  long double smallest() const { return finite_value(1); }

  /// @brief The value of bits without sign, infinity as the power of two that would follow.
  long double finite_value(std::uint16_t magnitude) const {
    const int exponent = magnitude >> fraction_bits();
    const int fraction = magnitude & ((1 << fraction_bits()) - 1);
    const int bias = (1 << (exponent_bits_ - 1)) - 1;
    const int hidden = exponent == 0 ? 0 : 1 << fraction_bits();
    return std::ldexp(static_cast<long double>(fraction + hidden), std::max(exponent, 1) - bias - fraction_bits());
  }

 private:
  constexpr int fraction_bits() const { return 15 - exponent_bits_; }

  int exponent_bits_;
};

/// @brief IEEE binary16.
inline constexpr SixteenBits binary16{5};
/// @brief The upper half of an IEEE binary32.
inline constexpr SixteenBits bfloat16{8};

}  // namespace syncbn_test
