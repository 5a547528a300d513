// The least that any implementation must do: move the bytes, 16 of them with each load and store.

#include <cuda_runtime.h>

#include <syncbn/backends/detail/cuda_launch.cuh>

#include "contenders.hpp"

namespace bench {
namespace {

constexpr int threads = 512;
constexpr int at_once = 4;  // loads under way in a thread

__device__ uint4 mixed(uint4 a, uint4 b) { return {a.x ^ b.x, a.y ^ b.y, a.z ^ b.z, a.w ^ b.w}; }

// What is read, and perhaps written.
struct Move {
  const uint4* a;
  const uint4* b;
  uint4* to;
  std::size_t units;
};

// f(i) for all units, `at_once` of a block's neighbours at a time.
template <class F>
__device__ void for_each_batch(std::size_t units, const F& f) {
  const std::size_t step = std::size_t{at_once} * threads;
  for (std::size_t first = blockIdx.x * step + threadIdx.x; first < units; first += gridDim.x * step) f(first);
}
// Units made by f, all of a batch before the first is written.
template <class F>
__device__ void write_all(const Move& m, const F& f) {
  for_each_batch(m.units, [&](std::size_t first) {
    uint4 value[at_once];
#pragma unroll
    for (int k = 0; k < at_once; ++k) {
      if (first + k * threads < m.units) value[k] = f(first + k * threads);
    }
#pragma unroll
    for (int k = 0; k < at_once; ++k) {
      if (first + k * threads < m.units) m.to[first + k * threads] = value[k];
    }
  });
}

__global__ void __launch_bounds__(threads) copy(const Move m) {
  write_all(m, [&](std::size_t i) { return m.a[i]; });
}
__global__ void __launch_bounds__(threads) triad(const Move m) {
  write_all(m, [&](std::size_t i) { return mixed(m.a[i], m.b[i]); });
}
__device__ unsigned sink;
// Read for its own sake: hardly anything is ever written, but no compiler knows that.
__global__ void __launch_bounds__(threads) read(const Move m) {
  uint4 sum{};
  for_each_batch(m.units, [&](std::size_t first) {
#pragma unroll
    for (int k = 0; k < at_once; ++k) {
      if (first + k * threads < m.units) sum = mixed(sum, m.a[first + k * threads]);
    }
  });
  const unsigned all = sum.x ^ sum.y ^ sum.z ^ sum.w;
  if (all == 0x9e3779b9U) sink = all;
}

void launch(void (*kernel)(const Move), const Move& move) {
  static const int blocks = [] {
    int device = 0;
    int multiprocessors = 0;
    syncbn::cuda::check(cudaGetDevice(&device), "cudaGetDevice");
    syncbn::cuda::check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
                        "cudaDeviceGetAttribute");
    return 4 * multiprocessors;
  }();
  syncbn::cuda::launch(kernel, blocks, threads, 0, nullptr, move);
}

std::size_t units_of(const Case& c) { return c.bytes() / sizeof(uint4); }
template <class T>
auto units(T* bytes) {
  if constexpr (std::is_const_v<T>) {
    return static_cast<const uint4*>(static_cast<const void*>(bytes));
  } else {
    return static_cast<uint4*>(static_cast<void*>(bytes));
  }
}

template <class F>
Contender limit(const char* name, const F& f) {
  return {name, [f](const Case& c, const Buffers& b) -> Run { return {[=, &b] { f(c, b); }, {}}; }};
}

}  // namespace

void read_cuda(const std::byte* from, std::size_t bytes) {
  launch(read, {units(from), nullptr, nullptr, bytes / sizeof(uint4)});
}

std::vector<Contender> limits_cuda() {
  return {
      limit("copy.runtime",
            [](const Case& c, const Buffers& b) {
              syncbn::cuda::check(cudaMemcpyAsync(b.y, b.x, c.bytes(), cudaMemcpyDeviceToDevice, nullptr),
                                  "cudaMemcpyAsync");
            }),
      limit("copy.kernel",
            [](const Case& c, const Buffers& b) { launch(copy, {units(b.x), nullptr, units(b.y), units_of(c)}); }),
      limit("triad.kernel",
            [](const Case& c, const Buffers& b) { launch(triad, {units(b.x), units(b.dy), units(b.y), units_of(c)}); }),
      limit("read.kernel", [](const Case& c, const Buffers& b) { read_cuda(b.x, c.bytes() / 16 * 16); }),
  };
}

}  // namespace bench
