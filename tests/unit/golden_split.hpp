#pragma once

#include <cstddef>
#include <exception>
#include <optional>
#include <thread>
#include <vector>

#include "golden_layer.hpp"
#include "support/thread_ranks.hpp"

// Replays golden cases on ranks that share the batch, on any backend and fabric.

namespace syncbn_test {

/// @brief Ranks that are threads. Other fabrics look the same: enter() is called by each thread before anything else, leave()
/// by that of a rank that failed.
class ThreadFabric {
 public:
  using Communicator = syncbn::ThreadCommunicator;

  explicit ThreadFabric(int ranks) : group_(Communicator::create(ranks)) { group_.front().set_timeout(rank_timeout); }
  Communicator communicator(std::size_t rank) { return group_[rank]; }
  void enter(std::size_t) {}
  void leave(std::size_t rank, const char* why) { group_[rank].leave(why); }

 private:
  std::vector<Communicator> group_;
};

/// @brief One layer for each rank; ranks are threads during a pass only. The file has the samples of each rank at each step.
template <std::size_t Dims, class T, class Backend, class Fabric>
class SplitRunner {
 public:
  using Layer = syncbn::BatchNorm<Dims, Backend, typename Fabric::Communicator>;
  using Rank = std::size_t;

  explicit SplitRunner(const GoldenCase& golden)
      : golden_(&golden),
        fabric_(std::make_unique<Fabric>(static_cast<int>(golden.integer("ranks")))),
        of_(static_cast<std::size_t>(golden.integer("ranks"))) {
    const GoldenStart start(golden);
    on_all_ranks([&](Rank r) {
      of_[r].layer.emplace(start.channels, start.options, fabric_->communicator(r));
      set_parameters(*of_[r].layer, start);
      set_running_state(*of_[r].layer, start.running);
    });
  }
  SplitRunner(SplitRunner&&) noexcept = default;
  SplitRunner& operator=(SplitRunner&&) = delete;
  ~SplitRunner() {
    if (fabric_ == nullptr) return;
    on_all_ranks([&](Rank r) { of_[r] = {}; });
  }

  Activations<T> forward(const Activations<T>& x, bool training, bool track, Layout layout) {
    samples_ = golden_->integers("samples." + std::to_string(step_++));
    const std::vector<Activations<T>> parts = split(x, layout);
    std::vector<Activations<T>> y(parts.size());
    on_all_ranks([&](Rank r) {
      Layer& layer = *of_[r].layer;
      layer.train(training);
      layer.set_track_running_stats(track);
      of_[r].x.emplace(layer.backend(), parts[r]);
      OnBackend<T, Backend> output(layer.backend(), Activations<T>(parts[r].extents(), layout));
      layer.forward(of_[r].x->view(), output.view(), of_[r].saved);
      settle(layer);
      y[r] = output.fetch(layer.backend());
    });
    return concatenate(y, x.extents());
  }

  LayerGradients backward(const Activations<T>& dy, Layout layout) {
    const std::vector<Activations<T>> parts = split(dy, layout);
    std::vector<Activations<T>> dx(parts.size());
    std::vector<LayerGradients> gradients(parts.size());
    on_all_ranks([&](Rank r) {
      Layer& layer = *of_[r].layer;
      OnBackend<T, Backend> output(layer.backend(), Activations<T>(parts[r].extents(), layout));
      layer.backward(OnBackend<T, Backend>(layer.backend(), parts[r]).view(), of_[r].x->view(), of_[r].saved,
                     output.view());
      settle(layer);
      dx[r] = output.fetch(layer.backend());
      gradients[r] = gradients_of(layer, {});
    });
    LayerGradients sums{concatenate(dx, dy.extents()).numbers(), {}, {}};
    for (const LayerGradients& g : gradients) {
      add(sums.weight, g.weight);
      add(sums.bias, g.bias);
    }
    return sums;
  }

  // Of all ranks: where one differs from rank 0 by a bit, NaN.
  RunningState state() {
    std::vector<RunningState> states(of_.size());
    on_all_ranks([&](Rank r) { states[r] = running_state(*of_[r].layer); });
    RunningState result = states[0];
    for (const RunningState& other : states) {
      if (other.mean != result.mean || other.var != result.var || other.batches != result.batches) {
        for (Numbers* values : {&result.mean, &result.var}) values->assign(values->size(), std::nanl(""));
        result.batches = -1;
        break;
      }
    }
    return result;
  }
  void set_state(const RunningState& state) {
    on_all_ranks([&](Rank r) { set_running_state(*of_[r].layer, state); });
  }

 private:
  struct OfRank {
    std::optional<Layer> layer;
    typename Layer::Saved saved;
    std::optional<OnBackend<T, Backend>> x;
  };

  static void add(Numbers& sums, const Numbers& values) {
    sums.resize(values.size());
    for (std::size_t c = 0; c < values.size(); ++c) sums[c] += values[c];
  }

  template <class F>
  void on_all_ranks(const F& f) {
    std::vector<std::exception_ptr> failures(of_.size());
    {
      std::vector<std::jthread> threads;
      for (Rank r = 0; r < of_.size(); ++r) {
        threads.emplace_back([&, r] {
          try {
            fabric_->enter(r);
            f(r);
          } catch (const std::exception& e) {
            failures[r] = std::current_exception();
            fabric_->leave(r, e.what());
          }
        });
      }
    }
    for (const std::exception_ptr& failure : failures) {
      if (failure != nullptr) std::rethrow_exception(failure);
    }
  }

  std::vector<Activations<T>> split(const Activations<T>& whole, Layout layout) const {
    const Numbers values = whole.numbers();
    std::vector<Index> extents = whole.extents();
    const auto sample = values.empty() ? 0 : static_cast<std::ptrdiff_t>(values.size()) / extents[0];
    std::vector<Activations<T>> parts;
    auto from = values.begin();
    for (const long long samples : samples_) {
      extents[0] = samples;
      const auto to = from + samples * sample;
      parts.emplace_back(extents, Numbers(from, to), layout);
      from = to;
    }
    return parts;
  }
  static Activations<T> concatenate(const std::vector<Activations<T>>& parts, const std::vector<Index>& extents) {
    Numbers all;
    for (const Activations<T>& part : parts) {
      const Numbers values = part.numbers();
      all.insert(all.end(), values.begin(), values.end());
    }
    return {extents, all};
  }

  const GoldenCase* golden_;
  std::unique_ptr<Fabric> fabric_;
  std::vector<OfRank> of_;
  std::vector<long long> samples_;
  int step_ = 0;
};

template <class T, class Backend, class Fabric>
void replay_split(const GoldenCase& golden) {
  const int ranks = static_cast<int>(golden.integer("ranks"));
  const auto replay = [&]<std::size_t d>(std::integral_constant<std::size_t, d>) {
    replay_in_all_layouts<T, Backend>(golden, ranks, [&] { return SplitRunner<d, T, Backend, Fabric>(golden); });
  };
  switch (golden.integer("dims")) {
    case 1:
      return replay(std::integral_constant<std::size_t, 1>());
    case 2:
      return replay(std::integral_constant<std::size_t, 2>());
    default:
      return replay(std::integral_constant<std::size_t, 3>());
  }
}

/// @brief Replays every case. @tparam Single  with float parameters. @tparam Double  with double ones.
template <class Single, class Double, class Fabric>
void replay_split_files() {
  for (const GoldenCase& golden : golden_cases("split_f32.txt")) replay_split<float, Single, Fabric>(golden);
  for (const GoldenCase& golden : golden_cases("split_f64.txt")) replay_split<double, Double, Fabric>(golden);
}

}  // namespace syncbn_test
