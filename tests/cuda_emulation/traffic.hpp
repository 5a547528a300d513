#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "sanitizers.hpp"

// What kernels read from and write to global memory: bytes, and the 32-byte sectors that each request of a warp touches.
// Lanes run one after the other here; a request is what they do at the same call of a load or store for the same time.

namespace cuda_emulation {

struct Traffic {
  std::size_t loaded_bytes = 0, stored_bytes = 0;
  std::size_t load_requests = 0, store_requests = 0;  // of warps
  std::size_t load_sectors = 0, store_sectors = 0;    // as touched by each request
};

// Counts from construction on, all threads; one at a time, while options().workers == 1. Addresses in [first, first + bytes)
// alone, if given: one tensor.
class CountTraffic {
 public:
  explicit CountTraffic(const void* first = nullptr, std::size_t bytes = 0);
  ~CountTraffic();
  CountTraffic(const CountTraffic&) = delete;
  CountTraffic& operator=(const CountTraffic&) = delete;

  Traffic traffic() const;
};

extern bool counting;
void count_access(const void* call, const void* address, std::size_t bytes, bool is_store);
void check_alignment(const void* address, std::size_t bytes);

// Not inlined where it is counted: what it returns to tells calls apart.
template <class T>
__attribute__((noinline)) void count_access_of(const T* address, bool is_store) {
  count_access(__builtin_return_address(0), address, sizeof(T), is_store);
}

template <class T>
__attribute__((always_inline)) inline T counted_load(const T* from) {
  static_assert(std::is_trivially_copyable_v<T>);
  check_alignment(from, alignof(T));
  if (counting) count_access_of(from, false);
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <class T>
__attribute__((always_inline)) inline void counted_store(T* to, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  check_alignment(to, alignof(T));
  if (counting) count_access_of(to, true);
  std::memcpy(to, &value, sizeof value);
}

}  // namespace cuda_emulation
