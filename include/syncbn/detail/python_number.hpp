#pragma once

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <string>

namespace syncbn::inline v0::detail {

// A double as Python's repr() writes it: the shortest digits that read back as the same number, with an exponent of at
// least two figures from 1e16 on and below 1e-4, and a decimal point otherwise.
inline std::string python_number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  const std::string shortest(buffer, end);  // d.ddde[+-]xx
  const std::size_t e = shortest.find('e');
  const int exponent = std::atoi(shortest.c_str() + e + 1);
  if (exponent < -4 || exponent >= 16) return shortest;
  const auto fixed_end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed).ptr;
  const std::string fixed(buffer, fixed_end);
  return fixed.find('.') == std::string::npos ? fixed + ".0" : fixed;
}

}  // namespace syncbn::inline v0::detail
