// Compiled once for each instruction set, with BENCH_ISA as its name.

#include <memory>

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/backends/openmp_executor.hpp>
#include <syncbn/batch_norm.hpp>

#include "case.hpp"

namespace bench {
namespace {

template <class T, class P, class Executor>
Run make_for(const Case& c, const Buffers& buffers) {
  using Backend = syncbn::CpuBackend<P, Executor>;
  using Layer = syncbn::BatchNorm<syncbn::any_dims, Backend>;
  const std::vector<Index> strides = c.strides();
  const auto view = [&]<class U>(std::byte* data, U*) {
    return syncbn::TensorView<U>(static_cast<U*>(static_cast<void*>(data)), c.extents, strides);
  };
  auto layer = std::make_shared<Layer>(c.channels(), syncbn::BatchNormOptions{.affine = c.affine});
  auto saved = std::make_shared<typename Layer::Saved>();
  for (Index k = 0; c.affine && k < c.channels(); ++k) {
    layer->weight()[k] = static_cast<P>(buffers.weight[static_cast<std::size_t>(k)]);
    layer->bias()[k] = static_cast<P>(buffers.bias[static_cast<std::size_t>(k)]);
  }
  const syncbn::TensorView<const T> x = view(buffers.x, static_cast<T*>(nullptr));
  const syncbn::TensorView<const T> dy = view(buffers.dy, static_cast<T*>(nullptr));
  const syncbn::TensorView<T> y = view(buffers.y, static_cast<T*>(nullptr));
  switch (c.pass) {
    case Pass::forward:
      return [=] { layer->forward(x, y, *saved); };
    case Pass::inference:
      return [=] { layer->infer(x, y); };
    case Pass::backward:
      layer->forward(x, y, *saved);
      return [=] { layer->backward(dy, x, *saved, y); };
  }
  return {};
}

template <class T, class P>
Run make_with_threads(const Case& c, const Buffers& buffers) {
  if (c.threads == 1) return make_for<T, P, syncbn::SerialExecutor>(c, buffers);
  return make_for<T, P, syncbn::OpenMpExecutor>(c, buffers);
}

}  // namespace

Contender BENCH_ISA() {
#define BENCH_TEXT_OF(x) #x
#define BENCH_TEXT(x) BENCH_TEXT_OF(x)
  return {BENCH_TEXT(BENCH_ISA), [](const Case& c, const Buffers& buffers) -> Run {
            switch (c.format) {
              case Format::f32:
                return make_with_threads<float, float>(c, buffers);
              case Format::f64:
                return make_with_threads<double, double>(c, buffers);
              case Format::bf16:
                return make_with_threads<syncbn::BFloat16, float>(c, buffers);
              case Format::f16:
                return make_with_threads<syncbn::Float16, float>(c, buffers);
            }
            return {};
          }};
}

}  // namespace bench
