// occupancy ARCHITECTURE REGISTERS THREADS SHARED_BYTES: the share of a multiprocessor's threads, in percent, that a kernel
// keeps resident at best, as the toolkit's own header reckons.

#include <cstdio>
#include <cstdlib>
#include <cuda_occupancy.h>
#include <map>

namespace {

// CUDA C++ programming guide, "Technical specifications per compute capability".
struct Limits {
  int threads;            // resident on a multiprocessor
  std::size_t shared_kb;  // of a multiprocessor
  std::size_t most_kb;    // of a block
};
const std::map<int, Limits> all{{75, {1024, 64, 64}},
                                {80, {2048, 164, 163}},
                                {90, {2048, 228, 227}},
                                {100, {2048, 228, 227}},
                                {120, {1536, 100, 99}}};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return std::fputs("usage: occupancy ARCHITECTURE REGISTERS THREADS SHARED_BYTES\n", stderr), 2;
  const int architecture = std::atoi(argv[1]);
  const auto found = all.find(architecture);
  if (found == all.end()) return std::fputs("unknown architecture\n", stderr), 2;
  const Limits& limits = found->second;
  cudaOccDeviceProp device{};
  device.computeMajor = architecture / 10;
  device.computeMinor = architecture % 10;
  device.maxThreadsPerBlock = 1024;
  device.maxThreadsPerMultiprocessor = limits.threads;
  device.regsPerBlock = device.regsPerMultiprocessor = 65536;
  device.warpSize = 32;
  device.sharedMemPerBlock = std::size_t{48} << 10;
  device.sharedMemPerMultiprocessor = limits.shared_kb << 10;
  device.sharedMemPerBlockOptin = limits.most_kb << 10;
  device.reservedSharedMemPerBlock = architecture >= 80 ? 1024 : 0;
  device.numSms = 1;
  cudaOccFuncAttributes kernel{};
  kernel.maxThreadsPerBlock = 1024;
  kernel.numRegs = std::atoi(argv[2]);
  kernel.maxDynamicSharedSizeBytes = limits.most_kb << 10;
  kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
  const cudaOccDeviceState state{};
  cudaOccResult result{};
  const int threads = std::atoi(argv[3]);
  const auto shared_bytes = static_cast<std::size_t>(std::atoll(argv[4]));
  if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, threads, shared_bytes) !=
      CUDA_OCC_SUCCESS) {
    return std::fputs("cuda_occupancy.h refuses\n", stderr), 1;
  }
  std::printf("%d\n", 100 * result.activeBlocksPerMultiprocessor * threads / limits.threads);
  return 0;
}
