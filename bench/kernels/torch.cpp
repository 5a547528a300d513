// LibTorch's batch normalization on the memory of the case, of processors or (BENCH_CUDA) of a CUDA device.

#include <cstdio>
#include <functional>
#include <memory>
#include <tuple>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "case.hpp"

namespace bench {
namespace {

#if BENCH_CUDA
constexpr at::DeviceType device = at::kCUDA;
#else
constexpr at::DeviceType device = at::kCPU;
#endif

at::ScalarType type_of(Format format) {
  switch (format) {
    case Format::f64:
      return at::kDouble;
    case Format::bf16:
      return at::kBFloat16;
    case Format::f16:
      return at::kHalf;
    case Format::f32:
      break;
  }
  return at::kFloat;
}

// Everything of one case; kept alive by its Run.
struct Problem {
  at::Tensor x, dy, y, weight, bias, running_mean, running_var, mean, inverse_deviation;
  bool training;

  Problem(const Case& c, const Buffers& buffers) : training(c.pass != Pass::inference) {
    const auto tensor = [&](std::byte* data, const std::vector<Index>& strides) {
      return at::from_blob(data, c.extents, strides, at::TensorOptions().dtype(type_of(c.format)).device(device));
    };
    // Parameters of 16-bit tensors are float, as ours are; those of f64 tensors double.
    const auto parameters =
        at::TensorOptions().dtype(c.format == Format::f64 ? at::kDouble : at::kFloat).device(device);
    x = tensor(buffers.x, c.input_strides());
    dy = tensor(buffers.dy, c.input_strides());
    y = tensor(buffers.y, c.strides());
    if (c.affine) {
      weight = at::tensor(buffers.weight).to(parameters);
      bias = at::tensor(buffers.bias).to(parameters);
    }
    running_mean = at::zeros({c.channels()}, parameters);
    running_var = at::ones({c.channels()}, parameters);
    mean = at::empty({c.channels()}, parameters);
    inverse_deviation = at::empty({c.channels()}, parameters);
  }

  void forward_out() {
    at::native_batch_norm_out(y, mean, inverse_deviation, x, weight, bias, running_mean, running_var, training, 0.1,
                              1e-5);
  }
  std::tuple<at::Tensor, at::Tensor, at::Tensor> forward() const {
    return at::native_batch_norm(x, weight, bias, running_mean, running_var, training, 0.1, 1e-5);
  }
  // Its form with preallocated outputs, where there is one, copies to them: this is the faster one.
  std::tuple<at::Tensor, at::Tensor, at::Tensor> backward() const {
    const bool affine = weight.defined();
    return at::native_batch_norm_backward(dy, x, weight, running_mean, running_var, mean, inverse_deviation, true, 1e-5,
                                          {true, affine, affine});
  }
};

template <class F>
std::function<void()> with_threads(int threads, const F& f) {
  return [=] {
    const at::InferenceMode guard;
    at::set_num_threads(threads);
    f();
  };
}

Run make(const Case& c, const Buffers& buffers) {
  const at::InferenceMode inference_mode;
  const auto p = std::make_shared<Problem>(c, buffers);
  const auto written = [y = buffers.y] { return y; };
  // What a call allocates is given back after it; for its result there is one more call.
  const auto run_and_copy = [&](const auto& f) -> Run {
    return {with_threads(c.threads, [f] { f(); }), [=] {
              with_threads(1, [&] { p->y.copy_(std::get<0>(f())); })();
              return written();
            }};
  };
  const auto forward = [p] { return p->forward(); };
  const auto backward = [p] { return p->backward(); };
  try {
    if (c.pass == Pass::backward) {
      std::tie(std::ignore, p->mean, p->inverse_deviation) = forward();
      backward();
      return run_and_copy(backward);
    }
    try {
      p->forward_out();
      return {with_threads(c.threads, [p] { p->forward_out(); }), written};
    } catch (const c10::Error&) {
      forward();  // some versions have only this
      return run_and_copy(forward);
    }
  } catch (const c10::Error& e) {
    std::fprintf(stderr, "%s: LibTorch does not take part: %s\n", c.text().c_str(), e.what_without_backtrace());
    return {};
  }
}

}  // namespace

std::vector<Contender> contenders_torch() {
  if (device == at::kCUDA && !at::hasCUDA()) {
    std::fputs("this LibTorch was built without CUDA, and does not take part\n", stderr);
    return {};
  }
  return {{"torch", make}};
}

}  // namespace bench
