#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <memory>

#include <syncbn/backends/detail/cpu_geometry.hpp>
#include <syncbn/backends/detail/cpu_memory.hpp>
#include <syncbn/moments.hpp>

// The elementwise passes: y from x, dx from dy and x. One loop over packets serves all of them; what differs is the
// coefficients: those of one channel for a run of its elements, or those of neighbouring channels for one element.

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
  static constexpr Index most_entries = 1024;

  // channels * rows <= most_entries
  template <class CoefficientsOf>
  NeighbouringChannels(const CoefficientsOf& coefficients_of, Index first, Index channels, Index rows) noexcept {
    for (Index c = 0; c < channels; ++c) {
      const auto values = numbers(coefficients_of(first + c));
      for (std::size_t i = 0; i < values.size(); ++i) {
        for (Index e = c; e < channels * rows; e += channels) values_[i][e] = values[i];
      }
    }
    // The last packet of a run is read whole.
    for (auto& v : values_) {
      for (Index e = channels * rows; e < channels * rows + packet_size<P>; ++e) v[e] = 0;
    }
  }
  auto at(Index entry) const noexcept {
    return packets<P>(static_cast<const Coefficients*>(nullptr),
                      [&](std::size_t i) { return packet_math::ploadu<Packet<P>>(values_[i] + entry); });
  }

 private:
  P values_[std::tuple_size_v<decltype(numbers(Coefficients()))>][most_entries + packet_size<P>];
};

template <class P, class Storage, std::size_t Inputs>
Operands<P, Inputs> load(const std::array<const Storage*, Inputs>& in, Index i) noexcept {
  Operands<P, Inputs> result;
  for (std::size_t k = 0; k < Inputs; ++k) result.value[k] = load_packet<P>(in[k] + i);
  return result;
}

// Where results are written. Past the caches is for outputs that are no inputs.
enum class Store { cached, streamed };

// Whether a run is worth it: lines at its ends that are written in part go through the caches, and bring their neighbours
// with them, so that there must be many between.
template <class P, class Storage>
bool streams(const Storage* out, Index n) noexcept {
  if constexpr (!std::is_same_v<P, Storage>) {
    return false;
  } else {
    constexpr Index line = 64 / static_cast<Index>(sizeof(P));
    if (elements_to_alignment(out) > packet_size<P>) return false;
    const bool whole_lines = reinterpret_cast<std::uintptr_t>(out) % 64 == 0 && n % line == 0;
    return whole_lines || n >= 32 * line;
  }
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

// A run of neighbours; `first` is the index of in[.][0] for the coefficients.
template <class P, class Storage, std::size_t Inputs, class Source>
void evaluate_run(const std::array<const Storage*, Inputs>& in, Storage* out, Index n, const Source& source,
                  Index first, Store store) noexcept {
  constexpr Index width = packet_size<P>;
  if (n < width) return evaluate_few<P>(in, out, n, source, first);
  const auto at = [&](Index i) { return evaluate<P>(source.at(first + i), load<P>(in, i)); };
  // The last packet may lie over the one before. It is computed first: the output may be an input.
  const auto last = at(n - width);
  Index i = 0;
  if (store == Store::streamed && streams<P>(out, n)) {
    if constexpr (std::is_same_v<P, Storage>) {
      const Index aligned = elements_to_alignment(out);
      if (aligned > 0) store_packet<P>(out, at(0));
      for (i = aligned; i + width <= n; i += width) stream_store(out + i, at(i));
    }
  } else {
    for (; i + width <= n; i += width) store_packet<P>(out + i, at(i));
  }
  if (i < n) store_packet<P>(out + n - width, last);
}

// A run of elements at any stride; the last pointer and stride are the output's.
template <class P, class Storage, std::size_t Inputs, class Source>
void map_run(const std::array<const Storage*, Inputs>& in, Storage* out, const std::array<Index, Inputs + 1>& stride,
             Index n, const Source& source, Store store) noexcept {
  bool contiguous = true;
  for (const Index s : stride) contiguous = contiguous && s == 1;
  if (contiguous) return evaluate_run<P>(in, out, n, source, 0, store);
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
    evaluate_run<P>(from, results, count, source, first, Store::cached);
    for (Index i = 0; i < count; ++i) std::memcpy(out + (first + i) * stride[Inputs], results + i, sizeof(Storage));
  }
}

// Elements [first, last) of one channel.
template <class P, std::size_t Inputs, class Storage, class CoefficientsOf>
void map_rows(const Geometry<Inputs + 1>& geometry, const std::array<const Storage*, Inputs>& in, Storage* out,
              Index channel, Index first, Index last, const CoefficientsOf& coefficients_of, Store store) noexcept {
  using Coefficients = decltype(coefficients_of(Index{0}));
  const OneChannel<P, Coefficients> source(coefficients_of(channel));
  std::array<Index, Inputs + 1> stride;
  for (std::size_t k = 0; k <= Inputs; ++k) stride[k] = geometry.run_stride(k);
  Cursor<Inputs + 1> cursor(geometry, first);
  while (first < last) {
    const Index count = cursor.run() < last - first ? cursor.run() : last - first;
    std::array<const Storage*, Inputs> from;
    for (std::size_t k = 0; k < Inputs; ++k) {
      from[k] = in[k] + channel * geometry.channel_stride[k] + cursor.offset(k);
    }
    Storage* to = out + channel * geometry.channel_stride[Inputs] + cursor.offset(Inputs);
    map_run<P>(from, to, stride, count, source, store);
    cursor.advance(count);
    first += count;
  }
  if (store == Store::streamed) end_streaming();
}

// As many channels as map_channels() takes.
inline constexpr Index most_channels_at_once = 32;

// All elements of the channels [first, last), which are neighbours in memory run by run and too short to be written past
// the caches one by one.
template <class P, std::size_t Inputs, class CoefficientsOf>
void map_short_runs(const Geometry<Inputs + 1>& geometry, const std::array<const P*, Inputs>& in, P* out, Index first,
                    Index last, const CoefficientsOf& coefficients_of) noexcept {
  using Source = OneChannel<P, decltype(coefficients_of(Index{0}))>;
  alignas(Source) std::byte memory[most_channels_at_once * sizeof(Source)];
  Source* const sources = static_cast<Source*>(static_cast<void*>(memory));
  for (Index c = first; c < last; ++c) std::construct_at(sources + (c - first), coefficients_of(c));
  const Index n = geometry.run_length();
  Cursor<Inputs + 1> cursor(geometry, 0);
  for (Index done = 0; done < geometry.elements; done += n) {
    LineWriter<P> writer(out + first * geometry.channel_stride[Inputs] + cursor.offset(Inputs));
    for (Index c = first; c < last; ++c) {
      std::array<const P*, Inputs> from;
      for (std::size_t k = 0; k < Inputs; ++k) from[k] = in[k] + c * geometry.channel_stride[k] + cursor.offset(k);
      evaluate_run<P>(from, writer.next(n), n, sources[c - first], 0, Store::cached);
    }
    writer.finish();
    cursor.advance(n);
  }
  end_streaming();
}

// All elements of the channels [first, last), at most most_channels_at_once.
template <class P, std::size_t Inputs, class Storage, class CoefficientsOf>
void map_channels(const Geometry<Inputs + 1>& geometry, const std::array<const Storage*, Inputs>& in, Storage* out,
                  Index first, Index last, const CoefficientsOf& coefficients_of, Store store) noexcept {
  if constexpr (std::is_same_v<P, Storage>) {
    const Index n = geometry.run_length();
    if (store == Store::streamed && geometry.contiguous_runs() && geometry.channel_stride[Inputs] == n &&
        n <= LineWriter<P>::most_elements && !streams<P>(out + first * n, n)) {
      return map_short_runs<P>(geometry, in, out, first, last, coefficients_of);
    }
  }
  for (Index c = first; c < last; ++c) {
    map_rows<P, Inputs>(geometry, in, out, c, Index{0}, geometry.elements, coefficients_of, store);
  }
}

// Elements [first, last) of all channels, where rows of neighbouring channels follow one another without gaps: several
// rows are one run.
template <class P, std::size_t Inputs, class Storage, class CoefficientsOf>
void map_dense_columns(Index channels, const std::array<const Storage*, Inputs>& in, Storage* out, Index first,
                       Index last, const CoefficientsOf& coefficients_of, Store store) noexcept {
  using Source = NeighbouringChannels<P, decltype(coefficients_of(Index{0}))>;
  static_assert(Source::most_entries <= LineWriter<P>::most_elements);
  const Index rows = std::min(Source::most_entries / channels, last - first);
  const Source source(coefficients_of, 0, channels, rows);
  const auto map_all = [&](const auto& place) {
    for (Index row = first; row < last; row += rows) {
      std::array<const Storage*, Inputs> from;
      for (std::size_t k = 0; k < Inputs; ++k) from[k] = in[k] + row * channels;
      const Index n = std::min(rows, last - row) * channels;
      evaluate_run<P>(from, place(row, n), n, source, 0, store);
    }
  };
  if constexpr (std::is_same_v<P, Storage>) {
    if (store == Store::streamed && !streams<P>(out + first * channels, rows * channels)) {
      LineWriter<P> writer(out + first * channels);
      store = Store::cached;
      map_all([&](Index, Index n) { return writer.next(n); });
      writer.finish();
      return end_streaming();
    }
  }
  map_all([&](Index row, Index) { return out + row * channels; });
  if (store == Store::streamed) end_streaming();
}

// Elements [first, last) of all channels, where channels are neighbours in memory.
template <class P, std::size_t Inputs, class Storage, class CoefficientsOf>
void map_columns(const Geometry<Inputs + 1>& geometry, const std::array<const Storage*, Inputs>& in, Storage* out,
                 Index first, Index last, const CoefficientsOf& coefficients_of, Store store) noexcept {
  using Source = NeighbouringChannels<P, decltype(coefficients_of(Index{0}))>;
  if (geometry.dense_rows() && geometry.channels <= Source::most_entries) {
    return map_dense_columns<P>(geometry.channels, in, out, first, last, coefficients_of, store);
  }
  std::array<Index, Inputs + 1> stride;
  stride.fill(1);
  for (Index channel = 0; channel < geometry.channels; channel += Source::most_entries) {
    const Index count = std::min(geometry.channels - channel, Source::most_entries);
    const Source source(coefficients_of, channel, count, 1);
    Cursor<Inputs + 1> cursor(geometry, first);
    for (Index element = first; element < last; ++element) {
      std::array<const Storage*, Inputs> from;
      for (std::size_t k = 0; k < Inputs; ++k) from[k] = in[k] + channel + cursor.offset(k);
      map_run<P>(from, out + channel + cursor.offset(Inputs), stride, count, source, store);
      cursor.advance(1);
    }
  }
  if (store == Store::streamed) end_streaming();
}

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
