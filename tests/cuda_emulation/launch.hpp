#pragma once

#include <cstddef>
#include <cuda_runtime.h>
#include <functional>
#include <tuple>
#include <utility>

// How a grid is run, and the launch API that cuda_runtime.h has under nvcc alone.

namespace cuda_emulation {

inline constexpr std::size_t most_shared_bytes = std::size_t{227} << 10;         // that a kernel can opt in to
inline constexpr std::size_t most_default_shared_bytes = std::size_t{48} << 10;  // otherwise

// The array of a block that is declared `extern __shared__`: every bit is set before a block begins (NaN), and the address
// sanitizer guards what lies beyond the bytes of the launch. One for the whole program, registered by
// CUDA_EMULATION_DYNAMIC_SHARED.
void register_dynamic_shared(std::byte* (*of_this_thread)());

// Puts a grid into a stream. kernel: identifies what cudaFuncSetAttribute() was called for.
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> body);
// Runs it now. False if a kernel broke a rule.
bool run_grid(const std::function<void()>& body, dim3 grid, dim3 block, std::size_t shared_bytes);

// What cudaFuncSetAttribute() allowed. False if it was more before.
bool allow_shared_bytes(const void* kernel, std::size_t bytes);
std::size_t allowed_shared_bytes(const void* kernel);

template <class... Parameters, class... Arguments>
cudaError_t launch_kernel(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  // Arguments are copied when a kernel is launched, not when it runs.
  std::tuple<Parameters...> copies(static_cast<Parameters>(std::forward<Arguments>(arguments))...);
  return launch(*config, reinterpret_cast<const void*>(kernel), [=] { std::apply(kernel, copies); });
}

}  // namespace cuda_emulation

#define cudaLaunchKernelEx cuda_emulation::launch_kernel

// Defines `extern __shared__ unsigned char name[]` of a namespace.
#define CUDA_EMULATION_DYNAMIC_SHARED(namespace_name, name)                                              \
  namespace namespace_name {                                                                             \
  alignas(128) thread_local unsigned char name[cuda_emulation::most_shared_bytes];                       \
  }                                                                                                      \
  static const bool cuda_emulation_has_##name = [] {                                                     \
    cuda_emulation::register_dynamic_shared(                                                             \
        [] { return reinterpret_cast<std::byte*>(static_cast<unsigned char*>(namespace_name::name)); }); \
    return true;                                                                                         \
  }();

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute, int value) {
  return ::cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
template <class... Parameters>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void (*kernel)(Parameters...), int threads,
                                                          std::size_t shared_bytes) {
  return ::cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, reinterpret_cast<const void*>(kernel), threads,
                                                         shared_bytes);
}
