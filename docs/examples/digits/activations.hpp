#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>

#include "feature_maps.hpp"

/// @file
/// What has no parameters: the ReLU and the softmax cross entropy.

namespace digits {

/// @brief The ReLU, in place: x = max(x, 0).
/// @param[in,out] x  @shape{(N, C, H, W)}
template <class T>
void rectify(FeatureMaps<T>& x) {
  for (T& value : x.values) value = std::max(value, T{0});
}

/// @brief Its gradient, in place: nothing passes where the ReLU gave 0.
/// @param[in]     y   what rectify() left. @shape{(N, C, H, W)} @param[in,out] dy  @shape{same as y}
template <class T>
void rectify_gradient(const FeatureMaps<T>& y, FeatureMaps<T>& dy) {
  for (std::size_t i = 0; i < y.values.size(); ++i) {
    if (!(y.values[i] > T{0})) dy.values[i] = T{0};
  }
}

/// @brief How well some samples were classified.
struct Score {
  double loss = 0.0;     ///< cross entropy
  double correct = 0.0;  ///< samples of which the highest score is that of their class
};

/// @brief The cross entropy of softmax(logits), and its gradient.
///
/// The loss is the sum over the given samples, divided by @p batch_size: the number of samples *on all ranks*. So the
/// sum of the ranks' losses is the mean over the batch, however the batch is spread, and so is the sum of gradients.
/// @param[in]  logits   scores. @shape{(N, classes)}
/// @param[in]  labels   true classes. @shape{(N)}
/// @param[out] dlogits  @shape{(N, classes)}
template <class T>
Score softmax_cross_entropy(const Matrix<T>& logits, std::span<const int> labels, Index batch_size,
                            Matrix<T>& dlogits) {
  dlogits.resize(logits.rows(), logits.cols());
  Score score;
  for (Index n = 0; n < logits.rows(); ++n) {
    const Index label = labels[static_cast<std::size_t>(n)];
    Index best = 0;
    const T highest = logits.row(n).maxCoeff(&best);
    T sum{0};
    for (Index k = 0; k < logits.cols(); ++k) sum += dlogits(n, k) = std::exp(logits(n, k) - highest);
    dlogits.row(n) /= sum;
    dlogits(n, label) -= T{1};
    score.loss += static_cast<double>(std::log(sum) - (logits(n, label) - highest));
    score.correct += best == label ? 1.0 : 0.0;
  }
  dlogits /= static_cast<T>(batch_size);
  score.loss /= static_cast<double>(batch_size);
  return score;
}

}  // namespace digits
