#pragma once

// Runs CUDA kernels on the host: included before anything else (-include) by g++ or clang++ where nvcc would compile. Types
// and host functions are those of the toolkit's headers; __global__ and its like are empty there.
//
// Kernels are run, not simulated: every thread of a block in turn, until it waits for others. What is checked: barriers and
// collectives that not all threads reach, deadlocks, misaligned or (by the address sanitizer) foreign memory, races (by the
// thread sanitizer), launches that no device takes, hosts that wait. What is not: coalescing, banks, speed; missing fences;
// arithmetic that nvcc contracts or approximates otherwise; blocks that wait for each other, which hang.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#undef __shared__
#define __shared__ thread_local  // one block runs on an operating-system thread at a time
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__

#include "device_functions.hpp"
#include "launch.hpp"
