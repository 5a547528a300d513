// PyTorch's functional form on tensors that the caller owns. That its answers are PyTorch's: golden_test.cpp.

#include <syncbn/functional.hpp>

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

template <class P>
struct Tensors {
  std::vector<P> running_mean, running_var, weight, bias;

  explicit Tensors(std::size_t channels) {
    const auto fill = [&](std::vector<P>& to, std::uint64_t seed, Number centre) {
      for (const Number v : values(channels, seed, centre, 0.5L)) to.push_back(static_cast<P>(v));
    };
    fill(running_mean, 1, 0);
    fill(running_var, 2, 1);
    fill(weight, 3, 1);
    fill(bias, 4, 0);
  }

  static syncbn::TensorView<P> view(std::vector<P>& v) { return {v.data(), {static_cast<Index>(v.size())}}; }

  // All of those named: m, v, w, b.
  syncbn::BatchNormTensors<P> only(const std::string& names) {
    syncbn::BatchNormTensors<P> result;
    for (const char name : names) {
      if (name == 'm') result.running_mean = view(running_mean);
      if (name == 'v') result.running_var = view(running_var);
      if (name == 'w') result.weight = view(weight);
      if (name == 'b') result.bias = view(bias);
    }
    return result;
  }
  bool operator==(const Tensors&) const = default;
};

}  // namespace

TEST_CASE("the functional form is the layer with tensors of the caller's", "[functional]") {
  const Activations<float> x({4, 3, 5}, values(60, 1)), dy({4, 3, 5}, values(60, 2));
  for (const bool training : {true, false}) {
    syncbn::BatchNorm<1> layer(3, {.eps = 0.25, .momentum = 0.75});
    Tensors<float> mine(3);
    assign(layer.weight(), mine.weight);
    assign(layer.bias(), mine.bias);
    assign(layer.running_mean(), mine.running_mean);
    assign(layer.running_var(), mine.running_var);
    layer.train(training);
    Activations<float> y(x.extents()), dx(x.extents()), expected_y(x.extents()), expected_dx(x.extents());
    const auto expected = layer.forward(x, expected_y);
    layer.backward(dy, x, expected, expected_dx);

    const auto saved = syncbn::batch_norm(x, y, mine.only("mvwb"), training, 0.75, 0.25);
    std::vector<float> weight_grad(3), bias_grad(3);
    syncbn::batch_norm_backward(dy, x, saved, Tensors<float>::view(mine.weight), dx, Tensors<float>::view(weight_grad),
                                Tensors<float>::view(bias_grad));
    CHECK(y.numbers() == expected_y.numbers());
    CHECK(dx.numbers() == expected_dx.numbers());
    CHECK(numbers_of(Tensors<float>::view(mine.running_mean)) == numbers_of(layer.running_mean()));
    CHECK(numbers_of(Tensors<float>::view(mine.running_var)) == numbers_of(layer.running_var()));
    CHECK(numbers_of(Tensors<float>::view(weight_grad)) == numbers_of(layer.weight_grad()));
    CHECK(numbers_of(Tensors<float>::view(bias_grad)) == numbers_of(layer.bias_grad()));

    // Gradients are added to; those not wanted are left out.
    syncbn::batch_norm_backward(dy, x, saved, Tensors<float>::view(mine.weight), dx, {},
                                Tensors<float>::view(bias_grad));
    for (Index c = 0; c < 3; ++c) {
      CHECK(bias_grad[static_cast<std::size_t>(c)] == 2 * layer.bias_grad()[c]);
      CHECK(weight_grad[static_cast<std::size_t>(c)] == layer.weight_grad()[c]);
    }
  }
}

TEST_CASE("PyTorch's defaults of the functional form", "[functional]") {
  const Activations<double> x({4, 3}, values(12, 1));
  using Backend = syncbn::CpuBackend<double>;
  for (const bool training : {true, false}) {
    Tensors<double> defaults(3), spelt_out(3);
    Activations<double> y(x.extents()), expected(x.extents());
    syncbn::batch_norm<Backend>(x, expected, spelt_out.only("mvwb"), training, 0.1, 1e-5);
    if (training) {
      syncbn::batch_norm<Backend>(x, y, defaults.only("mvwb"), true);
    } else {
      syncbn::batch_norm<Backend>(x, y, defaults.only("mvwb"));  // not training unless asked for
    }
    CHECK(y.numbers() == expected.numbers());
    CHECK(defaults == spelt_out);
    CHECK((defaults == Tensors<double>(3)) == !training);
  }
}

TEST_CASE("each tensor of the functional form may be absent", "[functional]") {
  const Activations<double> x({4, 3}, values(12, 1)), dy({4, 3}, values(12, 2));
  using Backend = syncbn::CpuBackend<double>;
  for (int present = 0; present < 16; ++present) {
    std::string names;
    for (int i = 0; i < 4; ++i) {
      if ((present >> i & 1) != 0) names += "mvwb"[i];
    }
    INFO("present: " << names);
    // An absent weight is 1 and an absent bias 0; one running statistic is updated without the other.
    Tensors<double> mine(3), filled(3);
    const bool weight = names.find('w') != std::string::npos;
    const bool bias = names.find('b') != std::string::npos;
    if (!weight) filled.weight = {1, 1, 1};
    if (!bias) filled.bias = {0, 0, 0};
    Activations<double> y(x.extents()), expected(x.extents()), dx(x.extents()), expected_dx(x.extents());
    const auto saved = syncbn::batch_norm<Backend>(x, y, mine.only(names), true);
    const auto expected_saved = syncbn::batch_norm<Backend>(x, expected, filled.only("mvwb"), true);
    CHECK(y.numbers() == expected.numbers());
    const Tensors<double> untouched(3);
    CHECK(mine.running_mean == (names.find('m') != std::string::npos ? filled : untouched).running_mean);
    CHECK(mine.running_var == (names.find('v') != std::string::npos ? filled : untouched).running_var);
    syncbn::batch_norm_backward(dy, x, saved, mine.only(names).weight, dx);
    syncbn::batch_norm_backward(dy, x, expected_saved, filled.only("w").weight, expected_dx);
    CHECK(dx.numbers() == expected_dx.numbers());
    if (names.find("mv") == std::string::npos) continue;
    syncbn::batch_norm<Backend>(x, y, mine.only(names), false);
    filled.running_mean = mine.running_mean;
    filled.running_var = mine.running_var;
    syncbn::batch_norm<Backend>(x, expected, filled.only("mvwb"), false);
    CHECK(y.numbers() == expected.numbers());
  }
}

TEST_CASE("per-channel tensors of the functional form may have strides", "[functional]") {
  const Activations<double> x({4, 3}, values(12, 1)), dy({4, 3}, values(12, 2));
  using Backend = syncbn::CpuBackend<double>;
  using View = syncbn::TensorView<double>;
  for (const bool training : {true, false}) {
    Tensors<double> plain(3);
    // One interleaved block: for each channel running_mean, running_var, weight, bias, and both gradients.
    std::vector<double> block(18);
    const auto column = [&](Index i) { return View(block.data() + i, {3}, {6}); };
    assign(column(0), plain.running_mean);
    assign(column(1), plain.running_var);
    assign(column(2), plain.weight);
    assign(column(3), plain.bias);
    Activations<double> y(x.extents()), expected(x.extents()), dx(x.extents()), expected_dx(x.extents());
    const auto saved =
        syncbn::batch_norm<Backend>(x, y, {column(0), column(1), column(2), column(3)}, training, 0.5, 1e-3);
    syncbn::batch_norm_backward(dy, x, saved, column(2), dx, column(4), column(5));
    std::vector<double> weight_grad(3), bias_grad(3);
    const auto expected_saved = syncbn::batch_norm<Backend>(x, expected, plain.only("mvwb"), training, 0.5, 1e-3);
    syncbn::batch_norm_backward(dy, x, expected_saved, plain.only("w").weight, expected_dx,
                                Tensors<double>::view(weight_grad), Tensors<double>::view(bias_grad));
    CHECK(y.numbers() == expected.numbers());
    CHECK(dx.numbers() == expected_dx.numbers());
    CHECK(numbers_of(column(0)) == numbers_of(Tensors<double>::view(plain.running_mean)));
    CHECK(numbers_of(column(1)) == numbers_of(Tensors<double>::view(plain.running_var)));
    CHECK(numbers_of(column(4)) == numbers_of(Tensors<double>::view(weight_grad)));
    CHECK(numbers_of(column(5)) == numbers_of(Tensors<double>::view(bias_grad)));
  }
}

TEST_CASE("an empty batch of the functional form updates nothing", "[functional]") {
  for (const bool training : {true, false}) {
    for (const std::vector<Index>& extents : {std::vector<Index>{0, 3}, {2, 3, 0}}) {
      Tensors<float> mine(3);
      Activations<float> x(extents), y(extents), dx(extents);
      const auto saved = syncbn::batch_norm(x, y, mine.only("mvwb"), training);
      std::vector<float> weight_grad(3, 2), bias_grad(3, 2);
      syncbn::batch_norm_backward(y, x, saved, mine.only("w").weight, dx, Tensors<float>::view(weight_grad),
                                  Tensors<float>::view(bias_grad));
      CHECK(mine == Tensors<float>(3));
      CHECK(weight_grad == std::vector<float>{2, 2, 2});
      CHECK(bias_grad == std::vector<float>{2, 2, 2});
    }
  }
}

TEST_CASE("what the functional form refuses, and in which order", "[functional][errors]") {
  const auto refused = [](const std::vector<Index>& extents, const std::string& names, bool training,
                          std::size_t channels = 3, std::size_t wrong = 0) {
    Tensors<float> mine(channels);
    // Later ones are wrong too: the first is reported.
    if (wrong > 0) mine.running_mean.resize(wrong > 1 ? channels : 5);
    if (wrong > 1) mine.running_var.resize(wrong > 2 ? channels : 5);
    if (wrong > 2) mine.weight.resize(wrong > 3 ? channels : 5);
    if (wrong > 3) mine.bias.resize(5);
    const Tensors<float> before = mine;
    Activations<float> x(extents), y(extents);
    const std::string text = thrown_by([&] { (void)syncbn::batch_norm(x, y, mine.only(names), training); });
    if (text != "nothing") CHECK(mine == before);
    return text;
  };
  for (const bool training : {true, false}) {
    CHECK(refused({3}, "mvwb", training) == "ShapeError: expected at least 2D input (got 1D input)");
    CHECK(refused({}, "", training) == "ShapeError: expected at least 2D input (got 0D input)");
    CHECK(refused({4, 3}, "mvwb", training) == "nothing");
    CHECK(refused({4, 3}, "mvwb", training, 3, 1) ==
          "Error: running_mean should contain 3 elements not 5 (x has 3 channels)");
    CHECK(refused({4, 3}, "mvwb", training, 3, 2) ==
          "Error: running_var should contain 3 elements not 5 (x has 3 channels)");
    CHECK(refused({4, 3}, "mvwb", training, 3, 3) ==
          "Error: weight should contain 3 elements not 5 (x has 3 channels)");
    CHECK(refused({4, 3}, "mvwb", training, 3, 4) == "Error: bias should contain 3 elements not 5 (x has 3 channels)");
    // The first wrong one in PyTorch's order, and in empty batches too.
    CHECK(refused({4, 5}, "mvwb", training) ==
          "Error: running_mean should contain 5 elements not 3 (x has 5 channels)");
    CHECK(refused({0, 5}, "mvwb", training) ==
          "Error: running_mean should contain 5 elements not 3 (x has 5 channels)");
  }
  CHECK(refused({4, 5}, "vwb", true) == "Error: running_var should contain 5 elements not 3 (x has 5 channels)");
  CHECK(refused({4, 5}, "wb", true) == "Error: weight should contain 5 elements not 3 (x has 5 channels)");
  CHECK(refused({4, 5}, "b", true) == "Error: bias should contain 5 elements not 3 (x has 5 channels)");
  CHECK(refused({4, 5}, "", true) == "nothing");

  for (const std::string names : {"mvwb", "mv", "m", "", "wb"}) {
    CHECK(refused({1, 3}, names, true) ==
          "ShapeError: Expected more than 1 value per channel when training, got input size [1, 3]");
  }
  // One value is reported before a wrong number of channels.
  CHECK(refused({1, 5, 1}, "mvwb", true) ==
        "ShapeError: Expected more than 1 value per channel when training, got input size [1, 5, 1]");
  CHECK(refused({1, 3}, "mvwb", false) == "nothing");
  CHECK(refused({4, 3}, "wb", false) == "Error: running_mean must be defined in evaluation mode");
  CHECK(refused({4, 3}, "v", false) == "Error: running_mean must be defined in evaluation mode");
  CHECK(refused({4, 3}, "mwb", false) == "Error: running_var must be defined in evaluation mode");
  CHECK(refused({0, 3}, "", false) == "Error: running_mean must be defined in evaluation mode");
  // One tensor after the other: first whether it is there, then whether it fits.
  CHECK(refused({4, 5}, "mwb", false) == "Error: running_mean should contain 5 elements not 3 (x has 5 channels)");
}

TEST_CASE("the functional form refuses outputs that do not fit", "[functional][errors]") {
  for (const bool training : {true, false}) {
    Tensors<float> mine(3);
    const Tensors<float> before = mine;
    std::vector<float> memory(24, 1);
    const syncbn::TensorView<float> x(memory.data(), {4, 3});
    const syncbn::TensorView<float> wrong(memory.data(), {3, 4});
    const syncbn::TensorView<float> broadcast(memory.data() + 12, {4, 3}, {0, 1});
    const syncbn::TensorView<float> shifted(memory.data() + 1, {4, 3});
    const auto forward = [&](const syncbn::TensorView<float>& y) {
      return thrown_by([&] { (void)syncbn::batch_norm(x, y, mine.only("mvwb"), training); });
    };
    CHECK(forward(wrong) == "ShapeError: y has shape [3, 4], but x has [4, 3]");
    CHECK(forward(broadcast) ==
          "ShapeError: y overlaps itself: elements of shape [4, 3] with strides [0, 1] share memory");
    CHECK(forward(shifted) == "ShapeError: y overlaps x without being the same elements");
    CHECK(mine == before);

    std::vector<float> other(24, 1), weight_grad(3), bias_grad(3), four(4);
    const syncbn::TensorView<float> dy(other.data(), {4, 3});
    const syncbn::TensorView<float> dx(other.data() + 12, {4, 3});
    const syncbn::TensorView<float> grads[] = {Tensors<float>::view(weight_grad), Tensors<float>::view(bias_grad),
                                               Tensors<float>::view(four)};
    const auto saved = syncbn::batch_norm(x, dx, mine.only("mvwb"), training);
    const auto weight = mine.only("w").weight;
    const auto backward = [&](const auto& gradient, const auto& input, const auto& w, const auto& to, const auto& wg,
                              const auto& bg) {
      return thrown_by([&] { syncbn::batch_norm_backward(gradient, input, saved, w, to, wg, bg); });
    };
    CHECK(backward(dy, x, weight, dx, grads[0], grads[1]) == "nothing");
    const std::vector<float> kept_weight_grad = weight_grad;
    const std::vector<float> kept_bias_grad = bias_grad;
    CHECK(backward(wrong, x, weight, dx, grads[0], grads[1]) == "ShapeError: dy has shape [3, 4], but x has [4, 3]");
    CHECK(backward(dy, wrong, weight, dx, grads[0], grads[1]) ==
          "ShapeError: x has shape [3, 4], but the x of the forward pass has [4, 3]");
    CHECK(backward(dy, x, weight, wrong, grads[0], grads[1]) == "ShapeError: dx has shape [3, 4], but x has [4, 3]");
    CHECK(backward(dy, x, weight, shifted, grads[0], grads[1]) ==
          "ShapeError: dx overlaps x without being the same elements");
    CHECK(backward(dy, x, syncbn::TensorView<const float>(grads[2]), dx, grads[0], grads[1]) ==
          "Error: weight should contain 3 elements not 4 (x has 3 channels)");
    CHECK(backward(dy, x, weight, dx, grads[2], grads[1]) ==
          "Error: weight_grad should contain 3 elements not 4 (x has 3 channels)");
    CHECK(backward(dy, x, weight, dx, grads[0], grads[2]) ==
          "Error: bias_grad should contain 3 elements not 4 (x has 3 channels)");
    CHECK(weight_grad == kept_weight_grad);
    CHECK(bias_grad == kept_bias_grad);
  }
}

TEST_CASE("of no channels, tensors without elements are given, not absent", "[functional]") {
  float* const none = nullptr;
  const syncbn::TensorView<float> x(none, {2, 0, 3});
  syncbn::BatchNormTensors<float> tensors;
  CHECK(thrown_by([&] { (void)syncbn::batch_norm(x, x, tensors, false); }) ==
        "Error: running_mean must be defined in evaluation mode");
  tensors.running_mean = syncbn::TensorView<float>(none, {0});
  CHECK(thrown_by([&] { (void)syncbn::batch_norm(x, x, tensors, false); }) ==
        "Error: running_var must be defined in evaluation mode");
  tensors.running_var = tensors.running_mean;
  CHECK(thrown_by([&] { (void)syncbn::batch_norm(x, x, tensors, false); }) == "nothing");
}

TEST_CASE("the functional form works in place", "[functional]") {
  for (const bool training : {true, false}) {
    Tensors<float> mine(3), other(3);
    Activations<float> x({4, 3}, values(12, 1)), y(x.extents());
    const Numbers input = x.numbers();
    (void)syncbn::batch_norm(x, y, mine.only("mvwb"), training);
    (void)syncbn::batch_norm(x, x, other.only("mvwb"), training);
    CHECK(x.numbers() == y.numbers());
    CHECK(x.numbers() != input);
    CHECK(mine == other);
  }
}
