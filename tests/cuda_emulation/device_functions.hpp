#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "device_variables.hpp"
#include "thread_block.hpp"
#include "traffic.hpp"

// The functions that device code calls, for the host's compiler.

// ---- Barriers and warps ----------------------------------------------------------------------------------------------

// Where a barrier is called, by default arguments: return addresses differ between copies of one call.
#define CUDA_EMULATION_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(CUDA_EMULATION_SITE) { cuda_emulation::ThreadBlock::current().barrier(false, {file, line}); }
inline int __syncthreads_count(int predicate, CUDA_EMULATION_SITE) {
  return cuda_emulation::ThreadBlock::current().barrier(predicate != 0, {file, line}).count;
}
inline int __syncthreads_or(int predicate, CUDA_EMULATION_SITE) {
  return cuda_emulation::ThreadBlock::current().barrier(predicate != 0, {file, line}).any;
}
inline int __syncthreads_and(int predicate, CUDA_EMULATION_SITE) {
  return cuda_emulation::ThreadBlock::current().barrier(predicate != 0, {file, line}).all;
}

namespace cuda_emulation {

template <class T>
T shuffle(WarpOperation operation, unsigned mask, T value, unsigned argument, int width) {
  static_assert(sizeof(T) <= 16 && std::is_trivially_copyable_v<T>);
  WarpCall call{operation, mask, argument, static_cast<unsigned>(width), sizeof(T), {}, false, 0};
  std::memcpy(call.value, &value, sizeof value);
  ThreadBlock::current().warp(call);
  std::memcpy(&value, call.value, sizeof value);
  return value;
}
inline unsigned vote(WarpOperation operation, unsigned mask, int predicate) {
  WarpCall call{operation, mask};
  call.predicate = predicate != 0;
  ThreadBlock::current().warp(call);
  return call.result;
}
inline unsigned reduce(WarpOperation operation, unsigned mask, unsigned value) {
  WarpCall call{operation, mask};
  std::memcpy(call.value, &value, sizeof value);
  ThreadBlock::current().warp(call);
  return call.result;
}

}  // namespace cuda_emulation

inline void __syncwarp(unsigned mask = 0xffffffffU) {
  cuda_emulation::WarpCall call{cuda_emulation::WarpOperation::sync, mask};
  cuda_emulation::ThreadBlock::current().warp(call);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = warpSize) {
  return cuda_emulation::shuffle(cuda_emulation::WarpOperation::read, mask, value, static_cast<unsigned>(lane), width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = warpSize) {
  return cuda_emulation::shuffle(cuda_emulation::WarpOperation::read_up, mask, value, distance, width);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = warpSize) {
  return cuda_emulation::shuffle(cuda_emulation::WarpOperation::read_down, mask, value, distance, width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = warpSize) {
  return cuda_emulation::shuffle(cuda_emulation::WarpOperation::read_xor, mask, value, static_cast<unsigned>(lanes),
                                 width);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return cuda_emulation::vote(cuda_emulation::WarpOperation::ballot, mask, predicate);
}
inline int __any_sync(unsigned mask, int predicate) {
  return static_cast<int>(cuda_emulation::vote(cuda_emulation::WarpOperation::any, mask, predicate));
}
inline int __all_sync(unsigned mask, int predicate) {
  return static_cast<int>(cuda_emulation::vote(cuda_emulation::WarpOperation::all, mask, predicate));
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
  return cuda_emulation::reduce(cuda_emulation::WarpOperation::add, mask, value);
}

// ---- Memory ----------------------------------------------------------------------------------------------------------

// Loads and stores with a hint are those that the library does to global memory: they are counted. By memcpy, since a
// device knows no aliasing rules; alignment is checked, since a device faults where this processor does not.
#define CUDA_EMULATION_LOAD(name)              \
  template <class T>                           \
  inline T name(const T* from) {               \
    return cuda_emulation::counted_load(from); \
  }
CUDA_EMULATION_LOAD(__ldg)
CUDA_EMULATION_LOAD(__ldca)
CUDA_EMULATION_LOAD(__ldcg)
CUDA_EMULATION_LOAD(__ldcs)
#undef CUDA_EMULATION_LOAD
#define CUDA_EMULATION_STORE(name)            \
  template <class T>                          \
  inline void name(T* to, T value) {          \
    cuda_emulation::counted_store(to, value); \
  }
CUDA_EMULATION_STORE(__stwb)
CUDA_EMULATION_STORE(__stcg)
CUDA_EMULATION_STORE(__stcs)
#undef CUDA_EMULATION_STORE

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// The race detector knows no fences: there, atomics order everything.
#if defined(CUDA_EMULATION_TSAN)
#define CUDA_EMULATION_ATOMIC_ORDER __ATOMIC_SEQ_CST
#else
#define CUDA_EMULATION_ATOMIC_ORDER __ATOMIC_RELAXED
#endif
inline unsigned atomicAdd(unsigned* p, unsigned value) {
  return __atomic_fetch_add(p, value, CUDA_EMULATION_ATOMIC_ORDER);
}
inline unsigned atomicInc(unsigned* p, unsigned limit) {
  unsigned old = __atomic_load_n(p, CUDA_EMULATION_ATOMIC_ORDER);
  unsigned next;
  do {
    next = old >= limit ? 0 : old + 1;
  } while (
      !__atomic_compare_exchange_n(p, &old, next, false, CUDA_EMULATION_ATOMIC_ORDER, CUDA_EMULATION_ATOMIC_ORDER));
  return old;
}

// ---- Arithmetic ------------------------------------------------------------------------------------------------------

inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline double __dmul_rn(double a, double b) { return a * b; }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>(Wide{a} * b >> 64);
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
