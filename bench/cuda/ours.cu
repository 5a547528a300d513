#include <memory>

#include <syncbn/backends/cuda_backend.cuh>
#include <syncbn/core.hpp>

#include "contenders.hpp"

namespace bench {
namespace {

template <class T, class P>
Run make_for(const Case& c, const Buffers& buffers) {
  using Layer = syncbn::BatchNorm<syncbn::any_dims, syncbn::CudaBackend<P>>;
  const auto view = [&]<class U>(std::byte* data, const std::vector<Index>& strides, U*) {
    return syncbn::TensorView<U, syncbn::CudaSpace>(static_cast<U*>(static_cast<void*>(data)), c.extents, strides);
  };
  auto layer = std::make_shared<Layer>(c.channels(), syncbn::BatchNormOptions{.affine = c.affine});
  auto saved = std::make_shared<typename Layer::Saved>();
  if (c.affine) {
    const std::vector<P> weight(buffers.weight.begin(), buffers.weight.end());
    const std::vector<P> bias(buffers.bias.begin(), buffers.bias.end());
    layer->backend().upload(weight.data(), c.channels(), layer->weight().data());
    layer->backend().upload(bias.data(), c.channels(), layer->bias().data());
  }
  const auto x = view(buffers.x, c.input_strides(), static_cast<const T*>(nullptr));
  const auto dy = view(buffers.dy, c.input_strides(), static_cast<const T*>(nullptr));
  const auto y = view(buffers.y, c.strides(), static_cast<T*>(nullptr));
  const auto result = [data = buffers.y] { return data; };
  switch (c.pass) {
    case Pass::forward:
      return {[=] { layer->forward(x, y, *saved); }, result};
    case Pass::inference:
      return {[=] { layer->infer(x, y); }, result};
    case Pass::backward:
      layer->forward(x, y, *saved);
      return {[=] { layer->backward(dy, x, *saved, y); }, result};
  }
  return {};
}

Run make(const Case& c, const Buffers& buffers) {
  switch (c.format) {
    case Format::f32:
      return make_for<float, float>(c, buffers);
    case Format::f64:
      return make_for<double, double>(c, buffers);
    case Format::bf16:
      return make_for<syncbn::BFloat16, float>(c, buffers);
    case Format::f16:
      return make_for<syncbn::Float16, float>(c, buffers);
  }
  return {};
}

}  // namespace

std::vector<Contender> contenders_syncbn_cuda() { return {{"syncbn_cuda", make}}; }

}  // namespace bench
