#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <memory>

#include <syncbn/backends/detail/cpu_blocking.hpp>
#include <syncbn/backends/detail/cpu_memory.hpp>
#include <syncbn/moments.hpp>

// y from x, dx from dy and x, for runs of elements. One loop over packets serves all; what differs is the coefficients:
// those of one channel for a run of its elements, or those of neighbouring channels for one element.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

// The operands at one place. (A std::array of packets would make g++ warn that it drops their alignment attribute.)
template <class P, std::size_t Inputs>
struct Operands {
  Packet<P> value[Inputs];
};

// y = (x - mean) * scale + offset
template <class P>
Packet<P> evaluate(const NormalizeCoefficients<Packet<P>>& k, const Operands<P, 1>& in) noexcept {
  return packet_math::pmadd(packet_math::psub(in.value[0], k.mean), k.scale, k.offset);
}

// dx = ((dy - dy_mean) - (x - mean) * slope) * scale + offset; k.slope comes negated
template <class P>
Packet<P> evaluate(const PropagateCoefficients<Packet<P>>& k, const Operands<P, 2>& in) noexcept {
  const Packet<P> centred = packet_math::psub(in.value[1], k.mean);
  const Packet<P> gradient = packet_math::psub(in.value[0], k.dy_mean);
  return packet_math::pmadd(packet_math::pmadd(centred, k.slope, gradient), k.scale, k.offset);
}

// A channel's coefficients as plain numbers, in the order of the members; the sign of the slope is turned (see above).
template <class P>
std::array<P, 3> numbers(const NormalizeCoefficients<P>& k) noexcept {
  return {k.mean, k.scale, k.offset};
}
template <class P>
std::array<P, 5> numbers(const PropagateCoefficients<P>& k) noexcept {
  return {k.dy_mean, k.mean, -k.slope, k.scale, k.offset};
}
template <class P, class At>
NormalizeCoefficients<Packet<P>> packets(const NormalizeCoefficients<P>*, const At& at) noexcept {
  return {at(0), at(1), at(2)};
}
template <class P, class At>
PropagateCoefficients<Packet<P>> packets(const PropagateCoefficients<P>*, const At& at) noexcept {
  return {at(0), at(1), at(2), at(3), at(4)};
}

// One channel's coefficients, whatever the element.
template <class P, class Coefficients>
class OneChannel {
 public:
  using Held = OneChannel;
  explicit OneChannel(const Coefficients& k) noexcept
      : packets_(packets<P>(
            &k, [values = numbers(k)](std::size_t i) { return packet_math::pset1<Packet<P>>(values[i]); })) {}
  const auto& at(Index) const noexcept { return packets_; }

 private:
  decltype(packets<P>(static_cast<const Coefficients*>(nullptr), [](std::size_t) { return Packet<P>(); })) packets_;
};

// The coefficients of neighbouring channels, several times over for as many rows; element i of a run of rows belongs to
// entry i.
template <class P, class Coefficients>
class NeighbouringChannels {
 public:
  using Held = const NeighbouringChannels&;
  static constexpr Index most_entries = 1024;

  // channels * rows <= most_entries
  template <class CoefficientsOf>
  NeighbouringChannels(const CoefficientsOf& coefficients_of, Index first, Index channels, Index rows) noexcept {
    for (Index c = 0; c < channels; ++c) {
      const auto values = numbers(coefficients_of(first + c));
      for (std::size_t i = 0; i < values.size(); ++i) values_[i][c] = values[i];
    }
    for (auto& v : values_) {
      for (Index row = 1; row < rows; ++row) std::copy_n(v, channels, v + row * channels);
      // The last packet of a run is read whole.
      std::fill_n(v + channels * rows, packet_size<P>, P{0});
    }
  }
  auto at(Index entry) const noexcept {
    return packets<P>(static_cast<const Coefficients*>(nullptr),
                      [&](std::size_t i) { return packet_math::ploadu<Packet<P>>(values_[i] + entry); });
  }

 private:
  alignas(64) P values_[std::tuple_size_v<decltype(numbers(Coefficients()))>][most_entries + packet_size<P>];
};

template <class P, class Storage, std::size_t Inputs>
SYNCBN_ALWAYS_INLINE Operands<P, Inputs> load(const std::array<const Storage*, Inputs>& in, Index i) noexcept {
  Operands<P, Inputs> result;
  unrolled<Inputs>([&](auto k) SYNCBN_INLINE_LAMBDA { result.value[k] = load_packet<P>(in[k] + i); });
  return result;
}

// Whether a run is worth it: lines at its ends that are written in part go through the caches, and bring their neighbours
// with them, so that there must be many between.
template <class P, class Storage>
bool streams(const Storage* out, Index n) noexcept {
  constexpr Index line = 64 / static_cast<Index>(sizeof(Storage));
  return streams_packets<P, Storage> && (in_whole_lines(out, n) || n >= (std::is_same_v<P, Storage> ? 16 : 32) * line);
}

// Fewer elements than a packet go through the same instructions as all others, on a padded copy: an element's result
// never depends on where its run begins or ends.
template <class P, class Storage, std::size_t Inputs, class Source>
void evaluate_few(const std::array<const Storage*, Inputs>& in, Storage* out, Index n, const Source& source,
                  Index first) noexcept {
  constexpr auto width = static_cast<std::size_t>(packet_size<P>);
  const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(Storage);
  Storage padded[Inputs][width] = {};
  std::array<const Storage*, Inputs> from;
  for (std::size_t k = 0; k < Inputs; ++k) {
    std::memcpy(padded[k], in[k], bytes);
    from[k] = padded[k];
  }
  Storage results[width];
  store_packet<P>(results, evaluate<P>(source.at(first), load<P>(from, 0)));
  std::memcpy(out, results, bytes);
}

// Whole packets of a run from element i on, as many as there are before element n. Returns where they end. Past the
// caches only from aligned addresses on.
template <class P, bool past_caches, class Storage, std::size_t Inputs, class Source>
SYNCBN_ALWAYS_INLINE Index evaluate_packets(std::array<const Storage*, Inputs> in, Storage* out, Index i, Index n,
                                            const Source& given, Index first, Index bytes_ahead) noexcept {
  // In registers: for all that the compiler knows, results may be written over what is referred to.
  const typename Source::Held source = given;
  constexpr Index width = packet_size<P>;
  constexpr Index line = std::max(width, 64 / static_cast<Index>(sizeof(Storage)));
  const auto put = [&](Index j) SYNCBN_INLINE_LAMBDA {
    const auto result = evaluate<P>(source.at(first + j), load<P>(in, j));
    if constexpr (past_caches) {
      stream_packet<P>(out + j, result);
    } else {
      store_packet<P>(out + j, result);
    }
  };
  for (; i + line <= n; i += line) {
    if (bytes_ahead > 0) {
      unrolled<Inputs>([&](auto k) SYNCBN_INLINE_LAMBDA { prefetch_beyond(in[k] + i, bytes_ahead); });
    }
    if constexpr (!past_caches) prefetch_into_first_cache(out + i, bytes_ahead_of_results);
    unrolled<line / width>([&](auto part) SYNCBN_INLINE_LAMBDA { put(i + part * width); });
  }
  for (; i + width <= n; i += width) put(i);
  return i;
}

// A run past the caches, of a packet at least. Of lines at its ends that are not whole only its own elements are written, and
// none of a line that is streamed: a line that is written in both ways takes as long as many others.
template <class P, class Storage, std::size_t Inputs, class Source>
void stream_run(const std::array<const Storage*, Inputs>& in, Storage* out, Index n, const Source& source, Index first,
                Index bytes_ahead) noexcept {
  constexpr Index width = packet_size<P>;
  constexpr Index line = 64 / static_cast<Index>(sizeof(Storage));
  const auto at = [&](Index i) { return evaluate<P>(source.at(first + i), load<P>(in, i)); };
  const auto some = [&](Index i, Index end) {
    for (; i + width <= end; i += width) store_packet<P>(out + i, at(i));
    if (i >= end) return;
    const Index from = std::min(i, n - width);
    Storage values[static_cast<std::size_t>(width)];
    store_packet<P>(values, at(from));
    std::memcpy(out + i, values + (i - from), static_cast<std::size_t>(end - i) * sizeof(Storage));
  };
  const Index head = std::min(elements_to_line(out), n);
  some(0, head);
  const Index whole = head + (n - head) / line * line;
  evaluate_packets<P, true>(in, out, head, whole, source, first, bytes_ahead);
  some(whole, n);
}

// A run of neighbours; `first` is the index of in[.][0] for the coefficients.
template <class P, class Storage, std::size_t Inputs, class Source>
void evaluate_run(const std::array<const Storage*, Inputs>& in, Storage* out, Index n, const Source& source,
                  Index first, Access access) noexcept {
  constexpr Index width = packet_size<P>;
  if (n < width) return evaluate_few<P>(in, out, n, source, first);
  if constexpr (streams_packets<P, Storage>) {
    if (access.past_caches && streams<P>(out, n)) return stream_run<P>(in, out, n, source, first, access.bytes_ahead);
  }
  const auto at = [&](Index i) { return evaluate<P>(source.at(first + i), load<P>(in, i)); };
  const Index i = evaluate_packets<P, false>(in, out, 0, n - width, source, first, access.bytes_ahead);
  // The last packet may lie over the one before. It is computed before that is written: the output may be an input.
  const auto last = at(n - width);
  if (i < n - width) store_packet<P>(out + i, at(i));
  store_packet<P>(out + n - width, last);
}

// The same past the caches, for formats whose packets cannot be written so.
template <class P, class Storage, std::size_t Inputs, class Source>
void evaluate_in_lines(std::array<const Storage*, Inputs> in, Storage* out, Index n, const Source& source,
                       LineWriter<Storage>& writer, Index bytes_ahead) noexcept {
  writer.begin(out);
  while (n > 0) {
    const Index m = std::min(n, LineWriter<Storage>::most_elements);
    evaluate_run<P>(in, writer.next(m), m, source, 0, {false, bytes_ahead});
    for (auto& from : in) from += m;
    n -= m;
  }
  writer.finish();
}

// A run of elements at any stride; the last pointer and stride are the output's.
template <class P, class Storage, std::size_t Inputs, class Source>
void map_run(const std::array<const Storage*, Inputs>& in, Storage* out, const std::array<Index, Inputs + 1>& stride,
             Index n, const Source& source, Access access) noexcept {
  bool contiguous = true;
  for (const Index s : stride) contiguous = contiguous && s == 1;
  if (contiguous) return evaluate_run<P>(in, out, n, source, 0, access);
  constexpr Index tile = 256;
  Storage buffer[Inputs][tile];
  Storage results[tile];
  std::array<const Storage*, Inputs> from;
  for (std::size_t k = 0; k < Inputs; ++k) from[k] = buffer[k];
  for (Index first = 0; first < n; first += tile) {
    const Index count = n - first < tile ? n - first : tile;
    for (std::size_t k = 0; k < Inputs; ++k) {
      for (Index i = 0; i < count; ++i) {
        std::memcpy(buffer[k] + i, in[k] + (first + i) * stride[k], sizeof(Storage));
      }
    }
    evaluate_run<P>(from, results, count, source, first, {});
    for (Index i = 0; i < count; ++i) std::memcpy(out + (first + i) * stride[Inputs], results + i, sizeof(Storage));
  }
}

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
