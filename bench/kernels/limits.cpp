// The least that any implementation must do: move the bytes. Plainly, and asking for lines ahead of the processor's own
// prefetchers, which is faster where tensors are large.

#include <cstring>
#include <immintrin.h>

#include <omp.h>

#include "case.hpp"

namespace bench {
namespace {

// Each thread gets a contiguous part, in cache lines.
template <class Part>
void on_threads(int threads, std::size_t bytes, const Part& part) {
  if (threads == 1) return part(std::size_t{0}, bytes);
  const std::size_t lines = bytes / 64;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int t = 0; t < threads; ++t) {
    const std::size_t first = lines * static_cast<std::size_t>(t) / static_cast<std::size_t>(threads);
    const std::size_t last = lines * static_cast<std::size_t>(t + 1) / static_cast<std::size_t>(threads);
    part(first * 64, last * 64);
  }
}

// Asks for the line that is so many bytes behind one, if any. Inlined, or g++ takes a call for useless.
template <std::size_t ahead>
__attribute__((always_inline)) inline void ask(const std::byte* line) {
  if constexpr (ahead > 0) __builtin_prefetch(line + ahead, 0, 2);
}

template <std::size_t ahead>
__attribute__((target("avx512f"))) void stream_copy(const std::byte* from, std::byte* to, std::size_t first,
                                                    std::size_t last) {
  for (std::size_t i = first; i + 64 <= last; i += 64) {
    ask<ahead>(from + i);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
  }
  _mm_sfence();
}
template <std::size_t ahead>
__attribute__((target("avx512f"))) void stream_triad(const std::byte* a, const std::byte* b, std::byte* to,
                                                     std::size_t first, std::size_t last) {
  for (std::size_t i = first; i + 64 <= last; i += 64) {
    ask<ahead>(a + i);
    ask<ahead>(b + i);
    _mm512_stream_ps(reinterpret_cast<float*>(to + i), _mm512_add_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i)));
  }
  _mm_sfence();
}
__attribute__((target("avx512f"))) void triad(const std::byte* a, const std::byte* b, std::byte* to, std::size_t first,
                                              std::size_t last) {
  for (std::size_t i = first; i + 64 <= last; i += 64) {
    _mm512_storeu_ps(to + i, _mm512_add_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i)));
  }
}
volatile float read_sink;
template <std::size_t ahead>
__attribute__((target("avx512f"))) void read(const std::byte* from, std::size_t first, std::size_t last) {
  __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  for (std::size_t i = first; i + 256 <= last; i += 256) {
    for (int k = 0; k < 4; ++k) {
      ask<ahead>(from + i + 64 * k);
      sum[k] = _mm512_add_ps(sum[k], _mm512_loadu_ps(from + i + 64 * k));
    }
  }
  float lanes[16];
  _mm512_storeu_ps(lanes, _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3])));
  read_sink = lanes[0];
}

template <class Part>
Contender limit(const char* name, const Part& part) {
  return {name, [part](const Case& c, const Buffers& b) -> Run {
            return {[=, &b, threads = c.threads, bytes = c.bytes()] {
                      on_threads(threads, bytes, [&](std::size_t first, std::size_t last) { part(b, first, last); });
                    },
                    {}};
          }};
}

}  // namespace

std::vector<Contender> limits() {
  if (!__builtin_cpu_supports("avx512f")) return {};
  constexpr std::size_t ahead = 4096;
  using Place = std::size_t;
  return {
      limit("copy.cached",
            [](const Buffers& b, Place first, Place last) { std::memcpy(b.y + first, b.x + first, last - first); }),
      limit("copy.streamed", [](const Buffers& b, Place first, Place last) { stream_copy<0>(b.x, b.y, first, last); }),
      limit("copy.ahead", [](const Buffers& b, Place first, Place last) { stream_copy<ahead>(b.x, b.y, first, last); }),
      limit("triad.cached", [](const Buffers& b, Place first, Place last) { triad(b.x, b.dy, b.y, first, last); }),
      limit("triad.streamed",
            [](const Buffers& b, Place first, Place last) { stream_triad<0>(b.x, b.dy, b.y, first, last); }),
      limit("triad.ahead",
            [](const Buffers& b, Place first, Place last) { stream_triad<ahead>(b.x, b.dy, b.y, first, last); }),
      limit("read", [](const Buffers& b, Place first, Place last) { read<0>(b.x, first, last); }),
      limit("read.ahead", [](const Buffers& b, Place first, Place last) { read<ahead>(b.x, first, last); }),
  };
}

}  // namespace bench
