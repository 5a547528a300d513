#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <syncbn/all_reduce.hpp>

#include "feature_maps.hpp"

/// @file
/// The parameters of a network as a list of arrays, and what is done to all of them alike.

namespace digits {

/// @brief One array of parameters, owned by a layer, and its gradient.
template <class T>
struct Parameter {
  std::string name;       ///< such as "block1.convolution.weight"
  std::span<T> value;     ///< what the optimizer changes
  std::span<T> gradient;  ///< what backward passes add to
};

/// @brief Initial weights, uniform with the variance 2 / @p terms that keeps signals alive through a ReLU (He et al.).
///
/// Made from the bits of the generator: standard distributions give other numbers with every standard library.
template <class T>
std::vector<T> uniform_weights(Index count, Index terms, std::mt19937_64& random) {
  const double limit = std::sqrt(6.0 / static_cast<double>(terms));
  std::vector<T> weights(static_cast<std::size_t>(count));
  for (T& weight : weights) {
    const double unit = static_cast<double>(random() >> 11) * 0x1p-53;
    weight = static_cast<T>(limit * (2.0 * unit - 1.0));
  }
  return weights;
}

/// @brief Copies of all values, one parameter after the other.
template <class T>
[[nodiscard]] std::vector<T> values_of(std::span<const Parameter<T>> parameters) {
  std::vector<T> values;
  for (const auto& parameter : parameters) {
    values.insert(values.end(), parameter.value.begin(), parameter.value.end());
  }
  return values;
}

/// @brief The reverse of values_of().
template <class T>
void assign_values(std::span<const Parameter<T>> parameters, std::span<const T> values) {
  for (const auto& parameter : parameters) {
    std::copy_n(values.begin(), parameter.value.size(), parameter.value.begin());
    values = values.subspan(parameter.value.size());
  }
}

/// @brief Before a backward pass.
template <class T>
void zero_gradients(std::span<const Parameter<T>> parameters) {
  for (const auto& parameter : parameters) std::ranges::fill(parameter.gradient, T{0});
}

/// @brief Replaces every gradient by its sum over the ranks, and adds up @p extra words in the same message.
///
/// All ranks receive the same bits, so that parameters which were equal stay equal.
/// @collective{one all-reduce}
template <class T, class Communicator>
void sum_gradients(Communicator& communicator, std::span<const Parameter<T>> parameters, std::span<double> extra) {
  std::vector<double> message(extra.begin(), extra.end());
  for (const auto& parameter : parameters) {
    message.insert(message.end(), parameter.gradient.begin(), parameter.gradient.end());
  }
  syncbn::all_reduce_sum(communicator, std::span<double>(message));
  std::copy_n(message.begin(), extra.size(), extra.begin());
  auto sum = message.begin() + static_cast<std::ptrdiff_t>(extra.size());
  for (const auto& parameter : parameters) {
    for (T& gradient : parameter.gradient) gradient = static_cast<T>(*sum++);
  }
}

/// @brief The largest difference of two numbers in the same place; infinite if one of them is not a number.
template <class T>
[[nodiscard]] double largest_difference(std::span<const T> a, std::span<const T> b) {
  double largest = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    largest = std::isnan(difference) ? std::numeric_limits<double>::infinity() : std::max(largest, difference);
  }
  return largest;
}

}  // namespace digits
