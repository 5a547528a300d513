#pragma once

#include <cstring>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <type_traits>

#include <syncbn/scalar_kind.hpp>

// How kernels reach the tensors in global memory: every load and store, and elements as numbers.

namespace syncbn::inline v0::cuda {

template <std::size_t bytes>
struct WordOf;
template <>
struct WordOf<2> {
  using type = unsigned short;
};
template <>
struct WordOf<4> {
  using type = unsigned;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};

// Elements that are neighbours, or that a thread treats as if they were: as the registers that a load fills. Taking them
// apart waits for it, and is left to where they are used.
template <class Storage, int width>
struct alignas(sizeof(Storage) * width < 4 ? 4 : sizeof(Storage) * width) Pack {
  unsigned bits[sizeof(Storage) * width < 4 ? 1 : sizeof(Storage) * width / 4] = {};

  __device__ __forceinline__ Storage element(int j) const {
    Storage value;
    if constexpr (sizeof(Storage) == 2) {
      const auto half = static_cast<unsigned short>(bits[j / 2] >> j % 2 * 16);
      memcpy(&value, &half, sizeof value);
    } else {
      memcpy(&value, bits + j * static_cast<int>(sizeof(Storage) / 4), sizeof value);
    }
    return value;
  }
  // Where there were only zeros.
  __device__ __forceinline__ void set(int j, Storage value) {
    if constexpr (sizeof(Storage) == 2) {
      unsigned short half;
      memcpy(&half, &value, sizeof half);
      bits[j / 2] |= static_cast<unsigned>(half) << j % 2 * 16;
    } else {
      memcpy(bits + j * static_cast<int>(sizeof(Storage) / 4), &value, sizeof value);
    }
  }
};

// One word: a whole pack, or one element of it. Kernels that come next may read the same again, from the second cache. From
// the first one only where a thread's next loads are in the same line.
template <int width, bool is_of_line = false, class Storage>
__device__ __forceinline__ Pack<Storage, width> load_word(const Storage* from) {
  using Word = typename WordOf<sizeof(Storage) * width>::type;
  Word word;
  if constexpr (is_of_line) {
    word = __ldca(reinterpret_cast<const Word*>(from));
  } else {
    word = __ldcg(reinterpret_cast<const Word*>(from));
  }
  Pack<Storage, width> pack;
  memcpy(pack.bits, &word, sizeof word);
  return pack;
}
// streams: what is stored is larger than the second cache, and should leave the rest of it alone.
template <int width, class Storage>
__device__ __forceinline__ void store_word(Storage* to, const Pack<Storage, width>& pack, bool streams) {
  using Word = typename WordOf<sizeof(Storage) * width>::type;
  Word word;
  memcpy(&word, pack.bits, sizeof word);
  if (streams) {
    __stcs(reinterpret_cast<Word*>(to), word);
  } else {
    __stcg(reinterpret_cast<Word*>(to), word);
  }
}

// Elements as numbers of type P, exactly; and numbers as elements, rounded once to nearest even.
template <class P, class Storage>
__device__ __forceinline__ P to_number(Storage element) {
  if constexpr (std::is_same_v<Storage, Float16>) {
    __half_raw raw;
    raw.x = element.bits;
    return static_cast<P>(__half2float(__half(raw)));
  } else if constexpr (std::is_same_v<Storage, BFloat16>) {
    __nv_bfloat16_raw raw;
    raw.x = element.bits;
    return static_cast<P>(__bfloat162float(__nv_bfloat16(raw)));
  } else {
    return static_cast<P>(element);
  }
}
template <class Storage>
__device__ __forceinline__ Storage to_element(float number) {
  if constexpr (std::is_same_v<Storage, Float16>) {
    return {static_cast<__half_raw>(__float2half_rn(number)).x};
  } else if constexpr (std::is_same_v<Storage, BFloat16>) {
    return {static_cast<__nv_bfloat16_raw>(__float2bfloat16_rn(number)).x};
  } else {
    return number;
  }
}
template <class Storage>
__device__ __forceinline__ Storage to_element(double number) {
  if constexpr (std::is_same_v<Storage, Float16>) {
    return {static_cast<__half_raw>(__double2half(number)).x};
  } else if constexpr (std::is_same_v<Storage, BFloat16>) {
    return {static_cast<__nv_bfloat16_raw>(__double2bfloat16(number)).x};
  } else {
    return static_cast<Storage>(number);
  }
}

}  // namespace syncbn::inline v0::cuda
