// What PyTorch answers on a whole batch, from ranks that share it. Format of the files: tests/golden/README.md.

#include <exception>
#include <thread>

#include "golden_replay.hpp"
#include "support/thread_ranks.hpp"

using namespace syncbn_test;

namespace {

// One layer for each rank; ranks are threads during a pass only. The file has the samples of each rank at each step.
template <std::size_t Dims, class T, class P>
class SplitRunner {
 public:
  using Layer = syncbn::BatchNorm<Dims, syncbn::CpuBackend<P>, syncbn::ThreadCommunicator>;
  using Rank = std::size_t;

  explicit SplitRunner(const GoldenCase& golden)
      : golden_(golden),
        group_(syncbn::ThreadCommunicator::create(static_cast<int>(golden.integer("ranks")))),
        saved_(group_.size()),
        x_(group_.size()) {
    const GoldenStart start(golden);
    group_.front().set_timeout(rank_timeout);
    for (const syncbn::ThreadCommunicator& communicator : group_) {
      layers_.emplace_back(start.channels, start.options, communicator);
      if (!start.options.affine) continue;
      assign(layers_.back().weight(), start.weight);
      assign(layers_.back().bias(), start.bias);
    }
    set_state(start.running);
  }

  Activations<T> forward(const Activations<T>& x, bool training, bool track, Layout layout) {
    samples_ = golden_.integers("samples." + std::to_string(step_++));
    x_ = split(x, layout);
    std::vector<Activations<T>> y = empty_like(x_, layout);
    on_all_ranks([&](Rank r) {
      layers_[r].train(training);
      layers_[r].set_track_running_stats(track);
      layers_[r].forward(x_[r], y[r], saved_[r]);
    });
    return concatenate(y, x.extents());
  }

  LayerGradients backward(const Activations<T>& dy, Layout layout) {
    const std::vector<Activations<T>> parts = split(dy, layout);
    std::vector<Activations<T>> dx = empty_like(parts, layout);
    on_all_ranks([&](Rank r) { layers_[r].backward(parts[r], x_[r], saved_[r], dx[r]); });
    LayerGradients sums{concatenate(dx, dy.extents()).numbers(), {}, {}};
    for (Layer& layer : layers_) {
      add(sums.weight, numbers_of(layer.weight_grad()));
      add(sums.bias, numbers_of(layer.bias_grad()));
    }
    return sums;
  }

  // Of all ranks: where one differs from rank 0 by a bit, NaN.
  RunningState state() const {
    RunningState result = state_of(layers_[0]);
    for (const Layer& layer : layers_) {
      const RunningState other = state_of(layer);
      if (other.mean != result.mean || other.var != result.var || other.batches != result.batches) {
        for (Numbers* values : {&result.mean, &result.var}) values->assign(values->size(), std::nanl(""));
        result.batches = -1;
        break;
      }
    }
    return result;
  }
  void set_state(const RunningState& state) {
    if (state.mean.empty()) return;
    for (Layer& layer : layers_) {
      assign(layer.running_mean(), state.mean);
      assign(layer.running_var(), state.var);
      layer.set_num_batches_tracked(state.batches);
    }
  }

 private:
  static RunningState state_of(const Layer& layer) {
    return {numbers_of(layer.running_mean()), numbers_of(layer.running_var()), layer.num_batches_tracked()};
  }

  static void add(Numbers& sums, const Numbers& values) {
    sums.resize(values.size());
    for (std::size_t c = 0; c < values.size(); ++c) sums[c] += values[c];
  }

  template <class F>
  void on_all_ranks(const F& f) {
    std::vector<std::exception_ptr> failures(group_.size());
    {
      std::vector<std::jthread> threads;
      for (Rank r = 0; r < group_.size(); ++r) {
        threads.emplace_back([&, r] {
          try {
            f(r);
          } catch (const std::exception& e) {
            failures[r] = std::current_exception();
            group_[r].leave(e.what());
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
  static std::vector<Activations<T>> empty_like(const std::vector<Activations<T>>& parts, Layout layout) {
    std::vector<Activations<T>> result;
    for (const Activations<T>& part : parts) result.emplace_back(part.extents(), layout);
    return result;
  }
  static Activations<T> concatenate(const std::vector<Activations<T>>& parts, const std::vector<Index>& extents) {
    Numbers all;
    for (const Activations<T>& part : parts) {
      const Numbers values = part.numbers();
      all.insert(all.end(), values.begin(), values.end());
    }
    return {extents, all};
  }

  const GoldenCase& golden_;
  std::vector<syncbn::ThreadCommunicator> group_;
  std::vector<Layer> layers_;
  std::vector<typename Layer::Saved> saved_;
  std::vector<Activations<T>> x_;
  std::vector<long long> samples_;
  int step_ = 0;
};

template <class T, class P>
void replay_split(const GoldenCase& golden) {
  const int ranks = static_cast<int>(golden.integer("ranks"));
  switch (golden.integer("dims")) {
    case 1:
      replay_in_all_layouts<T, P>(golden, ranks, [&] { return SplitRunner<1, T, P>(golden); });
      break;
    case 2:
      replay_in_all_layouts<T, P>(golden, ranks, [&] { return SplitRunner<2, T, P>(golden); });
      break;
    default:
      replay_in_all_layouts<T, P>(golden, ranks, [&] { return SplitRunner<3, T, P>(golden); });
  }
}

}  // namespace

TEST_CASE("golden: f32 batches split over ranks give what PyTorch gives on the whole batch", "[golden]") {
  for (const GoldenCase& golden : golden_cases("split_f32.txt")) replay_split<float, float>(golden);
}

TEST_CASE("golden: f64 batches split over ranks give what PyTorch gives on the whole batch", "[golden]") {
  for (const GoldenCase& golden : golden_cases("split_f64.txt")) replay_split<double, double>(golden);
}
