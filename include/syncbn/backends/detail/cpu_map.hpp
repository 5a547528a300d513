#pragma once

#include <array>

#include <syncbn/backends/detail/cpu_geometry.hpp>
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

inline constexpr int most_coefficients = 5;

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

// The coefficients of up to `most_channels` neighbouring channels; element i of a run belongs to channel i.
template <class P, class Coefficients>
class NeighbouringChannels {
 public:
  static constexpr Index most_channels = 256;

  template <class CoefficientsOf>
  NeighbouringChannels(const CoefficientsOf& coefficients_of, Index first, Index count) noexcept {
    for (Index c = 0; c < count; ++c) {
      const auto values = numbers(coefficients_of(first + c));
      for (std::size_t i = 0; i < values.size(); ++i) values_[i][static_cast<std::size_t>(c)] = values[i];
    }
  }
  auto at(Index c) const noexcept {
    return packets<P>(static_cast<const Coefficients*>(nullptr),
                      [&](std::size_t i) { return packet_math::ploadu<Packet<P>>(values_[i].data() + c); });
  }

 private:
  // A packet more than channels, since the last packet of a run is read whole.
  std::array<std::array<P, most_channels + packet_size<P>>, most_coefficients> values_{};
};

template <class P, std::size_t Inputs>
Operands<P, Inputs> load(const std::array<const P*, Inputs>& in, Index i) noexcept {
  Operands<P, Inputs> result;
  for (std::size_t k = 0; k < Inputs; ++k) result.value[k] = packet_math::ploadu<Packet<P>>(in[k] + i);
  return result;
}

// The last elements go through the same instructions as all others, on a padded copy: an element's result never depends
// on where its run begins or ends. `first` is the index of in[.][0] for the coefficients.
template <class P, std::size_t Inputs, class Source>
void evaluate_run(const std::array<const P*, Inputs>& in, P* out, Index n, const Source& source, Index first) noexcept {
  constexpr Index width = packet_size<P>;
  Index i = 0;
  for (; i + width <= n; i += width) {
    packet_math::pstoreu(out + i, evaluate<P>(source.at(first + i), load<P>(in, i)));
  }
  if (i == n) return;
  P padded[Inputs][static_cast<std::size_t>(width)] = {};
  std::array<const P*, Inputs> from;
  for (std::size_t k = 0; k < Inputs; ++k) {
    for (Index j = 0; j < n - i; ++j) padded[k][j] = in[k][i + j];
    from[k] = padded[k];
  }
  P results[static_cast<std::size_t>(width)];
  packet_math::pstoreu(results, evaluate<P>(source.at(first + i), load<P>(from, 0)));
  for (Index j = 0; j < n - i; ++j) out[i + j] = results[j];
}

// A run of elements of any format at any stride; the last pointer and stride are the output's.
template <class P, class Storage, std::size_t Inputs, class Source>
void map_run(const std::array<const Storage*, Inputs>& in, Storage* out, const std::array<Index, Inputs + 1>& stride,
             Index n, const Source& source) noexcept {
  if constexpr (std::is_same_v<P, Storage>) {
    bool contiguous = true;
    for (const Index s : stride) contiguous = contiguous && s == 1;
    if (contiguous) return evaluate_run<P>(in, out, n, source, 0);
  }
  constexpr Index tile = 256;
  P buffer[Inputs][tile];
  P results[tile];
  std::array<const P*, Inputs> from;
  for (std::size_t k = 0; k < Inputs; ++k) from[k] = buffer[k];
  for (Index first = 0; first < n; first += tile) {
    const Index count = n - first < tile ? n - first : tile;
    for (std::size_t k = 0; k < Inputs; ++k) {
      for (Index i = 0; i < count; ++i) buffer[k][i] = load_element<P>(in[k] + (first + i) * stride[k]);
    }
    evaluate_run<P>(from, results, count, source, first);
    for (Index i = 0; i < count; ++i) store_element(out + (first + i) * stride[Inputs], results[i]);
  }
}

// Elements [first, last) of one channel.
template <class P, std::size_t Inputs, class Storage, class CoefficientsOf>
void map_rows(const Geometry<Inputs + 1>& geometry, const std::array<const Storage*, Inputs>& in, Storage* out,
              Index channel, Index first, Index last, const CoefficientsOf& coefficients_of) noexcept {
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
    map_run<P>(from, to, stride, count, source);
    cursor.advance(count);
    first += count;
  }
}

// Elements [first, last) of all channels, where channels are neighbours in memory.
template <class P, std::size_t Inputs, class Storage, class CoefficientsOf>
void map_columns(const Geometry<Inputs + 1>& geometry, const std::array<const Storage*, Inputs>& in, Storage* out,
                 Index first, Index last, const CoefficientsOf& coefficients_of) noexcept {
  using Source = NeighbouringChannels<P, decltype(coefficients_of(Index{0}))>;
  std::array<Index, Inputs + 1> stride;
  stride.fill(1);
  for (Index channel = 0; channel < geometry.channels; channel += Source::most_channels) {
    const Index left = geometry.channels - channel;
    const Index count = left < Source::most_channels ? left : Source::most_channels;
    const Source source(coefficients_of, channel, count);
    Cursor<Inputs + 1> cursor(geometry, first);
    for (Index element = first; element < last; ++element) {
      std::array<const Storage*, Inputs> from;
      for (std::size_t k = 0; k < Inputs; ++k) from[k] = in[k] + channel + cursor.offset(k);
      map_run<P>(from, out + channel + cursor.offset(Inputs), stride, count, source);
      cursor.advance(1);
    }
  }
}

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
