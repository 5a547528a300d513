/// @file
/// What a layer promises on any backend and communicator: one function for each law. layer_laws.cpp runs them on the
/// plugs under test; a program with a Catch2 main of its own may call them on any types.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <syncbn/backends/single_process_communicator.hpp>
#include <syncbn/batch_norm.hpp>

#include "conformance/layer_step.hpp"
#include "support/catch.hpp"
#include "support/recording_communicator.hpp"
#include "support/thrown_by.hpp"

namespace syncbn_test {

/// @brief Eight samples over the ranks: evenly, 5 + 3, all on the first, all on the last, one and seven.
inline std::vector<std::vector<Index>> splits_of_eight(int ranks) {
  const auto size = static_cast<std::size_t>(ranks);
  std::vector<std::vector<Index>> splits(1);
  for (Index r = 0; r < ranks; ++r) splits[0].push_back((r + 1) * 8 / ranks - r * 8 / ranks);
  if (size > 1) {
    std::vector<Index> none(size);
    splits.insert(splits.end(), 4, none);
    splits[1].front() = 5;
    splits[1].back() = 3;
    splits[2].front() = 8;
    splits[3].back() = 8;
    splits[4][size / 2] = 7;
    splits[4].front() = 1;
  }
  return splits;
}

/// @brief Ways to do a step: all splits, placements of tensors, options, in place or not; a selection in which each choice
/// occurs with each split, or their product.
inline std::vector<StepPlan> plans_for(int ranks) {
  std::vector<syncbn::BatchNormOptions> options(4);
  options[1].affine = false;
  options[2].momentum.reset();
  options[3].momentum = 1;
  options[3].eps = 0;
  const std::vector<std::vector<Index>> splits = splits_of_eight(ranks);
  std::vector<StepPlan> plans;
  const auto add = [&](std::size_t split, std::size_t placement, std::size_t option, bool in_place) {
    const auto place = [&](std::size_t step) { return all_placements[(placement + step) % all_placements.size()]; };
    StepPlan plan{splits[split], 5, place(0), place(1), place(2), place(4), in_place, options[option], 10 + option};
    plans.push_back(plan);
  };
  if (full_products) {
    for (std::size_t s = 0; s < splits.size(); ++s) {
      for (std::size_t p = 0; p < all_placements.size(); ++p) {
        for (std::size_t o = 0; o < options.size(); ++o) {
          add(s, p, o, false);
          add(s, p, o, true);
        }
      }
    }
  } else {
    for (std::size_t i = 0; i < 4 * all_placements.size(); ++i) {
      add((i + i / splits.size()) % splits.size(), i % all_placements.size(), (i + i / 4) % options.size(), i % 3 == 2);
    }
  }
  return plans;
}

/// @brief A step equals the oracle's on the concatenated batch, and leaves the same bits of statistics on every rank.
template <class Backend, class Communicator, std::size_t Dims, class T>
void law_step_equals_oracle() {
  for (const StepPlan& plan : plans_for(ranks_under_test<Communicator>())) {
    INFO(text_of(plan));
    const Batch<T, Dims> batch(plan);
    const std::vector<RankStep> steps = step_on_all_ranks<T, Dims, Backend, Communicator>(plan, batch);
    for (const RankStep& step : steps) {
      CHECK(step.agreed == steps[0].agreed);
      CHECK(step.untouched);
    }
    const StepJudge<T, Dims, typename Backend::parameter_type> judge(plan, batch, static_cast<int>(steps.size()));
    const Comparison comparison = judge.against_oracle(together(steps));
    INFO(comparison.place());
    CHECK(comparison.worst() <= 1);
  }
}

/// @brief The same samples in any split give the same within rounding: eight on one rank, four and four, five and three,
/// eight and none. And once more the very same bits.
template <class Backend, class Communicator, std::size_t Dims, class T>
void law_splits_do_not_matter() {
  const int ranks = ranks_under_test<Communicator>();
  StepPlan plan;
  const auto step_in = [&](const std::vector<Index>& samples) {
    plan.samples = samples;
    return together(step_on_all_ranks<T, Dims, Backend, Communicator>(plan, Batch<T, Dims>(plan)));
  };
  const std::vector<std::vector<Index>> splits = splits_of_eight(ranks);
  const WholeStep first = step_in(splits[0]);
  const StepJudge<T, Dims, typename Backend::parameter_type> judge(plan, Batch<T, Dims>(plan), ranks);
  for (const std::vector<Index>& samples : splits) {
    const WholeStep step = step_in(samples);
    INFO(text_of(plan));
    const Comparison comparison = judge.against(step, first);
    INFO(comparison.place());
    CHECK(comparison.worst() <= 1);
    const WholeStep repeated = step_in(samples);
    CHECK(repeated.y == step.y);
    CHECK(repeated.dx == step.dx);
    CHECK(repeated.agreed == step.agreed);
  }
  if constexpr (syncbn::reaches_memory_of<syncbn::SingleProcessCommunicator, Backend>) {
    plan.samples = {8};
    const Batch<T, Dims> batch(plan);
    auto layer = make_layer<Dims, Backend>(syncbn::SingleProcessCommunicator(), plan, batch);
    const Comparison comparison = judge.against(together({training_step<T>(layer, plan, batch, 0)}), first);
    INFO("one process alone; " << comparison.place());
    CHECK(comparison.worst() <= 1);
  }
}

/// @brief dx is the gradient of the sum of all ranks' losses, found by differences of the losses themselves.
///
/// The loss is sum(dy * y) in long double. Central differences with steps h and h / 2 differ by 3/4 of the error of the
/// first, up to terms of order h^4, so that their difference bounds the error of the second, a quarter of it; rounding adds
/// what the loss errs by, the sum of the bounds of y, over h / 2.
template <class Backend, class Communicator, std::size_t Dims>
void law_gradient_is_of_all_losses() {
  using T = double;
  const int ranks = ranks_under_test<Communicator>();
  StepPlan plan;
  plan.samples.assign(static_cast<std::size_t>(ranks), 1);
  plan.samples.front() = 3;
  plan.channels = 2;
  plan.options.eps = 0.01;
  const Batch<T, Dims> batch(plan);
  const WholeStep step = together(step_on_all_ranks<T, Dims, Backend, Communicator>(plan, batch));

  const auto samples = static_cast<std::size_t>(plan.batch());
  const std::size_t elements = batch.x.size() / samples;
  constexpr std::array<double, 4> shifts{0x1p-10, -0x1p-10, 0x1p-11, -0x1p-11};
  // One element of each sample, of each channel in turn: for each, the losses at four shifts.
  const auto moved = [&](std::size_t sample) { return sample * elements + (sample * 7) % elements; };
  const Outcomes outcomes = run_ranks_well<Communicator>([&](Communicator& c) {
    auto layer = make_layer<Dims, Backend>(c, plan, batch);
    Backend& backend = layer.backend();
    const std::vector<Index> extents =
        extents_for<Dims>(plan.samples[static_cast<std::size_t>(c.rank())], plan.channels);
    BackendTensor<Backend, T> y(backend, extents, Placement::rows);
    typename syncbn::BatchNorm<Dims, Backend, Communicator>::Saved saved;
    const Numbers dy = batch.part(batch.dy, plan, c.rank());
    std::vector<double> losses;
    for (std::size_t sample = 0; sample < samples; ++sample) {
      for (const double shift : shifts) {
        Numbers x = batch.x;
        x[moved(sample)] += shift;
        const BackendTensor<Backend, T> input(backend, extents, Placement::rows,
                                              elements_of<T>(batch.part(x, plan, c.rank())));
        layer.forward_without_update(input.read(), y.view(), saved);
        const Numbers values = y.numbers();
        const Number loss = std::inner_product(values.begin(), values.end(), dy.begin(), Number{0});
        losses.push_back(static_cast<double>(loss));
        losses.push_back(static_cast<double>(loss - losses.back()));
      }
    }
    return losses;
  });

  LayerBounds bounds = LayerBounds::of_batch<T, typename Backend::parameter_type>(batch.x, batch.shape, batch.weight,
                                                                                  batch.bias, plan.options.eps, ranks);
  Number loss_error = 0;
  oracle::detail::for_each_element(batch.shape, [&](std::size_t i, std::size_t c) {
    loss_error += 2 * std::abs(batch.dy[i]) * bounds.y(i, c);  // twice: the shifted x has bounds a little larger
  });
  bounds.set_gradient(batch.dy);
  Comparison comparison;
  for (std::size_t sample = 0; sample < samples; ++sample) {
    std::array<Number, 4> loss{};
    for (const Outcome& outcome : outcomes) {
      for (std::size_t k = 0; k < 4; ++k) {
        const std::size_t at = 2 * (4 * sample + k);
        loss[k] += static_cast<Number>(outcome.values[at]) + outcome.values[at + 1];
      }
    }
    const Number coarse = (loss[0] - loss[1]) / (2 * shifts[0]);
    const Number fine = (loss[2] - loss[3]) / (2 * shifts[2]);
    const std::size_t i = moved(sample);
    const std::size_t channel = i % elements / batch.shape.positions;
    const Number bound = std::abs(fine - coarse) + 2 * loss_error / shifts[2] + bounds.dx(i, channel);
    REQUIRE(bound < 1e-4);  // of gradients of order 1
    comparison.add("dx", i, step.dx[i], fine, bound);
  }
  INFO(comparison.place());
  CHECK(comparison.worst() <= 1);
}

/// @brief Nothing travels in evaluation, by running statistics or by the batch's own; nor in infer(), whatever the mode.
template <class Backend, class Communicator, class T>
void law_evaluation_is_local() {
  using Recording = RecordingCommunicator<Communicator>;
  const Outcomes outcomes = run_ranks_well<Communicator>([](Communicator& c) {
    double calls = 0;
    for (const bool tracked : {true, false}) {
      Recording recording(c);
      syncbn::BatchNormOptions options;
      options.track_running_stats = tracked;
      syncbn::BatchNorm<1, Backend, Recording> layer(5, options, recording);
      Backend& backend = layer.backend();
      const std::vector<Index> extents{3 + c.rank(), 5};  // each rank may have its own number of samples
      BackendTensor<Backend, T> x(backend, extents, Placement::rows, law_elements<T>(extents, 91));
      BackendTensor<Backend, T> y(backend, extents, Placement::rows);
      typename syncbn::BatchNorm<1, Backend, Recording>::Saved saved;
      recording.record().clear();
      if (tracked) layer.infer(x.read(), y.view());
      layer.eval();
      layer.infer(x.read(), y.view());
      if (c.rank() == 0) {  // on one rank alone
        layer.forward(x.read(), y.view(), saved);
        layer.backward(x.read(), x.read(), saved, y.view());
      }
      calls += static_cast<double>(recording.record().calls());
    }
    return std::vector<double>{calls};
  });
  for (const Outcome& outcome : outcomes) CHECK(outcome.values == std::vector<double>{0});
}

/// @brief The frames that a step is documented to start: those of forward, -1, those of backward. `cancels`: the mean of a
/// channel dwarfs its deviation.
template <class Communicator>
std::vector<double> documented_frames(int ranks, Index channels, bool cancels) {
  if (ranks == 1) return {-1};
  const double payload = 2.0 * static_cast<double>(channels);
  if constexpr (errors_are_deferred<Communicator>) {
    const auto pages = [](double words) { return 512 * std::ceil(words / 512); };
    const double first = pages(16 + std::ceil(ranks / 50.0) + payload + 1);
    return {first, pages(payload + 2), -1, first};
  } else {
    std::vector<double> once{512};
    if (channels > 247) once.push_back(payload + 3);
    std::vector<double> frames = once;
    if (cancels) frames.push_back(payload + 3);
    frames.push_back(-1);
    frames.insert(frames.end(), once.begin(), once.end());
    return frames;
  }
}

/// @brief The frames of a step are those that exchange.hpp or deferred_exchange.hpp documents, and the same on every rank.
/// Samples and placements change nothing.
template <class Backend, class Communicator, class T>
void law_frames_are_as_documented() {
  using Recording = RecordingCommunicator<Communicator>;
  const int ranks = ranks_under_test<Communicator>();
  for (const Index channels : {Index{1}, Index{3}, Index{247}, Index{248}, Index{2048}}) {
    for (const bool cancels : {false, true}) {
      INFO(channels << " channels" << (cancels ? ", one of them constant" : ""));
      const Outcomes outcomes = run_ranks_well<Communicator>([&](Communicator& c) {
        Recording recording(c);
        syncbn::BatchNorm<1, Backend, Recording> layer(channels, {}, recording);
        Backend& backend = layer.backend();
        // The last rank is empty, if it can be.
        const std::vector<Index> extents{c.rank() > 0 && c.rank() == c.size() - 1 ? 0 : c.rank() + 2, channels};
        Numbers values(shape_of(extents).elements());  // 0 and 1 in turn: a mean no larger than the deviation
        oracle::detail::for_each_element(shape_of(extents), [&](std::size_t i, std::size_t channel) {
          const bool constant = cancels && channel + 1 == static_cast<std::size_t>(channels);
          values[i] = constant ? 3 : static_cast<Number>(i / static_cast<std::size_t>(channels) % 2);
        });
        const BackendTensor<Backend, T> x(backend, extents, Placement::rows, elements_of<T>(values));
        BackendTensor<Backend, T> y(backend, extents, Placement::rows);
        typename syncbn::BatchNorm<1, Backend, Recording>::Saved saved;
        recording.record().clear();
        layer.forward(x.read(), y.view(), saved);
        std::vector<double> frames(recording.record().started.begin(), recording.record().started.end());
        frames.push_back(-1);
        recording.record().clear();
        layer.backward(x.read(), x.read(), saved, syncbn::no_gradient);
        frames.insert(frames.end(), recording.record().started.begin(), recording.record().started.end());
        return frames;
      });
      const std::vector<double> expected = documented_frames<Communicator>(ranks, channels, cancels);
      for (const Outcome& outcome : outcomes) CHECK(outcome.values == expected);
    }
  }
}

/// @brief A batch that is empty on every rank changes nothing and is not counted; its gradients are zero.
template <class Backend, class Communicator, std::size_t Dims, class T>
void law_empty_batch_changes_nothing() {
  StepPlan plan;
  plan.samples.assign(static_cast<std::size_t>(ranks_under_test<Communicator>()), 0);
  const Batch<T, Dims> batch(plan);
  for (const RankStep& step : step_on_all_ranks<T, Dims, Backend, Communicator>(plan, batch)) {
    CHECK(step.y.empty());
    CHECK(step.dx.empty());
    CHECK(step.weight_grad == Numbers(5));
    CHECK(step.bias_grad == Numbers(5));
    Numbers untouched = batch.running_mean;
    untouched.insert(untouched.end(), batch.running_var.begin(), batch.running_var.end());
    untouched.push_back(2);
    CHECK(Numbers(step.agreed.begin(), step.agreed.begin() + 11) == untouched);
  }
}

/// @brief One value for each channel on all ranks together is an error on every rank, and nothing changes; one value on
/// a rank is not, as long as another has some.
template <class Backend, class Communicator, class T>
void law_single_value_is_an_error() {
  const int ranks = ranks_under_test<Communicator>();
  const std::string size = ranks == 1 ? "[1, 2]" : "1 (over all " + std::to_string(ranks) + " ranks)";
  const Outcomes outcomes = run_ranks<Communicator>([&](Communicator& c) -> std::vector<double> {
    syncbn::BatchNorm<1, Backend, Communicator> layer(2, {}, c);
    Backend& backend = layer.backend();
    const auto forward = [&](Index samples) {
      const std::vector<Index> extents{samples, 2};
      const BackendTensor<Backend, T> x(backend, extents, Placement::rows, law_elements<T>(extents, 93));
      BackendTensor<Backend, T> y(backend, extents, Placement::rows);
      typename syncbn::BatchNorm<1, Backend, Communicator>::Saved saved;
      layer.forward(x.read(), y.view(), saved);
      settle(layer);
    };
    const Numbers before = state_of(layer);
    const std::string thrown = thrown_by([&] { forward(c.rank() == c.size() - 1 ? 1 : 0); });
    if (state_of(layer) != before) throw std::runtime_error("the state has changed");
    forward(c.size() == 1 ? 2 : 1);
    if (layer.num_batches_tracked() != 1) throw std::runtime_error("the layer is not usable afterwards");
    throw std::runtime_error(thrown);
  });
  REQUIRE(outcomes.size() == static_cast<std::size_t>(ranks));
  for (const Outcome& outcome : outcomes) {
    CHECK(outcome.error == "ShapeError: Expected more than 1 value per channel when training, got input size " + size);
  }
}

/// @brief Micro-batches that are accumulated one by one, and exchanged once, are the whole batch. While the sums travel the
/// ranks do other work, another exchange among it.
template <class Backend, class Communicator, std::size_t Dims, class T>
void law_micro_batches_are_one_batch() {
  constexpr Index micro_batches = 3;
  const int ranks = ranks_under_test<Communicator>();
  for (const Index channels : {Index{5}, Index{300}}) {
    StepPlan plan;
    plan.samples.assign(static_cast<std::size_t>(ranks), 4);
    plan.samples.back() = ranks == 1 ? 5 : 1;
    plan.channels = channels;
    const Batch<T, Dims> batch(plan);
    const Outcomes outcomes = run_ranks_well<Communicator>([&](Communicator& c) {
      using P = typename Backend::parameter_type;
      const Index samples = plan.samples[static_cast<std::size_t>(c.rank())];
      const std::vector<Index> extents = extents_for<Dims>(samples, channels);
      Backend backend;
      BackendTensor<Backend, T> x(backend, extents, Placement::rows,
                                  elements_of<T>(batch.part(batch.x, plan, c.rank())));
      BackendTensor<Backend, T> dy(backend, extents, Placement::rows,
                                   elements_of<T>(batch.part(batch.dy, plan, c.rank())));
      BackendTensor<Backend, T> y(backend, extents, Placement::rows);
      BackendTensor<Backend, T> dx(backend, extents, Placement::rows);
      auto weight = to_backend(backend, std::vector<P>(batch.weight.begin(), batch.weight.end()));
      auto bias = to_backend(backend, std::vector<P>(batch.bias.begin(), batch.bias.end()));
      auto weight_grad = to_backend(backend, std::vector<P>(static_cast<std::size_t>(channels)));
      auto bias_grad = weight_grad;
      const auto whole = [&](auto& buffer) {
        return syncbn::TensorView<P, typename Backend::memory_space>(buffer.data(), {channels});
      };
      const auto for_each_micro_batch = [&](const auto& visit) {
        for (Index m = 0; m < micro_batches; ++m) {
          visit([&](const auto& tensor) {
            return tensor.slice(0, m * samples / micro_batches, (m + 1) * samples / micro_batches);
          });
        }
      };
      syncbn::Exchange<Communicator> exchange(c);
      syncbn::Exchange<Communicator> other(c);
      const auto other_work = [&] {
        syncbn::Moments<Backend> moments(3);
        syncbn::GradientSums<Backend> sums(3);
        syncbn::RankFailure nothing;
        syncbn::ExchangeCall call;
        call.operation = "other";
        call.channels = 3;
        begin_exchange(other, backend, call, 0, nothing);
        start_exchange(other, backend, sums);
        finish_exchange(other, backend, sums);
        if constexpr (!errors_are_deferred<Communicator>) exchange.poll();
      };
      syncbn::RankFailure failure;
      syncbn::ExchangeCall call;
      call.operation = "forward";
      call.channels = channels;
      call.kind = syncbn::scalar_kind<T>::value;

      syncbn::Moments<Backend> local(channels), global(channels);
      syncbn::Statistics<Backend> statistics(channels);
      const double count = static_cast<double>(samples) * static_cast<double>(batch.shape.positions);
      begin_exchange(exchange, backend, call, count, failure);
      for_each_micro_batch([&](const auto& part) { accumulate(backend, part(x.read()), local); });
      start_exchange(exchange, backend, local);
      other_work();
      finish_exchange(exchange, backend, local, global);
      const double total = from_backend(backend, global.pointers().count, 1)[0];
      finalize(backend, global, plan.options.eps, statistics);
      for_each_micro_batch([&](const auto& part) {
        normalize(backend, part(x.read()), statistics, whole(weight), whole(bias), part(y.view()));
      });

      call.operation = "backward";
      syncbn::GradientSums<Backend> local_sums(channels), global_sums(channels);
      syncbn::GradientCoefficients<Backend> coefficients(channels);
      begin_exchange(exchange, backend, call, count, failure);
      for_each_micro_batch(
          [&](const auto& part) { accumulate(backend, part(dy.read()), part(x.read()), statistics, local_sums); });
      start_exchange(exchange, backend, local_sums);
      other_work();
      finish_exchange(exchange, backend, global_sums);
      finalize(backend, global_sums, statistics, coefficients);
      for_each_micro_batch([&](const auto& part) {
        propagate(backend, part(dy.read()), part(x.read()), statistics, coefficients, whole(weight), part(dx.view()));
      });
      add_parameter_gradients(backend, local_sums, statistics, whole(weight_grad), whole(bias_grad));

      RankStep step;
      step.y = y.numbers();
      step.dx = dx.numbers();
      step.weight_grad = detail::numbers_on_host(backend, whole(weight_grad));
      step.bias_grad = detail::numbers_on_host(backend, whole(bias_grad));
      step.agreed = {static_cast<Number>(total)};
      return step.packed();
    });
    std::vector<RankStep> steps;
    for (const Outcome& outcome : outcomes) steps.push_back(RankStep::unpacked(outcome.values));
    plan.options.track_running_stats = false;
    const StepJudge<T, Dims, typename Backend::parameter_type> judge(plan, batch,
                                                                     ranks * static_cast<int>(micro_batches));
    const Comparison comparison = judge.against_oracle(together(steps));
    INFO(channels << " channels; " << comparison.place());
    CHECK(comparison.worst() <= 1);
    for (const RankStep& step : steps) {
      CHECK(step.agreed == Numbers{static_cast<Number>(batch.shape.elements_per_channel())});
    }
  }
}

/// @brief What is wrong on one rank is an error on all of them, that names it: in the same words, where errors are
/// immediate. The state is as before, and the layer goes on. So are calls that do not belong together.
template <class Backend, class Communicator, class T>
void law_ranks_agree_on_errors() {
  constexpr bool deferred = errors_are_deferred<Communicator>;
  // Layers whose first frames have the same size; immediate errors need no such luck.
  constexpr Index many = deferred ? 200 : 2048;
  const int ranks = ranks_under_test<Communicator>();
  if (ranks == 1) {
    SUCCEED("one rank agrees with itself");
    return;
  }
  const std::string last_of_all = std::to_string(ranks - 1);
  const std::string wrong_channels = "Error: running_mean should contain 4 elements not 3 (x has 4 channels)";
  const std::string on_last = " [rank " + last_of_all + " of " + std::to_string(ranks) + "] [layer 'small']";
  const std::string because_of_last =
      "Error: an exchange was given up because rank " + last_of_all + " failed, which has thrown why [layer 'small', ";
  const Outcomes outcomes = run_ranks<Communicator>([&](Communicator& c) -> std::vector<double> {
    using Layer = syncbn::BatchNorm<1, Backend, Communicator>;
    Layer small(3, {}, c);
    Layer large(many, {}, c);
    small.set_name("small");
    large.set_name("large");
    const auto forward = [&](Layer& layer, Index channels) {
      const std::vector<Index> extents{2, channels};
      const BackendTensor<Backend, T> x(layer.backend(), extents, Placement::rows, law_elements<T>(extents, 94));
      BackendTensor<Backend, T> y(layer.backend(), extents, Placement::rows);
      typename Layer::Saved saved;
      layer.forward(x.read(), y.view(), saved);
      settle(layer);
    };
    const bool last = c.rank() == c.size() - 1;
    forward(small, 3);
    const Numbers before = state_of(small);
    const std::string one_is_wrong = thrown_by([&] { forward(small, last ? 4 : 3); });
    const bool as_said = !deferred ? one_is_wrong == wrong_channels + on_last
                         : last    ? one_is_wrong == wrong_channels
                                   : one_is_wrong.starts_with(because_of_last);
    if (!as_said) throw std::runtime_error(one_is_wrong);
    const std::string different = thrown_by([&] { last ? forward(large, many) : forward(small, 3); });
    if (state_of(small) != before) throw std::runtime_error("the state has changed");
    forward(small, 3);
    forward(large, many);
    if (small.num_batches_tracked() != 2) throw std::runtime_error("the layer is not usable afterwards");
    throw std::runtime_error(different);
  });
  REQUIRE(outcomes.size() == static_cast<std::size_t>(ranks));
  for (const Outcome& outcome : outcomes) {
    INFO(outcome.error);
    CHECK(outcome.error.starts_with("Error: ranks disagree about what they are calling"));
    if (deferred) continue;  // each knows its own call alone
    CHECK(outcome.error == outcomes[0].error);
    CHECK(outcome.error.find(": forward of layer 'small'") != std::string::npos);
    CHECK(outcome.error.find("but forward of layer 'large'") != std::string::npos);
    CHECK(outcome.error.find("[rank " + last_of_all + " of ") != std::string::npos);
  }
}

}  // namespace syncbn_test
