#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include <Eigen/Eigenvalues>

#include "feature_maps.hpp"
#include "network.hpp"

/// @file
/// How far apart rounding may bring two computations of one training step, layer by layer.
///
/// Two computations of a layer, from inputs that lie D apart, lie at most L D + 2 r apart: L bounds the derivative of
/// the layer and r the error that rounding makes in it. D is measured, so nothing accumulates, and every layer is held
/// to its own rounding. The bounds are to first order in the unit roundoff u = 2^-53. They hold in whatever order sums
/// are taken and however the samples of a batch are spread over ranks: k roundings make a relative error of at most
/// gamma(k) = k u / (1 - k u), and a sum of k terms has an error of at most gamma(k) times the sum of their magnitudes
/// (Higham, Accuracy and Stability of Numerical Algorithms, chapters 3 and 4).
///
/// |A| is the 2-norm of all numbers of an array over the whole batch, |W|_2 the operator norm of a matrix.

namespace digits::rounding {

/// @brief 2 gamma(k): how far apart two results may lie, each after k roundings, relative to their magnitude.
inline double apart(Index roundings) {
  const double ku = static_cast<double>(roundings) * std::numeric_limits<double>::epsilon() / 2.0;
  return 2.0 * ku / (1.0 - ku);
}

/// @brief |W|_2, from the smaller one of the two products of W with its transpose.
inline double operator_norm(const ConstMatrixMap<double>& matrix) {
  const Eigen::MatrixXd product = matrix * matrix.transpose();
  return std::sqrt(product.selfadjointView<Eigen::Lower>().eigenvalues().maxCoeff());
}

/// @brief Bounds for convolution, batch normalization and ReLU.
class BlockBounds {
 public:
  /// @param block  after forward and backward of the whole batch on one rank. @param ranks  that share the batch.
  template <class Communicator>
  BlockBounds(Block<double, Communicator>& block, int ranks)
      : elements_(static_cast<double>(block.convolved.samples * block.convolved.height * block.convolved.width)),
        root_(std::sqrt(elements_)),
        // An addition is one rounding; merging two partial means and sums of squares takes four.
        sum_(apart(4 * (static_cast<Index>(elements_) + ranks))),
        forward_sum_(apart(block.convolution.taps_per_pixel())),
        backward_sum_(apart(9 * block.convolution.weight().rows())),
        copies_(std::sqrt(static_cast<double>(block.convolution.reads_per_pixel()))),
        operator_norm_(operator_norm(block.convolution.weight())),
        weight_norm_(block.convolution.weight().norm()),
        dy_norm_(rows(block.activated_gradient).norm()),
        dc_norm_(rows(block.convolved_gradient).norm()) {
    inspect(block.convolved, block.norm.weight(), block.norm.bias(), block.norm.options().eps);
  }

  /// @brief The convolution W P(x), where P copies every pixel at most p^2 times, so that |P(x)| <= p |x|:
  /// p (|W|_2 dx + 2 gamma |W| |x|).
  /// @param x   the 2-norm of the input. @param dx  distance of the inputs.
  [[nodiscard]] double convolved(double x, double dx) const {
    return copies_ * (operator_norm_ * dx + forward_sum_ * weight_norm_ * x);
  }

  /// @brief The batch normalization g xhat + b, xhat = (c - mean) s, s = 1 / sqrt(var + eps).
  ///
  /// From c to xhat the derivative is s times a projection, or shorter, so its norm is at most s. Rounding: let q be
  /// the root mean square of c and kappa = q s, which says how large the numbers are beside their deviation. Any usual
  /// formula, E[c^2] - E[c]^2 included, makes errors of at most gamma q in the mean and 4 gamma q^2 in the variance;
  /// so gamma (1 + 2 kappa^2) relative to s, and gamma sqrt(m) (1 + 3 kappa + 2 kappa^2) in the m numbers xhat of a
  /// channel. The ReLU after it brings nothing further apart.
  /// @param dc  distance of the convolved images.
  [[nodiscard]] double activated(double dc) const { return gain_ * dc + sum_ * root_ * output_error_; }

  /// @brief Its gradient g s (dy - mean(dy) - xhat mean(dy xhat)): a projection of dy once more, in which xhat (twice)
  /// and s are uncertain too.
  /// @param dc  distance of the convolved images. @param ddy  that of the gradients behind the batch normalization.
  [[nodiscard]] double convolved_gradient(double dc, double ddy) const {
    const double ds = scale_ * dc / root_ + sum_ * (1.0 + 2.0 * kappa_ * kappa_);
    return gain_ * (ddy + dy_norm_ * (2.0 * standardized(dc) / root_ + ds + 4.0 * sum_ * (1.0 + kappa_)));
  }

  /// @brief The gradient sum(dy xhat) of g, all channels together. @param dc, ddy  as above.
  [[nodiscard]] double norm_weight_gradient(double dc, double ddy) const {
    return dy_norm_ * standardized(dc) + root_ * (ddy + sum_ * (1.0 + 2.0 * kappa_) * dy_norm_);
  }

  /// @brief The gradient sum(dy) of b, all channels together. @param ddy  as above.
  [[nodiscard]] double norm_bias_gradient(double ddy) const { return root_ * (ddy + sum_ * dy_norm_); }

  /// @brief The gradient dc P(x)^T of W, two uncertain factors.
  /// @param x, dx  as above. @param ddc  distance of the gradients of the convolved images.
  [[nodiscard]] double weight_gradient(double x, double dx, double ddc) const {
    return copies_ * (ddc * x + dc_norm_ * dx + sum_ * dc_norm_ * x);
  }

  /// @brief The gradient P^T(W^T dc) of the input; a ReLU in front, which does the same in both, only shortens it.
  /// @param ddc  as above.
  [[nodiscard]] double input_gradient(double ddc) const {
    return copies_ * (operator_norm_ * ddc + backward_sum_ * weight_norm_ * dc_norm_);
  }

 private:
  // xhat, all channels together.
  [[nodiscard]] double standardized(double dc) const { return scale_ * dc + sum_ * root_ * standardized_error_; }

  // What the bounds need of the channels: largest values, and 2-norms of what is added.
  template <class View>
  void inspect(const FeatureMaps<double>& c, const View& weight, const View& bias, double eps) {
    const Index pixels = c.height * c.width;
    for (Index k = 0; k < c.channels; ++k) {
      const Eigen::Map<const Matrix<double>, 0, Eigen::OuterStride<>> channel(
          c.values.data() + k * pixels, c.samples, pixels, Eigen::OuterStride<>(c.features()));  // (N, H' * W')
      const double variance = (channel.array() - channel.mean()).square().mean();
      const double s = 1.0 / std::sqrt(variance + eps);
      const double kappa = s * channel.norm() / root_;
      const double error = 1.0 + 3.0 * kappa + 2.0 * kappa * kappa;
      scale_ = std::max(scale_, s);
      gain_ = std::max(gain_, s * std::abs(weight[k]));
      kappa_ = std::max(kappa_, kappa);
      standardized_error_ = std::hypot(standardized_error_, error);
      output_error_ = std::hypot(output_error_, std::abs(weight[k]) * error + std::abs(bias[k]));
    }
  }

  double elements_;  // m, per channel
  double root_;      // sqrt(m)
  double sum_;       // 2 gamma of a sum over a channel, or over the batch
  double forward_sum_;
  double backward_sum_;
  double copies_;  // p
  double operator_norm_;
  double weight_norm_;
  double dy_norm_;
  double dc_norm_;
  double scale_ = 0.0;  // largest s
  double gain_ = 0.0;   // largest |g| s
  double kappa_ = 0.0;
  double standardized_error_ = 0.0;
  double output_error_ = 0.0;
};

/// @brief Bounds for the linear layer z = x V^T + b and the cross entropy of softmax(z).
class ScoresBounds {
 public:
  /// @param linear  the layer. @param z, dz  scores and their gradient, of the whole batch. @shape{(N, classes)}
  /// @param x       the 2-norm of the input. @param ranks  that share the batch.
  ScoresBounds(const Linear<double>& linear, const Matrix<double>& z, const Matrix<double>& dz, double x, int ranks)
      : samples_(static_cast<double>(z.rows())),
        operator_norm_(operator_norm(linear.weight())),
        weight_norm_(linear.weight().norm()),
        terms_(weight_norm_ * x + std::sqrt(samples_) * linear.bias().norm()),
        features_(linear.weight().cols()),
        // exp(t) for a score t below the highest: t u from rounding t; then the sum of all classes, and the division.
        softmax_(apart(2 * static_cast<Index>(std::ceil(z.maxCoeff() - z.minCoeff())) + 2 * classes)),
        sum_(apart(z.rows() + ranks)),
        x_norm_(x),
        dz_norm_(dz.norm()) {}

  /// @brief The scores: |V|_2 dx + 2 gamma (|V| |x| + sqrt(N) |b|). @param dx  distance of the inputs.
  [[nodiscard]] double scores(double dx) const { return operator_norm_ * dx + apart(features_ + 1) * terms_; }

  /// @brief The gradient (softmax(z) - y) / N, of which the derivative has a norm of at most 1 / (2 N).
  /// @param dz  distance of the scores.
  [[nodiscard]] double scores_gradient(double dz) const {
    return (0.5 * dz + softmax_ * std::sqrt(samples_)) / samples_;
  }

  /// @brief The gradient of V. @param dx  distance of the inputs. @param ddz  distance of scores_gradient().
  [[nodiscard]] double weight_gradient(double dx, double ddz) const {
    return dz_norm_ * dx + ddz * x_norm_ + sum_ * dz_norm_ * x_norm_;
  }

  /// @brief The gradient of b. @param ddz  as above.
  [[nodiscard]] double bias_gradient(double ddz) const { return std::sqrt(samples_) * (ddz + sum_ * dz_norm_); }

  /// @brief The gradient dz V of the input, shortened by the ReLU. @param ddz  as above.
  [[nodiscard]] double input_gradient(double ddz) const {
    return operator_norm_ * ddz + apart(classes) * weight_norm_ * dz_norm_;
  }

 private:
  double samples_;
  double operator_norm_;
  double weight_norm_;
  double terms_;
  Index features_;
  double softmax_;
  double sum_;
  double x_norm_;
  double dz_norm_;
};

}  // namespace digits::rounding
