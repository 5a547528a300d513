#pragma once

#include <syncbn/backends/cuda_backend.cuh>
#include <syncbn/core.hpp>

// Calls every pass of a layer, so that a compiler makes every kernel of it for elements of type T. Never run.

namespace syncbn_test {

template <class T, class P>
void every_kernel(syncbn::BatchNorm2d<syncbn::CudaBackend<P>>& layer, syncbn::TensorView<const T, syncbn::CudaSpace> x,
                  syncbn::TensorView<T, syncbn::CudaSpace> y) {
  using Backend = syncbn::CudaBackend<P>;
  Backend& backend = layer.backend();
  typename syncbn::BatchNorm2d<Backend>::Saved saved;
  layer.forward(x, y, saved);
  layer.infer(x, y);
  layer.backward(x, x, saved, y);
  layer.backward(x, x, saved, syncbn::no_gradient);
  // And those of a synchronized one.
  syncbn::Moments<Backend> moments(1);
  syncbn::GradientSums<Backend> sums(1);
  syncbn::accumulate(backend, x, moments);
  syncbn::accumulate(backend, x, x, saved.statistics, sums);
  syncbn::finalize(backend, moments, 0, saved.statistics);
}

}  // namespace syncbn_test
