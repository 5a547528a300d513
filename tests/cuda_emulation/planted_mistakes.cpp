// planted_mistakes NAME: a kernel with a mistake that only a sanitizer sees. To be run where that one must report it.

#include <cstdio>
#include <cstring>

namespace planted {

// Each thread reads what its neighbour writes.
__global__ void race_kernel(float* out) {
  __shared__ float values[32];
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = values[(threadIdx.x + 1) % blockDim.x];
}
// Blocks of one grid add to the same word.
__global__ void race_of_blocks_kernel(float* out) {
  if (threadIdx.x == 0) *out += 1;
}
__global__ void overflow_kernel(float* out) { __stcs(out + threadIdx.x + 1, 1.0F); }

}  // namespace planted

int main(int, char** argv) {
  void* memory = nullptr;
  if (cudaMalloc(&memory, 32 * sizeof(float)) != cudaSuccess) return 2;
  auto* const out = static_cast<float*>(memory);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(8);
  config.blockDim = dim3(32);
  if (std::strcmp(argv[1], "race") == 0) {
    cudaLaunchKernelEx(&config, planted::race_kernel, out);
  } else if (std::strcmp(argv[1], "race_of_blocks") == 0) {
    cudaLaunchKernelEx(&config, planted::race_of_blocks_kernel, out);
  } else {
    cudaLaunchKernelEx(&config, planted::overflow_kernel, out);
  }
  std::puts("nobody has noticed");
  return cudaFree(memory) == cudaSuccess ? 0 : 2;
}
