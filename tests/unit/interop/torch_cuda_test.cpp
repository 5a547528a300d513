#include <syncbn/interop/torch_cuda.cuh>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include <syncbn/backends/thread_communicator.hpp>
#include <syncbn/interop/torch_convert.hpp>

#include "libtorch/device.hpp"
#include "memory.hpp"
#include "streams.hpp"
#include "support/emulated_devices.hpp"
#include "support/torch.hpp"

using at::Device;
using at::Tensor;
using Catch::Matchers::Contains;
using syncbn_test::agree;
using ::torch::nn::BatchNormOptions;

namespace {

Device device(int index) { return {at::kCUDA, static_cast<c10::DeviceIndex>(index)}; }

// LibTorch's manual_seed() asks for generators of devices, which the emulator has not.
void seed(std::uint64_t value) {
  at::Generator numbers = at::globalContext().defaultGenerator(at::kCPU);
  numbers.set_current_seed(value);
}

struct Results {
  Tensor y, dx, weight_grad, bias_grad, running_mean, running_var, evaluated;
  std::int64_t batches = 0;
};

// Two steps and an evaluation, wherever x and the module are; the results in host memory.
template <class Module>
Results steps(Module& module, const Tensor& x, const Tensor& dy) {
  Results r;
  for (int step = 0; step < 2; ++step) {
    module->zero_grad();
    const Tensor leaf = x.detach().requires_grad_();
    const Tensor y = module->forward(leaf);
    y.backward(dy);
    r.y = y.detach().cpu();
    r.dx = leaf.grad().cpu();
  }
  const auto on_host = [](const Tensor& t) { return t.defined() ? t.detach().cpu() : t; };
  if (module->weight.defined()) {
    r.weight_grad = on_host(module->weight.grad());
    r.bias_grad = on_host(module->bias.grad());
  }
  r.running_mean = on_host(module->running_mean);
  r.running_var = on_host(module->running_var);
  if (module->num_batches_tracked.defined())
    r.batches = module->num_batches_tracked.cpu().template item<std::int64_t>();
  module->eval();
  const at::NoGradGuard no_gradients;
  r.evaluated = module->forward(x).cpu();
  return r;
}

void check_same(const Results& a, const Results& b, std::int64_t terms) {
  CHECK(a.y.strides() == b.y.strides());
  CHECK(agree(a.y, b.y, terms));
  CHECK(agree(a.dx, b.dx, terms));
  CHECK(agree(a.evaluated, b.evaluated, terms));
  CHECK(a.batches == b.batches);
  const auto check_same_tensor = [&](const Tensor& one, const Tensor& other) {
    REQUIRE(one.defined() == other.defined());
    if (one.defined()) CHECK(agree(one, other, 4 * terms));
  };
  check_same_tensor(a.weight_grad, b.weight_grad);
  check_same_tensor(a.bias_grad, b.bias_grad);
  check_same_tensor(a.running_mean, b.running_mean);
  check_same_tensor(a.running_var, b.running_var);
}

template <class Module>
void check_same_on_device(const BatchNormOptions& options, const Tensor& x, at::ScalarType parameters = at::kFloat) {
  Module here(options), there(options);
  here->to(parameters);
  there->to(device(1), parameters);
  seed(2);
  const Tensor dy = at::randn(x.sizes(), at::kFloat).to(x.scalar_type());
  const Tensor moved = x.to(device(1));
  REQUIRE(moved.strides() == x.strides());
  check_same(steps(there, moved, dy.to(device(1))), steps(here, x, dy), x.numel() / x.size(1));
}

}  // namespace

TEST_CASE("modules do on devices what they do in host memory", "[torch][cuda]") {
  const auto options = GENERATE(BatchNormOptions(6), BatchNormOptions(6).eps(0.1).momentum(c10::nullopt),
                                BatchNormOptions(6).affine(false), BatchNormOptions(6).track_running_stats(false));
  seed(1);
  check_same_on_device<syncbn::torch::BatchNorm1d>(options, at::randn({16, 6}) * 3 + 5);
  check_same_on_device<syncbn::torch::BatchNorm2d>(options, at::randn({4, 6, 5, 3}) + 1);
  check_same_on_device<syncbn::torch::BatchNorm2d>(options,
                                                   at::randn({4, 6, 5, 3}).contiguous(at::MemoryFormat::ChannelsLast));
  check_same_on_device<syncbn::torch::BatchNorm3d>(options, at::randn({2, 6, 3, 2, 4}));
}

TEST_CASE("formats are those of host memory, on devices too", "[torch][cuda]") {
  seed(1);
  const Tensor x = at::randn({4, 6, 5, 3});
  check_same_on_device<syncbn::torch::BatchNorm2d>(6, x.to(at::kHalf));
  check_same_on_device<syncbn::torch::BatchNorm2d>(6, x.to(at::kBFloat16));
  check_same_on_device<syncbn::torch::BatchNorm2d>(6, x.to(at::kDouble), at::kDouble);
  check_same_on_device<syncbn::torch::BatchNorm2d>(6, x, at::kDouble);
  syncbn::torch::BatchNorm2d single(6);
  single->to(device(0));
  CHECK_THROWS_WITH(single->forward(x.to(device(0), at::kDouble)), "expected scalar type Float but found Double");
}

TEST_CASE("ranks with a device each do what one does with the whole batch", "[torch][cuda]") {
  // Of several streams, those that LibTorch has current are the ones that tensors are written in.
  const bool other_streams = GENERATE(false, true);
  seed(1);
  const Tensor x = at::randn({9, 5, 4, 3}) * 2 + 1, dy = at::randn({9, 5, 4, 3});
  syncbn::torch::BatchNorm2d whole(5);
  const Results expected = steps(whole, x, dy);

  const std::vector<std::int64_t> first = {0, 4, 4, 9};  // one rank has none
  std::vector<Results> results(3);
  syncbn::run_thread_ranks(3, [&](const syncbn::ThreadCommunicator& ranks) {
    const auto r = static_cast<std::size_t>(ranks.rank());
    const c10::DeviceGuard guard(device(ranks.rank()));
    const syncbn::detail::CudaStream stream;
    const syncbn_test::CurrentStream current(other_streams ? stream.get() : nullptr);
    syncbn::torch::BatchNorm2d module(5);
    module->to(device(ranks.rank()));
    module->set_communicator(ranks);
    const auto mine = [&](const Tensor& t) { return t.slice(0, first[r], first[r + 1]).to(device(ranks.rank())); };
    results[r] = steps(module, mine(x), mine(dy));
  });
  for (std::size_t r = 0; r < 3; ++r) {
    INFO("rank " << r);
    Results part = expected;
    for (Tensor* t : {&part.y, &part.dx, &part.evaluated}) *t = t->slice(0, first[r], first[r + 1]);
    part.weight_grad = results[r].weight_grad;  // those of this rank's part; their sum is looked at below
    part.bias_grad = results[r].bias_grad;
    check_same(results[r], part, 108);
  }
  CHECK(agree(results[0].weight_grad + results[1].weight_grad + results[2].weight_grad, expected.weight_grad, 4 * 108));
  CHECK(agree(results[0].bias_grad + results[1].bias_grad + results[2].bias_grad, expected.bias_grad, 4 * 108));
}

TEST_CASE("what ranks do comes in the order of the caller's stream", "[torch][cuda]") {
  // Written late by work of that stream, and read by it at once.
  struct Copy {
    const float* from;
    float* to;
    std::int64_t size;
    std::chrono::milliseconds delay;
    static void run(void* data) {
      const auto& copy = *static_cast<const Copy*>(data);
      std::this_thread::sleep_for(copy.delay);
      std::copy_n(copy.from, copy.size, copy.to);
    }
  };
  seed(1);
  const Tensor x = at::randn({64, 3, 40, 10}), dy = at::randn(x.sizes());
  syncbn::torch::BatchNorm2d here(3);
  const Tensor leaf = x.detach().requires_grad_(), expected = here->forward(leaf);
  expected.backward(dy);
  std::vector<Tensor> y(2), dx(2);
  syncbn::run_thread_ranks(2, [&](const syncbn::ThreadCommunicator& ranks) {
    const auto r = static_cast<std::size_t>(ranks.rank());
    const c10::DeviceGuard guard(device(ranks.rank()));
    const syncbn::detail::CudaStream stream;
    const syncbn_test::CurrentStream current(stream.get());
    syncbn::torch::BatchNorm2d module(3);
    module->to(device(ranks.rank()));
    module->set_communicator(ranks);
    const Tensor input = at::empty(x.sizes(), device(ranks.rank())).requires_grad_();
    const Tensor gradient = at::empty(x.sizes(), device(ranks.rank()));
    y[r] = at::zeros(x.sizes());
    dx[r] = at::zeros(x.sizes());
    const auto copy = [&](const Tensor& from, const Tensor& to, int delay) {
      return Copy{from.data_ptr<float>(), to.data_ptr<float>(), from.numel(), std::chrono::milliseconds(delay)};
    };
    Copy write = copy(x, input, 100);
    static_cast<void>(cudaLaunchHostFunc(stream.get(), &Copy::run, &write));
    const Tensor output = module->forward(input);
    Copy read = copy(output, y[r], 0);
    static_cast<void>(cudaLaunchHostFunc(stream.get(), &Copy::run, &read));
    Copy write_gradient = copy(dy, gradient, 100);
    static_cast<void>(cudaLaunchHostFunc(stream.get(), &Copy::run, &write_gradient));
    const Tensor result = ::torch::autograd::grad({output}, {input}, {gradient})[0];
    Copy read_result = copy(result, dx[r], 0);
    static_cast<void>(cudaLaunchHostFunc(stream.get(), &Copy::run, &read_result));
    static_cast<void>(cudaStreamSynchronize(stream.get()));
  });
  // Both ranks have all samples, so that the statistics are those of one.
  for (std::size_t r = 0; r < 2; ++r) {
    CHECK(agree(y[r], expected.detach(), x.numel() / 3));
    CHECK(agree(dx[r], leaf.grad(), x.numel() / 3));
  }
}

TEST_CASE("all ranks throw when the input of one is bad or elsewhere", "[torch][cuda]") {
  const bool elsewhere = GENERATE(false, true);
  std::vector<std::string> errors(2);
  std::vector<bool> usable(2);
  syncbn::run_thread_ranks(2, [&](syncbn::ThreadCommunicator ranks) {
    const auto r = static_cast<std::size_t>(ranks.rank());
    ranks.set_timeout(std::chrono::seconds(20));
    syncbn::torch::BatchNorm1d module(3);
    module->to(device(ranks.rank()));
    module->set_communicator(ranks);
    const bool bad = ranks.rank() == 1;
    const Device where = bad && elsewhere ? Device(at::kCPU) : device(ranks.rank());
    try {
      module->forward(at::ones({2, bad && !elsewhere ? 4 : 3}, where));
    } catch (const std::exception& e) {
      errors[r] = e.what();
    }
    usable[r] = module->communicator().usable();
  });
  for (const std::string& error : errors) CHECK_THAT(error, Contains("rank 1"));
  CHECK(usable == std::vector<bool>(2, true));
}

TEST_CASE("the host does not wait for a device that is alone", "[torch][cuda]") {
  syncbn::torch::BatchNorm2d module(4);
  module->to(device(1));
  const Tensor x = at::ones({2, 4, 3, 3}, device(1));
  const at::NoGradGuard no_gradients;
  const long before = cuda_emulation::waits();
  static_cast<void>(module->forward(x));
  module->eval();
  static_cast<void>(module->forward(x));
  CHECK(cuda_emulation::waits() == before);
}

TEST_CASE("what a module on a device takes it gives back", "[torch][cuda]") {
  const auto allocations = [] {
    for (int d = 0; d < 2; ++d) {
      const c10::DeviceGuard guard(device(d));
      REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    }
    return cuda_emulation::live_allocations();
  };
  const std::size_t before = allocations();
  {
    syncbn::torch::BatchNorm2d module(4);
    module->to(device(1));
    const Tensor x = at::ones({2, 4, 3, 3}, device(1)).requires_grad_();
    const Tensor y = module->forward(x * 2);
    CHECK(allocations() > before);
    const c10::DeviceGuard guard(device(0));  // where the graph goes away
    y.sum().backward();
    // And one over ranks, of which both threads are gone before it is.
    std::vector<syncbn::torch::BatchNorm2d> modules;
    for (int r = 0; r < 2; ++r) modules.emplace_back(4);
    syncbn::run_thread_ranks(2, [&](const syncbn::ThreadCommunicator& ranks) {
      const auto r = static_cast<std::size_t>(ranks.rank());
      modules[r]->to(device(ranks.rank()));
      modules[r]->set_communicator(ranks);
      static_cast<void>(modules[r]->forward(at::ones({2, 4, 3, 3}, device(ranks.rank()))));
    });
  }
  CHECK(allocations() == before);
}
