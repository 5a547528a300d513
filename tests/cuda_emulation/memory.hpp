#pragma once

#include <cstddef>
#include <cuda_runtime.h>

// Device memory: the host's, filled with NaN, with guarded ends, and only where it was allocated.

namespace cuda_emulation {

enum class MemoryKind { device, pinned };

void* allocate(std::size_t bytes, MemoryKind kind);
// cudaErrorInvalidValue for what was never allocated so.
cudaError_t release_memory(void* p, MemoryKind kind);
cudaError_t copy_memory(void* to, const void* from, std::size_t bytes);
cudaError_t set_memory(void* to, int value, std::size_t bytes);
// What kind of allocation an address lies in; false if in none.
bool find_memory(const void* p, MemoryKind& kind);

// Allocations that were not released, and how many there have ever been.
std::size_t live_allocations();
std::size_t all_allocations();

}  // namespace cuda_emulation
