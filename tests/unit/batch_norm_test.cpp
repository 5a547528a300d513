// The layer on one process: modes, statistics, gradients, state. Errors: batch_norm_errors_test.cpp; several ranks:
// batch_norm_ranks_test.cpp; extreme numbers: batch_norm_numerics_test.cpp.

#include <syncbn/batch_norm.hpp>

#include <optional>
#include <thread>
#include <tuple>
#include <type_traits>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "support/activations.hpp"
#include "support/catch.hpp"
#include "support/layer_judge.hpp"
#include "support/thread_ranks.hpp"
#include "support/values.hpp"

using namespace syncbn_test;

namespace {

template <std::size_t Dims, class P = float>
using Layer = syncbn::BatchNorm<Dims, syncbn::CpuBackend<P>>;

template <class T>
Activations<T> random_activations(const std::vector<Index>& extents, std::uint64_t seed,
                                  Layout layout = Layout::contiguous) {
  return {extents, values(shape_of(extents).elements(), seed, 0.75L, 2), layout};
}

std::vector<Index> extents_of(std::size_t dims) {
  if (dims == 1) return {5, 3, 4};
  if (dims == 2) return {3, 4, 2, 3};
  return {2, 3, 2, 3, 2};
}

// A row of the table: which statistics normalize, and whether the step leaves a trace.
struct Mode {
  const char* name;
  bool training, track, buffers;
  NormalizedBy by;
  bool updates;
};

constexpr Mode modes[] = {
    {"training", true, true, true, NormalizedBy::batch, true},
    {"training, flag set after construction without buffers", true, true, false, NormalizedBy::batch, false},
    {"training, flag cleared after construction with buffers", true, false, true, NormalizedBy::batch, false},
    {"training without running statistics", true, false, false, NormalizedBy::batch, false},
    {"evaluation", false, true, true, NormalizedBy::running, false},
    {"evaluation, flag cleared after construction: buffers win", false, false, true, NormalizedBy::running, false},
    {"evaluation without running statistics", false, false, false, NormalizedBy::batch, false},
    {"evaluation, flag set after construction without buffers", false, true, false, NormalizedBy::batch, false},
};

// Forward and backward in one mode, judged by the oracle.
template <std::size_t Dims, class T, class P>
void check_mode(const Mode& mode, bool affine) {
  INFO(mode.name << ", " << Dims << " dims, affine " << affine);
  Layer<Dims, P> layer(extents_of(Dims)[1], {1e-3, 0.3, affine, mode.buffers});
  scramble(layer);
  layer.train(mode.training);
  layer.set_track_running_stats(mode.track);
  const auto x = random_activations<T>(extents_of(Dims), 11);
  const auto dy = random_activations<T>(extents_of(Dims), 12);
  Activations<T> y(x.extents()), dx(x.extents());

  LayerJudge<T, Layer<Dims, P>> judge(mode.by, x.numbers(), shape_of(x.extents()), layer);
  const LayerSnapshot before(layer);
  const auto saved = layer.forward(x, y);
  judge.output(y.numbers());
  if (mode.updates) {
    judge.update(layer, 0.3);
    CHECK(layer.num_batches_tracked() == 4);
  } else {
    CHECK(LayerSnapshot(layer) == before);
  }
  CHECK(saved.batch_statistics == (mode.by == NormalizedBy::batch));
  CHECK_FALSE(saved.synchronized);

  const LayerSnapshot after_forward(layer);
  layer.backward(dy, x, saved, dx);
  judge.gradients(dy.numbers(), dx.numbers(), numbers_of(layer.weight_grad()), numbers_of(layer.bias_grad()));
  check(judge);
  layer.zero_grad();
  CHECK(LayerSnapshot(layer) == after_forward);
}

}  // namespace

TEST_CASE("mode, flag and buffers decide what normalizes and what is updated", "[batch_norm]") {
  for (const Mode& mode : modes) {
    for (const bool affine : {true, false}) {
      check_mode<1, float, float>(mode, affine);
      check_mode<2, double, double>(mode, affine);
      check_mode<3, float, float>(mode, affine);
    }
  }
}

TEST_CASE("16-bit tensors and f32 tensors go with wider parameters", "[batch_norm]") {
  for (const Mode& mode : modes) {
    check_mode<2, syncbn::Float16, float>(mode, true);
    check_mode<1, syncbn::BFloat16, float>(mode, true);
    check_mode<2, syncbn::BFloat16, double>(mode, true);
    check_mode<3, syncbn::Float16, double>(mode, true);
    check_mode<1, float, double>(mode, true);
  }
}

namespace {

// Whether a layer with parameters P takes tensors of these types; what it does not take does not compile.
template <class P, class X, class Y>
concept takes = requires(Layer<2, P>& layer, const syncbn::TensorView<const X>& x, syncbn::TensorView<Y> y,
                         typename Layer<2, P>::Saved& saved) { layer.forward(x, y, saved); };
template <class P, class D, class X, class DX>
concept takes_gradient =
    requires(Layer<2, P>& layer, const syncbn::TensorView<const D>& dy, const syncbn::TensorView<const X>& x,
             syncbn::TensorView<DX> dx, const typename Layer<2, P>::Saved& saved) { layer.backward(dy, x, saved, dx); };

}  // namespace

TEST_CASE("wrong mixtures of formats do not compile", "[batch_norm]") {
  using syncbn::BFloat16;
  using syncbn::Float16;
  // PyTorch: "mixed dtype (CPU): ..." at run time.
  STATIC_REQUIRE(takes<float, float, float>);
  STATIC_REQUIRE(takes<float, Float16, Float16>);
  STATIC_REQUIRE(takes<float, BFloat16, BFloat16>);
  STATIC_REQUIRE_FALSE(takes<float, double, double>);
  STATIC_REQUIRE(takes<double, double, double>);
  STATIC_REQUIRE(takes<double, float, float>);
  // The output has the format of the input.
  STATIC_REQUIRE_FALSE(takes<float, Float16, float>);
  STATIC_REQUIRE_FALSE(takes<double, double, float>);
  STATIC_REQUIRE_FALSE(takes<float, float, const float>);
  // PyTorch: '"batch_norm" not implemented for 'Long''.
  STATIC_REQUIRE_FALSE(takes<float, long, long>);
  // So do both gradients.
  STATIC_REQUIRE(takes_gradient<float, float, float, float>);
  STATIC_REQUIRE_FALSE(takes_gradient<float, BFloat16, float, float>);
  STATIC_REQUIRE_FALSE(takes_gradient<float, float, float, BFloat16>);
  // Gradients of parameters, running statistics and parameters have one type, f32 or f64.
  STATIC_REQUIRE(std::is_same_v<decltype(std::declval<Layer<2>&>().weight_grad()), syncbn::TensorView<float>>);
  STATIC_REQUIRE(std::is_same_v<decltype(std::declval<Layer<2, double>&>().running_var()), syncbn::TensorView<double>>);
}

TEST_CASE("a new layer has PyTorch's defaults", "[batch_norm]") {
  const Layer<2> layer(3);
  CHECK(layer.channels() == 3);
  CHECK(layer.options().eps == 1e-5);
  CHECK(layer.options().momentum == 0.1);
  CHECK(layer.options().affine);
  CHECK(layer.options().track_running_stats);
  CHECK(layer.is_training());
  CHECK(layer.tracks_running_stats());
  CHECK(layer.has_running_stats());
  CHECK(numbers_of(layer.weight()) == Numbers{1, 1, 1});
  CHECK(numbers_of(layer.bias()) == Numbers{0, 0, 0});
  CHECK(numbers_of(layer.running_mean()) == Numbers{0, 0, 0});
  CHECK(numbers_of(layer.running_var()) == Numbers{1, 1, 1});
  CHECK(numbers_of(layer.weight_grad()) == Numbers{0, 0, 0});
  CHECK(numbers_of(layer.bias_grad()) == Numbers{0, 0, 0});
  CHECK(layer.num_batches_tracked() == 0);
}

TEST_CASE("parameters and running statistics are there only if asked for", "[batch_norm]") {
  for (const bool affine : {true, false}) {
    for (const bool tracked : {true, false}) {
      const Layer<1> layer(2, {.affine = affine, .track_running_stats = tracked});
      for (const auto& view : {layer.weight(), layer.bias(), layer.weight_grad(), layer.bias_grad()}) {
        CHECK((view.data() != nullptr) == affine);
      }
      for (const auto& view : {layer.running_mean(), layer.running_var()}) CHECK((view.data() != nullptr) == tracked);
      CHECK(layer.has_running_stats() == tracked);
      CHECK(layer.num_batches_tracked() == 0);
    }
  }
}

TEST_CASE("a negative number of channels is refused, none is not", "[batch_norm]") {
  CHECK_THROWS_AS(Layer<1>(-1), syncbn::Error);
  CHECK_THROWS_WITH(Layer<1>(-1), "Trying to create tensor with negative dimension -1: [-1]");
  Layer<1> layer(0);
  Activations<float> x({3, 0}), y({3, 0}), dx({3, 0});
  const auto saved = layer.forward(x, y);
  layer.backward(y, x, saved, dx);
  layer.infer(x, y);
  CHECK(layer.num_batches_tracked() == 1);
}

TEST_CASE("momentum weighs the new value; any number is one, none is the average of all batches", "[batch_norm]") {
  const auto run = [](std::optional<double> momentum, const std::vector<Numbers>& batches) {
    Layer<1> layer(1, {.momentum = momentum});
    for (const Numbers& batch : batches) {
      const Activations<float> x({static_cast<Index>(batch.size()), 1}, batch);
      Activations<float> y(x.extents());
      (void)layer.forward(x, y);
    }
    CHECK(layer.num_batches_tracked() == static_cast<std::int64_t>(batches.size()));
    return std::tuple(layer.running_mean()[0], layer.running_var()[0]);
  };
  // Means 1 and 6, unbiased variances 2 and 8; all these numbers are exact.
  const Numbers first{0, 2};
  const Numbers second{4, 8};
  CHECK(run(std::nullopt, {first, second}) == std::tuple(3.5F, 5.0F));
  CHECK(run(1.0, {first}) == std::tuple(1.0F, 2.0F));
  CHECK(run(0.0, {first, second}) == std::tuple(0.0F, 1.0F));
  CHECK(run(0.5, {first, second}) == std::tuple(3.25F, 4.75F));
  CHECK(run(2.0, {first}) == std::tuple(2.0F, 3.0F));
  CHECK(run(-0.5, {first}) == std::tuple(-0.5F, 0.5F));
  // More than 1 extrapolates: (1 - 2) * 1 + 2 * 0 of a constant batch is a negative variance, as in PyTorch.
  CHECK(run(2.0, {{7, 7}}) == std::tuple(14.0F, -1.0F));
}

TEST_CASE("a cumulative average goes on from the counter", "[batch_norm]") {
  Layer<1, double> layer(1, {.momentum = std::nullopt});
  layer.running_mean()[0] = 2;
  layer.running_var()[0] = 10;
  layer.set_num_batches_tracked(3);
  const Activations<double> x({2, 1}, Numbers{4, 8});
  Activations<double> y(x.extents());
  (void)layer.forward(x, y);
  CHECK(layer.num_batches_tracked() == 4);
  CHECK(layer.running_mean()[0] == 0.75 * 2 + 0.25 * 6);
  CHECK(layer.running_var()[0] == 0.75 * 10 + 0.25 * 8);
}

TEST_CASE("eps and momentum may change between steps", "[batch_norm]") {
  Layer<1, double> layer(3);
  scramble(layer);
  layer.set_eps(0.5);
  layer.set_momentum(0.75);
  CHECK(layer.options().eps == 0.5);
  CHECK(layer.options().momentum == 0.75);
  const auto x = random_activations<double>({4, 3}, 1);
  Activations<double> y(x.extents());
  LayerJudge<double, Layer<1, double>> judge(NormalizedBy::batch, x.numbers(), shape_of(x.extents()), layer);
  (void)layer.forward(x, y);
  judge.output(y.numbers());
  judge.update(layer, 0.75);
  check(judge);
}

TEST_CASE("the variance that normalizes is biased, the running one is not", "[batch_norm]") {
  Layer<1, double> layer(1, {.eps = 0, .momentum = 1.0});
  const Activations<double> x({2, 1}, Numbers{0, 2});
  Activations<double> y(x.extents());
  (void)layer.forward(x, y);
  CHECK(y.numbers() == Numbers{-1, 1});  // variance 1
  CHECK(layer.running_var()[0] == 2);
}

TEST_CASE("eps is added to the variance, inside the root", "[batch_norm]") {
  Layer<1, double> layer(1, {.eps = 3});
  const Activations<double> x({2, 1}, Numbers{0, 2});
  Activations<double> y(x.extents());
  (void)layer.forward(x, y);
  CHECK(y.numbers() == Numbers{-0.5L, 0.5L});  // 1 / sqrt(1 + 3)
  layer.eval();
  layer.infer(x, y);  // running mean 0.1, running variance 0.9 + 0.2
  CHECK(y.numbers()[0] == Approx(-0.1 / std::sqrt(1.1 + 3)).epsilon(1e-14));
}

TEST_CASE("forward without update computes the same and leaves no trace", "[batch_norm]") {
  Layer<2> layer(4);
  scramble(layer);
  const auto x = random_activations<float>({3, 4, 2, 3}, 5);
  Activations<float> y(x.extents()), again(x.extents());
  Layer<2> other = layer;
  const LayerSnapshot before(layer);
  Layer<2>::Saved saved;
  layer.forward_without_update(x, y, saved);
  CHECK(LayerSnapshot(layer) == before);
  const auto expected = other.forward(x, again);
  CHECK(y.numbers() == again.numbers());
  CHECK(LayerSnapshot(other) != before);

  // Its backward pass is that of forward().
  const auto dy = random_activations<float>(x.extents(), 6);
  Activations<float> dx(x.extents()), dx_again(x.extents());
  layer.backward(dy, x, saved, dx);
  other.backward(dy, x, expected, dx_again);
  CHECK(dx.numbers() == dx_again.numbers());
  CHECK(numbers_of(layer.weight_grad()) == numbers_of(other.weight_grad()));

  // In evaluation it is forward().
  layer.eval();
  layer.forward_without_update(x, y, saved);
  CHECK_FALSE(saved.batch_statistics);
  (void)layer.forward(x, again);
  CHECK(y.numbers() == again.numbers());
}

TEST_CASE("inference does not look at the mode", "[batch_norm]") {
  Layer<1> layer(3);
  scramble(layer);
  const auto x = random_activations<float>({5, 3, 4}, 7);
  Activations<float> evaluated(x.extents()), inferred(x.extents());
  layer.eval();
  (void)layer.forward(x, evaluated);
  layer.train();
  const LayerSnapshot before(layer);
  const Layer<1>& constant = layer;
  constant.infer(x, inferred);
  CHECK(inferred.numbers() == evaluated.numbers());
  CHECK(LayerSnapshot(layer) == before);

  // Without running statistics: by the batch's own.
  Layer<1> untracked(3, {.track_running_stats = false});
  scramble(untracked);
  (void)untracked.forward(x, evaluated);
  std::as_const(untracked).infer(x, inferred);
  CHECK(inferred.numbers() == evaluated.numbers());
}

TEST_CASE("inference runs on several threads at once", "[batch_norm]") {
  for (const bool tracked : {true, false}) {
    Layer<2> layer(8, {.track_running_stats = tracked});
    scramble(layer);
    const Layer<2>& shared = layer;
    const auto x = random_activations<float>({4, 8, 9, 9}, 8);
    Activations<float> expected(x.extents());
    shared.infer(x, expected);
    constexpr int threads = 4;
    std::vector<Activations<float>> outputs(threads, Activations<float>(x.extents()));
    {
      std::vector<std::jthread> running;
      for (Activations<float>& y : outputs) {
        running.emplace_back([&shared, &x, &y] {
          for (int repeat = 0; repeat < 20; ++repeat) shared.infer(x, y);
        });
      }
    }
    for (const Activations<float>& y : outputs) CHECK(y.numbers() == expected.numbers());
  }
}

TEST_CASE("x may be y, dy may be dx, x may be dx", "[batch_norm]") {
  Layer<2> layer(4);
  scramble(layer);
  Layer<2> other = layer;
  for (const bool training : {true, false}) {
    layer.train(training);
    other.train(training);
    const auto x = random_activations<float>({3, 4, 2, 3}, 9);
    const auto dy = random_activations<float>({3, 4, 2, 3}, 10);
    Activations<float> y(x.extents()), dx(x.extents());
    const auto saved = layer.forward(x, y);
    layer.backward(dy, x, saved, dx);

    Activations<float> in_place = x;
    const auto saved_in_place = other.forward(in_place, in_place);
    CHECK(in_place.numbers() == y.numbers());
    in_place = dy;
    other.backward(in_place, x, saved_in_place, in_place);
    CHECK(in_place.numbers() == dx.numbers());
    in_place = x;
    other.backward(dy, in_place, saved_in_place, in_place);
    CHECK(in_place.numbers() == dx.numbers());
    std::as_const(layer).infer(x, y);
    in_place = x;
    std::as_const(layer).infer(in_place, in_place);
    CHECK(in_place.numbers() == y.numbers());
  }
}

TEST_CASE("gradients of parameters add up until they are zeroed", "[batch_norm]") {
  Layer<1, double> layer(3);
  scramble(layer);
  const auto x = random_activations<double>({6, 3}, 13);
  const auto dy = random_activations<double>({6, 3}, 14);
  Activations<double> y(x.extents()), dx(x.extents());
  const auto saved = layer.forward(x, y);
  layer.backward(dy, x, saved, dx);
  const Numbers once_weight = numbers_of(layer.weight_grad());
  const Numbers once_bias = numbers_of(layer.bias_grad());
  layer.backward(dy, x, saved, dx);
  for (std::size_t c = 0; c < 3; ++c) {
    CHECK(numbers_of(layer.weight_grad())[c] == 2 * once_weight[c]);
    CHECK(numbers_of(layer.bias_grad())[c] == 2 * once_bias[c]);
  }
  layer.zero_grad();
  CHECK(numbers_of(layer.weight_grad()) == Numbers{0, 0, 0});
  CHECK(numbers_of(layer.bias_grad()) == Numbers{0, 0, 0});
}

TEST_CASE("a frozen parameter gets no gradient; an unwanted input gradient is not computed", "[batch_norm]") {
  for (const bool training : {true, false}) {
    Layer<1> layer(3);
    scramble(layer);
    layer.train(training);
    const auto x = random_activations<float>({6, 3}, 13);
    const auto dy = random_activations<float>({6, 3}, 14);
    Activations<float> y(x.extents()), dx(x.extents()), other_dx(x.extents());
    const auto saved = layer.forward(x, y);
    layer.backward(dy, x, saved, dx);
    const Numbers weight_grad = numbers_of(layer.weight_grad());
    const Numbers bias_grad = numbers_of(layer.bias_grad());
    for (const bool weight : {true, false}) {
      for (const bool bias : {true, false}) {
        layer.set_requires_grad(weight, bias);
        layer.zero_grad();
        layer.backward(dy, x, saved, other_dx);
        CHECK(other_dx.numbers() == dx.numbers());
        CHECK(numbers_of(layer.weight_grad()) == (weight ? weight_grad : Numbers{0, 0, 0}));
        CHECK(numbers_of(layer.bias_grad()) == (bias ? bias_grad : Numbers{0, 0, 0}));
      }
    }
    layer.set_requires_grad(true, true);
    layer.zero_grad();
    layer.backward(dy, x, saved, syncbn::no_gradient);
    CHECK(numbers_of(layer.weight_grad()) == weight_grad);
    CHECK(numbers_of(layer.bias_grad()) == bias_grad);
  }
}

TEST_CASE("two forward passes may come before their backward passes", "[batch_norm]") {
  Layer<1> layer(3);
  scramble(layer);
  const auto a = random_activations<float>({6, 3}, 20);
  const auto b = random_activations<float>({4, 3}, 21);
  const auto dy_a = random_activations<float>({6, 3}, 22);
  const auto dy_b = random_activations<float>({4, 3}, 23);
  Activations<float> y_a(a.extents()), y_b(b.extents()), dx(a.extents()), expected(a.extents());
  Layer<1> other = layer;
  const auto saved_a = layer.forward(a, y_a);
  const auto saved_b = layer.forward(b, y_b);
  layer.backward(dy_a, a, saved_a, dx);

  const auto other_saved = other.forward(a, y_a);
  other.backward(dy_a, a, other_saved, expected);
  CHECK(dx.numbers() == expected.numbers());
  CHECK(numbers_of(layer.weight_grad()) == numbers_of(other.weight_grad()));

  Activations<float> dx_b(b.extents());
  layer.backward(dy_b, b, saved_b, dx_b);  // in any order
  layer.backward(dy_a, a, saved_a, dx);
  CHECK(dx.numbers() == expected.numbers());
}

TEST_CASE("what a forward pass saved may be reused, copied, and outlive the layer", "[batch_norm]") {
  const auto x = random_activations<float>({6, 3}, 20);
  const auto dy = random_activations<float>({6, 3}, 22);
  Activations<float> y(x.extents()), dx(x.extents()), expected(x.extents());
  Layer<1>::Saved saved;
  std::optional<Layer<1>> layer(std::in_place, 3);
  scramble(*layer);
  Layer<1> successor = *layer;
  layer->forward(x, y, saved);
  const Layer<1>::Saved copy = saved;
  layer->backward(dy, x, saved, expected);
  const auto other = random_activations<float>({2, 3}, 30);
  Activations<float> other_y(other.extents());
  layer->forward(other, other_y, saved);  // its memory is reused; the copy is not touched
  layer.reset();
  successor.backward(dy, x, copy, dx);
  CHECK(dx.numbers() == expected.numbers());
  CHECK(std::vector<Index>(copy.extents().begin(), copy.extents().end()) == std::vector<Index>{6, 3});
  CHECK(std::vector<Index>(saved.extents().begin(), saved.extents().end()) == std::vector<Index>{2, 3});
}

TEST_CASE("a backward pass uses the running statistics of its forward pass", "[batch_norm]") {
  Layer<1> layer(3);
  scramble(layer);
  layer.eval();
  const auto x = random_activations<float>({6, 3}, 20);
  const auto dy = random_activations<float>({6, 3}, 22);
  Activations<float> y(x.extents()), dx(x.extents()), expected(x.extents());
  const auto saved = layer.forward(x, y);
  layer.backward(dy, x, saved, expected);
  const Numbers weight_grad = numbers_of(layer.weight_grad());
  layer.zero_grad();
  layer.train();
  (void)layer.forward(x, y);  // moves them
  layer.backward(dy, x, saved, dx);
  CHECK(dx.numbers() == expected.numbers());
  CHECK(numbers_of(layer.weight_grad()) == weight_grad);
}

TEST_CASE("copies are deep, moves keep everything", "[batch_norm]") {
  Layer<1> layer(3, {.eps = 0.5, .momentum = std::nullopt});
  scramble(layer);
  layer.eval();
  layer.set_track_running_stats(false);
  layer.set_requires_grad(false, true);
  const auto x = random_activations<float>({6, 3}, 20);
  Activations<float> y(x.extents()), dx(x.extents());
  const auto saved = layer.forward(x, y);
  layer.backward(x, x, saved, dx);

  const auto check_equal = [&](const Layer<1>& a, const LayerSnapshot& snapshot) {
    CHECK(LayerSnapshot(a) == snapshot);
    CHECK(a.options().eps == 0.5);
    CHECK(a.options().momentum == std::nullopt);
    CHECK_FALSE(a.is_training());
    CHECK_FALSE(a.tracks_running_stats());
  };
  const LayerSnapshot original(layer);
  Layer<1> copy = layer;
  check_equal(copy, original);
  Layer<1> assigned(7);
  assigned = layer;
  check_equal(assigned, original);

  // Frozen parameters come along.
  copy.zero_grad();
  copy.backward(x, x, saved, dx);
  CHECK(numbers_of(copy.weight_grad()) == Numbers{0, 0, 0});
  CHECK(numbers_of(copy.bias_grad()) == numbers_of(layer.bias_grad()));

  // Nothing is shared.
  copy.train();
  copy.set_track_running_stats(true);
  (void)copy.forward(x, y);
  copy.weight()[0] = 99;
  copy.weight_grad()[1] = 99;
  check_equal(layer, original);
  check_equal(assigned, original);

  const Layer<1> moved = std::move(layer);
  check_equal(moved, original);
  Layer<1> move_assigned(1);
  move_assigned = std::move(assigned);
  check_equal(move_assigned, original);
  layer = move_assigned;  // a moved-from layer may be assigned to
  check_equal(layer, original);
}

TEST_CASE("running statistics can be reset, and with them the parameters", "[batch_norm]") {
  Layer<1> layer(2);
  scramble(layer);
  const Numbers weight = numbers_of(layer.weight());
  layer.weight_grad()[0] = 5;
  layer.reset_running_stats();
  CHECK(numbers_of(layer.running_mean()) == Numbers{0, 0});
  CHECK(numbers_of(layer.running_var()) == Numbers{1, 1});
  CHECK(layer.num_batches_tracked() == 0);
  CHECK(numbers_of(layer.weight()) == weight);
  scramble(layer);
  layer.reset_parameters();
  CHECK(numbers_of(layer.running_mean()) == Numbers{0, 0});
  CHECK(numbers_of(layer.running_var()) == Numbers{1, 1});
  CHECK(layer.num_batches_tracked() == 0);
  CHECK(numbers_of(layer.weight()) == Numbers{1, 1});
  CHECK(numbers_of(layer.bias()) == Numbers{0, 0});
  CHECK(layer.weight_grad()[0] == 5);  // gradients are not parameters

  Layer<1> bare(2, {.affine = false, .track_running_stats = false});
  bare.reset_parameters();
  CHECK(bare.weight().data() == nullptr);
  CHECK(bare.running_mean().data() == nullptr);
}

TEST_CASE("an empty batch has an empty output and zero gradients, and is not counted", "[batch_norm]") {
  for (const std::optional<double> momentum : {std::optional<double>(0.1), std::optional<double>()}) {
    for (const std::vector<Index>& extents : {std::vector<Index>{0, 3, 4}, {2, 3, 0}, {0, 3}}) {
      for (const bool training : {true, false}) {
        for (const bool tracked : {true, false}) {
          Layer<1> layer(3, {.momentum = momentum, .track_running_stats = tracked});
          scramble(layer);
          layer.train(training);
          const LayerSnapshot before(layer);
          Activations<float> x(extents), y(extents), dx(extents);
          const auto saved = layer.forward(x, y);
          layer.backward(y, x, saved, dx);
          std::as_const(layer).infer(x, y);
          CHECK(LayerSnapshot(layer) == before);
        }
      }
    }
  }
}

TEST_CASE("an empty batch does not skew a cumulative average", "[batch_norm]") {
  Layer<1> layer(1, {.momentum = std::nullopt});
  Activations<float> nothing({0, 1});
  (void)layer.forward(nothing, nothing);
  const Activations<float> fives({4, 1}, Numbers{5, 5, 5, 5});
  Activations<float> y(fives.extents());
  (void)layer.forward(fives, y);
  CHECK(layer.running_mean()[0] == 5);  // PyTorch: 2.5
  CHECK(layer.running_var()[0] == 0);
  CHECK(layer.num_batches_tracked() == 1);
}

TEST_CASE("inputs of any rank from 2 on", "[batch_norm]") {
  syncbn::BatchNorm<syncbn::any_dims> any(3);
  Layer<1> line(3);
  scramble(any);
  scramble(line);
  const Numbers numbers = values(48, 1);
  const Activations<float> flat({2, 3, 8}, numbers);
  Activations<float> expected(flat.extents());
  (void)line.forward(flat, expected);
  for (const std::vector<Index>& extents :
       {std::vector<Index>{2, 3, 8}, {2, 3, 4, 2}, {2, 3, 2, 2, 2}, {2, 3, 2, 1, 2, 2}, {2, 3, 1, 2, 1, 2, 2, 1}}) {
    auto layer = any;
    const Activations<float> x(extents, numbers);
    Activations<float> y(extents);
    (void)layer.forward(x, y);
    CHECK(y.numbers() == expected.numbers());
  }
  Activations<float> matrix({4, 3}, values(12, 1)), y({4, 3});
  (void)any.forward(matrix, y);
  CHECK(any.num_batches_tracked() == 4);
}

TEST_CASE("a layer in a group of one never exchanges", "[batch_norm]") {
  // With one rank a layer that could be synchronized is not, and never sends a frame.
  const auto x = random_activations<float>({6, 3}, 20);
  Activations<float> expected(x.extents()), y(x.extents());
  Layer<1> plain(3);
  scramble(plain);
  auto layer = syncbn::BatchNorm<1, syncbn::CpuBackend<>, syncbn::ThreadCommunicator>(
      3, {}, syncbn::ThreadCommunicator::create(1).front());
  scramble(layer);
  (void)plain.forward(x, expected);
  const auto saved = layer.forward(x, y);
  CHECK(y.numbers() == expected.numbers());
  CHECK_FALSE(saved.synchronized);
  CHECK(layer.exchange().sequence() == 0);
}

TEST_CASE("the group of a layer can be replaced, its state stays", "[batch_norm]") {
  using Synchronized = syncbn::BatchNorm<1, syncbn::CpuBackend<>, syncbn::ThreadCommunicator>;
  const auto first = syncbn::ThreadCommunicator::create(2);
  Synchronized layer(3, {}, first[0]);
  scramble(layer);
  const LayerSnapshot before(layer);
  layer.set_communicator(syncbn::ThreadCommunicator::create(1).front());
  CHECK(layer.communicator().size() == 1);
  CHECK(LayerSnapshot(layer) == before);
  const auto x = random_activations<float>({6, 3}, 20);
  Activations<float> y(x.extents());
  (void)layer.forward(x, y);
  CHECK(layer.num_batches_tracked() == 4);
}

TEST_CASE("a batch without channels counts if it has samples", "[batch_norm]") {
  for (const Index samples : {4, 0}) {
    for (const auto momentum : {std::optional<double>(0.1), std::optional<double>()}) {
      syncbn::BatchNorm<1> bn(0, {.momentum = momentum});
      const Activations<float> x({samples, 0}, values(0, 1));
      Activations<float> y(x.extents());
      static_cast<void>(bn.forward(x, y));
      CHECK(bn.num_batches_tracked() == (samples > 0 ? 1 : 0));
    }
  }
}
