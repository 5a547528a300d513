#pragma once

#include <cmath>
#include <cstddef>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "support/activations.hpp"

// What the replayed upstream tests share: their own comparison, its default tolerances, and their gradient check.

namespace syncbn_test {

/// @brief |got - expected| <= absolute + relative * |expected|, which is torch.allclose and assertEqual.
struct Tolerance {
  Number relative;
  Number absolute;
};

/// @brief torch.testing's defaults for a format.
template <class T>
inline constexpr Tolerance default_tolerance = std::is_same_v<T, syncbn::Float16>    ? Tolerance{1e-3L, 1e-5L}
                                               : std::is_same_v<T, syncbn::BFloat16> ? Tolerance{1.6e-2L, 1e-5L}
                                               : std::is_same_v<T, float>            ? Tolerance{1.3e-6L, 1e-5L}
                                                                                     : Tolerance{1e-7L, 1e-7L};
/// @brief torch.allclose's own defaults.
inline constexpr Tolerance allclose{1e-5L, 1e-8L};
/// @brief torch.autograd.gradcheck's defaults: those of the comparison, and the step of its central differences.
inline constexpr Tolerance gradcheck{1e-3L, 1e-5L};
inline constexpr double gradcheck_step = 1e-6;

/// @brief Empty if all numbers are close; otherwise the first that is not.
inline std::string differs(const Numbers& got, const Numbers& expected, Tolerance tolerance) {
  if (got.size() != expected.size()) {
    return std::to_string(got.size()) + " numbers for " + std::to_string(expected.size());
  }
  for (std::size_t i = 0; i < got.size(); ++i) {
    const Number bound = tolerance.absolute + tolerance.relative * std::fabs(expected[i]);
    if (std::fabs(got[i] - expected[i]) <= bound) continue;
    return "[" + std::to_string(i) + "]: " + std::to_string(static_cast<double>(got[i])) + " for " +
           std::to_string(static_cast<double>(expected[i]));
  }
  return "";
}

/// @brief 0, 1, 2, ...
inline Numbers arange(std::size_t count) {
  Numbers result(count);
  for (std::size_t i = 0; i < count; ++i) result[i] = static_cast<Number>(i);
  return result;
}

/// @brief Central differences. @param loss  of the numbers. @param at  where. @return d loss / d number, for each.
inline Numbers numerical_gradient(const std::function<Number(const Numbers&)>& loss, const Numbers& at) {
  Numbers gradient(at.size());
  Numbers moved = at;
  for (std::size_t i = 0; i < at.size(); ++i) {
    moved[i] = at[i] + gradcheck_step;
    const Number above = loss(moved);
    moved[i] = at[i] - gradcheck_step;
    gradient[i] = (above - loss(moved)) / (2 * gradcheck_step);
    moved[i] = at[i];
  }
  return gradient;
}

inline Number dot(const Numbers& a, const Numbers& b) {
  Number sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace syncbn_test
