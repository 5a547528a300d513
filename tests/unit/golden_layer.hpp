#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "conformance/layer_step.hpp"
#include "golden_replay.hpp"
#include "support/thrown_by.hpp"

// Replays golden cases of one rank, on any backend: by the layer and by the functional form.

namespace syncbn_test {

/// @brief A tensor of the host's, copied to where a backend works, in the same layout.
template <class T, class Backend>
class OnBackend {
 public:
  OnBackend(Backend& backend, Activations<T> host) : host_(std::move(host)) {
    const syncbn::TensorView<const T> from = std::as_const(host_).view();
    memory_ = to_backend(backend, std::vector<T>(from.data(), from.data() + from.size()));
  }

  syncbn::TensorView<T, typename Backend::memory_space> view() {
    return {memory_.data(), host_.view().extents(), host_.view().strides()};
  }
  /// @brief What is there now.
  Activations<T> fetch(Backend& backend) {
    backend.download(memory_.data(), host_.view().size(), host_.view().data());
    return host_;
  }

 private:
  Activations<T> host_;
  typename Backend::template buffer<T> memory_;
};

template <class Layer>
void set_parameters(Layer& layer, const GoldenStart& start) {
  if (!start.options.affine) return;
  detail::set(layer.backend(), layer.weight(), start.weight);
  detail::set(layer.backend(), layer.bias(), start.bias);
}
template <class Layer>
void set_running_state(Layer& layer, const RunningState& state) {
  if (state.mean.empty()) return;
  detail::set(layer.backend(), layer.running_mean(), state.mean);
  detail::set(layer.backend(), layer.running_var(), state.var);
  layer.set_num_batches_tracked(state.batches);
}
template <class Layer>
RunningState running_state(Layer& layer) {
  return {detail::numbers_on_host(layer.backend(), layer.running_mean()),
          detail::numbers_on_host(layer.backend(), layer.running_var()), layer.num_batches_tracked()};
}
/// @brief The gradients of a layer. @param dx  as it was written.
template <class Layer>
LayerGradients gradients_of(Layer& layer, Numbers dx) {
  return {std::move(dx), detail::numbers_on_host(layer.backend(), layer.weight_grad()),
          detail::numbers_on_host(layer.backend(), layer.bias_grad())};
}

template <std::size_t Dims, class T, class Backend>
class LayerRunner {
 public:
  using Layer = syncbn::BatchNorm<Dims, Backend>;

  explicit LayerRunner(const GoldenStart& start) : layer_(start.channels, start.options) {
    set_parameters(layer_, start);
    set_running_state(layer_, start.running);
  }

  Activations<T> forward(const Activations<T>& x, bool training, bool track, Layout layout) {
    layer_.train(training);
    layer_.set_track_running_stats(track);
    x_.emplace(layer_.backend(), x);
    OnBackend<T, Backend> y(layer_.backend(), Activations<T>(x.extents(), layout));
    layer_.forward(x_->view(), y.view(), saved_);
    return y.fetch(layer_.backend());
  }
  LayerGradients backward(const Activations<T>& dy, Layout layout) {
    OnBackend<T, Backend> dx(layer_.backend(), Activations<T>(dy.extents(), layout));
    layer_.backward(OnBackend<T, Backend>(layer_.backend(), dy).view(), x_->view(), saved_, dx.view());
    return gradients_of(layer_, dx.fetch(layer_.backend()).numbers());
  }
  RunningState state() { return running_state(layer_); }
  void set_state(const RunningState& state) { set_running_state(layer_, state); }

 private:
  Layer layer_;
  typename Layer::Saved saved_;
  std::optional<OnBackend<T, Backend>> x_;
};

// The layer's rules about modes, spelled out with the functional form.
template <class T, class Backend>
class FunctionalRunner {
 public:
  explicit FunctionalRunner(const GoldenStart& start)
      : options_(start.options), weight_(on_backend(start.weight)), bias_(on_backend(start.bias)) {
    set_state(start.running);
  }

  Activations<T> forward(const Activations<T>& x, bool training, bool track, Layout layout) {
    x_.emplace(backend_, x);
    OnBackend<T, Backend> y(backend_, Activations<T>(x.extents(), layout));
    const bool has_buffers = mean_.size() > 0 || var_.size() > 0;
    const bool updates = training && track && has_buffers;
    syncbn::BatchNormTensors<P, Space> tensors{{}, {}, view(weight_), view(bias_)};
    if (updates || !training) {
      tensors.running_mean = view(mean_);
      tensors.running_var = view(var_);
    }
    const double momentum = options_.momentum.value_or(1 / static_cast<double>(batches_ + 1));
    saved_ =
        syncbn::batch_norm(x_->view(), y.view(), tensors, training || !has_buffers, momentum, options_.eps, backend_);
    if (updates && x.view().size() > 0) ++batches_;
    return y.fetch(backend_);
  }
  LayerGradients backward(const Activations<T>& dy, Layout layout) {
    OnBackend<T, Backend> dx(backend_, Activations<T>(dy.extents(), layout));
    Buffer weight_grad = on_backend(Numbers(weight_.size()));
    Buffer bias_grad = on_backend(Numbers(bias_.size()));
    syncbn::batch_norm_backward(OnBackend<T, Backend>(backend_, dy).view(), x_->view(), saved_, view(weight_),
                                dx.view(), view(weight_grad), view(bias_grad), backend_);
    return {dx.fetch(backend_).numbers(), numbers(weight_grad), numbers(bias_grad)};
  }
  RunningState state() { return {numbers(mean_), numbers(var_), batches_}; }
  void set_state(const RunningState& state) {
    mean_ = on_backend(state.mean);
    var_ = on_backend(state.var);
    batches_ = state.batches;
  }

 private:
  using P = typename Backend::parameter_type;
  using Space = typename Backend::memory_space;
  using Buffer = typename Backend::template buffer<P>;

  Buffer on_backend(const Numbers& values) {
    return to_backend(backend_, std::vector<P>(values.begin(), values.end()));
  }
  Numbers numbers(Buffer& buffer) { return detail::numbers_on_host(backend_, view(buffer)); }
  static syncbn::TensorView<P, Space> view(Buffer& buffer) {
    if (buffer.size() == 0) return {};
    return {buffer.data(), {static_cast<Index>(buffer.size())}};
  }

  Backend backend_;
  syncbn::BatchNormOptions options_;
  Buffer weight_, bias_, mean_, var_;
  std::int64_t batches_ = 0;
  std::optional<OnBackend<T, Backend>> x_;
  syncbn::SavedForward<Backend> saved_;
};

template <class T, class Backend>
Transcript replay_layer(const GoldenCase& golden, std::size_t dims) {
  const GoldenStart start(golden);
  const auto replay = [&]<std::size_t d>(std::integral_constant<std::size_t, d>) {
    return replay_in_all_layouts<T, Backend>(golden, 1, [&] { return LayerRunner<d, T, Backend>(start); });
  };
  if (dims == 1) return replay(std::integral_constant<std::size_t, 1>());
  if (dims == 2) return replay(std::integral_constant<std::size_t, 2>());
  return replay(std::integral_constant<std::size_t, 3>());
}

/// @brief Replays a case by the functional form and, where a layer can be in such a state, by a layer.
template <class T, class Backend>
void replay_one_rank(const GoldenCase& golden) {
  const GoldenStart start(golden);
  const bool functional = golden.text("kind") == "functional";
  std::size_t dims = 0;
  if (functional) {
    const std::vector<Index> extents = golden_extents(golden, "x.0");
    if (extents.size() == 1) {
      // Deliberate difference: PyTorch takes an empty tensor of one axis; the library always wants channels.
      FunctionalRunner<T, Backend> runner(start);
      CHECK(thrown_by([&] {
              runner.forward(Activations<T>(extents), golden.integer("training") != 0, true, Layout::contiguous);
            }) == "ShapeError: expected at least 2D input (got 1D input)");
      return;
    }
    dims = extents.size() < 4 ? 1 : extents.size() - 2;
  } else {
    dims = static_cast<std::size_t>(golden.integer("dims"));
  }
  const Transcript by_function =
      replay_in_all_layouts<T, Backend>(golden, 1, [&] { return FunctionalRunner<T, Backend>(start); });
  // A layer has both of a pair or neither.
  if (start.weight.size() != start.bias.size() || start.running.mean.size() != start.running.var.size()) return;
  const Transcript by_layer = replay_layer<T, Backend>(golden, dims);
  CHECK(same_bits(by_layer, by_function));
}

/// @brief Replays every case of a file. @tparam Single  with float parameters. @tparam Double  with double ones.
template <class Single, class Double>
void replay_file_on_one_rank(const char* file) {
  for (const GoldenCase& golden : golden_cases(file)) {
    const std::string& format = golden.text("dtype");
    if (format == "f64") {
      replay_one_rank<double, Double>(golden);
    } else if (format == "f32") {
      replay_one_rank<float, Single>(golden);
    } else {
      replay_one_rank<syncbn::BFloat16, Single>(golden);
    }
  }
}

}  // namespace syncbn_test
