#pragma once

#include <cstddef>
#include <vector>

#include <Eigen/Core>

#include <syncbn/syncbn.hpp>

/// @file
/// The tensors of this program: row-major feature maps in a std::vector, and the one trait that lets the library's
/// layers take them as they are.

namespace digits {

using syncbn::Index;

/// @brief A batch of feature maps: samples x channels x height x width, in this order in memory (NCHW).
template <class T>
struct FeatureMaps {
  Index samples = 0;
  Index channels = 0;
  Index height = 0;
  Index width = 0;
  std::vector<T> values;  // (N, C, H, W)

  /// @brief Takes another shape; the values are then unspecified. Memory is kept for the next, perhaps larger, batch.
  void reshape(Index new_samples, Index new_channels, Index new_height, Index new_width) {
    samples = new_samples;
    channels = new_channels;
    height = new_height;
    width = new_width;
    values.resize(static_cast<std::size_t>(samples * features()));
  }

  /// @brief Takes the shape of @p other.
  template <class U>
  void reshape_like(const FeatureMaps<U>& other) {
    reshape(other.samples, other.channels, other.height, other.width);
  }

  /// @brief Numbers per sample.
  [[nodiscard]] Index features() const { return channels * height * width; }

  /// @brief The first number of sample @p n. @{
  [[nodiscard]] T* sample(Index n) { return values.data() + n * features(); }              // (C, H, W)
  [[nodiscard]] const T* sample(Index n) const { return values.data() + n * features(); }  // (C, H, W)
  /// @}
};

/// @brief Dense matrices, row by row, and such matrices in memory that a std::vector owns. @{
template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using MatrixMap = Eigen::Map<Matrix<T>>;
template <class T>
using ConstMatrixMap = Eigen::Map<const Matrix<T>>;
/// @}

/// @brief All samples as the rows of one matrix.
template <class T>
[[nodiscard]] ConstMatrixMap<T> rows(const FeatureMaps<T>& maps) {
  return {maps.values.data(), maps.samples, maps.features()};  // (N, C * H * W)
}

}  // namespace digits

/// @brief Admits FeatureMaps to every function of the library that takes a tensor.
template <class T>
struct syncbn::tensor_traits<digits::FeatureMaps<T>> {
  static TensorView<T> view(digits::FeatureMaps<T>& maps) {
    return {maps.values.data(), {maps.samples, maps.channels, maps.height, maps.width}};
  }
  static TensorView<const T> view(const digits::FeatureMaps<T>& maps) {
    return {maps.values.data(), {maps.samples, maps.channels, maps.height, maps.width}};
  }
};
