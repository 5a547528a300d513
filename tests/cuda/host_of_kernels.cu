#include <syncbn/backends/cuda_backend.cuh>
#include <syncbn/core.hpp>

#include "cuda/host_of_kernels.hpp"

void syncbn_test::make_backend() { syncbn::CudaBackend<float> backend; }
void syncbn_test::make_layer() { syncbn::BatchNorm2d<syncbn::CudaBackend<float>> layer(3); }
