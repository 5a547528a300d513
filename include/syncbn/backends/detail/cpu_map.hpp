#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>

#include <syncbn/backends/detail/cpu_evaluate.hpp>
#include <syncbn/concepts.hpp>

// The elementwise passes: how they walk through a tensor in each layout.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

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

// All elements of some channels, which are neighbours in memory run by run and too short to be written past the caches one
// by one.
template <class P, std::size_t Inputs, class CoefficientsOf>
void map_short_runs(const Geometry<Inputs + 1>& geometry, const std::array<const P*, Inputs>& in, P* out,
                    ChannelRange range, const CoefficientsOf& coefficients_of) noexcept {
  const auto [first, last] = range;
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

// All elements of some channels, at most most_channels_at_once.
template <class P, std::size_t Inputs, class Storage, class CoefficientsOf>
void map_channels(const Geometry<Inputs + 1>& geometry, const std::array<const Storage*, Inputs>& in, Storage* out,
                  ChannelRange range, const CoefficientsOf& coefficients_of, Store store) noexcept {
  if constexpr (std::is_same_v<P, Storage>) {
    const Index n = geometry.run_length();
    if (store == Store::streamed && geometry.contiguous_runs() && geometry.channel_stride[Inputs] == n &&
        n <= LineWriter<P>::most_elements && !streams<P>(out + range.first * n, n)) {
      return map_short_runs<P>(geometry, in, out, range, coefficients_of);
    }
  }
  for (Index c = range.first; c < range.last; ++c) {
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
