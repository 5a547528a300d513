#include "support/torch.hpp"

#include <atomic>
#include <cmath>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

using at::Tensor;
using Catch::Matchers::Contains;
using syncbn_test::agree;
using ::torch::nn::BatchNormOptions;

namespace {

// The same steps of a module of LibTorch and of ours, which must agree in everything that they have afterwards.
template <class Theirs, class Ours>
void check_same_steps(Theirs theirs, Ours ours, const std::vector<Tensor>& inputs) {
  const std::int64_t terms = inputs[0].numel() / inputs[0].size(1);
  for (const Tensor& input : inputs) {
    const Tensor x = input.detach().clone(at::MemoryFormat::Preserve).requires_grad_();
    const Tensor z = input.detach().clone(at::MemoryFormat::Preserve).requires_grad_();
    const Tensor expected = theirs->forward(x);
    const Tensor y = ours->forward(z);
    CHECK(y.strides() == z.strides());
    CHECK(agree(y, expected, terms));
    const Tensor dy = at::randn_like(expected);
    expected.backward(dy);
    y.backward(dy);
    CHECK(agree(z.grad(), x.grad(), terms));
  }
  const auto of = [](auto& module) {
    auto all = module->named_parameters();
    for (const auto& item : module->named_buffers()) all.insert(item.key(), item.value());
    return all;
  };
  const auto wanted = of(theirs), have = of(ours);
  CHECK(have.keys() == wanted.keys());
  for (const auto& item : wanted) {
    INFO(item.key());
    CHECK(agree(have[item.key()], item.value(), terms));
    CHECK(have[item.key()].grad().defined() == item.value().grad().defined());
    if (item.value().grad().defined()) CHECK(agree(have[item.key()].grad(), item.value().grad(), 4 * terms));
  }
  theirs->eval();
  ours->eval();
  const at::NoGradGuard no_gradients;
  CHECK(agree(ours->forward(inputs[0]), theirs->forward(inputs[0]), terms));
}

std::vector<Tensor> inputs(at::IntArrayRef shape, at::ScalarType type = at::kFloat) {
  ::torch::manual_seed(1);
  return {at::randn(shape, type) * 3 + 5, at::randn(shape, type), at::rand(shape, type)};
}

}  // namespace

TEST_CASE("our modules do what LibTorch's do", "[torch]") {
  const auto options = GENERATE(BatchNormOptions(6), BatchNormOptions(6).eps(0.1).momentum(0.7),
                                BatchNormOptions(6).momentum(c10::nullopt), BatchNormOptions(6).affine(false),
                                BatchNormOptions(6).track_running_stats(false));
  check_same_steps(::torch::nn::BatchNorm1d(options), syncbn::torch::BatchNorm1d(options), inputs({16, 6}));
  check_same_steps(::torch::nn::BatchNorm1d(options), syncbn::torch::BatchNorm1d(options), inputs({4, 6, 9}));
  check_same_steps(::torch::nn::BatchNorm2d(options), syncbn::torch::BatchNorm2d(options), inputs({4, 6, 5, 3}));
  check_same_steps(::torch::nn::BatchNorm3d(options), syncbn::torch::BatchNorm3d(options), inputs({2, 6, 3, 2, 4}));
  check_same_steps(::torch::nn::BatchNorm2d(options), syncbn::torch::SyncBatchNorm(options), inputs({4, 6, 5, 3}));
}

TEST_CASE("tensors in other layouts are taken as they are", "[torch]") {
  auto images = inputs({4, 6, 5, 3});
  for (Tensor& x : images) x = x.contiguous(at::MemoryFormat::ChannelsLast);
  check_same_steps(::torch::nn::BatchNorm2d(6), syncbn::torch::BatchNorm2d(6), images);
  auto volumes = inputs({2, 6, 3, 2, 4});
  for (Tensor& x : volumes) x = x.contiguous(at::MemoryFormat::ChannelsLast3d);
  check_same_steps(::torch::nn::BatchNorm3d(6), syncbn::torch::BatchNorm3d(6), volumes);

  // Every other column of a larger tensor, and a gradient that is one number everywhere.
  const Tensor wide = at::randn({4, 6, 5, 8});
  const Tensor x = wide.slice(3, 0, 8, 2);
  syncbn::torch::BatchNorm2d ours(6);
  ::torch::nn::BatchNorm2d theirs(6);
  CHECK(agree(ours->forward(x), theirs->forward(x), 80));
  const Tensor z = at::randn({4, 6, 5, 3}).requires_grad_();
  ours->forward(z).sum().backward();
  CHECK(ours->bias.grad().equal(at::full({6}, 60.0F)));
}

TEST_CASE("parameters of double take tensors of double", "[torch]") {
  ::torch::nn::BatchNorm2d theirs(6);
  syncbn::torch::BatchNorm2d ours(6);
  theirs->to(at::kDouble);
  theirs->num_batches_tracked.set_data(
      theirs->num_batches_tracked.to(at::kLong));  // LibTorch makes it a double; to compare
  ours->to(at::kDouble);
  CHECK(ours->num_batches_tracked.scalar_type() == at::kLong);
  check_same_steps(theirs, ours, inputs({4, 6, 5, 3}, at::kDouble));
  CHECK_THROWS_WITH(syncbn::torch::BatchNorm2d(6)->forward(at::randn({2, 6, 2, 2}, at::kDouble)),
                    "expected scalar type Float but found Double");
}

TEST_CASE("parameters stay float where 16 bits are asked for", "[torch]") {
  const auto type = GENERATE(at::kHalf, at::kBFloat16);
  syncbn::torch::BatchNorm2d ours(6), same(6);
  ours->to(type);
  CHECK(ours->weight.scalar_type() == at::kFloat);
  CHECK(ours->running_var.scalar_type() == at::kFloat);
  ours->to(at::kCPU, type);
  CHECK(ours->weight.scalar_type() == at::kFloat);
  const Tensor x = at::randn({8, 6, 5, 3}).to(type).requires_grad_();
  const Tensor z = x.detach().to(at::kFloat).requires_grad_();
  const Tensor y = ours->forward(x), expected = same->forward(z);
  CHECK(y.scalar_type() == type);
  CHECK(agree(y, expected.to(type), 1));
  CHECK(ours->running_mean.equal(same->running_mean));
  const Tensor dy = at::randn_like(y);
  y.backward(dy);
  expected.backward(dy.to(at::kFloat));
  CHECK(agree(x.grad(), z.grad().to(type), 1));
  CHECK(ours->weight.grad().equal(same->weight.grad()));
}

TEST_CASE("gradients are those of finite differences", "[torch]") {
  const bool training = GENERATE(true, false);
  syncbn::torch::BatchNorm1d ours(3);
  ours->to(at::kDouble);
  ours->train(training);
  ours->options.momentum(0.0);  // each forward pass starts from the same statistics
  ::torch::manual_seed(3);
  {
    const at::NoGradGuard no_gradients;
    ours->weight.copy_(at::randn({3}));
    ours->running_var.copy_(at::rand({3}) + 1);
  }
  const Tensor x = at::randn({5, 3}, at::kDouble).requires_grad_(), probe = at::randn({5, 3}, at::kDouble);
  const auto loss = [&] { return (ours->forward(x) * probe).sum(); };
  loss().backward();
  const double step = 0x1p-18;  // errors of step^2 and of 2^-52 / step are about alike
  for (const Tensor& t : {x, ours->weight, ours->bias}) {
    const at::NoGradGuard no_gradients;
    const Tensor flat = t.view({-1}), gradient = t.grad().view({-1});
    for (std::int64_t i = 0; i < flat.numel(); ++i) {
      const double value = flat[i].item<double>();
      flat[i] = value + step;
      const double above = loss().item<double>();
      flat[i] = value - step;
      const double below = loss().item<double>();
      flat[i] = value;
      CHECK(std::abs((above - below) / (2 * step) - gradient[i].item<double>()) < 64 * 0x1p-34);
    }
  }
}

TEST_CASE("only gradients that are wanted are made", "[torch]") {
  syncbn::torch::BatchNorm2d bn(2);
  bn->weight.requires_grad_(false);
  const Tensor x = at::randn({2, 2, 3, 3});
  bn->forward(x).sum().backward();
  CHECK_FALSE(bn->weight.grad().defined());
  CHECK(bn->bias.grad().equal(at::full({2}, 18.0F)));
  bn->bias.requires_grad_(false);
  CHECK_FALSE(bn->forward(x).requires_grad());
  CHECK(bn->num_batches_tracked.item<std::int64_t>() == 2);

  const Tensor z = at::randn({2, 2, 3, 3}).requires_grad_();
  const Tensor y = bn->forward(z);
  CHECK_THROWS_WITH(::torch::autograd::grad({y.sum()}, {z}, {}, true, true), Contains("create_graph"));
}

TEST_CASE("a graph outlives its module, and notices what was changed", "[torch]") {
  const Tensor x = at::randn({4, 2}).requires_grad_();
  Tensor y;
  {
    syncbn::torch::BatchNorm1d bn(2);
    y = bn->forward(x);
  }
  y.square().sum().backward();
  CHECK(x.grad().defined());

  syncbn::torch::BatchNorm1d bn(2);
  y = bn->forward(x);
  {
    const at::NoGradGuard no_gradients;
    bn->weight.add_(1);
  }
  CHECK_THROWS_WITH(y.sum().backward(), Contains("modified by an inplace operation"));
  const auto version = bn->running_mean._version();
  bn->forward(x);
  CHECK(bn->running_mean._version() > version);
}

TEST_CASE("bad input is refused before any state changes", "[torch]") {
  syncbn::torch::BatchNorm2d bn(3);
  const auto refuses = [&](const Tensor& x, const std::string& reason) {
    CHECK_THROWS_WITH(bn->forward(x), Contains(reason));
    CHECK(bn->num_batches_tracked.item<std::int64_t>() == 0);
  };
  refuses(at::randn({2, 3, 4}), "expected 4D input (got 3D input)");
  refuses(at::randn({2, 4, 2, 2}), "running_mean should contain 4 elements not 3");
  refuses(at::randn({1, 3, 1, 1}), "Expected more than 1 value per channel when training");
  refuses(at::ones({2, 3, 2, 2}, at::kInt), "expected scalar type Float but found Int");
  refuses(at::randn({2, 3, 2, 2}).to_sparse(), "no strides");
  refuses(Tensor(), "not defined");
  refuses(at::empty({2, 3, 2, 2}, at::device(at::kMeta)), "on meta where one on cpu is expected");
  float element = 0;  // no device is asked for it
  const at::Device device(at::kCUDA, 0);
  refuses(at::from_blob(
              &element, {0, 3, 2, 2}, {12, 4, 2, 1}, [](void*) {}, at::TensorOptions(device), device),
          "a tensor on cuda:0: for these, include <syncbn/interop/torch_cuda.cuh>");
  bn->running_mean.set_data(at::zeros({6}).slice(0, 0, 6, 2));
  refuses(at::randn({2, 3, 2, 2}), "running_mean is not contiguous");
  bn->running_mean.set_data(at::zeros({4}));
  refuses(at::randn({2, 3, 2, 2}), "running_mean has 4 elements where the layer needs 3");
}

TEST_CASE("modules are cloned, printed, put into Sequential, saved and loaded", "[torch]") {
  std::ostringstream out;
  out << *syncbn::torch::BatchNorm2d(4) << '\n'
      << *syncbn::torch::SyncBatchNorm(BatchNormOptions(2).eps(0.5).momentum(c10::nullopt).affine(false));
  CHECK(out.str() ==
        "syncbn::torch::BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=true, track_running_stats=true)\n"
        "syncbn::torch::SyncBatchNorm(2, eps=0.5, momentum=None, affine=false, track_running_stats=true)");

  ::torch::nn::Sequential model(::torch::nn::Conv2d(::torch::nn::Conv2dOptions(3, 4, 3)), syncbn::torch::BatchNorm2d(4),
                                ::torch::nn::ReLU());
  const Tensor x = at::randn({2, 3, 8, 8});
  model->forward(x).sum().backward();
  CHECK(model->named_buffers()["1.num_batches_tracked"].item<std::int64_t>() == 1);
  model->zero_grad();

  const auto copy = std::dynamic_pointer_cast<::torch::nn::SequentialImpl>(model->clone());
  copy->forward(x);
  CHECK(model->named_buffers()["1.num_batches_tracked"].item<std::int64_t>() == 1);
  CHECK(copy->named_buffers()["1.num_batches_tracked"].item<std::int64_t>() == 2);

  // Files are those of LibTorch's own module, either way.
  std::stringstream file;
  ::torch::save(model, file);
  ::torch::nn::Sequential theirs(::torch::nn::Conv2d(::torch::nn::Conv2dOptions(3, 4, 3)), ::torch::nn::BatchNorm2d(4),
                                 ::torch::nn::ReLU());
  ::torch::load(theirs, file);
  model->eval();
  theirs->eval();
  CHECK(agree(model->forward(x), theirs->forward(x), 27));
  theirs->train();
  theirs->forward(x);
  std::stringstream back;
  ::torch::save(theirs, back);
  ::torch::load(model, back);
  theirs->eval();
  CHECK(agree(model->forward(x), theirs->forward(x), 27));
  CHECK(model->named_buffers()["1.num_batches_tracked"].item<std::int64_t>() == 2);
}

TEST_CASE("threads may evaluate one module at once", "[torch]") {
  const bool differentiate = GENERATE(false, true);
  ::torch::manual_seed(1);
  syncbn::torch::BatchNorm2d ours(16);
  ours->forward(at::randn({4, 16, 3, 3}));
  ours->eval();
  ours->weight.requires_grad_(false);
  ours->bias.requires_grad_(false);
  const Tensor x = at::randn({1, 16, 4, 4}), expected = ours->forward(x);
  Tensor expected_gradient = x.clone().requires_grad_();
  ours->forward(expected_gradient).sum().backward();
  expected_gradient = expected_gradient.grad();
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        const Tensor z = differentiate ? x.clone().requires_grad_() : x;
        const Tensor y = ours->forward(z);
        if (!y.equal(expected)) ++wrong;
        if (!differentiate) continue;
        y.sum().backward();
        if (!z.grad().equal(expected_gradient)) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("running statistics that are not tracked any more stay, and normalize in evaluation", "[torch]") {
  syncbn::torch::BatchNorm1d ours(3), other(3);
  const Tensor x = at::randn({8, 3}) + 2;
  ours->forward(x);
  other->forward(x);
  ours->options.track_running_stats(false);
  CHECK(ours->forward(x * 3).equal(other->forward(x * 3)));
  CHECK(ours->num_batches_tracked.item<std::int64_t>() == 1);
  CHECK(other->num_batches_tracked.item<std::int64_t>() == 2);
  CHECK_FALSE(ours->running_mean.equal(other->running_mean));
  ours->eval();
  const Tensor expected = (x - ours->running_mean) / (ours->running_var + ours->options.eps()).sqrt();
  CHECK(agree(ours->forward(x), expected, 1));
}

TEST_CASE("LibTorch's tensors are views", "[torch]") {
  const Tensor t = at::arange(24, at::kFloat).view({2, 3, 4}).transpose(0, 2);
  CHECK(syncbn::torch::view<const float>(t)(3, 1, 1) == 19);
  CHECK(syncbn::torch::visit(t.to(at::kBFloat16), [](auto v) { return v.extent(0); }) == 4);
  CHECK_THROWS_WITH(syncbn::torch::visit(t.to(at::kLong), [](auto v) { return v.extent(0); }), Contains("Long"));
  CHECK_THROWS_AS(syncbn::torch::view<float>(at::zeros({1, 1, 1, 1, 1, 1, 1, 1, 1})), syncbn::ShapeError);
  CHECK_THROWS_WITH(syncbn::torch::view<float>(at::_efficientzerotensor({2, 3})), Contains("without memory"));
  Tensor freed = at::zeros({2, 3});
  freed.storage().unsafeGetStorageImpl()->set_data_ptr_noswap(at::DataPtr());
  freed.storage().unsafeGetStorageImpl()->set_nbytes(0);
  CHECK_THROWS_WITH(syncbn::torch::view<float>(freed), Contains("without memory"));
}
