#include <syncbn/borrowed.hpp>

#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/backends/thread_communicator.hpp>

#include "support/activations.hpp"
#include "support/catch.hpp"

using Catch::Matchers::Contains;
using syncbn::Index;
using Backend = syncbn::CpuBackend<float>;
using View = syncbn::TensorView<float>;

namespace {

// What a framework has of a layer.
struct Tensors {
  std::vector<float> weight, bias, weight_grad, bias_grad, running_mean, running_var;
  std::int64_t num_batches_tracked = 0;

  explicit Tensors(std::size_t channels)
      : weight(channels, 1),
        bias(channels),
        weight_grad(channels),
        bias_grad(channels),
        running_mean(channels),
        running_var(channels, 1) {}

  syncbn::BorrowedTensors<Backend> lent() {
    return {weight, bias, weight_grad, bias_grad, running_mean, running_var, {&num_batches_tracked, 1}};
  }
};

// A layer of its own memory and one on lent memory do the same steps: whether all they have is the same bits.
template <class Communicator>
bool do_the_same(Communicator communicator, std::optional<double> momentum, Index samples) {
  constexpr Index channels = 5;
  const syncbn::BatchNormOptions options{.momentum = momentum};
  syncbn::BatchNorm<1, Backend, Communicator> owning(channels, options, communicator);
  syncbn::BorrowingBatchNorm<1, Backend, Communicator> borrowing(channels, options, communicator);
  Tensors tensors(channels);
  tensors.weight[2] = owning.weight()[2] = -0.5F;
  borrowing.borrow(tensors.lent());

  bool same = true;
  std::vector<float> x(static_cast<std::size_t>(samples * channels * 3)), y(x.size()), z(x.size()), dx(x.size()),
      dz(x.size());
  const auto view = [&](std::vector<float>& values) { return View(values.data(), {samples, channels, 3}); };
  for (int step = 0; step < 3; ++step) {
    std::iota(x.begin(), x.end(), static_cast<float>(10 * step + communicator.rank()));
    for (float& value : x) value = value * value / 100;
    const auto saved = owning.forward(view(x), view(y));
    const auto saved_too = borrowing.forward(view(x), view(z));
    owning.backward(view(y), view(x), saved, view(dx));
    borrowing.backward(view(z), view(x), saved_too, view(dz));
    same = same && y == z && dx == dz;
    if (step == 1) {
      // Other memory from here on, as after the state of a model was loaded.
      static_cast<void>(std::exchange(tensors, Tensors(tensors)));
      borrowing.borrow(tensors.lent());
    }
  }
  const auto equal = [](const auto& a, const std::vector<float>& b) {
    return std::equal(b.begin(), b.end(), a.data(), a.data() + a.extent(0));
  };
  owning.infer(view(x), view(y));
  borrowing.infer(view(x), view(z));
  return same && y == z && equal(owning.weight_grad(), tensors.weight_grad) &&
         equal(owning.bias_grad(), tensors.bias_grad) && equal(owning.running_mean(), tensors.running_mean) &&
         equal(owning.running_var(), tensors.running_var) &&
         owning.num_batches_tracked() == tensors.num_batches_tracked && tensors.num_batches_tracked == 3;
}

}  // namespace

TEST_CASE("a layer on borrowed tensors does what a layer with its own does", "[borrowed]") {
  const std::optional<double> momentum = GENERATE(std::optional(0.1), std::optional<double>());
  CHECK(do_the_same(syncbn::SingleProcessCommunicator(), momentum, 4));
  std::vector<char> same(3);
  syncbn::run_thread_ranks(3, [&](const syncbn::ThreadCommunicator& ranks) {
    same[static_cast<std::size_t>(ranks.rank())] = do_the_same(ranks, momentum, ranks.rank());  // one is empty
  });
  CHECK(same == std::vector<char>(3, 1));
}

TEST_CASE("tensors of other sizes are not borrowed, and the last ones stay", "[borrowed]") {
  syncbn::BorrowingBatchNorm<1> bn(3);
  Tensors tensors(3);
  bn.borrow(tensors.lent());
  const auto refuses = [&](auto spoil, const std::string& reason) {
    auto lent = tensors.lent();
    spoil(lent);
    CHECK_THROWS_WITH(bn.borrow(lent), Contains(reason));
    CHECK(bn.weight().data() == tensors.weight.data());
  };
  refuses([](auto& t) { t.weight = {}; }, "weight has 0 elements where the layer needs 3");
  refuses([](auto& t) { t.bias = t.bias.first(2); }, "bias has 2");
  refuses([](auto& t) { t.weight_grad = t.weight_grad.first(1); }, "weight_grad has 1");
  refuses([](auto& t) { t.bias_grad = t.bias_grad.first(1); }, "bias_grad has 1");
  refuses([](auto& t) { t.running_mean = {}; }, "running_mean has 0");
  refuses([](auto& t) { t.running_var = {}; }, "running_var has 0");
  refuses([](auto& t) { t.num_batches_tracked = {}; }, "num_batches_tracked has 0 elements where the layer needs 1");

  syncbn::BorrowingBatchNorm<1> plain(3, {.affine = false, .track_running_stats = false});
  CHECK_THROWS_WITH(plain.borrow(tensors.lent()), Contains("weight has 3 elements where the layer needs 0"));
  plain.borrow({});
}

TEST_CASE("a layer that has borrowed nothing yet says so", "[borrowed]") {
  syncbn::BorrowingBatchNorm<1> bn(2);
  std::vector<float> x(8);
  const View in(x.data(), {4, 2});
  CHECK_THROWS_WITH(bn.infer(in, in), Contains("before borrow()"));
  CHECK_THROWS_WITH(bn.forward(in, in), Contains("before borrow()"));
  CHECK_THROWS_WITH(bn.set_num_batches_tracked(3), Contains("before borrow()"));
  Tensors tensors(2);
  syncbn::BorrowingBatchNorm<1> other(2);
  other.borrow(tensors.lent());
  std::iota(x.begin(), x.end(), 0.0F);
  std::vector<float> y(8), dx(8), expected(8);
  const View out(y.data(), {4, 2}), gradient(dx.data(), {4, 2});
  const auto saved = other.forward(in, out);
  CHECK_THROWS_WITH(bn.backward(in, in, saved, gradient), Contains("before borrow()"));
  CHECK_THROWS_WITH(bn.backward(in, in, saved, syncbn::no_gradient), Contains("before borrow()"));
  // For a backward pass its parameters are enough.
  bn.borrow_for_backward(tensors.weight, {}, {});
  bn.backward(in, in, saved, gradient);
  other.backward(in, in, saved, View(expected.data(), {4, 2}));
  CHECK(dx == expected);
  CHECK_THROWS_WITH(bn.forward(in, out), Contains("before borrow()"));
}

TEST_CASE("gradients of borrowed parameters are made where there is room for them", "[borrowed]") {
  Tensors tensors(2);
  auto lent = tensors.lent();
  lent.weight_grad = {};
  syncbn::BorrowingBatchNorm<1> bn(2);
  bn.borrow(lent);
  std::vector<float> x{1, 2, 3, 5}, y(4);
  const View in(x.data(), {2, 2}), out(y.data(), {2, 2});
  const auto saved = bn.forward(in, out);
  bn.backward(in, in, saved, out);
  CHECK(tensors.bias_grad == std::vector<float>{4, 7});
  CHECK(tensors.weight_grad == std::vector<float>{0, 0});

  std::vector<float> weight_grad(2), bias_grad(2);
  CHECK_THROWS_WITH(bn.borrow_for_backward(tensors.weight, weight_grad, std::span(bias_grad).first(1)),
                    Contains("bias_grad has 1"));
  bn.borrow_for_backward(tensors.weight, weight_grad, {});
  bn.backward(in, in, saved, out);
  CHECK(tensors.bias_grad == std::vector<float>{4, 7});
  CHECK(weight_grad[0] != 0);
  CHECK(bn.running_mean().data() == tensors.running_mean.data());
}
