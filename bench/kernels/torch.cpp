// LibTorch's batch normalization on the memory of the case.

#include <memory>
#include <tuple>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "case.hpp"

namespace bench {
namespace {

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

struct Problem {
  at::Tensor x, dy, y, weight, bias, running_mean, running_var, mean, inverse_deviation, result;
};

Run make(const Case& c, const Buffers& buffers) {
  const at::InferenceMode inference_mode;
  auto p = std::make_shared<Problem>();
  const auto tensor = [&](std::byte* data, const std::vector<Index>& strides) {
    return at::from_blob(data, c.extents, strides, at::TensorOptions().dtype(type_of(c.format)));
  };
  // Parameters of 16-bit tensors are float, as ours are; those of f64 tensors double.
  const auto parameters = at::TensorOptions().dtype(c.format == Format::f64 ? at::kDouble : at::kFloat);
  p->x = tensor(buffers.x, c.input_strides());
  p->dy = tensor(buffers.dy, c.input_strides());
  p->y = tensor(buffers.y, c.strides());
  if (c.affine) {
    p->weight = at::tensor(buffers.weight).to(parameters);
    p->bias = at::tensor(buffers.bias).to(parameters);
  }
  p->running_mean = at::zeros({c.channels()}, parameters);
  p->running_var = at::ones({c.channels()}, parameters);
  p->mean = at::empty({c.channels()}, parameters);
  p->inverse_deviation = at::empty({c.channels()}, parameters);
  const bool training = c.pass != Pass::inference;
  const auto forward_out = [p, training] {
    at::native_batch_norm_out(p->y, p->mean, p->inverse_deviation, p->x, p->weight, p->bias, p->running_mean,
                              p->running_var, training, 0.1, 1e-5);
  };
  const auto forward = [p, training] {
    std::tie(p->result, p->mean, p->inverse_deviation) =
        at::native_batch_norm(p->x, p->weight, p->bias, p->running_mean, p->running_var, training, 0.1, 1e-5);
  };
  const auto backward = [p, affine = c.affine] {
    const std::array<bool, 3> wanted{true, affine, affine};
    // Its form with preallocated outputs, where there is one, copies to them: this is the faster one.
    at::native_batch_norm_backward(p->dy, p->x, p->weight, p->running_mean, p->running_var, p->mean,
                                   p->inverse_deviation, true, 1e-5, wanted);
  };
  const auto run = [threads = c.threads](const auto& f) -> Run {
    return [=] {
      const at::InferenceMode guard;
      at::set_num_threads(threads);
      f();
    };
  };
  const auto does = [](const auto& f) {
    try {
      f();
      return true;
    } catch (const c10::Error&) {
      return false;  // not implemented there
    }
  };
  if (c.pass == Pass::backward) return does(forward) && does(backward) ? run(backward) : Run();
  if (does(forward_out)) return run(forward_out);
  return does(forward) ? run(forward) : Run();
}

}  // namespace

std::vector<Contender> contenders_torch() { return {{"torch", make}}; }

}  // namespace bench
