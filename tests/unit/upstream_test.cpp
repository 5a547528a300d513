// Upstream's tests of batch normalization, replayed. A test's number is that of the list in docs/conformance.md, which says
// where it comes from; tolerances are upstream's own. Those that need ranks: upstream_sync_test.cpp.
//
// Not replayed, since what they test is not there:
//   39 in part  modules in f16: parameters are f32 or f64; with f16 tensors it is replayed
//   42          a data-parallel wrapper's join() of ranks that run out of inputs
//   46          quantization-aware training
// Of 12 the forward-mode derivative, of 20 the second derivative: neither is there. Of 26 and 27 the launch on a device.

#include "upstream.hpp"

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include <syncbn/convert.hpp>
#include <syncbn/functional.hpp>
#include <syncbn/lazy.hpp>
#include <syncbn/print.hpp>
#include <syncbn/state_dict.hpp>
#include <syncbn/syncbn.hpp>

#include "support/catch.hpp"
#include "support/layer_judge.hpp"
#include "support/thrown_by.hpp"
#include "support/values.hpp"

using namespace syncbn_test;

namespace {

template <std::size_t Dims, class P = float>
using Layer = syncbn::BatchNorm<Dims, syncbn::CpuBackend<P>>;

std::size_t elements(const std::vector<Index>& extents) { return shape_of(extents).elements(); }

template <class T>
Activations<T> random(const std::vector<Index>& extents, std::uint64_t seed, Layout layout = Layout::contiguous) {
  return {extents, values(elements(extents), seed), layout};
}

template <class P>
struct Gradients {
  Numbers y, dx, weight, bias;
};

// Forward and backward of a copy of the layer.
template <class T, std::size_t Dims, class P>
Gradients<P> pass(Layer<Dims, P> layer, const Activations<T>& x, const Activations<T>& dy,
                  Layout layout = Layout::contiguous) {
  Activations<T> y(x.extents(), layout), dx(x.extents(), layout);
  const auto saved = layer.forward(x, y);
  layer.backward(dy, x, saved, dx);
  return {y.numbers(), dx.numbers(), numbers_of(layer.weight_grad()), numbers_of(layer.bias_grad())};
}

// Analytic gradients of a layer against central differences, in f64. The loss is sum(dy * y).
template <std::size_t Dims>
void check_gradients(const Layer<Dims, double>& layer, const Activations<double>& x, const Activations<double>& dy) {
  const Gradients<double> analytic = pass(layer, x, dy);
  const auto loss_of_x = [&](const Numbers& numbers) {
    return dot(pass(layer, Activations<double>(x.extents(), numbers), dy).y, dy.numbers());
  };
  CHECK(differs(analytic.dx, numerical_gradient(loss_of_x, x.numbers()), gradcheck) == "");
  if (!layer.options().affine) return;
  const auto loss_of_weight = [&](const Numbers& numbers) {
    Layer<Dims, double> moved = layer;
    assign(moved.weight(), numbers);
    return dot(pass(moved, x, dy).y, dy.numbers());
  };
  const auto loss_of_bias = [&](const Numbers& numbers) {
    Layer<Dims, double> moved = layer;
    assign(moved.bias(), numbers);
    return dot(pass(moved, x, dy).y, dy.numbers());
  };
  CHECK(differs(analytic.weight, numerical_gradient(loss_of_weight, numbers_of(layer.weight())), gradcheck) == "");
  CHECK(differs(analytic.bias, numerical_gradient(loss_of_bias, numbers_of(layer.bias())), gradcheck) == "");
}

// What upstream's module tests do with one configuration: run, compare with the reference, check gradients, in training
// and in evaluation; and compare f32 with f64.
template <std::size_t Dims>
void check_module(Index channels, const syncbn::BatchNormOptions& options, const std::vector<Index>& extents) {
  INFO(Dims << " dims, momentum " << options.momentum.value_or(-99) << ", affine " << options.affine << ", tracked "
            << options.track_running_stats);
  const auto x = random<double>(extents, 1);
  const auto dy = random<double>(extents, 2);
  Layer<Dims, double> layer(channels, options);
  if (options.affine) {
    assign(layer.weight(), values(static_cast<std::size_t>(channels), 3, 1, 0.5L));
    assign(layer.bias(), values(static_cast<std::size_t>(channels), 4));
  }
  Layer<Dims, float> narrow(channels, options);
  for (const bool training : {true, false}) {
    layer.train(training);
    const auto by = training || !options.track_running_stats ? NormalizedBy::batch : NormalizedBy::running;
    LayerJudge<double, Layer<Dims, double>> judge(by, x.numbers(), shape_of(extents), layer);
    const Gradients<double> got = pass(layer, x, dy);
    judge.output(got.y);
    judge.gradients(dy.numbers(), got.dx, got.weight, got.bias);
    check(judge);
    check_gradients(layer, x, dy);

    narrow.train(training);
    if (options.affine) {
      assign(narrow.weight(), numbers_of(layer.weight()));
      assign(narrow.bias(), numbers_of(layer.bias()));
    }
    const Gradients<float> in_f32 =
        pass(narrow, Activations<float>(extents, x.numbers()), Activations<float>(extents, dy.numbers()));
    CHECK(differs(in_f32.y, got.y, default_tolerance<float>) == "");
    CHECK(differs(in_f32.dx, got.dx, default_tolerance<float>) == "");
  }
}

template <std::size_t Dims>
void check_five_modules(const std::vector<Index>& extents, double momentum) {
  const Index channels = extents[1];
  check_module<Dims>(channels, {}, extents);
  check_module<Dims>(channels, {.eps = 1e-3, .momentum = std::nullopt}, extents);
  check_module<Dims>(channels, {.eps = 1e-3, .momentum = momentum}, extents);
  check_module<Dims>(channels, {.eps = 1e-3, .momentum = momentum, .affine = false}, extents);
  check_module<Dims>(channels, {.eps = 1e-3, .momentum = momentum, .track_running_stats = false}, extents);
}

template <std::size_t Dims>
void check_counting_values(const std::vector<Index>& extents) {
  Layer<Dims> layer(extents[1]);
  layer.eval();
  const Activations<float> x(extents, arange(elements(extents)));
  Activations<float> y(extents), dx(extents);
  const auto saved = layer.forward(x, y);
  Numbers expected = arange(elements(extents));
  for (Number& value : expected) value /= std::sqrt(1 + 1e-5L);
  CHECK(differs(y.numbers(), expected, allclose) == "");
  layer.backward(Activations<float>(extents, Numbers(elements(extents), 1)), x, saved, dx);
  CHECK(differs(dx.numbers(), Numbers(elements(extents), 1 / std::sqrt(1 + 1e-5L)), allclose) == "");
}

}  // namespace

TEST_CASE("upstream 1: BatchNorm1d of counting values in evaluation", "[upstream]") {
  check_counting_values<1>({2, 5, 2});
}

TEST_CASE("upstream 2: BatchNorm2d and BatchNorm3d of counting values in evaluation", "[upstream]") {
  check_counting_values<2>({2, 5, 2, 2});
  check_counting_values<3>({2, 5, 2, 2, 2});
}

TEST_CASE("upstream 3: which tensors stateful and stateless layers have", "[upstream]") {
  const auto check_state = [](const auto& stateful, const auto& stateless) {
    for (const auto& view : {stateful.running_mean(), stateful.running_var(), stateful.weight(), stateful.bias()}) {
      CHECK(view.rank() == 1);
      CHECK(view.extent(0) == 5);
    }
    CHECK(stateful.num_batches_tracked() == 0);
    for (const auto& view : {stateless.running_mean(), stateless.running_var(), stateless.weight(), stateless.bias()}) {
      CHECK(view.data() == nullptr);
    }
    CHECK_FALSE(stateless.has_running_stats());
  };
  const syncbn::BatchNormOptions bare{.affine = false, .track_running_stats = false};
  check_state(Layer<1>(5), Layer<1>(5, bare));
  check_state(Layer<2>(5), Layer<2>(5, bare));
  check_state(Layer<3>(5), Layer<3>(5, bare));
}

TEST_CASE("upstream 4: layers print themselves", "[upstream]") {
  // Python's form; the C++ front end's has its namespace before it and lower-case flags.
  const std::string rest = "(4, eps=0.5, momentum=0.1, affine=False, track_running_stats=True)";
  const syncbn::BatchNormOptions options{.eps = 0.5, .momentum = 0.1, .affine = false};
  CHECK(to_string(Layer<1>(4, options)) == "BatchNorm1d" + rest);
  CHECK(to_string(Layer<2>(4, options)) == "BatchNorm2d" + rest);
  CHECK(to_string(Layer<3>(4, options)) == "BatchNorm3d" + rest);
}

TEST_CASE("upstream 5: the functional form in evaluation, options given and by default", "[upstream]") {
  for (const std::vector<Index>& extents : {std::vector<Index>{2, 5}, {2, 5, 4, 4}, {2, 5, 2, 2, 2}}) {
    std::vector<float> mean(5), var(5), weight(5), bias(5);
    const auto whole = [](std::vector<float>& v) { return syncbn::TensorView<float>(v.data(), {5}); };
    assign(whole(mean), values(5, 1));
    assign(whole(var), values(5, 2, 0.6L, 0.4L));
    assign(whole(weight), values(5, 3));
    assign(whole(bias), values(5, 4));
    const auto x = random<float>(extents, 5);
    Activations<float> y(extents);
    Numbers plain = x.numbers();
    Numbers affine = plain;
    oracle::detail::for_each_element(shape_of(extents), [&](std::size_t i, std::size_t c) {
      plain[i] = (plain[i] - mean[c]) / std::sqrt(var[c] + 1e-5L);
      affine[i] = plain[i] * weight[c] + bias[c];
    });
    (void)syncbn::batch_norm(x, y, {whole(mean), whole(var), {}, {}});
    CHECK(differs(y.numbers(), plain, allclose) == "");
    (void)syncbn::batch_norm(x, y, {whole(mean), whole(var), whole(weight), whole(bias)}, false, 0.05, 1e-5);
    CHECK(differs(y.numbers(), affine, allclose) == "");
  }
}

TEST_CASE("upstream 6: BatchNorm1d, affine, of two and three dimensions", "[upstream]") {
  check_module<1>(10, {}, {4, 10});
  check_module<1>(5, {}, {4, 5, 3});
}

TEST_CASE("upstream 7: BatchNorm1d with a cumulative average", "[upstream]") {
  check_module<1>(10, {.eps = 1e-3, .momentum = std::nullopt}, {4, 10});
}

TEST_CASE("upstream 8: BatchNorm1d without parameters, without running statistics", "[upstream]") {
  check_module<1>(10, {.eps = 1e-3, .momentum = 0.3, .affine = false}, {4, 10});
  check_module<1>(10, {.eps = 1e-3, .momentum = 0.3, .track_running_stats = false}, {4, 10});
  check_module<1>(5, {.eps = 1e-3, .momentum = 0.3, .affine = false}, {4, 5, 3});
}

TEST_CASE("upstream 9: batches without samples", "[upstream]") {
  const auto check_empty = [](auto layer, const std::vector<Index>& extents) {
    Activations<float> x(extents), y(extents), dx(extents);
    for (const bool training : {true, false}) {
      layer.train(training);
      const auto saved = layer.forward(x, y);
      layer.backward(y, x, saved, dx);
      CHECK(std::vector<Index>(saved.extents().begin(), saved.extents().end()) == extents);
    }
  };
  check_empty(Layer<1>(5, {.affine = false}), {0, 5, 9});
  check_empty(Layer<2>(5, {.affine = false}), {0, 5, 2, 2});
  check_empty(Layer<3>(5, {.affine = false}), {0, 5, 2, 2, 2});
}

TEST_CASE("upstream 10: BatchNorm2d: plain, cumulative, momentum, no parameters, no running statistics", "[upstream]") {
  check_five_modules<2>({2, 3, 6, 6}, 0.8);
}

TEST_CASE("upstream 11: BatchNorm3d: the same", "[upstream]") { check_five_modules<3>({2, 3, 4, 4, 4}, 0.7); }

TEST_CASE("upstream 12: the operator's sample inputs, with gradients", "[upstream]") {
  struct Sample {
    std::vector<Index> extents;
    bool training;
    double momentum, eps;
    const char* present;  // w, b; running statistics: s
  };
  const Sample samples[] = {
      {{5, 5, 5}, true, 0.5, 0.6, "wbs"},   {{3, 2, 4}, false, -1.2, 1e-5, "wbs"}, {{3, 1}, true, 0, 1e-5, "wbs"},
      {{3, 2, 3, 4}, true, -1, 0.5, "wbs"}, {{3, 2, 3, 4}, false, -1, 0.5, "wbs"}, {{2, 1}, false, 0.1, 1e-5, "wbs"},
      {{1, 2, 3}, true, 0.1, 1e-5, ""},     {{1, 2, 3}, true, 0, 1e-5, "ws"},      {{1, 2, 3}, false, -1, 1e-5, "bs"}};
  using Backend = syncbn::CpuBackend<double>;
  for (const Sample& sample : samples) {
    const auto channels = static_cast<std::size_t>(sample.extents[1]);
    const auto has = [&](char name) { return std::string(sample.present).find(name) != std::string::npos; };
    // A negative momentum subtracts from the variance; x is not needed for what it becomes.
    const auto run = [&](const Numbers& x, const Numbers& weight, const Numbers& bias, Numbers* dx,
                         Numbers* weight_grad, Numbers* bias_grad) {
      std::vector<double> w(weight.begin(), weight.end()), b(bias.begin(), bias.end()), mean(channels), var(channels);
      const auto whole = [&](std::vector<double>& v) {
        return syncbn::TensorView<double>(v.data(), {static_cast<Index>(channels)});
      };
      assign(whole(mean), values(channels, 5));
      assign(whole(var), values(channels, 6, 1, 0.5L));
      syncbn::BatchNormTensors<double> tensors;
      if (has('s')) tensors.running_mean = whole(mean);
      if (has('s')) tensors.running_var = whole(var);
      if (has('w')) tensors.weight = whole(w);
      if (has('b')) tensors.bias = whole(b);
      const Activations<double> input(sample.extents, x);
      const auto dy = random<double>(sample.extents, 9);
      Activations<double> y(sample.extents), gradient(sample.extents);
      const auto saved = syncbn::batch_norm<Backend>(input, y, tensors, sample.training, sample.momentum, sample.eps);
      std::vector<double> dw(channels), db(channels);
      syncbn::batch_norm_backward(dy, input, saved, tensors.weight, gradient, whole(dw), whole(db));
      if (dx != nullptr) *dx = gradient.numbers();
      if (weight_grad != nullptr) *weight_grad = numbers_of(whole(dw));
      if (bias_grad != nullptr) *bias_grad = numbers_of(whole(db));
      return dot(y.numbers(), dy.numbers());
    };
    const Numbers x = values(elements(sample.extents), 1);
    const Numbers weight = values(channels, 3, 1, 0.5L);
    const Numbers bias = values(channels, 4);
    Numbers dx, weight_grad, bias_grad;
    run(x, weight, bias, &dx, &weight_grad, &bias_grad);
    const auto loss = [&](const Numbers& a, const Numbers& b, const Numbers& c) {
      return run(a, b, c, nullptr, nullptr, nullptr);
    };
    CHECK(differs(dx, numerical_gradient([&](const Numbers& v) { return loss(v, weight, bias); }, x), gradcheck) == "");
    if (has('w')) {
      CHECK(differs(weight_grad, numerical_gradient([&](const Numbers& v) { return loss(x, v, bias); }, weight),
                    gradcheck) == "");
    }
    if (has('b')) {
      CHECK(differs(bias_grad, numerical_gradient([&](const Numbers& v) { return loss(x, weight, v); }, bias),
                    gradcheck) == "");
    }
  }
  // The sample of shape (0): the library wants channels, PyTorch does not.
  Activations<float> nothing({0});
  CHECK(thrown_by([&] { (void)syncbn::batch_norm(nothing, nothing, {}, true); }) ==
        "ShapeError: expected at least 2D input (got 1D input)");
}

TEST_CASE("upstream 13: one value per channel is an error", "[upstream]") {
  Activations<float> x({1, 10, 1}, values(10, 1)), y({1, 10, 1});
  Layer<1> layer(10);
  CHECK_THROWS_AS((void)layer.forward(x, y), std::invalid_argument);
}

TEST_CASE("upstream 14: channel tensors of another size than the input are errors", "[upstream]") {
  const auto x = random<float>({2, 10}, 1);
  for (const std::size_t wrong : {9U, 11U}) {
    for (int which = 0; which < 4; ++which) {
      std::vector<float> tensors[4];
      for (int t = 0; t < 4; ++t) tensors[t].assign(t == which ? wrong : 10, 1);
      const auto whole = [&](int t) {
        return syncbn::TensorView<float>(tensors[t].data(), {static_cast<Index>(tensors[t].size())});
      };
      Activations<float> y(x.extents());
      const syncbn::BatchNormTensors<float> given{whole(0), whole(1), whole(2), whole(3)};
      CHECK_THROWS_AS(syncbn::batch_norm(x, y, given, true), std::runtime_error);
      CHECK_THROWS_AS(syncbn::batch_norm(x, y, given, false), std::runtime_error);
    }
  }
}

TEST_CASE("upstream 15: buffers stay when the flag is cleared after construction", "[upstream]") {
  Layer<1> layer(4);
  layer.set_track_running_stats(false);
  const LayerSnapshot before(layer);
  const auto x = random<float>({32, 4}, 1);
  Activations<float> y(x.extents());
  (void)layer.forward(x, y);
  CHECK(LayerSnapshot(layer) == before);
}

TEST_CASE("upstream 16: statistics are updated in training, not in evaluation", "[upstream]") {
  Layer<1> layer(3);
  const auto x = random<float>({4, 3}, 1);
  Activations<float> y(x.extents());
  const LayerSnapshot before(layer);
  (void)layer.forward(x, y);
  const LayerSnapshot after(layer);
  CHECK(after.tensors[4] != before.tensors[4]);
  CHECK(after.tensors[5] != before.tensors[5]);
  CHECK(after.batches == before.batches + 1);
  layer.eval();
  (void)layer.forward(x, y);
  CHECK(LayerSnapshot(layer) == after);
}

namespace {

template <class T, class P>
void check_simple_average() {
  Layer<1, P> layer(3, {.momentum = std::nullopt});
  const auto first = random<T>({4, 3}, 1);
  const auto second = random<T>({4, 3}, 2);
  Activations<T> y1(first.extents()), y2(first.extents()), again(first.extents());
  (void)layer.forward(first, y1);
  const LayerSnapshot of_first(layer);
  layer.reset_running_stats();
  (void)layer.forward(second, y2);
  const LayerSnapshot of_second(layer);
  layer.reset_running_stats();
  (void)layer.forward(first, again);
  CHECK(again.numbers() == y1.numbers());
  (void)layer.forward(second, again);
  CHECK(again.numbers() == y2.numbers());
  const LayerSnapshot of_both(layer);
  CHECK(of_both.batches == 2);
  for (const std::size_t t : {4U, 5U}) {
    Numbers mean = of_first.tensors[t];
    for (std::size_t c = 0; c < mean.size(); ++c) mean[c] = (mean[c] + of_second.tensors[t][c]) / 2;
    CHECK(differs(of_both.tensors[t], mean, default_tolerance<P>) == "");
  }
}

// Normalizing in training and evaluating with the same statistics.
template <class T, class P>
void check_evaluation(const std::vector<Index>& extents) {
  Layer<1, P> layer(3);
  const auto x = random<T>(extents, 1);
  const auto dy = random<T>(extents, 2);
  (void)pass(layer, x, dy);
  layer.eval();
  const Gradients<P> first = pass(layer, x, dy);
  const Gradients<P> second = pass(layer, x, dy);
  CHECK(first.y == second.y);
  CHECK(first.dx == second.dx);

  Layer<1, P> untracked(3, {.track_running_stats = false});
  const Gradients<P> trained = pass(untracked, x, dy);
  untracked.eval();
  const Gradients<P> evaluated = pass(untracked, x, dy);
  CHECK(trained.y == evaluated.y);
  CHECK(trained.dx == evaluated.dx);
}

template <class T, class P>
void check_initial_parameters(const std::vector<Index>& extents) {
  const auto x = random<T>(extents, 1);
  const auto dy = random<T>(extents, 2);
  const Gradients<P> affine = pass(Layer<1, P>(3), x, dy);
  const Gradients<P> plain = pass(Layer<1, P>(3, {.affine = false}), x, dy);
  CHECK(affine.y == plain.y);
  CHECK(affine.dx == plain.dx);
}

}  // namespace

TEST_CASE("upstream 17: a cumulative average is the mean of the batches' statistics", "[upstream]") {
  check_simple_average<float, float>();
  check_simple_average<double, double>();
  check_simple_average<syncbn::BFloat16, float>();
  check_simple_average<syncbn::Float16, float>();
}

TEST_CASE("upstream 18: evaluation repeats itself, and without running statistics equals training", "[upstream]") {
  for (const std::vector<Index>& extents : {std::vector<Index>{3, 3}, {3, 3, 3}, {4, 3}}) {
    check_evaluation<float, float>(extents);
    check_evaluation<double, double>(extents);
    check_evaluation<syncbn::BFloat16, float>(extents);
    check_evaluation<syncbn::Float16, float>(extents);
  }
}

TEST_CASE("upstream 19: weight 1 and bias 0 are no parameters at all", "[upstream]") {
  for (const std::vector<Index>& extents : {std::vector<Index>{3, 3}, {3, 3, 3}}) {
    check_initial_parameters<float, float>(extents);
    check_initial_parameters<double, double>(extents);
    check_initial_parameters<syncbn::BFloat16, float>(extents);
    check_initial_parameters<syncbn::Float16, float>(extents);
  }
}

TEST_CASE("upstream 20: gradients of counting values, with a running variance of zero", "[upstream]") {
  Layer<1, double> layer(5, {.eps = 1e-4});
  Numbers mean = arange(5);
  Numbers var = arange(5);
  Numbers weight = arange(5);
  for (std::size_t c = 0; c < 5; ++c) {
    mean[c] = 1 - mean[c];
    var[c] *= 2;
    weight[c] += 1;
  }
  assign(layer.weight(), weight);
  assign(layer.bias(), arange(5));
  assign(layer.running_mean(), mean);
  assign(layer.running_var(), var);
  const Activations<double> x({4, 5, 6}, arange(120));
  const auto dy = random<double>({4, 5, 6}, 1);
  for (const bool training : {true, false}) {
    layer.train(training);
    check_gradients(layer, x, dy);
  }
}

TEST_CASE("upstream 21: an empty batch leaves running statistics and zero gradients", "[upstream]") {
  Layer<2> layer(3);
  Activations<float> x({0, 3, 2, 2}), y(x.extents()), dx(x.extents());
  const auto saved = layer.forward(x, y);
  layer.backward(y, x, saved, dx);
  CHECK(numbers_of(layer.running_mean()) == Numbers{0, 0, 0});
  CHECK(numbers_of(layer.running_var()) == Numbers{1, 1, 1});
  CHECK(numbers_of(layer.weight_grad()) == Numbers{0, 0, 0});
  CHECK(numbers_of(layer.bias_grad()) == Numbers{0, 0, 0});
}

namespace {

template <class T, class P>
void check_channels_last(const std::vector<Index>& extents) {
  Layer<2, P> layer(extents[1]);
  scramble(layer);
  const auto dy = random<T>(extents, 2);
  const Gradients<P> expected = pass(layer, random<T>(extents, 1), dy);
  for (const Layout dy_layout : {Layout::contiguous, Layout::channels_last}) {
    const auto x = random<T>(extents, 1, Layout::channels_last);
    const Gradients<P> got = pass(layer, x, random<T>(extents, 2, dy_layout), Layout::channels_last);
    CHECK(got.y == expected.y);  // upstream: within its tolerance; here the same bits
    CHECK(got.dx == expected.dx);
    CHECK(got.weight == expected.weight);
    CHECK(got.bias == expected.bias);
  }
}

}  // namespace

TEST_CASE("upstream 22: channels-last tensors give what contiguous ones give", "[upstream]") {
  for (const std::vector<Index>& extents : {std::vector<Index>{4, 8, 10, 10}, {4, 1, 9, 9}, {4, 9, 1, 1}}) {
    check_channels_last<float, float>(extents);
    check_channels_last<syncbn::BFloat16, float>(extents);
    check_channels_last<syncbn::Float16, float>(extents);
  }
}

TEST_CASE("upstream 23: tensors of permuted memory", "[upstream]") {
  Layer<2> layer(2);
  layer.eval();
  scramble(layer);
  std::vector<float> memory(6);
  for (std::size_t i = 0; i < 6; ++i) memory[i] = static_cast<float>(values(6, 1)[i]);
  const auto permuted = syncbn::TensorView<float>(memory.data(), {1, 3, 2, 1}).permute({0, 2, 1, 3});
  std::vector<float> copied(6), expected(6), got(6);
  const syncbn::TensorView<float> contiguous(copied.data(), {1, 2, 3, 1});
  for (Index c = 0; c < 2; ++c) {
    for (Index h = 0; h < 3; ++h) contiguous(0, c, h, 0) = permuted(0, c, h, 0);
  }
  const syncbn::TensorView<float> y(got.data(), {1, 2, 3, 1});
  const syncbn::TensorView<float> expected_y(expected.data(), {1, 2, 3, 1});
  layer.infer(permuted, y);
  layer.infer(contiguous, expected_y);
  CHECK(got == expected);

  // bf16 against f32, within upstream's .05.
  const std::vector<Index> extents{1, 3, 2, 4};
  Layer<2> three(3);
  scramble(three);
  three.eval();
  const auto narrow = random<syncbn::BFloat16>(extents, 3);
  Activations<syncbn::BFloat16> narrow_y(extents);
  Activations<float> wide(extents, narrow.numbers()), wide_y(extents);
  three.infer(narrow, narrow_y);
  three.infer(wide, wide_y);
  CHECK(differs(narrow_y.numbers(), wide_y.numbers(), {0.05L, 0.05L}) == "");
}

TEST_CASE("upstream 24: gradients of ambiguous or permuted strides", "[upstream]") {
  for (const std::vector<Index>& extents : {std::vector<Index>{4, 8, 2, 2}, {2, 8, 8, 1}}) {
    Layer<2> layer(8);
    scramble(layer);
    const Gradients<float> expected = pass(layer, random<float>(extents, 1), random<float>(extents, 2));
    for (const Layout x_layout : all_layouts) {
      for (const Layout dy_layout : all_layouts) {
        const Gradients<float> got =
            pass(layer, random<float>(extents, 1, x_layout), random<float>(extents, 2, dy_layout), dy_layout);
        CHECK(got.dx == expected.dx);
        CHECK(got.weight == expected.weight);
      }
    }
  }
}

TEST_CASE("upstream 25: channels-last and contiguous inference agree to the bit", "[upstream]") {
  const std::vector<Index> extents{2, 64, 50, 50};
  const auto check_equal = [&]<class T>(T) {
    Layer<2> layer(64);
    layer.eval();
    scramble(layer);
    Activations<T> y(extents), last(extents, Layout::channels_last);
    layer.infer(random<T>(extents, 1), y);
    layer.infer(random<T>(extents, 1, Layout::channels_last), last);
    CHECK(y.numbers() == last.numbers());
  };
  check_equal(float{});
  check_equal(syncbn::Float16{});
}

TEST_CASE("upstream 26: f16 tensors with f32 statistics", "[upstream]") {
  for (const std::vector<Index>& extents : {std::vector<Index>{2, 3, 2, 2}, {16, 3, 24, 24}}) {
    for (const bool affine : {true, false}) {
      Layer<2> layer(3, {.affine = affine});
      const auto x = random<syncbn::Float16>(extents, 1);
      const auto dy = random<syncbn::Float16>(extents, 2);
      const Gradients<float> narrow = pass(layer, x, dy);  // y and dx are f16 by type
      const Gradients<float> wide =
          pass(layer, Activations<float>(extents, x.numbers()), Activations<float>(extents, dy.numbers()));
      // Upstream's absolute 1e-3, and the format's own relative default.
      CHECK(differs(narrow.y, wide.y, {1e-3L, 1e-3L}) == "");
      CHECK(differs(narrow.dx, wide.dx, {1e-3L, 1e-3L}) == "");
      CHECK(narrow.weight == wide.weight);  // f32 sums of the same numbers
      CHECK(narrow.bias == wide.bias);
    }
  }
}

TEST_CASE("upstream 27: many samples of one value", "[upstream]") {
  const std::vector<Index> extents{880801, 1, 1, 1};
  const auto check_large = [&]<class T>(T) {
    Layer<2> layer(1);
    const auto x = random<T>(extents, 1);
    Activations<T> y(extents);
    LayerJudge<T, Layer<2>> judge(NormalizedBy::batch, x.numbers(), shape_of(extents), layer);
    (void)layer.forward(x, y);
    judge.output(y.numbers());
    judge.update(layer, 0.1);
    check(judge);
  };
  check_large(float{});
  check_large(syncbn::Float16{});
}

namespace {

// Stands for any module that is no batch normalization.
struct InstanceNorm1d {
  int channels;
};

}  // namespace

TEST_CASE("upstream 28: conversion changes batch normalization alone and keeps its state", "[upstream]") {
  using Batch = std::shared_ptr<Layer<1>>;
  const Batch batch = std::make_shared<Layer<1>>(100);
  scramble(*batch);
  const auto group = syncbn::ThreadCommunicator::create(2);
  const auto converted = syncbn::convert_sync_batchnorm(std::tuple<Batch, InstanceNorm1d>(batch, {100}), group.front());
  using Converted = std::remove_cvref_t<decltype(*std::get<0>(converted))>;
  STATIC_REQUIRE(std::is_same_v<Converted, syncbn::BatchNorm<1, syncbn::CpuBackend<>, syncbn::ThreadCommunicator>>);
  STATIC_REQUIRE(std::is_same_v<decltype(std::get<1>(converted)), const InstanceNorm1d&>);
  CHECK(std::get<1>(converted).channels == 100);
  const syncbn::StateDict before = syncbn::state_dict(*batch);
  const syncbn::StateDict after = syncbn::state_dict(*std::get<0>(converted));
  REQUIRE(after.entries.size() == 5);
  for (std::size_t i = 0; i < after.entries.size(); ++i) {
    CHECK(after.entries[i].name == before.entries[i].name);
    CHECK(after.entries[i].values == before.entries[i].values);
  }
  // The same tensors, not equal ones: "device" here is memory.
  CHECK(std::get<0>(converted)->weight().data() == batch->weight().data());
}

TEST_CASE("upstream 30: statistics of a large tensor, contiguous and channels-last", "[upstream]") {
  const std::vector<Index> extents{1, 96, 112, 112};
  const auto statistics = [&](Layout layout) {
    Layer<2> layer(96, {.momentum = 1.0});
    const auto x = random<float>(extents, 1, layout);
    Activations<float> y(extents, layout);
    (void)layer.forward(x, y);
    return LayerSnapshot(layer).tensors;
  };
  const auto contiguous = statistics(Layout::contiguous);
  CHECK(contiguous == statistics(Layout::channels_last));
  const oracle::Statistics exact = oracle::statistics(random<float>(extents, 1).numbers(), shape_of(extents));
  CHECK(differs(contiguous[4], exact.mean, default_tolerance<float>) == "");
}

namespace {

template <std::size_t Dims>
void check_lazy(const std::vector<Index>& extents) {
  using Lazy = syncbn::LazyBatchNorm<Dims, syncbn::CpuBackend<>, syncbn::SingleProcessCommunicator>;
  for (const bool affine : {true, false}) {
    for (const bool tracked : {true, false}) {
      const syncbn::BatchNormOptions options{.affine = affine, .track_running_stats = tracked};
      const auto x = random<float>(extents, 1);
      Activations<float> y(extents), expected(extents);
      Lazy lazy(options);
      Layer<Dims> eager(extents[1], options);
      CHECK_FALSE(lazy.is_materialized());
      (void)lazy.forward(x, y);
      (void)eager.forward(x, expected);
      REQUIRE(lazy.is_materialized());
      CHECK(lazy.layer().channels() == extents[1]);
      CHECK(y.numbers() == expected.numbers());
      CHECK(LayerSnapshot(lazy.layer()) == LayerSnapshot(eager));

      if (!affine && !tracked) continue;  // nothing to load
      Lazy loaded(options);
      syncbn::load_state_dict(loaded, syncbn::state_dict(eager));
      REQUIRE(loaded.is_materialized());
      CHECK(LayerSnapshot(loaded.layer()) == LayerSnapshot(eager));
      const Lazy never_used(options);
      const std::string text = thrown_by([&] { (void)syncbn::load_state_dict(eager, syncbn::state_dict(never_used)); });
      CHECK(text.find("shape of an uninitialized") != std::string::npos);
    }
  }
}

}  // namespace

TEST_CASE("upstream 31: lazy layers", "[upstream]") {
  check_lazy<1>({16, 3, 6});
  check_lazy<1>({16, 6});
  check_lazy<2>({16, 3, 6, 7});
  check_lazy<3>({16, 3, 6, 7, 8});
}
