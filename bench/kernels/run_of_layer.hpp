#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include <syncbn/batch_norm.hpp>

#include "case.hpp"

namespace bench {

/// @brief A case done by a layer on a backend. @tparam T  of tensors.
template <class T, class Backend>
Run run_of_layer(const Case& c, const Buffers& buffers) {
  using P = typename Backend::parameter_type;
  using Layer = syncbn::BatchNorm<syncbn::any_dims, Backend>;
  const auto view = [&]<class U>(std::byte* data, const std::vector<Index>& strides, U*) {
    return syncbn::TensorView<U, typename Backend::memory_space>(static_cast<U*>(static_cast<void*>(data)), c.extents,
                                                                 strides);
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

}  // namespace bench
