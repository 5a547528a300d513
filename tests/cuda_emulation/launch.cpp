#include "launch.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "device_variables.hpp"
#include "options.hpp"
#include "sanitizers.hpp"
#include "streams.hpp"
#include "thread_block.hpp"

namespace cuda_emulation {
namespace {

std::byte* (*dynamic_shared)() = nullptr;

std::mutex mutex;
std::map<const void*, std::size_t>& allowances() {
  static std::map<const void*, std::size_t> m;
  return m;
}

// The memory of a thread that ends goes to another one.
struct Unpoisoned {
  std::byte* shared;
  ~Unpoisoned() { unpoison(shared, most_shared_bytes); }
};

void prepare_shared(std::size_t bytes) {
  if (dynamic_shared == nullptr) return;
  std::byte* const p = dynamic_shared();
  thread_local const Unpoisoned at_the_end{p};
  unpoison(p, bytes);
  std::memset(p, 0xff, bytes);
  poison(p + bytes, most_shared_bytes - bytes);
}

std::vector<uint3> blocks_of(dim3 grid) {
  std::vector<uint3> blocks;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) blocks.push_back({x, y, z});
    }
  }
  if (options().order == Order::descending) std::reverse(blocks.begin(), blocks.end());
  if (options().order == Order::shuffled) {
    std::mt19937 random(options().seed);
    std::shuffle(blocks.begin(), blocks.end(), random);
  }
  return blocks;
}

bool is_valid(const cudaLaunchConfig_t& config) {
  const dim3 g = config.gridDim;
  const dim3 b = config.blockDim;
  const std::size_t threads = std::size_t{b.x} * b.y * b.z;
  const bool has_grid = g.x > 0 && g.y > 0 && g.z > 0 && g.x <= 0x7fffffffU && g.y <= 65535 && g.z <= 65535;
  return has_grid && threads > 0 && threads <= 1024 && b.z <= 64;
}

}  // namespace

void register_dynamic_shared(std::byte* (*of_this_thread)()) { dynamic_shared = of_this_thread; }

bool allow_shared_bytes(const void* kernel, std::size_t bytes) {
  const std::lock_guard lock(mutex);
  return std::exchange(allowances()[kernel], bytes) <= bytes;
}
std::size_t allowed_shared_bytes(const void* kernel) {
  const std::lock_guard lock(mutex);
  const auto found = allowances().find(kernel);
  return found == allowances().end() ? most_default_shared_bytes : std::max(found->second, most_default_shared_bytes);
}

bool run_grid(const std::function<void()>& body, dim3 grid, dim3 block, std::size_t shared_bytes) {
  const std::vector<uint3> blocks = blocks_of(grid);
  const std::size_t workers = std::clamp<std::size_t>(options().workers, 1, blocks.size());
  std::atomic<bool> good{true};
  // A fixed share for each worker: the race detector takes blocks of different ones for unordered.
  const auto work = [&](std::size_t worker) {
    blockDim = block;
    gridDim = grid;
    for (std::size_t i = worker; i < blocks.size() && good; i += workers) {
      blockIdx = blocks[i];
      prepare_shared(shared_bytes);
      if (!ThreadBlock::current().run(body, block, options().seed + static_cast<unsigned>(i))) good = false;
    }
  };
  if (workers == 1) {
    work(0);
  } else {
    std::vector<std::thread> threads;
    for (std::size_t w = 0; w < workers; ++w) threads.emplace_back(work, w);
    for (std::thread& t : threads) t.join();
  }
  return good;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> body) {
  if (!is_valid(config)) return remember(cudaErrorInvalidConfiguration);
  if (config.dynamicSmemBytes > allowed_shared_bytes(kernel)) return remember(cudaErrorInvalidValue);
  const dim3 grid = config.gridDim;
  const dim3 block = config.blockDim;
  const std::size_t bytes = config.dynamicSmemBytes;
  return submit(config.stream, [=, body = std::move(body)] {
    return run_grid(body, grid, block, bytes) ? cudaSuccess : cudaErrorLaunchFailure;
  });
}

}  // namespace cuda_emulation
