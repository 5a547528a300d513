#pragma once

#include <cstddef>
#include <cuda_runtime.h>

#include <syncbn/backends/detail/cuda_check.hpp>
#include <syncbn/backends/detail/cuda_map.cuh>

// How kernels are put into a stream.

namespace syncbn::inline v0::cuda {

// Lets a kernel without static shared memory have all that the device has: what is allowed holds for all threads of the
// process, and one that asked for less would make another one's launch fail.
template <class Argument>
void allow_shared_memory(void (*kernel)(const Argument), const Device& device) {
  check(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(device.shared_bytes)),
      "cudaFuncSetAttribute");
}

// Puts a kernel of one argument into a stream: blocks of them, or none.
template <class Argument>
void launch(void (*kernel)(const Argument), Index blocks, int threads, std::size_t shared_bytes, cudaStream_t stream,
            const Argument& argument) {
  if (blocks == 0) return;
  constexpr Index most_of_row = Index{1} << 30;
  cudaLaunchConfig_t config{};
  config.gridDim =
      dim3(static_cast<unsigned>(std::min(blocks, most_of_row)), static_cast<unsigned>(ceil_div(blocks, most_of_row)));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, argument), "cudaLaunchKernelEx");
}

// A functor of the channel.
template <class F>
struct EachArguments {
  Index size;
  F functor;
};
template <class F>
__global__ void each_kernel(const __grid_constant__ EachArguments<F> a) {
  const Index i = block_index() * blockDim.x + threadIdx.x;
  if (i < a.size) a.functor(i);
}
template <class F>
void launch_each(Index size, const F& functor, cudaStream_t stream) {
  constexpr int threads = 128;
  launch(each_kernel<F>, ceil_div(size, threads), threads, 0, stream, EachArguments<F>{size, functor});
}

// Elements of a unit at most: 16 bytes; fewer where numbers are so wide that a thread could not hold them.
template <class Storage, class P>
inline constexpr int widest_unit = std::min(16 / static_cast<int>(sizeof(Storage)), 32 / static_cast<int>(sizeof(P)));

// Calls f.operator()<width, columns>() with what the field's kernels are made for.
template <int widest, int operands, class F>
void with_walk(const Field<operands>& field, const F& f) {
  if (!field.is_columns) return f.template operator()<widest, false>();
  if (field.width == widest) return f.template operator()<widest, true>();
  f.template operator()<1, true>();
}

template <int widest, class Pass, class Finish>
void launch_sums(const SumArguments<Pass, Finish>& a, cudaStream_t stream) {
  with_walk<widest>(a.field, [&]<int width, bool columns>() {
    launch(sum_kernel<width, columns, Pass, Finish>, a.shape.slabs * a.shape.parts, a.shape.threads,
           scratch_bytes<double>(a.shape, a.shape.parts > 1), stream, a);
  });
}

template <int widest, class T, int inputs, class CoefficientsOf>
void launch_map(const MapArguments<T, inputs, CoefficientsOf>& a, cudaStream_t stream) {
  const std::size_t bytes =
      static_cast<std::size_t>(a.shape.channels_of_slab()) * sizeof(coefficients_t<CoefficientsOf>);
  with_walk<widest>(a.field, [&]<int width, bool columns>() {
    launch(map_kernel<width, columns, T, inputs, CoefficientsOf>, a.shape.slabs * a.shape.parts, a.shape.threads, bytes,
           stream, a);
  });
}

template <int widest, class Pass, class Finish, class CoefficientsOf>
void launch_on_chip(OnChipArguments<Pass, Finish, CoefficientsOf>& a, const Device& device, cudaStream_t stream) {
  const std::size_t scratch = scratch_bytes<coefficients_t<CoefficientsOf>>(a.shape, false);
  a.scratch_bytes = static_cast<unsigned>(scratch);
  with_walk<widest>(a.field, [&]<int width, bool columns>() {
    const std::size_t units = static_cast<std::size_t>(a.shape.units_in_shared * Pass::inputs * a.shape.threads);
    const std::size_t bytes = scratch + units * sizeof(Pack<typename Pass::Storage, width>);
    const auto kernel = on_chip_kernel<width, columns, Pass, Finish, CoefficientsOf>;
    constexpr std::size_t always_there = std::size_t{48} << 10;
    if (bytes > always_there) allow_shared_memory(kernel, device);
    launch(kernel, a.shape.slabs, a.shape.threads, bytes, stream, a);
  });
}

}  // namespace syncbn::inline v0::cuda
