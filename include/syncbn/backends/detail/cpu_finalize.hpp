#pragma once

#include <syncbn/backends/detail/cpu_packet.hpp>
#include <syncbn/detail/channel_functors.hpp>

// Functors of a channel that divide or take roots, for as many channels at a time as a packet holds: where tensors are small,
// these take longer than the tensors. The same bits, since each operation is rounded by itself.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

// for_each(c) for packets of channels from c on, then f(c) for each that is left over.
template <class ForPacket, class F>
void for_packets(Index channels, const ForPacket& for_packet, const F& f) noexcept {
  constexpr Index at_once = packet_size<double>;
  Index c = 0;
  for (; c + at_once <= channels; c += at_once) for_packet(c);
  for (; c < channels; ++c) f(c);
}

inline void run(Index channels, const syncbn::detail::FinalizeMoments& f) noexcept {
  const double count = *f.count;
  if (channels == 0) return;
  if (count == 0 || f.eps == 0) {  // special cases
    for (Index c = 0; c < channels; ++c) f(c);
    return;
  }
  *f.count_out = count;
  const auto all = [](double value) { return packet_math::pset1<Packet<double>>(value); };
  const auto load = [](const double* from) { return packet_math::ploadu<Packet<double>>(from); };
  for_packets(
      channels,
      [&](Index c) {
        const Packet<double> variance = packet_math::pdiv(load(f.m2 + c), all(count));
        const Packet<double> deviation = square_root(packet_math::padd(variance, all(f.eps)));
        packet_math::pstoreu(f.mean_out + c, load(f.mean + c));
        packet_math::pstoreu(f.variance + c, variance);
        packet_math::pstoreu(f.inverse_deviation + c, packet_math::pdiv(all(1), deviation));
      },
      f);
}

inline void run(Index channels, const syncbn::detail::FinalizeGradient& f) noexcept {
  const double count = *f.count;
  if (count == 0) {
    for (Index c = 0; c < channels; ++c) f(c);
    return;
  }
  const auto divide = [count](const double* sums, double* means) {
    const auto sum = packet_math::ploadu<Packet<double>>(sums);
    packet_math::pstoreu(means, packet_math::pdiv(sum, packet_math::pset1<Packet<double>>(count)));
  };
  for_packets(
      channels,
      [&](Index c) {
        divide(f.dy + c, f.mean_dy + c);
        divide(f.dy_centred + c, f.mean_dy_centred + c);
      },
      f);
}

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
