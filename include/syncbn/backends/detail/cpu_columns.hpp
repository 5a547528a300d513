#pragma once

#include <syncbn/backends/detail/cpu_slab.hpp>
#include <syncbn/backends/detail/cpu_sums.hpp>

// The reductions where neighbouring channels are neighbours in memory. What is added to what is the same as in
// cpu_sums.hpp.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

// The function of that name in cpu_sums.hpp, for a group of channels.
inline void moments_about(const ChannelPacket& shift, double count, const GroupSums& sums, double* mean,
                          double* m2) noexcept {
  const ChannelPacket counts = packet_math::pset1<ChannelPacket>(count);
  const ChannelPacket sum = sum_of_group(sums.first);
  const ChannelPacket squares = sum_of_group(sums.second);
  packet_math::pstoreu(mean, packet_math::padd(shift, packet_math::pdiv(sum, counts)));
  packet_math::pstoreu(m2, packet_math::psub(squares, packet_math::pdiv(packet_math::pmul(sum, sum), counts)));
  for (int c = 0; c < group_channels; ++c) m2[c] = m2[c] < 0 ? 0 : m2[c];
}

// The moments of a block of n rows: put(channel of the slab, moments) for each channel.
template <class Storage, class Put>
void moments_of_columns(const Slab<Storage, 1>& slab, const Cursor<1>& cursor, Index n, const Put& put) noexcept {
  GroupSums sums[most_groups<Storage>];
  ChannelPacket origin[most_groups<Storage>];
  const double elements = static_cast<double>(n);
  const auto set_origin = [&](Index g, const ChannelPacket& values) {
    double shift[group_channels];
    packet_math::pstoreu(shift, values);
    for (double& s : shift) s = finite_or_zero(s);
    origin[g] = packet_math::ploadu<ChannelPacket>(shift);
    sums[g].clear();
  };
  for (Index g = 0; g < slab.groups(); ++g) set_origin(g, slab.first_row(g, cursor.offset(0)));
  if constexpr (refines_shift<Storage>) {
    sum_rows(slab, cursor, n, origin, sums,
             [](const ChannelPacket& about, const PacketOfEach<1>& x, ChannelPacket& first, ChannelPacket&)
                 SYNCBN_INLINE_LAMBDA { first = packet_math::padd(first, packet_math::psub(x.of[0], about)); });
    for (Index g = 0; g < slab.groups(); ++g) {
      const ChannelPacket mean =
          packet_math::pdiv(sum_of_group(sums[g].first), packet_math::pset1<ChannelPacket>(elements));
      set_origin(g, packet_math::padd(origin[g], mean));
    }
  }
  sum_rows(slab, cursor, n, origin, sums,
           [](const ChannelPacket& about, const PacketOfEach<1>& x, ChannelPacket& first, ChannelPacket& second)
               SYNCBN_INLINE_LAMBDA {
                 const ChannelPacket d = packet_math::psub(x.of[0], about);
                 first = packet_math::padd(first, d);
                 second = packet_math::pmadd(d, d, second);
               });
  double mean[most_groups<Storage>][group_channels];
  double m2[most_groups<Storage>][group_channels];
  for (Index g = 0; g < slab.groups(); ++g) moments_about(origin[g], elements, sums[g], mean[g], m2[g]);
  for_each_channel(
      slab, [&](Index channel, Index g, Index c) { put(channel, ChannelMoments{elements, mean[g][c], m2[g][c]}); });
}

// The sums of the gradient over a block of n rows; operand 0 is dy, 1 is x.
template <class Storage, class Put>
void gradient_sums_of_columns(const Slab<Storage, 2>& slab, const Cursor<2>& cursor, Index n, const double* mean,
                              const Put& put) noexcept {
  GroupSums sums[most_groups<Storage>];
  ChannelPacket origin[most_groups<Storage>];
  for (Index g = 0; g < slab.groups(); ++g) {
    origin[g] = slab.load_numbers(mean + slab.channel_of(g));
    sums[g].clear();
  }
  sum_rows(slab, cursor, n, origin, sums,
           [](const ChannelPacket& about, const PacketOfEach<2>& in, ChannelPacket& first, ChannelPacket& second)
               SYNCBN_INLINE_LAMBDA {
                 first = packet_math::padd(first, in.of[0]);
                 second = packet_math::pmadd(in.of[0], packet_math::psub(in.of[1], about), second);
               });
  double sum[most_groups<Storage>][group_channels];
  double centred[most_groups<Storage>][group_channels];
  for (Index g = 0; g < slab.groups(); ++g) {
    packet_math::pstoreu(sum[g], sum_of_group(sums[g].first));
    packet_math::pstoreu(centred[g], sum_of_group(sums[g].second));
  }
  for_each_channel(slab, [&](Index channel, Index g, Index c) {
    put(channel, TwoSums{sum[g][c], centred_sum(centred[g][c], mean[channel])});
  });
}

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
