#pragma once

#include <optional>

namespace syncbn::inline v0 {

/// @brief What a layer is constructed with; PyTorch's names and defaults.
struct BatchNormOptions {
  /// @brief Added to the variance inside the square root. @units{those of the input, squared}
  double eps = 1e-5;
  /// @brief Weight of the new value in the running statistics; empty: a cumulative average over all batches.
  std::optional<double> momentum = 0.1;
  /// @brief Whether the layer has `weight` (initially 1) and `bias` (initially 0).
  bool affine = true;
  /// @brief Whether the layer has running statistics and their counter.
  bool track_running_stats = true;
};

}  // namespace syncbn::inline v0
