// What PyTorch answers, on one rank: the layer and the functional form. Format of the files: tests/golden/README.md.

#include "golden_replay.hpp"
#include "support/thrown_by.hpp"

using namespace syncbn_test;

namespace {

template <std::size_t Dims, class T, class P>
class LayerRunner {
 public:
  using Layer = syncbn::BatchNorm<Dims, syncbn::CpuBackend<P>>;

  explicit LayerRunner(const GoldenStart& start) : layer_(start.channels, start.options) {
    if (start.options.affine) {
      assign(layer_.weight(), start.weight);
      assign(layer_.bias(), start.bias);
    }
    set_state(start.running);
  }

  Activations<T> forward(const Activations<T>& x, bool training, bool track, Layout layout) {
    layer_.train(training);
    layer_.set_track_running_stats(track);
    x_ = x;
    Activations<T> y(x.extents(), layout);
    layer_.forward(x, y, saved_);
    return y;
  }
  LayerGradients backward(const Activations<T>& dy, Layout layout) {
    Activations<T> dx(dy.extents(), layout);
    layer_.backward(dy, x_, saved_, dx);
    return {dx.numbers(), numbers_of(layer_.weight_grad()), numbers_of(layer_.bias_grad())};
  }
  RunningState state() const {
    return {numbers_of(layer_.running_mean()), numbers_of(layer_.running_var()), layer_.num_batches_tracked()};
  }
  void set_state(const RunningState& state) {
    if (state.mean.empty()) return;
    assign(layer_.running_mean(), state.mean);
    assign(layer_.running_var(), state.var);
    layer_.set_num_batches_tracked(state.batches);
  }

 private:
  Layer layer_;
  typename Layer::Saved saved_;
  Activations<T> x_;
};

template <class P>
syncbn::TensorView<P> channels_view(std::vector<P>& values) {
  return values.empty() ? syncbn::TensorView<P>()
                        : syncbn::TensorView<P>(values.data(), {static_cast<Index>(values.size())});
}

// The layer's rules about modes, spelled out with the functional form.
template <class T, class P>
class FunctionalRunner {
 public:
  explicit FunctionalRunner(const GoldenStart& start)
      : options_(start.options),
        weight_(start.weight.begin(), start.weight.end()),
        bias_(start.bias.begin(), start.bias.end()) {
    set_state(start.running);
  }

  Activations<T> forward(const Activations<T>& x, bool training, bool track, Layout layout) {
    x_ = x;
    Activations<T> y(x.extents(), layout);
    const bool has_buffers = !(mean_.empty() && var_.empty());
    const bool updates = training && track && has_buffers;
    syncbn::BatchNormTensors<P> tensors{{}, {}, channels_view(weight_), channels_view(bias_)};
    if (updates || !training) {
      tensors.running_mean = channels_view(mean_);
      tensors.running_var = channels_view(var_);
    }
    const double momentum = options_.momentum.value_or(1 / static_cast<double>(batches_ + 1));
    saved_ = syncbn::batch_norm<Backend>(x, y, tensors, training || !has_buffers, momentum, options_.eps);
    if (updates && x.view().size() > 0) ++batches_;
    return y;
  }
  LayerGradients backward(const Activations<T>& dy, Layout layout) {
    Activations<T> dx(dy.extents(), layout);
    std::vector<P> weight_grad(weight_.size()), bias_grad(bias_.size());
    syncbn::batch_norm_backward(dy, x_, saved_, channels_view(weight_), dx, channels_view(weight_grad),
                                channels_view(bias_grad));
    return {dx.numbers(), numbers_of(channels_view(weight_grad)), numbers_of(channels_view(bias_grad))};
  }
  RunningState state() { return {numbers_of(channels_view(mean_)), numbers_of(channels_view(var_)), batches_}; }
  void set_state(const RunningState& state) {
    mean_.assign(state.mean.begin(), state.mean.end());
    var_.assign(state.var.begin(), state.var.end());
    batches_ = state.batches;
  }

 private:
  using Backend = syncbn::CpuBackend<P>;
  syncbn::BatchNormOptions options_;
  std::vector<P> weight_, bias_, mean_, var_;
  std::int64_t batches_ = 0;
  Activations<T> x_;
  syncbn::SavedForward<Backend> saved_;
};

template <class T, class P>
Transcript replay_layer(const GoldenCase& golden, std::size_t dims) {
  const GoldenStart start(golden);
  if (dims == 1) return replay_in_all_layouts<T, P>(golden, 1, [&] { return LayerRunner<1, T, P>(start); });
  if (dims == 2) return replay_in_all_layouts<T, P>(golden, 1, [&] { return LayerRunner<2, T, P>(start); });
  return replay_in_all_layouts<T, P>(golden, 1, [&] { return LayerRunner<3, T, P>(start); });
}

template <class T, class P>
void replay_layer_and_functional(const GoldenCase& golden) {
  const GoldenStart start(golden);
  const Transcript layer = replay_layer<T, P>(golden, static_cast<std::size_t>(golden.integer("dims")));
  const Transcript functional = replay_in_all_layouts<T, P>(golden, 1, [&] { return FunctionalRunner<T, P>(start); });
  CHECK(same_bits(layer, functional));
}

template <class T, class P>
void replay_functional(const GoldenCase& golden) {
  const std::vector<Index> extents = golden_extents(golden, "x.0");
  const GoldenStart start(golden);
  const bool training = golden.integer("training") != 0;
  if (extents.size() == 1) {
    // Deliberate difference: PyTorch takes an empty tensor of one axis; the library always wants channels.
    const Activations<T> x(extents);
    FunctionalRunner<T, P> runner(start);
    CHECK(thrown_by([&] { runner.forward(x, training, true, Layout::contiguous); }) ==
          "ShapeError: expected at least 2D input (got 1D input)");
    return;
  }
  const Transcript functional = replay_in_all_layouts<T, P>(golden, 1, [&] { return FunctionalRunner<T, P>(start); });
  // A layer has both of a pair or neither.
  if (start.weight.size() != start.bias.size() || start.running.mean.size() != start.running.var.size()) return;
  CHECK(same_bits(replay_layer<T, P>(golden, extents.size() < 4 ? 1 : extents.size() - 2), functional));
}

}  // namespace

TEST_CASE("golden: the f32 layer and the functional form answer as PyTorch does", "[golden]") {
  for (const GoldenCase& golden : golden_cases("layer_f32.txt")) replay_layer_and_functional<float, float>(golden);
}

TEST_CASE("golden: the f64 layer and the functional form answer as PyTorch does", "[golden]") {
  for (const GoldenCase& golden : golden_cases("layer_f64.txt")) replay_layer_and_functional<double, double>(golden);
}

TEST_CASE("golden: bf16 tensors with f32 parameters answer as PyTorch does", "[golden]") {
  for (const GoldenCase& golden : golden_cases("layer_bf16.txt")) {
    replay_layer_and_functional<syncbn::BFloat16, float>(golden);
  }
}

TEST_CASE("golden: weight, bias and running statistics are optional one by one", "[golden]") {
  for (const GoldenCase& golden : golden_cases("functional.txt")) {
    if (golden.text("dtype") == "f32") {
      replay_functional<float, float>(golden);
    } else {
      replay_functional<double, double>(golden);
    }
  }
}

TEST_CASE("golden: empty batches, extreme momenta, zero weight, constant channels, NaN and infinity", "[golden]") {
  for (const GoldenCase& golden : golden_cases("edge.txt")) {
    if (golden.text("dtype") == "f32") {
      replay_layer_and_functional<float, float>(golden);
    } else {
      replay_layer_and_functional<double, double>(golden);
    }
  }
}
