#include <cstdio>
#include <cuda_runtime_api.h>

#include "support/run_catch.hpp"

// Tests of what comes without a device: skipped, with the reason, where there is one.
int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) {
    std::puts("skipped: there is a CUDA device");
    return 77;
  }
  static_cast<void>(cudaGetLastError());
  return syncbn_test::run_catch(argc, argv);
}
