/// @file
/// One training step of a layer on all ranks: what the laws of the layer are about.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <syncbn/batch_norm.hpp>

#include "conformance/backend_tensor.hpp"
#include "conformance/outcomes.hpp"
#include "support/activations.hpp"
#include "support/layer_bounds.hpp"
#include "support/oracle.hpp"

// Whether every combination is tried, or a selection in which each pair of choices occurs.
#if !defined(SYNCBN_TEST_FULL)
#define SYNCBN_TEST_FULL 0
#endif

namespace syncbn_test {

inline constexpr bool full_products = SYNCBN_TEST_FULL != 0;

/// @brief How a step is done; the same on every rank.
struct StepPlan {
  std::vector<Index> samples;  ///< of each rank
  Index channels = 5;
  Placement x = Placement::rows;
  Placement y = Placement::rows;
  Placement dy = Placement::rows;
  Placement dx = Placement::rows;
  bool in_place = false;  ///< y is x, and dx is dy
  syncbn::BatchNormOptions options;
  std::uint64_t seed = 1;

  Index batch() const {
    Index sum = 0;
    for (const Index n : samples) sum += n;
    return sum;
  }
  Index samples_before(int rank) const {
    Index sum = 0;
    for (int r = 0; r < rank; ++r) sum += samples[static_cast<std::size_t>(r)];
    return sum;
  }
};

inline std::string text_of(const StepPlan& plan) {
  std::string text = "samples";
  for (const Index n : plan.samples) text += " " + std::to_string(n);
  text += std::string(", x ") + name(plan.x) + ", dy " + name(plan.dy);
  text += plan.in_place ? ", in place" : std::string(", y ") + name(plan.y) + ", dx " + name(plan.dx);
  return text + (plan.options.affine ? ", affine" : "") + (plan.options.momentum ? "" : ", cumulative");
}

/// @brief Input extents of a layer. @tparam Dims  of the layer.
template <std::size_t Dims>
std::vector<Index> extents_for(Index samples, Index channels) {
  if constexpr (Dims == 1) return {samples, channels, 5};
  if constexpr (Dims == 2) return {samples, channels, 3, 2};
  if constexpr (Dims == 3) return {samples, channels, 2, 1, 3};
  return {samples, channels, 2, 1, 2, 2};
}

/// @brief A batch of all ranks, of which each rank takes its samples.
template <class T, std::size_t Dims>
struct Batch {
  oracle::Shape shape;
  Numbers x, dy;                                    // (N, C, S)
  Numbers weight, bias, running_mean, running_var;  // (C)

  explicit Batch(const StepPlan& plan) : shape(shape_of(extents_for<Dims>(plan.batch(), plan.channels))) {
    x.resize(shape.elements());
    dy.resize(shape.elements());
    oracle::detail::for_each_element(shape, [&](std::size_t i, std::size_t c) {
      const double centre = 2 * noise(plan.seed + 1, c);
      const double width = 0.5 + std::abs(noise(plan.seed + 2, c));
      x[i] = value_of(element<T>(centre + width * noise(plan.seed + 3, i)));
      dy[i] = value_of(element<T>(noise(plan.seed + 4, i)));
    });
    for (std::uint64_t c = 0; c < shape.channels; ++c) {  // floats: exact in any parameter type
      const auto some = [&](double centre, std::uint64_t seed) {
        return static_cast<Number>(static_cast<float>(centre + noise(seed, c)));
      };
      weight.push_back(some(1, plan.seed + 5));
      bias.push_back(some(0, plan.seed + 6));
      running_mean.push_back(some(0, plan.seed + 7));
      running_var.push_back(some(2, plan.seed + 8));
    }
  }

  /// @brief A rank's samples of x, dy, or another tensor of their shape.
  Numbers part(const Numbers& whole, const StepPlan& plan, int rank) const {
    const auto sample = static_cast<Index>(shape.channels * shape.positions);
    const auto first = whole.begin() + static_cast<std::ptrdiff_t>(plan.samples_before(rank) * sample);
    return Numbers(first, first + static_cast<std::ptrdiff_t>(plan.samples[static_cast<std::size_t>(rank)] * sample));
  }
};

/// @brief What a rank has after a step.
struct RankStep {
  Numbers y, dx, weight_grad, bias_grad;
  Numbers agreed;  // running mean and variance, counter, statistics: the same bits on every rank
  bool untouched = true;

  std::vector<double> packed() const {
    std::vector<double> result{untouched ? 1.0 : 0.0};
    for (const Numbers* numbers : {&y, &dx, &weight_grad, &bias_grad, &agreed}) {
      result.push_back(static_cast<double>(numbers->size()));
      for (const Number value : *numbers) result.push_back(static_cast<double>(value));
    }
    return result;
  }
  static RankStep unpacked(const std::vector<double>& values) {
    RankStep result;
    result.untouched = values.at(0) == 1;
    std::size_t at = 1;
    for (Numbers* numbers : {&result.y, &result.dx, &result.weight_grad, &result.bias_grad, &result.agreed}) {
      const auto size = static_cast<std::size_t>(values.at(at++));
      for (std::size_t i = 0; i < size; ++i) numbers->push_back(values.at(at++));
    }
    return result;
  }
};

namespace detail {

template <class Backend, class P>
Numbers numbers_on_host(Backend& backend, const syncbn::TensorView<P, typename Backend::memory_space>& view) {
  if (view.data() == nullptr) return {};
  const auto host = from_backend(backend, static_cast<const std::remove_const_t<P>*>(view.data()), view.extent(0));
  return Numbers(host.begin(), host.end());
}

template <class Backend, class P>
void set(Backend& backend, const syncbn::TensorView<P, typename Backend::memory_space>& view, const Numbers& values) {
  if (view.data() == nullptr) return;
  std::vector<P> host;
  for (const Number value : values) host.push_back(static_cast<P>(value));
  backend.upload(host.data(), view.extent(0), view.data());
}

}  // namespace detail

/// @brief A layer in the state that the batch says.
template <std::size_t Dims, class Backend, class Communicator, class T>
syncbn::BatchNorm<Dims, Backend, Communicator> make_layer(const Communicator& c, const StepPlan& plan,
                                                          const Batch<T, Dims>& batch) {
  syncbn::BatchNorm<Dims, Backend, Communicator> layer(plan.channels, plan.options, c);
  detail::set(layer.backend(), layer.weight(), batch.weight);
  detail::set(layer.backend(), layer.bias(), batch.bias);
  detail::set(layer.backend(), layer.running_mean(), batch.running_mean);
  detail::set(layer.backend(), layer.running_var(), batch.running_var);
  layer.set_num_batches_tracked(2);
  return layer;
}

/// @brief All state of a layer.
template <class Layer>
Numbers state_of(Layer& layer) {
  Numbers result;
  for (const auto& view : {layer.weight(), layer.bias(), layer.weight_grad(), layer.bias_grad(), layer.running_mean(),
                           layer.running_var()}) {
    const Numbers values = detail::numbers_on_host(layer.backend(), view);
    result.insert(result.end(), values.begin(), values.end());
  }
  result.push_back(static_cast<Number>(layer.num_batches_tracked()));
  return result;
}

/// @brief Whether a layer's errors come later than its calls.
template <class Communicator>
inline constexpr bool errors_are_deferred = Communicator::errors == syncbn::ErrorModel::deferred;

/// @brief Waits until it is known what the layer's calls have come to. @throws what has gone wrong.
template <std::size_t Dims, class Backend, class Communicator>
void settle(syncbn::BatchNorm<Dims, Backend, Communicator>& layer) {
  if constexpr (errors_are_deferred<Communicator>) layer.synchronize();
}

/// @brief Forward and backward on this rank's samples.
template <class T, std::size_t Dims, class Backend, class Communicator>
RankStep training_step(syncbn::BatchNorm<Dims, Backend, Communicator>& layer, const StepPlan& plan,
                       const Batch<T, Dims>& batch, int rank) {
  Backend& backend = layer.backend();
  const std::vector<Index> extents = extents_for<Dims>(plan.samples[static_cast<std::size_t>(rank)], plan.channels);
  BackendTensor<Backend, T> x(backend, extents, plan.x, elements_of<T>(batch.part(batch.x, plan, rank)));
  BackendTensor<Backend, T> dy(backend, extents, plan.dy, elements_of<T>(batch.part(batch.dy, plan, rank)));
  BackendTensor<Backend, T> y(backend, extents, plan.y);
  BackendTensor<Backend, T> dx(backend, extents, plan.dx);
  typename syncbn::BatchNorm<Dims, Backend, Communicator>::Saved saved;
  RankStep result;
  if (plan.in_place) {
    BackendTensor<Backend, T> activations(backend, extents, plan.x, x.elements());
    layer.forward(activations.view(), activations.view(), saved);
    layer.backward(dy.view(), x.read(), saved, dy.view());
    result.y = activations.numbers();
    result.dx = dy.numbers();
    result.untouched = activations.gaps_are_untouched() && dy.gaps_are_untouched();
  } else {
    layer.forward(x.read(), y.view(), saved);
    layer.backward(dy.read(), x.read(), saved, dx.view());
    result.y = y.numbers();
    result.dx = dx.numbers();
    result.untouched = y.gaps_are_untouched() && dx.gaps_are_untouched();
  }
  settle(layer);
  result.weight_grad = detail::numbers_on_host(backend, layer.weight_grad());
  result.bias_grad = detail::numbers_on_host(backend, layer.bias_grad());
  for (const auto& view : {layer.running_mean(), layer.running_var()}) {
    const Numbers values = detail::numbers_on_host(backend, view);
    result.agreed.insert(result.agreed.end(), values.begin(), values.end());
  }
  result.agreed.push_back(static_cast<Number>(layer.num_batches_tracked()));
  result.agreed.push_back(from_backend(backend, std::as_const(saved.statistics).count(), 1)[0]);
  for (const double* values : {std::as_const(saved.statistics).mean(), std::as_const(saved.statistics).variance(),
                               std::as_const(saved.statistics).inverse_deviation()}) {
    const std::vector<double> host = from_backend(backend, values, plan.channels);
    result.agreed.insert(result.agreed.end(), host.begin(), host.end());
  }
  return result;
}

/// @brief What all ranks together have after a step.
struct WholeStep {
  Numbers y, dx, weight_grad, bias_grad, agreed;
};

/// @brief One step on every rank.
template <class T, std::size_t Dims, class Backend, class Communicator>
std::vector<RankStep> step_on_all_ranks(const StepPlan& plan, const Batch<T, Dims>& batch) {
  const Outcomes outcomes = run_ranks_well<Communicator>([&](Communicator& c) {
    auto layer = make_layer<Dims, Backend>(c, plan, batch);
    return training_step<T>(layer, plan, batch, c.rank()).packed();
  });
  std::vector<RankStep> steps;
  for (const Outcome& outcome : outcomes) steps.push_back(RankStep::unpacked(outcome.values));
  return steps;
}

/// @brief Activations one rank after the other, gradients of parameters summed, what all have as rank 0 has it.
inline WholeStep together(const std::vector<RankStep>& steps) {
  WholeStep whole;
  whole.agreed = steps[0].agreed;
  for (const RankStep& step : steps) {
    whole.y.insert(whole.y.end(), step.y.begin(), step.y.end());
    whole.dx.insert(whole.dx.end(), step.dx.begin(), step.dx.end());
    whole.weight_grad.resize(step.weight_grad.size());
    whole.bias_grad.resize(step.bias_grad.size());
    for (std::size_t c = 0; c < step.weight_grad.size(); ++c) {
      whole.weight_grad[c] += step.weight_grad[c];
      whole.bias_grad[c] += step.bias_grad[c];
    }
  }
  return whole;
}

/// @brief The exact step, and how far the library may be from it.
template <class T, std::size_t Dims, class Parameter>
class StepJudge {
 public:
  /// @param parts  ranks, or micro-batches on all ranks, that are summed.
  StepJudge(const StepPlan& plan, const Batch<T, Dims>& batch, int parts)
      : plan_(plan),
        shape_(batch.shape),
        weight_(plan.options.affine ? batch.weight : Numbers()),
        bias_(plan.options.affine ? batch.bias : Numbers()),
        old_mean_(batch.running_mean),
        old_var_(batch.running_var),
        statistics_(oracle::statistics(batch.x, batch.shape)),
        bounds_(LayerBounds::of_batch<T, Parameter>(batch.x, shape_, weight_, bias_, plan.options.eps, parts)) {
    bounds_.set_gradient(batch.dy);
    exact_.y = oracle::normalize(batch.x, shape_, statistics_, weight_, bias_, plan.options.eps);
    const oracle::Gradients gradients =
        oracle::backward_batch(batch.x, batch.dy, shape_, statistics_, weight_, plan.options.eps);
    exact_.dx = gradients.x;
    if (plan.options.affine) {
      exact_.weight_grad = gradients.weight;
      exact_.bias_grad = gradients.bias;
    }
  }

  /// @brief Against the exact one. @param step  of the library.
  Comparison against_oracle(const WholeStep& step) const {
    Comparison comparison;
    compare(comparison, step, exact_, 1);
    if (!plan_.options.track_running_stats || shape_.elements() == 0) return comparison;
    Numbers mean = old_mean_;
    Numbers var = old_var_;
    const std::optional<Number> momentum =
        plan_.options.momentum ? std::optional<Number>(*plan_.options.momentum) : std::nullopt;
    const Number factor = oracle::update_factor(momentum, 3);
    oracle::update_running(mean, var, statistics_, factor);
    for (std::size_t c = 0; c < shape_.channels; ++c) {
      comparison.add("running_mean", c, step.agreed[c], mean[c], bounds_.running_mean(c, {old_mean_[c], factor}));
      comparison.add("running_var", c, step.agreed[shape_.channels + c], var[c],
                     bounds_.running_var(c, {old_var_[c], factor}));
    }
    comparison.add("num_batches_tracked", 0, step.agreed[2 * shape_.channels], 3, 0);
    comparison.add("count", 0, step.agreed[2 * shape_.channels + 1], static_cast<Number>(shape_.elements_per_channel()),
                   0);
    return comparison;
  }

  /// @brief Two answers of the library, each within the bound of the exact one.
  Comparison against(const WholeStep& step, const WholeStep& other) const {
    Comparison comparison;
    compare(comparison, step, other, 2);
    return comparison;
  }

 private:
  void compare(Comparison& comparison, const WholeStep& got, const WholeStep& expected, Number factor) const {
    comparison.add("y", got.y, expected.y, shape_,
                   [&](std::size_t i, std::size_t c) { return factor * bounds_.y(i, c); });
    comparison.add("dx", got.dx, expected.dx, shape_,
                   [&](std::size_t i, std::size_t c) { return factor * bounds_.dx(i, c); });
    comparison.add("weight_grad", got.weight_grad, expected.weight_grad,
                   [&](std::size_t c) { return factor * bounds_.weight_grad(c); });
    comparison.add("bias_grad", got.bias_grad, expected.bias_grad,
                   [&](std::size_t c) { return factor * bounds_.bias_grad(c); });
  }

  StepPlan plan_;
  oracle::Shape shape_;
  Numbers weight_, bias_, old_mean_, old_var_;
  oracle::Statistics statistics_;
  LayerBounds bounds_;
  WholeStep exact_;
};

}  // namespace syncbn_test
