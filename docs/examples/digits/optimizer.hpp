#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "parameters.hpp"

/// @file
/// Stochastic gradient descent with momentum.

namespace digits {

/// @brief velocity = momentum * velocity + gradient;  value = value - learning_rate * velocity.
template <class T>
class MomentumOptimizer {
 public:
  /// @param learning_rate, momentum  as in the formula.
  MomentumOptimizer(double learning_rate, double momentum)
      : learning_rate_(static_cast<T>(learning_rate)), momentum_(static_cast<T>(momentum)) {}

  /// @brief One step; the same list of parameters each time.
  void step(std::span<const Parameter<T>> parameters) {
    velocity_.resize(values_of(parameters).size());
    auto velocity = velocity_.begin();
    for (const auto& parameter : parameters) {
      for (std::size_t i = 0; i < parameter.value.size(); ++i, ++velocity) {
        *velocity = momentum_ * *velocity + parameter.gradient[i];
        parameter.value[i] -= learning_rate_ * *velocity;
      }
    }
  }

  /// @brief One velocity per number in the parameters; none before the first step.
  [[nodiscard]] std::vector<T>& velocity() { return velocity_; }

 private:
  T learning_rate_;
  T momentum_;
  std::vector<T> velocity_;
};

}  // namespace digits
