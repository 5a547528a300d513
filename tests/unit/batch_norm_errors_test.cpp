// What the layer refuses, in which words, and that nothing has changed afterwards. Words come from PyTorch where it has the
// condition; ValueError is ShapeError, RuntimeError is Error.

#include <optional>
#include <string>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "support/activations.hpp"
#include "support/catch.hpp"
#include "support/layer_judge.hpp"
#include "support/thrown_by.hpp"
#include "support/values.hpp"

using namespace syncbn_test;

namespace {

template <std::size_t Dims>
using Layer = syncbn::BatchNorm<Dims>;

// Calls f(layer), which must throw exactly this, and checks that the layer is what it was, and still works.
template <class AnyLayer, class F>
void check_refused(AnyLayer& layer, const std::string& text, const F& f) {
  INFO(text);
  const LayerSnapshot before(layer);
  const bool training = layer.is_training();
  CHECK(thrown_by([&] { f(layer); }) == text);
  CHECK(LayerSnapshot(layer) == before);
  CHECK(layer.is_training() == training);
}

// forward(), forward_without_update() and infer() of an input of these extents must throw this.
template <class AnyLayer>
void check_input_refused(AnyLayer& layer, const std::vector<Index>& extents, const std::string& text) {
  Activations<float> x(extents, Numbers(static_cast<std::size_t>(Activations<float>(extents).view().size()), 1));
  Activations<float> y(extents);
  typename AnyLayer::Saved saved;
  check_refused(layer, text, [&](AnyLayer& l) { l.forward(x, y, saved); });
  check_refused(layer, text, [&](AnyLayer& l) { (void)l.forward(x, y); });
  check_refused(layer, text, [&](AnyLayer& l) { l.forward_without_update(x, y, saved); });
}

template <class AnyLayer>
void check_inference_refused(AnyLayer& layer, const std::vector<Index>& extents, const std::string& text) {
  Activations<float> x(extents, Numbers(static_cast<std::size_t>(Activations<float>(extents).view().size()), 1));
  Activations<float> y(extents);
  check_refused(layer, text, [&](AnyLayer& l) { std::as_const(l).infer(x, y); });
}

template <class AnyLayer>
void check_good_input(AnyLayer& layer, const std::vector<Index>& extents) {
  const Activations<float> x(extents, values(shape_of(extents).elements(), 1));
  Activations<float> y(extents), dx(extents);
  const auto batches = layer.num_batches_tracked();
  const auto saved = layer.forward(x, y);
  layer.backward(y, x, saved, dx);
  CHECK(layer.num_batches_tracked() == batches + (layer.is_training() && layer.tracks_running_stats() ? 1 : 0));
}

}  // namespace

TEST_CASE("a wrong number of dimensions is refused", "[batch_norm][errors]") {
  for (const bool training : {true, false}) {
    Layer<1> line(3);
    Layer<2> plane(3);
    Layer<3> volume(3);
    syncbn::BatchNorm<syncbn::any_dims> any(3);
    const auto check_all = [&](auto& layer, const std::vector<Index>& extents, const std::string& text) {
      layer.train(training);
      check_input_refused(layer, extents, text);
      check_inference_refused(layer, extents, text);
    };
    check_all(line, {}, "ShapeError: expected 2D or 3D input (got 0D input)");
    check_all(line, {3}, "ShapeError: expected 2D or 3D input (got 1D input)");
    check_all(line, {2, 3, 2, 2}, "ShapeError: expected 2D or 3D input (got 4D input)");
    check_all(plane, {2, 3, 4}, "ShapeError: expected 4D input (got 3D input)");
    check_all(plane, {2, 3, 2, 2, 2}, "ShapeError: expected 4D input (got 5D input)");
    check_all(volume, {2, 3, 2, 2}, "ShapeError: expected 5D input (got 4D input)");
    check_all(volume, {2, 3}, "ShapeError: expected 5D input (got 2D input)");
    check_all(any, {3}, "ShapeError: expected at least 2D input (got 1D input)");
    check_all(any, {}, "ShapeError: expected at least 2D input (got 0D input)");
    check_good_input(line, {2, 3});
    check_good_input(line, {2, 3, 4});
    check_good_input(plane, {2, 3, 2, 2});
    check_good_input(volume, {2, 3, 2, 2, 2});
    check_good_input(any, {2, 3, 1, 1, 1, 2});
  }
}

TEST_CASE("one value per channel is refused where the batch normalizes", "[batch_norm][errors]") {
  const auto text = [](const std::string& size) {
    return "ShapeError: Expected more than 1 value per channel when training, got input size " + size;
  };
  for (const std::optional<double> momentum : {std::optional<double>(0.1), std::optional<double>(0.0), {}}) {
    for (const bool track : {true, false}) {
      Layer<1> layer(3, {.momentum = momentum});
      scramble(layer);
      layer.set_track_running_stats(track);
      check_input_refused(layer, {1, 3}, text("[1, 3]"));
      check_input_refused(layer, {1, 3, 1}, text("[1, 3, 1]"));
      layer.eval();
      check_good_input(layer, {1, 3});  // by running statistics
    }
    Layer<2> untracked(2, {.momentum = momentum, .track_running_stats = false});
    for (const bool training : {true, false}) {
      untracked.train(training);
      check_input_refused(untracked, {1, 2, 1, 1}, text("[1, 2, 1, 1]"));
      check_inference_refused(untracked, {1, 2, 1, 1}, text("[1, 2, 1, 1]"));
    }
  }
  // PyTorch looks at this before it looks at the number of channels.
  Layer<1> of_three(3);
  check_input_refused(of_three, {1, 5}, text("[1, 5]"));
  of_three.eval();
  check_input_refused(of_three, {1, 5}, "Error: running_mean should contain 5 elements not 3 (x has 5 channels)");
  // None at all is an empty batch, and two are enough.
  Layer<1> layer(3);
  check_input_refused(layer, {1, 3}, text("[1, 3]"));
  check_good_input(layer, {2, 3});
  check_good_input(layer, {1, 3, 2});
}

TEST_CASE("a wrong number of channels is refused, by the name of the first tensor concerned", "[batch_norm][errors]") {
  for (const std::vector<Index>& extents : {std::vector<Index>{4, 5}, {0, 5}, {4, 5, 0}}) {
    Layer<1> tracked(3);
    scramble(tracked);
    const std::string mean = "Error: running_mean should contain 5 elements not 3 (x has 5 channels)";
    const std::string weight = "Error: weight should contain 5 elements not 3 (x has 5 channels)";
    const std::string layer_itself = "Error: the layer should contain 5 elements not 3 (x has 5 channels)";
    Activations<float> x(extents), y(extents);
    Layer<1>::Saved saved;
    check_refused(tracked, mean, [&](Layer<1>& l) { l.forward(x, y, saved); });
    check_inference_refused(tracked, extents, mean);
    tracked.eval();
    check_input_refused(tracked, extents, mean);
    // In training with the flag cleared, running statistics take no part.
    tracked.train();
    tracked.set_track_running_stats(false);
    check_input_refused(tracked, extents, weight);
    check_inference_refused(tracked, extents, mean);

    Layer<1> untracked(3, {.track_running_stats = false});
    Layer<1> bare(3, {.affine = false, .track_running_stats = false});
    for (const bool training : {true, false}) {
      untracked.train(training);
      bare.train(training);
      check_input_refused(untracked, extents, weight);
      check_inference_refused(untracked, extents, weight);
      check_input_refused(bare, extents, layer_itself);  // PyTorch takes any number here
      check_inference_refused(bare, extents, layer_itself);
    }
    check_good_input(tracked, {4, 3});
  }
}

TEST_CASE("a layer that can be synchronized wants channels", "[batch_norm][errors]") {
  const std::string text = "ShapeError: SyncBatchNorm number of input channels should be non-zero";
  syncbn::SyncBatchNorm<syncbn::CpuBackend<>, syncbn::ThreadCommunicator> layer(
      0, {}, syncbn::ThreadCommunicator::create(1).front());
  for (const bool training : {true, false}) {
    layer.train(training);
    check_input_refused(layer, {2, 0}, text);
    check_inference_refused(layer, {2, 0, 4}, text);
  }
}

TEST_CASE("an output of another shape is refused", "[batch_norm][errors]") {
  for (const bool training : {true, false}) {
    Layer<1> layer(3);
    scramble(layer);
    layer.train(training);
    const Activations<float> x({4, 3}, values(12, 1));
    Activations<float> y({3, 4}), z({4, 3, 1});
    check_refused(layer, "ShapeError: y has shape [3, 4], but x has [4, 3]",
                  [&](Layer<1>& l) { (void)l.forward(x, y); });
    check_refused(layer, "ShapeError: y has shape [4, 3, 1], but x has [4, 3]", [&](Layer<1>& l) { l.infer(x, z); });
  }
}

TEST_CASE("an output that overlaps itself or parts of the input is refused", "[batch_norm][errors]") {
  for (const bool training : {true, false}) {
    Layer<1> layer(3);
    scramble(layer);
    layer.train(training);
    std::vector<float> memory(24, 1);
    const syncbn::TensorView<float> x(memory.data(), {4, 3});
    const syncbn::TensorView<float> broadcast(memory.data() + 12, {4, 3}, {0, 1});
    const syncbn::TensorView<float> shifted(memory.data() + 1, {4, 3});
    const syncbn::TensorView<float> transposed(memory.data(), {4, 3}, {1, 4});
    const std::string itself =
        "ShapeError: y overlaps itself: elements of shape [4, 3] with strides [0, 1] share memory";
    const std::string input = "ShapeError: y overlaps x without being the same elements";
    Layer<1>::Saved saved;
    check_refused(layer, itself, [&](Layer<1>& l) { l.forward(x, broadcast, saved); });
    check_refused(layer, input, [&](Layer<1>& l) { l.forward(x, shifted, saved); });
    check_refused(layer, input, [&](Layer<1>& l) { l.forward(x, transposed, saved); });
    check_refused(layer, itself, [&](Layer<1>& l) { l.infer(x, broadcast); });
    check_refused(layer, input, [&](Layer<1>& l) { l.infer(x, shifted); });
    // An input may be broadcast: it is only read.
    (void)layer.forward(broadcast, x);
    layer.infer(broadcast, x);
  }
}

TEST_CASE("a backward pass wants the tensors of its forward pass", "[batch_norm][errors]") {
  for (const bool training : {true, false}) {
    Layer<1> layer(3);
    scramble(layer);
    layer.train(training);
    const Activations<float> x({4, 3}, values(12, 1));
    Activations<float> y(x.extents()), dx(x.extents()), wrong({4, 4}), flat({4, 3, 1});
    const Layer<1>::Saved saved = layer.forward(x, y);
    const Layer<1>::Saved never_filled;
    check_refused(layer, "ShapeError: x has shape [4, 4], but the x of the forward pass has [4, 3]",
                  [&](Layer<1>& l) { l.backward(y, wrong, saved, dx); });
    check_refused(layer, "ShapeError: x has shape [4, 3], but the x of the forward pass has []",
                  [&](Layer<1>& l) { l.backward(y, x, never_filled, dx); });
    check_refused(layer, "ShapeError: dy has shape [4, 3, 1], but x has [4, 3]",
                  [&](Layer<1>& l) { l.backward(flat, x, saved, dx); });
    check_refused(layer, "ShapeError: dx has shape [4, 4], but x has [4, 3]",
                  [&](Layer<1>& l) { l.backward(y, x, saved, wrong); });
    check_refused(layer, "ShapeError: dy has shape [4, 4], but x has [4, 3]",
                  [&](Layer<1>& l) { l.backward(wrong, x, saved, syncbn::no_gradient); });

    std::vector<float> memory(24, 1);
    const syncbn::TensorView<float> dy(memory.data(), {4, 3});
    const syncbn::TensorView<float> broadcast(memory.data() + 12, {4, 3}, {0, 1});
    const syncbn::TensorView<float> shifted(memory.data() + 1, {4, 3});
    check_refused(layer, "ShapeError: dx overlaps itself: elements of shape [4, 3] with strides [0, 1] share memory",
                  [&](Layer<1>& l) { l.backward(dy, x, saved, broadcast); });
    check_refused(layer, "ShapeError: dx overlaps dy without being the same elements",
                  [&](Layer<1>& l) { l.backward(dy, x, saved, shifted); });
    check_refused(layer, "ShapeError: dx overlaps x without being the same elements",
                  [&](Layer<1>& l) { l.backward(x, dy, saved, shifted); });
    layer.backward(broadcast, x, saved, dx);  // only read
    layer.backward(y, x, saved, dx);

    // What another layer saved does not fit a layer of other channels.
    Layer<1> smaller(2);
    check_refused(smaller, "Error: the layer should contain 3 elements not 2 (x has 3 channels)",
                  [&](Layer<1>& l) { l.backward(y, x, saved, dx); });
  }
}
