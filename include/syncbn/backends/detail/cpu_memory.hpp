#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <syncbn/backends/detail/cpu_packet.hpp>

// How results go to memory, through the caches or past them, and how lines are asked for early.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

// A register to an aligned address, past the caches: the line it belongs to is not read first. To be followed by
// end_streaming() before another thread may read.
#if defined(EIGEN_VECTORIZE_AVX512)
inline void stream_register(void* to, __m512 bits) noexcept { _mm512_stream_ps(static_cast<float*>(to), bits); }
inline void stream_register(void* to, __m512d bits) noexcept { _mm512_stream_pd(static_cast<double*>(to), bits); }
inline void stream_register(void* to, __m256i bits) noexcept { _mm256_stream_si256(static_cast<__m256i*>(to), bits); }
#elif defined(EIGEN_VECTORIZE_AVX)
inline void stream_register(void* to, __m256 bits) noexcept { _mm256_stream_ps(static_cast<float*>(to), bits); }
inline void stream_register(void* to, __m256d bits) noexcept { _mm256_stream_pd(static_cast<double*>(to), bits); }
inline void stream_register(void* to, __m128i bits) noexcept { _mm_stream_si128(static_cast<__m128i*>(to), bits); }
#elif defined(EIGEN_VECTORIZE_SSE2)
inline void stream_register(void* to, __m128 bits) noexcept { _mm_stream_ps(static_cast<float*>(to), bits); }
inline void stream_register(void* to, __m128d bits) noexcept { _mm_stream_pd(static_cast<double*>(to), bits); }
#else
template <class Bits>
void stream_register(void* to, const Bits& bits) noexcept {
  std::memcpy(to, &bits, sizeof bits);
}
#endif

// Whether packets of P can be written so, as elements of a format: registers of 8 bytes cannot.
template <class P, class Storage>
inline constexpr bool streams_packets =
    std::is_same_v<P, Storage> || (std::is_same_v<P, float> && converts<Storage> && packet_size<float> >= 8);

template <class P, class Storage>
SYNCBN_ALWAYS_INLINE void stream_packet(Storage* to, const Packet<P>& value) noexcept {
  if constexpr (std::is_same_v<P, Storage>) {
    stream_register(to, value);
  } else {
    stream_register(to, to_bits(Storage(), value));
  }
}

// The same for a line of whatever elements, from an aligned address too.
inline void stream_line(void* to, const void* from) noexcept {
#if defined(EIGEN_VECTORIZE_AVX512)
  _mm512_stream_si512(static_cast<__m512i*>(to), _mm512_load_si512(from));
#elif defined(EIGEN_VECTORIZE_AVX)
  for (int i = 0; i < 2; ++i) {
    _mm256_stream_si256(static_cast<__m256i*>(to) + i, _mm256_load_si256(static_cast<const __m256i*>(from) + i));
  }
#elif defined(EIGEN_VECTORIZE_SSE2)
  for (int i = 0; i < 4; ++i) {
    _mm_stream_si128(static_cast<__m128i*>(to) + i, _mm_load_si128(static_cast<const __m128i*>(from) + i));
  }
#else
  std::memcpy(to, from, 64);
#endif
}

inline void end_streaming() noexcept {
#if defined(EIGEN_VECTORIZE_SSE2)
  _mm_sfence();
#endif
}

// Asks for a line to be read soon, into the second cache. Inlined always, as must be whoever does nothing else: g++ takes a
// call for useless.
SYNCBN_ALWAYS_INLINE void prefetch(const void* line) noexcept {
#if defined(__GNUC__)
  __builtin_prefetch(line, 0, 2);
#else
  static_cast<void>(line);
#endif
}

// The address that lies this far after an element, in the tensor or not.
template <class T>
SYNCBN_ALWAYS_INLINE const void* beyond(const T* element, Index bytes) noexcept {
  const auto address = reinterpret_cast<std::uintptr_t>(element) + static_cast<std::uintptr_t>(bytes);
  return reinterpret_cast<const void*>(address);  // NOLINT(performance-no-int-to-ptr): it may point at nothing
}
template <class T>
SYNCBN_ALWAYS_INLINE void prefetch_beyond(const T* element, Index bytes) noexcept {
  prefetch(beyond(element, bytes));
}
template <class T>
SYNCBN_ALWAYS_INLINE void prefetch_into_first_cache(const T* element, Index bytes) noexcept {
#if defined(__GNUC__)
  __builtin_prefetch(beyond(element, bytes), 0, 3);
#else
  static_cast<void>(element);
  static_cast<void>(bytes);
#endif
}

// How many elements lie before the first line that begins here or later.
template <class T>
Index elements_to_line(const T* to) noexcept {
  return static_cast<Index>((64 - reinterpret_cast<std::uintptr_t>(to) % 64) % 64 / sizeof(T));
}

// Whether n elements are whole lines.
template <class T>
bool in_whole_lines(const T* to, Index n) noexcept {
  return reinterpret_cast<std::uintptr_t>(to) % 64 == 0 && n * static_cast<Index>(sizeof(T)) % 64 == 0;
}

// Writes elements one after the other past the caches, in whole lines, though they come in runs of any length: runs are
// put together in a buffer first. Elements lie at multiples of their size.
template <class T>
class LineWriter {
 public:
  static constexpr Index most_elements = 1024;  // of a run

  explicit LineWriter(T* out) noexcept { begin(out); }

  // What comes next goes to `out` and beyond.
  void begin(T* out) noexcept {
    first_ = filled_ = elements_into_line(out);
    line_ = out - first_;
  }

  // Where the next n elements are to be put. n <= most_elements
  T* next(Index n) noexcept {
    if (filled_ >= enough) flush();
    T* const place = buffer_ + filled_;
    filled_ += n;
    return place;
  }

  // Writes what is left.
  void finish() noexcept {
    flush();
    copy(first_, filled_);
  }

 private:
  static constexpr Index per_line = 64 / static_cast<Index>(sizeof(T));
  // A few lines: while many are written, nothing would be read.
  static constexpr Index enough = 8 * per_line;
  static constexpr Index capacity = enough + most_elements;

  static Index elements_into_line(const T* p) noexcept {
    return static_cast<Index>(reinterpret_cast<std::uintptr_t>(p) % 64 / sizeof(T));
  }

  // Elements of a line that is not whole. Bytes, since the memory may hold a foreign 16-bit type.
  void copy(Index first, Index last) noexcept {
    std::memcpy(line_ + first, buffer_ + first, static_cast<std::size_t>(last - first) * sizeof(T));
  }

  void flush() noexcept {
    const Index whole = filled_ / per_line * per_line;
    if (whole == 0) return;
    // Of the very first line only a part is ours.
    const Index begin = first_ == 0 ? 0 : per_line;
    if (begin > 0) copy(first_, begin);
    for (Index i = begin; i < whole; i += per_line) stream_line(line_ + i, buffer_ + i);
    std::memmove(buffer_, buffer_ + whole, static_cast<std::size_t>(filled_ - whole) * sizeof(T));
    line_ += whole;
    filled_ -= whole;
    first_ = 0;
  }

  T* line_;       // where buffer_ goes
  Index first_;   // elements of buffer_ that are not ours
  Index filled_;  // of buffer_
  alignas(64) T buffer_[static_cast<std::size_t>(capacity)];
};

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
