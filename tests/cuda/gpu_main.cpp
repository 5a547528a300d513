#include <cstdio>
#include <cuda_runtime_api.h>

#include "support/run_catch.hpp"

// Tests that need a device: skipped, with the reason, where there is none.
int main(int argc, char** argv) {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device (%s)\n", cudaGetErrorString(error));
    return 77;
  }
  return syncbn_test::run_catch(argc, argv);
}
