#include "memory.hpp"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "options.hpp"
#include "sanitizers.hpp"

namespace cuda_emulation {
namespace {

struct Allocation {
  std::size_t bytes;
  MemoryKind kind;
};

constexpr std::size_t alignment = 256;
constexpr std::size_t most_bytes = std::size_t{1} << 38;

std::mutex mutex;
std::size_t count = 0;
std::map<std::uintptr_t, Allocation>& allocations() {
  static std::map<std::uintptr_t, Allocation> m;
  return m;
}
// Room for an end that is guarded even where the size is a multiple of the alignment.
std::size_t rounded(std::size_t bytes) { return (bytes / alignment + 1) * alignment; }

}  // namespace

void* allocate(std::size_t bytes, MemoryKind kind) {
  if (bytes > most_bytes) return nullptr;  // which the address sanitizer would take for a mistake
  void* const p = std::aligned_alloc(alignment, rounded(bytes));
  if (p == nullptr) return nullptr;
  std::memset(p, 0xff, bytes);
  poison(static_cast<std::byte*>(p) + bytes, rounded(bytes) - bytes);
  const std::lock_guard lock(mutex);
  allocations()[reinterpret_cast<std::uintptr_t>(p)] = {bytes, kind};
  ++count;
  return p;
}

cudaError_t release_memory(void* p, MemoryKind kind) {
  if (p == nullptr) return cudaSuccess;
  const std::lock_guard lock(mutex);
  const auto found = allocations().find(reinterpret_cast<std::uintptr_t>(p));
  if (found == allocations().end() || found->second.kind != kind) {
    violate("memory is released that was not allocated so");
    return cudaErrorInvalidValue;
  }
  unpoison(p, rounded(found->second.bytes));
  allocations().erase(found);
  std::free(p);
  return cudaSuccess;
}

cudaError_t copy_memory(void* to, const void* from, std::size_t bytes) {
  std::memmove(to, from, bytes);
  return cudaSuccess;
}
cudaError_t set_memory(void* to, int value, std::size_t bytes) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

bool find_memory(const void* p, MemoryKind& kind) {
  const std::lock_guard lock(mutex);
  const auto address = reinterpret_cast<std::uintptr_t>(p);
  auto found = allocations().upper_bound(address);
  if (found == allocations().begin()) return false;
  --found;
  if (address - found->first >= found->second.bytes) return false;
  kind = found->second.kind;
  return true;
}

std::size_t live_allocations() {
  const std::lock_guard lock(mutex);
  return allocations().size();
}
std::size_t all_allocations() {
  const std::lock_guard lock(mutex);
  return count;
}

}  // namespace cuda_emulation
