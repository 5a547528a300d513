#pragma once

#include <cuda_runtime.h>

// What every thread of a kernel can read. Set whenever a thread goes on.

inline thread_local uint3 threadIdx{}, blockIdx{};
inline thread_local dim3 blockDim{}, gridDim{};
inline constexpr int warpSize = 32;
