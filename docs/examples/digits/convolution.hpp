#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <random>
#include <string>
#include <vector>

#include "feature_maps.hpp"
#include "parameters.hpp"

/// @file
/// A convolution as a matrix product.

namespace digits {

/// @brief A 3 x 3 convolution with a border of zeros and no bias (the batch normalization after it would remove it).
///
/// The neighbourhoods of all output pixels of an image are the columns of a matrix P, its *patches*; then the output of
/// that image is the product W P, and the gradients are products with the same two matrices:
/// \f$Y = W P,\quad dW = dY\,P^T,\quad dP = W^T dY\f$.
template <class T>
class Convolution {
 public:
  /// @param inputs, outputs  channels in and out.
  /// @param size             height and width of the input images.
  /// @param stride           an output pixel for every @p stride -th input pixel, in both directions.
  /// @param random           initial weights come from here.
  Convolution(Index inputs, Index outputs, Index size, Index stride, std::mt19937_64& random)
      : inputs_(inputs),
        outputs_(outputs),
        output_size_((size - 1) / stride + 1),
        weight_(uniform_weights<T>(outputs * taps_per_pixel(), taps_per_pixel(), random)),
        weight_grad_(weight_.size()) {
    list_taps(size, stride);
  }

  /// @brief The convolution; keeps the patches of @p x for backward().
  /// @param[in]  x   @shape{(N, inputs, H, W)} @param[out] y  @shape{(N, outputs, H / stride, W / stride)}
  void forward(const FeatureMaps<T>& x, FeatureMaps<T>& y) { convolve(x, patches_, y); }

  /// @brief The convolution, nothing kept.
  /// @param[in]  x   as in forward(). @param[out] y  as in forward().
  void infer(const FeatureMaps<T>& x, FeatureMaps<T>& y) const {
    std::vector<T> patches;
    convolve(x, patches, y);
  }

  /// @brief Adds to the gradient of the weights.
  /// @param[in] dy  gradient of the output of the last forward(). @shape{(N, outputs, H / stride, W / stride)}
  void backward(const FeatureMaps<T>& dy) {
    MatrixMap<T> dw(weight_grad_.data(), outputs_, taps_per_pixel());  // (outputs, inputs * 9)
    for (Index n = 0; n < dy.samples; ++n) dw.noalias() += image(dy, n) * patches(patches_, n).transpose();
  }

  /// @brief Adds to the gradient of the weights, and finds that of the input.
  /// @param[in] dy  as above. @param[out] dx  @shape{(N, inputs, H, W)}, which it must have.
  void backward(const FeatureMaps<T>& dy, FeatureMaps<T>& dx) {
    backward(dy);
    std::fill(dx.values.begin(), dx.values.end(), T{0});
    Matrix<T> dp(taps_per_pixel(), pixels());  // (inputs * 9, H' * W')
    for (Index n = 0; n < dy.samples; ++n) {
      dp.noalias() = weight().transpose() * image(dy, n);
      for (const Tap& tap : taps_) dx.sample(n)[tap.pixel] += dp.data()[tap.patch];
    }
  }

  /// @brief The weights as a matrix. @return @shape{(outputs, inputs * 9)}
  [[nodiscard]] ConstMatrixMap<T> weight() const { return {weight_.data(), outputs_, taps_per_pixel()}; }

  /// @brief How many output pixels read one input pixel, at most.
  [[nodiscard]] Index reads_per_pixel() const {
    std::vector<Index> reads;
    for (const Tap& tap : taps_) {
      reads.resize(std::max(reads.size(), static_cast<std::size_t>(tap.pixel) + 1));
      ++reads[static_cast<std::size_t>(tap.pixel)];
    }
    return *std::max_element(reads.begin(), reads.end());
  }

  /// @brief Terms of the sum that makes one number of the output.
  [[nodiscard]] Index taps_per_pixel() const { return inputs_ * 9; }

  /// @brief Appends what an optimizer must know of this layer.
  void list_parameters(const std::string& prefix, std::vector<Parameter<T>>& list) {
    list.push_back({prefix + ".weight", weight_, weight_grad_});
  }

 private:
  // One number that is copied from an image into its patches, or added back from there.
  struct Tap {
    Index pixel;  // within an image (inputs, H, W)
    Index patch;  // within its patches (inputs * 9, H' * W')
  };

  void list_taps(Index size, Index stride) {
    for (Index row = 0; row < taps_per_pixel(); ++row) {
      const Index channel = row / 9;
      for (Index column = 0; column < pixels(); ++column) {
        const Index y = column / output_size_ * stride + row % 9 / 3 - 1;
        const Index x = column % output_size_ * stride + row % 3 - 1;
        const bool inside = 0 <= y && y < size && 0 <= x && x < size;
        if (inside) taps_.push_back({(channel * size + y) * size + x, row * pixels() + column});
      }
    }
  }

  void convolve(const FeatureMaps<T>& x, std::vector<T>& all_patches, FeatureMaps<T>& y) const {
    y.reshape(x.samples, outputs_, output_size_, output_size_);
    const Index patch_values = taps_per_pixel() * pixels();
    all_patches.assign(static_cast<std::size_t>(x.samples * patch_values), T{0});
    for (Index n = 0; n < x.samples; ++n) {
      for (const Tap& tap : taps_)
        all_patches[static_cast<std::size_t>(n * patch_values + tap.patch)] = x.sample(n)[tap.pixel];
      MatrixMap<T>(y.sample(n), outputs_, pixels()).noalias() = weight() * patches(all_patches, n);
    }
  }

  [[nodiscard]] Index pixels() const { return output_size_ * output_size_; }

  [[nodiscard]] ConstMatrixMap<T> patches(const std::vector<T>& all_patches, Index n) const {
    return {all_patches.data() + n * taps_per_pixel() * pixels(), taps_per_pixel(), pixels()};  // (inputs * 9, H' * W')
  }

  [[nodiscard]] ConstMatrixMap<T> image(const FeatureMaps<T>& maps, Index n) const {
    return {maps.sample(n), outputs_, pixels()};  // (outputs, H' * W')
  }

  Index inputs_;
  Index outputs_;
  Index output_size_;
  std::vector<Tap> taps_;
  std::vector<T> weight_;       // (outputs, inputs, 3, 3)
  std::vector<T> weight_grad_;  // (outputs, inputs, 3, 3)
  std::vector<T> patches_;      // (N, inputs, 3, 3, H', W')
};

}  // namespace digits
