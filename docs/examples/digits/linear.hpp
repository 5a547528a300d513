#pragma once

#include <random>
#include <string>
#include <vector>

#include "feature_maps.hpp"
#include "parameters.hpp"

/// @file
/// The last layer: from features to one score per class.

namespace digits {

/// @brief y = x W^T + b, where the rows of x are the samples, flattened.
template <class T>
class Linear {
 public:
  /// @param inputs, outputs  numbers per sample. @param random  initial weights come from here.
  Linear(Index inputs, Index outputs, std::mt19937_64& random)
      : inputs_(inputs),
        outputs_(outputs),
        weight_(uniform_weights<T>(outputs * inputs, inputs, random)),
        weight_grad_(weight_.size()),
        bias_(static_cast<std::size_t>(outputs)),
        bias_grad_(bias_.size()) {}

  /// @param[in]  x  @shape{(N, C, H, W) with C * H * W = inputs} @param[out] y  @shape{(N, outputs)}
  void forward(const FeatureMaps<T>& x, Matrix<T>& y) const {
    y.noalias() = rows(x) * weight().transpose();
    y.rowwise() += bias();
  }

  /// @brief Adds to the gradients of the parameters, and finds that of the input.
  /// @param[in]  x   input of the last forward(). @shape{(N, C, H, W)}
  /// @param[in]  dy  gradient of its output. @shape{(N, outputs)}
  /// @param[out] dx  @shape{as x, which it must have}
  void backward(const FeatureMaps<T>& x, const Matrix<T>& dy, FeatureMaps<T>& dx) {
    MatrixMap<T>(weight_grad_.data(), outputs_, inputs_).noalias() += dy.transpose() * rows(x);
    for (Index n = 0; n < x.samples; ++n) MatrixMap<T>(bias_grad_.data(), 1, outputs_) += dy.row(n);
    MatrixMap<T>(dx.values.data(), x.samples, inputs_).noalias() = dy * weight();
  }

  /// @brief W. @return @shape{(outputs, inputs)}
  [[nodiscard]] ConstMatrixMap<T> weight() const { return {weight_.data(), outputs_, inputs_}; }

  /// @brief b. @return @shape{(outputs)}
  [[nodiscard]] Eigen::Map<const Eigen::RowVectorX<T>> bias() const { return {bias_.data(), outputs_}; }

  /// @brief Appends what an optimizer must know of this layer.
  void list_parameters(const std::string& prefix, std::vector<Parameter<T>>& list) {
    list.push_back({prefix + ".weight", weight_, weight_grad_});
    list.push_back({prefix + ".bias", bias_, bias_grad_});
  }

 private:
  Index inputs_;
  Index outputs_;
  std::vector<T> weight_;       // (outputs, inputs)
  std::vector<T> weight_grad_;  // (outputs, inputs)
  std::vector<T> bias_;         // (outputs)
  std::vector<T> bias_grad_;    // (outputs)
};

}  // namespace digits
