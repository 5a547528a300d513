#include <syncbn/backends/cuda_backend.cuh>

#include "contenders.hpp"
#include "run_of_layer.hpp"

namespace bench {
namespace {

template <class T, class P>
Run make_for(const Case& c, const Buffers& buffers) {
  return run_of_layer<T, syncbn::CudaBackend<P>>(c, buffers);
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
