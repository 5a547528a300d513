#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <new>
#include <numeric>
#include <type_traits>

#include <syncbn/backends/detail/cpu_evaluate.hpp>
#include <syncbn/concepts.hpp>

// The elementwise passes: how they walk through a tensor in each layout.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

// How the runs of some channels are written.
enum class Write {
  packets,       // one by one
  lines,         // put together in lines first, past the caches: elements whose packets cannot be
  joined_lines,  // the same for several runs, which are short and neighbours
};
template <class P, class Storage, std::size_t Operands>
Write how_to_write(const Geometry<Operands>& geometry, const Storage* out, Access access) noexcept {
  const Index n = geometry.run_length();
  if (!access.past_caches || streams<P>(out, n)) return Write::packets;
  if (!has_short_runs<Storage>(geometry)) return streams_packets<P, Storage> ? Write::packets : Write::lines;
  return geometry.channel_stride[Operands - 1] == n ? Write::joined_lines : Write::packets;
}

// Elements [first, last) of some channels, at most most_channels_at_once, whose runs are contiguous: from run to run as they
// lie in memory. Short runs are given whole.
template <class P, std::size_t Inputs, class Storage, class CoefficientsOf>
void map_runs(const Geometry<Inputs + 1>& geometry, const std::array<const Storage*, Inputs>& in, Storage* out,
              ChannelRange range, Index first, Index last, const CoefficientsOf& coefficients_of,
              Access access) noexcept {
  using Source = OneChannel<P, decltype(coefficients_of(Index{0}))>;
  alignas(Source) std::byte memory[most_channels_at_once * sizeof(Source)];
  Source* const begin = static_cast<Source*>(static_cast<void*>(memory));
  for (Index c = range.first; c < range.last; ++c) std::construct_at(begin + (c - range.first), coefficients_of(c));
  const Source* const sources = std::launder(begin);
  const Write how = how_to_write<P>(geometry, out + range.first * geometry.channel_stride[Inputs], access);
  LineWriter<Storage> writer(out);
  Cursor<Inputs + 1> cursor(geometry, first);
  while (first < last) {
    const Index n = std::min(cursor.run(), last - first);
    const auto to = [&](Index c) { return out + c * geometry.channel_stride[Inputs] + cursor.offset(Inputs); };
    if (how == Write::joined_lines) writer.begin(to(range.first));
    for (Index c = range.first; c < range.last; ++c) {
      std::array<const Storage*, Inputs> from;
      for (std::size_t k = 0; k < Inputs; ++k) from[k] = in[k] + c * geometry.channel_stride[k] + cursor.offset(k);
      const Source& source = sources[c - range.first];
      if (how == Write::packets) {
        evaluate_run<P>(from, to(c), n, source, 0, access);
      } else if (how == Write::joined_lines) {
        evaluate_run<P>(from, writer.next(n), n, source, 0, {false, access.bytes_ahead});
      } else {
        evaluate_in_lines<P>(from, to(c), n, source, writer, access.bytes_ahead);
      }
    }
    if (how == Write::joined_lines) writer.finish();
    cursor.advance(n);
    first += n;
  }
  if (access.past_caches) end_streaming();
}

// Elements [first, last) of one channel, at any stride.
template <class P, std::size_t Inputs, class Storage, class CoefficientsOf>
void map_strided(const Geometry<Inputs + 1>& geometry, const std::array<const Storage*, Inputs>& in, Storage* out,
                 Index channel, Index first, Index last, const CoefficientsOf& coefficients_of) noexcept {
  const OneChannel<P, decltype(coefficients_of(Index{0}))> source(coefficients_of(channel));
  std::array<Index, Inputs + 1> stride;
  for (std::size_t k = 0; k <= Inputs; ++k) stride[k] = geometry.run_stride(k);
  Cursor<Inputs + 1> cursor(geometry, first);
  while (first < last) {
    const Index count = std::min(cursor.run(), last - first);
    std::array<const Storage*, Inputs> from;
    for (std::size_t k = 0; k < Inputs; ++k) {
      from[k] = in[k] + channel * geometry.channel_stride[k] + cursor.offset(k);
    }
    Storage* to = out + channel * geometry.channel_stride[Inputs] + cursor.offset(Inputs);
    map_run<P>(from, to, stride, count, source, {});
    cursor.advance(count);
    first += count;
  }
}

// Elements [first, last) of some channels, at most most_channels_at_once.
template <class P, std::size_t Inputs, class Storage, class CoefficientsOf>
void map_channels(const Geometry<Inputs + 1>& geometry, const std::array<const Storage*, Inputs>& in, Storage* out,
                  ChannelRange range, Index first, Index last, const CoefficientsOf& coefficients_of,
                  Access access) noexcept {
  if (first >= last) return;
  if (geometry.contiguous_runs()) {
    map_runs<P>(geometry, in, out, range, first, last, coefficients_of, access);
  } else {
    for (Index c = range.first; c < range.last; ++c) map_strided<P>(geometry, in, out, c, first, last, coefficients_of);
  }
}

// How many rows are one run: as many as pay for writing their coefficients down, and whole lines if possible.
template <class Storage>
Index rows_of_run(Index channels, Index rows, Index most_entries) noexcept {
  const Index most = std::max<Index>(1, std::min(most_entries / channels, rows / 8));
  const Index unit = std::lcm(channels, 64 / static_cast<Index>(sizeof(Storage))) / channels;
  return most < unit ? most : most / unit * unit;
}

// Elements [first, last) of all channels, where rows of neighbouring channels follow one another without gaps: several
// rows are one run.
template <class P, std::size_t Inputs, class Storage, class CoefficientsOf>
void map_dense_columns(Index channels, const std::array<const Storage*, Inputs>& in, Storage* out, Index first,
                       Index last, const CoefficientsOf& coefficients_of, Access access) noexcept {
  using Source = NeighbouringChannels<P, decltype(coefficients_of(Index{0}))>;
  static_assert(Source::most_entries <= LineWriter<Storage>::most_elements);
  const Index rows = rows_of_run<Storage>(channels, last - first, Source::most_entries);
  const Index run = rows * channels;
  // Where runs are whole lines, they begin with one: `skew` elements after the first row does, if need be.
  const bool can_stream = access.past_caches && streams_packets<P, Storage>;
  const bool streams_runs = can_stream && run * static_cast<Index>(sizeof(Storage)) % 64 == 0;
  const Index skew = streams_runs ? elements_to_line(out + first * channels) : 0;
  const Source source([&](Index c) { return coefficients_of((c + skew) % channels); }, 0, channels, rows);
  const auto map_all = [&](const auto& place, Access how) {
    const Index end = last * channels;
    for (Index i = first * channels, n = 0; i < end; i += n) {
      const bool is_head = i < first * channels + skew;
      n = std::min(is_head ? skew : run, end - i);
      std::array<const Storage*, Inputs> from;
      for (std::size_t k = 0; k < Inputs; ++k) from[k] = in[k] + i;
      evaluate_run<P>(from, place(i, n), n, source, is_head ? run - skew : 0, how);
    }
  };
  if (access.past_caches && !streams_runs) {
    LineWriter<Storage> writer(out + first * channels);
    map_all([&](Index, Index n) { return writer.next(n); }, {false, access.bytes_ahead});
    writer.finish();
  } else {
    map_all([&](Index i, Index) { return out + i; }, access);
  }
  if (access.past_caches) end_streaming();
}

// Elements [first, last) of all channels, where channels are neighbours in memory.
template <class P, std::size_t Inputs, class Storage, class CoefficientsOf>
void map_columns(const Geometry<Inputs + 1>& geometry, const std::array<const Storage*, Inputs>& in, Storage* out,
                 Index first, Index last, const CoefficientsOf& coefficients_of, Access access) noexcept {
  using Source = NeighbouringChannels<P, decltype(coefficients_of(Index{0}))>;
  if (geometry.dense_rows() && geometry.channels <= Source::most_entries) {
    return map_dense_columns<P>(geometry.channels, in, out, first, last, coefficients_of, access);
  }
  std::array<Index, Inputs + 1> stride;
  stride.fill(1);
  for (Index channel = 0; channel < geometry.channels; channel += Source::most_entries) {
    const Index count = std::min(geometry.channels - channel, Source::most_entries);
    if (count < geometry.channels) access.bytes_ahead = 0;  // what follows is of other channels
    const Source source(coefficients_of, channel, count, 1);
    Cursor<Inputs + 1> cursor(geometry, first);
    for (Index element = first; element < last; ++element) {
      std::array<const Storage*, Inputs> from;
      for (std::size_t k = 0; k < Inputs; ++k) from[k] = in[k] + channel + cursor.offset(k);
      map_run<P>(from, out + channel + cursor.offset(Inputs), stride, count, source, access);
      cursor.advance(1);
    }
  }
  if (access.past_caches) end_streaming();
}

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
