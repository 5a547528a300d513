#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

/// @file
/// What the examples share: numbers to normalize, and the comparison of two results.

namespace example {

/// @brief Numbers from -1 to 3, the same for the same seed.
inline std::vector<float> numbers(std::size_t count, unsigned seed) {
  std::minstd_rand engine(seed);
  std::vector<float> result(count);
  for (float& value : result) value = static_cast<float>(engine() % 4096) / 1024 - 1;
  return result;
}

/// @brief Whether two results are the same but for a few roundings; says so.
/// @param what     the results' name. @param epsilon  of the type that was rounded to.
template <class A, class B>
bool agree(const char* what, const A& a, const B& b, double epsilon = std::numeric_limits<float>::epsilon()) {
  double difference = 0;
  double magnitude = 1;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    magnitude = std::max(magnitude, std::abs(static_cast<double>(b[i])));
  }
  const bool same = a.size() == b.size() && difference <= 4 * epsilon * magnitude;  // false for a NaN
  std::printf("%-45s %s, the largest difference is %.1e\n", what, same ? "agrees" : "DIFFERS", difference);
  return same;
}

/// @brief Whether something holds; says so.
inline bool holds(const char* what, bool condition) {
  std::printf("%-45s %s\n", what, condition ? "holds" : "DOES NOT HOLD");
  return condition;
}

}  // namespace example
