#include <cstdio>
#include <cstdlib>
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
#ifdef SYNCBN_A_DEVICE_FOR_EACH_RANK
  const char* ranks = std::getenv("SYNCBN_TEST_RANKS");
  if (ranks != nullptr && std::atoi(ranks) > devices) {
    std::printf("skipped: %d CUDA devices are not one for each of %s ranks\n", devices, ranks);
    return 77;
  }
#endif
  return syncbn_test::run_catch(argc, argv);
}
