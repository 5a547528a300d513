#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include <syncbn/batch_norm.hpp>

#include "support/activations.hpp"
#include "support/catch.hpp"
#include "support/layer_bounds.hpp"
#include "support/oracle.hpp"
#include "support/values.hpp"

namespace syncbn_test {

/// @brief Which statistics a pass is expected to use.
enum class NormalizedBy { batch, running };

/// @brief What the oracle says about one pass of a layer, and how the layer's answers compare.
///
/// For several ranks: x and y of all ranks one after the other along N, sums of the parameters' gradients, and the state
/// of any rank.
/// @tparam T  of the tensors. @tparam Layer  a BatchNorm.
template <class T, class Layer>
class LayerJudge {
 public:
  /// @param by  statistics. @param x  as the layer saw it: Activations::numbers(). @param before  a copy of the layer as it
  /// was before the pass.
  LayerJudge(NormalizedBy by, Numbers x, const oracle::Shape& shape, Layer before, int ranks = 1)
      : by_(by),
        x_(std::move(x)),
        shape_(shape),
        before_(std::move(before)),
        weight_(numbers_of(before_.weight())),
        bias_(numbers_of(before_.bias())),
        mean_(numbers_of(before_.running_mean())),
        var_(numbers_of(before_.running_var())),
        eps_(before_.options().eps),
        statistics_(oracle::statistics(x_, shape_)),
        bounds_(by == NormalizedBy::batch
                    ? LayerBounds::of_batch<T, typename Layer::Parameter>(x_, shape_, weight_, bias_, eps_, ranks)
                    : LayerBounds::of_running<T, typename Layer::Parameter>(x_, shape_, mean_, var_, weight_, bias_,
                                                                            eps_)) {}

  void output(const Numbers& y) {
    const Numbers expected = by_ == NormalizedBy::batch
                                 ? oracle::normalize(x_, shape_, statistics_, weight_, bias_, eps_)
                                 : oracle::inference(x_, shape_, mean_, var_, weight_, bias_, eps_);
    comparison_.add("y", y, expected, shape_, [&](std::size_t i, std::size_t c) { return bounds_.y(i, c); });
  }

  /// @brief The running statistics have moved by this share of the batch. @param after  the layer after the pass.
  void update(const Layer& after, Number factor) {
    Numbers mean = mean_;
    Numbers var = var_;
    oracle::update_running(mean, var, statistics_, factor);
    comparison_.add("running_mean", numbers_of(after.running_mean()), mean,
                    [&](std::size_t c) { return bounds_.running_mean(c, {mean_[c], factor}); });
    comparison_.add("running_var", numbers_of(after.running_var()), var,
                    [&](std::size_t c) { return bounds_.running_var(c, {var_[c], factor}); });
  }

  void gradients(const Numbers& dy, const Numbers& dx, const Numbers& weight_grad, const Numbers& bias_grad) {
    const oracle::Gradients expected = by_ == NormalizedBy::batch
                                           ? oracle::backward_batch(x_, dy, shape_, statistics_, weight_, eps_)
                                           : oracle::backward_running(x_, dy, shape_, mean_, var_, weight_, eps_);
    bounds_.set_gradient(dy);
    comparison_.add("dx", dx, expected.x, shape_, [&](std::size_t i, std::size_t c) { return bounds_.dx(i, c); });
    if (weight_.empty()) return;
    comparison_.add("weight_grad", weight_grad, expected.weight, [&](std::size_t c) { return bounds_.weight_grad(c); });
    comparison_.add("bias_grad", bias_grad, expected.bias, [&](std::size_t c) { return bounds_.bias_grad(c); });
  }

  const Comparison& comparison() const { return comparison_; }

 private:
  NormalizedBy by_;
  Numbers x_;
  oracle::Shape shape_;
  Layer before_;
  Numbers weight_, bias_, mean_, var_;
  Number eps_;
  oracle::Statistics statistics_;
  LayerBounds bounds_;
  Comparison comparison_;
};

/// @brief Everything of a layer's state that a call may change, to be compared exactly.
struct LayerSnapshot {
  template <class Layer>
  explicit LayerSnapshot(const Layer& layer)
      : tensors{numbers_of(layer.weight()),    numbers_of(layer.bias()),         numbers_of(layer.weight_grad()),
                numbers_of(layer.bias_grad()), numbers_of(layer.running_mean()), numbers_of(layer.running_var())},
        batches(layer.num_batches_tracked()) {}
  LayerSnapshot() = default;

  bool operator==(const LayerSnapshot&) const = default;

  std::vector<Numbers> tensors;
  std::int64_t batches = 0;
};

/// @brief Gives a layer a state that no test meets by chance. @param seed  other numbers for another seed.
template <class Layer>
void scramble(Layer& layer, std::uint64_t seed = 1) {
  const auto channels = static_cast<std::size_t>(layer.channels());
  if (layer.options().affine) {
    assign(layer.weight(), values(channels, seed, 0.25L, 1.5L));
    assign(layer.bias(), values(channels, seed + 1, -0.5L, 1));
  }
  if (layer.has_running_stats()) {
    assign(layer.running_mean(), values(channels, seed + 2, 0.5L, 1));
    assign(layer.running_var(), values(channels, seed + 3, 2, 1.5L));
    layer.set_num_batches_tracked(3);
  }
}

/// @brief Asserts that the layer's answers lie within the bounds.
template <class T, class Layer>
void check(const LayerJudge<T, Layer>& judge) {
  INFO(judge.comparison().place());
  CHECK(judge.comparison().compared() > 0);
  CHECK(judge.comparison().worst() <= 1);
}

}  // namespace syncbn_test
