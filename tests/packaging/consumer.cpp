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
#ifdef WITH_DLPACK
#include <syncbn/interop/dlpack.hpp>
#endif
#ifdef WITH_NPZ
#include <syncbn/interop/npz.hpp>
#endif
#ifdef WITH_SAFETENSORS
#include <syncbn/interop/safetensors.hpp>
#endif
#ifdef WITH_XTENSOR
#include <syncbn/interop/xtensor.hpp>
#endif

int main() {
  std::vector<float> x{1, 2, 3, 6};
  std::vector<float> y(4);
  syncbn::BatchNorm<1> bn(2);
  static_cast<void>(bn.forward(syncbn::TensorView(x.data(), {2, 2}), syncbn::TensorView(y.data(), {2, 2})));
  std::printf("%g %g %g %g\n", y[0], y[1], y[2], y[3]);
  return std::abs(y[0] + 1) < 1e-3 && std::abs(y[3] - 1) < 1e-3 ? 0 : 1;
}
