// The least that any implementation must do: move the bytes. Plainly, and asking for lines ahead of the processor's own
// prefetchers, which is faster where tensors are large. Compiled once for each instruction set, with BENCH_LIMITS as its name.

#include <algorithm>
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

// 64 bytes in registers.
struct Line {
#ifdef __AVX512F__
  __m512 all;

  static Line load(const std::byte* from) { return {_mm512_loadu_ps(from)}; }
  void store(std::byte* to) const { _mm512_storeu_ps(to, all); }
  void stream(std::byte* to) const { _mm512_stream_ps(reinterpret_cast<float*>(to), all); }
  friend Line operator+(Line a, Line b) { return {_mm512_add_ps(a.all, b.all)}; }
#else
  __m256 low, high;

  static Line load(const std::byte* from) {
    const auto* floats = reinterpret_cast<const float*>(from);
    return {_mm256_loadu_ps(floats), _mm256_loadu_ps(floats + 8)};
  }
  void store(std::byte* to) const {
    _mm256_storeu_ps(reinterpret_cast<float*>(to), low);
    _mm256_storeu_ps(reinterpret_cast<float*>(to) + 8, high);
  }
  void stream(std::byte* to) const {
    _mm256_stream_ps(reinterpret_cast<float*>(to), low);
    _mm256_stream_ps(reinterpret_cast<float*>(to) + 8, high);
  }
  friend Line operator+(Line a, Line b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
#endif
};

template <std::size_t ahead>
void stream_copy(const std::byte* from, std::byte* to, std::size_t first, std::size_t last) {
  for (std::size_t i = first; i + 64 <= last; i += 64) {
    ask<ahead>(from + i);
    Line::load(from + i).stream(to + i);
  }
  _mm_sfence();
}
template <std::size_t ahead>
void stream_triad(const std::byte* a, const std::byte* b, std::byte* to, std::size_t first, std::size_t last) {
  for (std::size_t i = first; i + 64 <= last; i += 64) {
    ask<ahead>(a + i);
    ask<ahead>(b + i);
    (Line::load(a + i) + Line::load(b + i)).stream(to + i);
  }
  _mm_sfence();
}
void triad(const std::byte* a, const std::byte* b, std::byte* to, std::size_t first, std::size_t last) {
  for (std::size_t i = first; i + 64 <= last; i += 64) (Line::load(a + i) + Line::load(b + i)).store(to + i);
}

volatile float read_sink;
// So that nothing that was read was read in vain.
void use(Line sum) {
  alignas(64) std::byte bytes[64];
  sum.store(bytes);
  float first = 0;
  std::memcpy(&first, bytes, sizeof first);
  read_sink = first;
}
template <std::size_t ahead>
void read(const std::byte* from, std::size_t first, std::size_t last) {
  Line sum[4] = {};
  for (std::size_t i = first; i + 256 <= last; i += 256) {
    for (std::size_t k = 0; k < 4; ++k) {
      ask<ahead>(from + i + 64 * k);
      sum[k] = sum[k] + Line::load(from + i + 64 * k);
    }
  }
  use(sum[0] + sum[1] + (sum[2] + sum[3]));
}

template <class Part>
Contender limit(const char* name, const Part& part) {
  return {name, [part](const Case& c, const Buffers& b) -> Run {
            if (c.unaligned) return {};
            return {[=, &b, threads = c.threads, bytes = c.bytes()] {
                      on_threads(threads, bytes, [&](std::size_t first, std::size_t last) { part(b, first, last); });
                    },
                    {}};
          }};
}

// The bytes of [first, last) summed up; what is 4 KB beyond is asked for.
Line sum_of(const std::byte* first, const std::byte* last) {
  Line sum[2] = {};
  for (std::size_t k = 0; first < last; first += 64, k ^= 1) {
    ask<4096>(first);
    sum[k] = sum[k] + Line::load(first);
  }
  return sum[0] + sum[1];
}

// What a kernel for (N, C, S...) moves, in the order in which it has to: as many channels as are 128 KB are read over the
// whole batch, and then once more, from the caches, while as many bytes are written. Nothing is computed.
struct Steps {
  const Case& c;
  const Buffers& b;
  std::size_t channel_bytes = c.bytes() / static_cast<std::size_t>(c.extents[0] * c.channels());
  std::size_t samples = static_cast<std::size_t>(c.extents[0]);
  std::size_t channels = static_cast<std::size_t>(c.channels());
  std::size_t at_once = std::max<std::size_t>(1, (std::size_t{128} << 10) / (channel_bytes * samples));
  bool backward = c.pass == Pass::backward;
  bool past_caches = c.bytes() >= std::size_t{4} << 20;
  // The caches have what was read last.
  bool turns_back = channel_bytes * samples * (backward ? 2 : 1) > std::size_t{1} << 20;

  // f(first, last): what sample n has of some channels, in whole lines.
  template <class F>
  void run(std::size_t channel, std::size_t n, const F& f) const {
    const std::size_t end = std::min(channel + at_once, channels);
    f((n * channels + channel) * channel_bytes / 64 * 64, (n * channels + end) * channel_bytes / 64 * 64);
  }
  void operator()(std::size_t channel) const {
    Line sum{};
    for (std::size_t n = 0; n < samples; ++n) {
      run(channel, n, [&](std::size_t first, std::size_t last) {
        sum = sum + sum_of(b.x + first, b.x + last);
        if (backward) sum = sum + sum_of(b.dy + first, b.dy + last);
      });
    }
    use(sum);
    for (std::size_t n = 0; n < samples; ++n) {
      run(channel, turns_back ? samples - 1 - n : n, [&](std::size_t first, std::size_t last) {
        if (!backward) {
          past_caches ? stream_copy<0>(b.x, b.y, first, last)
                      : static_cast<void>(std::memcpy(b.y + first, b.x + first, last - first));
        } else {
          past_caches ? stream_triad<0>(b.x, b.dy, b.y, first, last) : triad(b.x, b.dy, b.y, first, last);
        }
      });
    }
  }
};

Contender steps() {
  return {"steps", [](const Case& c, const Buffers& b) -> Run {
            const bool in_rows = c.layout == Layout::channels_last || c.extents.size() == 2;
            if (in_rows || c.sliced || c.in_place || c.unaligned || c.pass == Pass::inference) return {};
            return {[steps = Steps{c, b}, threads = c.threads] {
                      const auto groups = static_cast<int>((steps.channels + steps.at_once - 1) / steps.at_once);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
                      for (int g = 0; g < groups; ++g) steps(static_cast<std::size_t>(g) * steps.at_once);
                    },
                    {}};
          }};
}

}  // namespace

std::vector<Contender> BENCH_LIMITS() {
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
      steps(),
  };
}

}  // namespace bench
