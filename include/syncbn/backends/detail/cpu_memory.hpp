#pragma once

#include <cstddef>
#include <cstdint>

#include <syncbn/backends/detail/cpu_packet.hpp>

// How results go to memory, through the caches or past them, and how lines are asked for early.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

// A packet to an aligned address, past the caches: the line it belongs to is not read first. To be followed by
// end_streaming() before another thread may read.
#if defined(EIGEN_VECTORIZE_AVX512)
inline void stream_store(float* to, Packet<float> value) noexcept { _mm512_stream_ps(to, value); }
inline void stream_store(double* to, Packet<double> value) noexcept { _mm512_stream_pd(to, value); }
#elif defined(EIGEN_VECTORIZE_AVX)
inline void stream_store(float* to, Packet<float> value) noexcept { _mm256_stream_ps(to, value); }
inline void stream_store(double* to, Packet<double> value) noexcept { _mm256_stream_pd(to, value); }
#elif defined(EIGEN_VECTORIZE_SSE2)
inline void stream_store(float* to, Packet<float> value) noexcept { _mm_stream_ps(to, value); }
inline void stream_store(double* to, Packet<double> value) noexcept { _mm_stream_pd(to, value); }
#else
template <class P>
void stream_store(P* to, Packet<P> value) noexcept {
  packet_math::pstoreu(to, value);
}
#endif

inline void end_streaming() noexcept {
#if defined(EIGEN_VECTORIZE_SSE2)
  _mm_sfence();
#endif
}

// Asks for a line to be read soon. Inlined always, as must be whoever does nothing else: g++ takes a call for useless.
SYNCBN_ALWAYS_INLINE void prefetch(const void* line) noexcept {
#if defined(__GNUC__)
  __builtin_prefetch(line, 0, 2);
#else
  static_cast<void>(line);
#endif
}

// How many elements lie before the first address that stream_store() takes; more than a packet if there is none.
template <class P>
Index elements_to_alignment(const P* to) noexcept {
  constexpr std::uintptr_t bytes = sizeof(Packet<P>);
  const auto rest = reinterpret_cast<std::uintptr_t>(to) % bytes;
  if (rest % sizeof(P) != 0) return packet_size<P> + 1;
  return rest == 0 ? 0 : static_cast<Index>((bytes - rest) / sizeof(P));
}

// Writes elements one after the other past the caches, in whole lines, though they come in runs of any length: runs are
// put together in a buffer first.
template <class P>
class LineWriter {
 public:
  static constexpr Index most_elements = 1024;  // of a run

  // From `out` on.
  explicit LineWriter(P* out) noexcept
      : line_(out - elements_into_line(out)), first_(elements_into_line(out)), filled_(first_) {}

  // Where the next n elements are to be put. n <= most_elements
  P* next(Index n) noexcept {
    if (filled_ + n > capacity) flush();
    P* const place = buffer_ + filled_;
    filled_ += n;
    return place;
  }

  // Writes what is left.
  void finish() noexcept {
    flush();
    for (Index i = first_; i < filled_; ++i) line_[i] = buffer_[i];
  }

 private:
  static constexpr Index per_line = 64 / static_cast<Index>(sizeof(P));
  static constexpr Index capacity = 4 * most_elements;

  static Index elements_into_line(const P* p) noexcept {
    return static_cast<Index>(reinterpret_cast<std::uintptr_t>(p) % 64 / sizeof(P));
  }

  void flush() noexcept {
    const Index whole = filled_ / per_line * per_line;
    if (whole == 0) return;
    // Of the very first line only a part is ours.
    const Index begin = first_ == 0 ? 0 : per_line;
    for (Index i = first_; i < begin; ++i) line_[i] = buffer_[i];
    for (Index i = begin; i < whole; i += packet_size<P>) {
      stream_store(line_ + i, packet_math::pload<Packet<P>>(buffer_ + i));
    }
    for (Index i = whole; i < filled_; ++i) buffer_[i - whole] = buffer_[i];
    line_ += whole;
    filled_ -= whole;
    first_ = 0;
  }

  P* line_;       // where buffer_ goes
  Index first_;   // elements of buffer_ that are not ours
  Index filled_;  // of buffer_
  alignas(64) P buffer_[capacity];
};

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
