#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "case.hpp"

/// @file
/// Elements of any format, and whether two contenders computed the same.

namespace bench {

/// @brief Writes element i; what bfloat16 has no bits for is cut off.
inline void store(Format format, double value, std::byte* to, Index i) {
  const std::size_t size = bytes_of(format);
  const auto single = static_cast<float>(value);
  const auto half = static_cast<_Float16>(single);
  std::uint32_t bits;
  std::memcpy(&bits, &single, sizeof bits);
  const auto upper = static_cast<std::uint16_t>(bits >> 16U);
  const void* const element = format == Format::f64    ? static_cast<const void*>(&value)
                              : format == Format::f32  ? static_cast<const void*>(&single)
                              : format == Format::bf16 ? static_cast<const void*>(&upper)
                                                       : static_cast<const void*>(&half);
  std::memcpy(to + static_cast<std::size_t>(i) * size, element, size);
}
/// @brief Reads element i.
inline double load(Format format, const std::byte* from, Index i) {
  const std::size_t size = bytes_of(format);
  const auto read = [&](auto element) {
    std::memcpy(&element, from + static_cast<std::size_t>(i) * size, size);
    return element;
  };
  if (format == Format::f64) return read(double{});
  if (format == Format::f32) return static_cast<double>(read(float{}));
  if (format == Format::f16) return static_cast<double>(read(_Float16{}));
  const auto bits = static_cast<std::uint32_t>(read(std::uint16_t{})) << 16U;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return static_cast<double>(value);
}

/// @brief How far the results of a contender may be from ours: roundings of the format, and sums in float (f64: in double) of
/// as many values as a channel has, whose errors are taken for independent; all of them in units of the largest result.
inline double tolerance(const Case& c) {
  constexpr std::array format_roundoff{0x1p-24, 0x1p-53, 0x1p-8, 0x1p-11};  // f32, f64, bf16, f16
  const double format = format_roundoff[static_cast<std::size_t>(c.format)];
  const double sum = c.format == Format::f64 ? 0x1p-53 : 0x1p-24;
  const double per_channel = static_cast<double>(c.elements() / c.channels());
  return 8 * format + 8 * std::sqrt(per_channel) * sum;
}
/// @brief The largest difference, in tolerances; of more than 64 million elements every k-th is compared, k odd.
inline double difference(const Case& c, const std::vector<std::byte>& a, const std::vector<std::byte>& b) {
  const Index step = (c.elements() >> 26) | 1;
  double largest = 0;
  double apart = 0;
  for (Index i = 0; i < c.elements(); i += step) {
    const double expected = load(c.format, a.data(), i);
    largest = std::max(largest, std::abs(expected));
    const double difference = std::abs(load(c.format, b.data(), i) - expected);
    if (std::isnan(difference)) return difference;
    apart = std::max(apart, difference);
  }
  return apart / (largest * tolerance(c));
}

}  // namespace bench
