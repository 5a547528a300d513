#pragma once

#include <algorithm>
#include <array>

#include <syncbn/backends/detail/cpu_memory.hpp>
#include <syncbn/backends/detail/cpu_sums.hpp>

// The reductions where neighbouring channels are neighbours in memory (NHWC): a slab of channels walks down the rows, a
// tile of rows at a time, so that a tile's lines are used up while they are in the first cache. What is added to what is
// the same as in cpu_sums.hpp: element i of a block belongs to lane i % 8.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

using ChannelPacket = Packet<double>;
inline constexpr int group_channels = packet_size<double>;  // a packet of neighbouring channels

// A slab has at least a group of channels; fewer that are left over join the last one. Fewer than a group altogether need
// rows without gaps.
template <class Storage>
inline constexpr Index most_groups = most_slab_channels<Storage> / group_channels + 1;
inline Index slabs_of(Index channels, Index slab_channels, bool dense_rows) noexcept {
  if (channels < group_channels) return dense_rows ? 1 : 0;
  const Index rest = channels % slab_channels;
  const Index whole = channels / slab_channels;
  return rest >= group_channels ? whole + 1 : whole;
}

static_assert(most_tile_rows % (2 * lane_count) == 0);  // and those of a tile of two operands

// Sums that are in registers at a time, of each kind: of some lanes of those groups that share a line, so that a line is
// read once, wherever rows of many channels alias in the caches.
inline constexpr std::size_t chains = group_channels >= 8 ? 8 : 4;
template <class Storage>
inline constexpr std::size_t groups_of_line =
    std::clamp<std::size_t>(64 / (group_channels * sizeof(Storage)), 1, chains);

// The two sums of one group of channels, lane by lane.
struct GroupSums {
  ChannelPacket first[lane_count];
  ChannelPacket second[lane_count];

  void clear() noexcept {
    for (int lane = 0; lane < lane_count; ++lane) {
      first[lane] = second[lane] = packet_math::pset1<ChannelPacket>(0.0);
    }
  }
};

inline ChannelPacket sum_of_group(const ChannelPacket (&lanes)[lane_count]) noexcept {
  const auto add = [](const ChannelPacket& a, const ChannelPacket& b) { return packet_math::padd(a, b); };
  return add(add(add(lanes[0], lanes[4]), add(lanes[2], lanes[6])),
             add(add(lanes[1], lanes[5]), add(lanes[3], lanes[7])));
}

// A slab's tensors: where its first channel lies in each operand.
template <class Storage, std::size_t Operands>
struct Slab {
  std::array<const Storage*, Operands> data;
  std::array<const Storage*, Operands> end;  // beyond the last row, where channels are fewer than a group
  Index channels;
  bool asks_ahead;

  Index groups() const noexcept { return (channels + group_channels - 1) / group_channels; }
  // The last group may lie over the one before: it computes the same for those channels.
  Index channel_of(Index group) const noexcept {
    const Index c = group * group_channels;
    return c + group_channels <= channels || c == 0 ? c : channels - group_channels;
  }
  // A group of one operand. Fewer channels than that are loaded together with what follows them, the next row.
  ChannelPacket load(std::size_t operand, const Storage* from) const noexcept {
    if (channels >= group_channels || end[operand] - from >= group_channels) return load_packet<double>(from);
    double padded[group_channels] = {};
    for (Index c = 0; c < channels; ++c) padded[c] = load_element<double>(from + c);
    return packet_math::ploadu<ChannelPacket>(padded);
  }
  // As many numbers as a group has, of those that there are.
  template <class T>
  ChannelPacket load_numbers(const T* from) const noexcept {
    double padded[group_channels] = {};
    for (Index c = 0; c < group_channels && c < channels; ++c) padded[c] = from[c];
    return packet_math::ploadu<ChannelPacket>(padded);
  }
};

// A tile's places: of each row in each operand.
template <std::size_t Operands>
using TileOffsets = std::array<Index, Operands>[most_tile_rows];

// Asks for the lines of a tile that comes next, in their order and one at a time: a walk down one tile reads as many lines
// as the next one has, and all at once they would be too many to wait for.
template <class Storage, std::size_t Operands>
class TileAhead {
 public:
  TileAhead(const Slab<Storage, Operands>& slab, const TileOffsets<Operands>& offset, Index rows) noexcept
      : data_(slab.data),
        offset_(&offset[0]),
        bytes_(slab.channels * static_cast<Index>(sizeof(Storage))),
        left_(slab.asks_ahead && bytes_ >= 64 ? rows : 0) {}  // shorter rows share lines, which come by themselves

  SYNCBN_ALWAYS_INLINE void ask() noexcept {
    if (left_ == 0) return;
    for (std::size_t k = 0; k < Operands; ++k) prefetch_beyond(data_[k] + (*offset_)[k], byte_);
    byte_ += 64;
    if (byte_ < bytes_) return;
    byte_ = 0;
    ++offset_;
    --left_;
  }

 private:
  std::array<const Storage*, Operands> data_;
  const std::array<Index, Operands>* offset_;
  Index bytes_;
  Index left_;  // rows
  Index byte_ = 0;
};

// Calls values(group, pointers, first, second) for a tile of rows and `groups` groups from g on; it adds a row's part to the
// two sums of its lane.
template <std::size_t groups, class Storage, std::size_t Operands, class Values>
SYNCBN_ALWAYS_INLINE void sum_tile(const Slab<Storage, Operands>& slab, const TileOffsets<Operands>& offset, Index rows,
                                   Index g, GroupSums* sums, TileAhead<Storage, Operands>& shared_ahead,
                                   const Values& values) noexcept {
  TileAhead<Storage, Operands> ahead = shared_ahead;  // in registers
  constexpr std::size_t lanes = chains / groups;
  Index channel[groups];
  unrolled<groups>([&](auto k) { channel[k] = slab.channel_of(g + k); });
  const auto add = [&](Index row, int k, ChannelPacket& first, ChannelPacket& second) SYNCBN_INLINE_LAMBDA {
    std::array<const Storage*, Operands> at;
    for (std::size_t o = 0; o < Operands; ++o) at[o] = slab.data[o] + channel[k] + offset[row][o];
    values(g + k, at, first, second);
  };
  const Index whole = rows - rows % lane_count;
  for (std::size_t from = 0; from < lane_count; from += lanes) {
    ChannelPacket first[groups][lanes];
    ChannelPacket second[groups][lanes];
    unrolled<groups>([&](auto k) {
      unrolled<lanes>([&](auto lane) {
        first[k][lane] = sums[g + k].first[from + lane];
        second[k][lane] = sums[g + k].second[from + lane];
      });
    });
    for (auto r = static_cast<Index>(from); r < whole; r += lane_count) {
      unrolled<lanes>([&](auto lane) {
        ahead.ask();
        unrolled<groups>([&](auto k) { add(r + lane, k, first[k][lane], second[k][lane]); });
      });
    }
    unrolled<groups>([&](auto k) {
      unrolled<lanes>([&](auto lane) {
        sums[g + k].first[from + lane] = first[k][lane];
        sums[g + k].second[from + lane] = second[k][lane];
      });
    });
  }
  for (Index r = whole; r < rows; ++r) {
    unrolled<groups>([&](auto k) { add(r, k, sums[g + k].first[r - whole], sums[g + k].second[r - whole]); });
  }
  shared_ahead = ahead;
}

// The same for n rows from the cursor on and all groups. The lines of a tile are asked for while the one before is summed.
template <class Storage, std::size_t Operands, class Values>
void sum_rows(const Slab<Storage, Operands>& slab, Cursor<Operands> cursor, Index n, GroupSums* sums,
              const Values& values) noexcept {
  TileOffsets<Operands> buffers[2];
  const auto walk = [&](Index count, TileOffsets<Operands>& offset) {
    for (Index r = 0; r < count;) {
      const Index run = std::min(cursor.run(), count - r);
      for (Index i = 0; i < run; ++i) {
        for (std::size_t k = 0; k < Operands; ++k) offset[r + i][k] = cursor.offset(k) + i * cursor.stride(k);
      }
      cursor.advance(run);
      r += run;
    }
  };
  Index rows = std::min(n, tile_rows<Operands>(slab.asks_ahead));
  walk(rows, buffers[0]);
  for (Index done = 0, tile = 0; done < n; ++tile) {
    const TileOffsets<Operands>& offset = buffers[tile % 2];
    TileOffsets<Operands>& next = buffers[(tile + 1) % 2];
    done += rows;
    const Index next_rows = std::min(n - done, tile_rows<Operands>(slab.asks_ahead));
    walk(next_rows, next);
    TileAhead<Storage, Operands> ahead(slab, next, next_rows);
    const auto some = [&]<std::size_t groups>(Index g, std::integral_constant<std::size_t, groups>)
                          SYNCBN_INLINE_LAMBDA { sum_tile<groups>(slab, offset, rows, g, sums, ahead, values); };
    constexpr auto together = static_cast<Index>(groups_of_line<Storage>);
    Index g = 0;
    for (; g + together <= slab.groups(); g += together)
      some(g, std::integral_constant<std::size_t, groups_of_line<Storage>>());
    for (; g < slab.groups(); ++g) some(g, std::integral_constant<std::size_t, 1>());
    rows = next_rows;
  }
}

// Calls f(channel of the slab, group, number within the group) once for each channel.
template <class Storage, std::size_t Operands, class F>
void for_each_channel(const Slab<Storage, Operands>& slab, const F& f) noexcept {
  for (Index channel = 0, g = 0; g < slab.groups(); ++g) {
    for (; channel < slab.channels && channel < slab.channel_of(g) + group_channels; ++channel) {
      f(channel, g, channel - slab.channel_of(g));
    }
  }
}

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
  double shift[most_groups<Storage>][group_channels];
  const double elements = static_cast<double>(n);
  const auto set_origin = [&](Index g, const ChannelPacket& values) {
    packet_math::pstoreu(shift[g], values);
    for (double& s : shift[g]) s = finite_or_zero(s);
    origin[g] = packet_math::ploadu<ChannelPacket>(shift[g]);
    sums[g].clear();
  };
  for (Index g = 0; g < slab.groups(); ++g) {
    set_origin(g, slab.load(0, slab.data[0] + slab.channel_of(g) + cursor.offset(0)));
  }
  if constexpr (refines_shift<Storage>) {
    sum_rows(slab, cursor, n, sums,
             [&](Index g, const std::array<const Storage*, 1>& at, ChannelPacket& first, ChannelPacket&) {
               first = packet_math::padd(first, packet_math::psub(slab.load(0, at[0]), origin[g]));
             });
    for (Index g = 0; g < slab.groups(); ++g) {
      const ChannelPacket mean =
          packet_math::pdiv(sum_of_group(sums[g].first), packet_math::pset1<ChannelPacket>(elements));
      set_origin(g, packet_math::padd(origin[g], mean));
    }
  }
  sum_rows(slab, cursor, n, sums,
           [&](Index g, const std::array<const Storage*, 1>& at, ChannelPacket& first, ChannelPacket& second) {
             const ChannelPacket d = packet_math::psub(slab.load(0, at[0]), origin[g]);
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
  sum_rows(slab, cursor, n, sums,
           [&](Index g, const std::array<const Storage*, 2>& at, ChannelPacket& first, ChannelPacket& second) {
             const ChannelPacket dy = slab.load(0, at[0]);
             first = packet_math::padd(first, dy);
             second = packet_math::pmadd(dy, packet_math::psub(slab.load(1, at[1]), origin[g]), second);
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
