// What each consumer builds: the umbrella header, and the components that it was found with.
#include <cmath>
#include <cstdio>
#include <vector>

#include <syncbn/syncbn.hpp>

#ifdef WITH_OPENMP
#include <syncbn/backends/openmp_executor.hpp>
#endif
#ifdef WITH_MPI
#include <syncbn/backends/mpi_communicator.hpp>
#endif
#ifdef WITH_CUDA
#include <syncbn/backends/cuda_buffer.hpp>
#endif
#ifdef WITH_CUDA_AWARE_MPI
#include <syncbn/backends/cuda_aware_mpi_communicator.hpp>
#endif
#ifdef WITH_NCCL
#include <syncbn/backends/nccl_communicator.hpp>
#endif
#ifdef WITH_DLIB
#include <syncbn/interop/dlib.hpp>
#endif
#ifdef WITH_DLPACK
#include <syncbn/interop/dlpack.hpp>
#endif
#ifdef WITH_NPZ
#include <syncbn/interop/npz.hpp>
#endif
#ifdef WITH_SAFETENSORS
#include <syncbn/interop/safetensors.hpp>
#endif
#ifdef WITH_TORCH
#include <syncbn/interop/torch.hpp>
#endif
#ifdef WITH_XTENSOR
#include <syncbn/interop/xtensor.hpp>
#endif

int main() {
  std::vector<float> x{1, 2, 3, 6};
  std::vector<float> y(4);
  syncbn::BatchNorm<1> bn(2);
  static_cast<void>(bn.forward(syncbn::TensorView(x.data(), {2, 2}), syncbn::TensorView(y.data(), {2, 2})));
#ifdef WITH_TORCH
  syncbn::torch::BatchNorm1d module(2);
  const at::Tensor z = module->forward(at::tensor(x).view({2, 2})).view({4});
  y.assign(z.data_ptr<float>(), z.data_ptr<float>() + 4);
#endif
  std::printf("%g %g %g %g\n", y[0], y[1], y[2], y[3]);
  return std::abs(y[0] + 1) < 1e-3 && std::abs(y[3] - 1) < 1e-3 ? 0 : 1;
}
