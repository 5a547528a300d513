#pragma once

#include <algorithm>
#include <array>
#include <cstring>

#include <syncbn/backends/detail/cpu_memory.hpp>
#include <syncbn/backends/detail/cpu_sums.hpp>

// A walk where neighbouring channels are neighbours in memory (NHWC): a slab of channels goes down the rows, a tile of rows
// at a time, so that a tile's lines are used up while they are in the first cache. Element i of a block belongs to lane
// i % 8, as in cpu_sums.hpp.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

using ChannelPacket = Packet<double>;
inline constexpr int group_channels = packet_size<double>;  // a packet of neighbouring channels

// A slab has at least a group of channels, if there are as many; fewer that are left over join the last one.
template <class Storage>
inline constexpr Index most_groups = most_slab_channels<Storage> / group_channels + 1;
inline Index slabs_of(Index channels, Index slab_channels) noexcept {
  const Index rest = channels % slab_channels;
  const Index whole = channels / slab_channels;
  const bool joins = whole > 0 && rest < group_channels;
  return rest == 0 || joins ? whole : whole + 1;
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
  Index channels;
  bool asks_ahead;

  Index groups() const noexcept { return (channels + group_channels - 1) / group_channels; }
  // The last group may lie over the one before: it computes the same for those channels.
  Index channel_of(Index group) const noexcept {
    const Index c = group * group_channels;
    return c + group_channels <= channels || c == 0 ? c : channels - group_channels;
  }
  // The first row's numbers of a group of operand 0; zeros where there are fewer channels than it has.
  ChannelPacket first_row(Index group, Index offset) const noexcept {
    const Storage* const from = data[0] + channel_of(group) + offset;
    if (channels >= group_channels) return load_packet<double>(from);
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

// Asks for the lines of a tile that comes next, in their order and a few at a time: a walk down one tile reads as many lines
// as the next one has, and all at once they would be too many to wait for.
template <class Storage, std::size_t Operands>
class TileAhead {
 public:
  TileAhead(const Slab<Storage, Operands>& slab, const TileOffsets<Operands>& offset, Index rows) noexcept
      : data_(slab.data),
        offset_(&offset[0]),
        bytes_(slab.channels * static_cast<Index>(sizeof(Storage))),
        left_(slab.asks_ahead && bytes_ >= 64 ? rows : 0) {}  // shorter rows share lines, which come by themselves

  // For some lines.
  SYNCBN_ALWAYS_INLINE void ask(std::size_t lines) noexcept {
    for (; lines > 0 && left_ > 0; --lines) {
      unrolled<Operands>([&](auto k) SYNCBN_INLINE_LAMBDA { prefetch_beyond(data_[k] + (*offset_)[k], byte_); });
      byte_ += 64;
      if (byte_ < bytes_) continue;
      byte_ = 0;
      ++offset_;
      --left_;
    }
  }

 private:
  std::array<const Storage*, Operands> data_;
  const std::array<Index, Operands>* offset_;
  Index bytes_;
  Index left_;  // rows
  Index byte_ = 0;
};

// One packet of each operand. An array of the standard library would lose the packet's alignment, and g++ says so.
template <std::size_t Operands>
struct PacketOfEach {
  ChannelPacket of[Operands];
};

// Some groups of a slab, from g on, in a tile of rows: load(k, row) is what the operands have there of the k-th.
template <std::size_t groups, class Storage, std::size_t Operands>
class TileOfGroups {
 public:
  SYNCBN_ALWAYS_INLINE TileOfGroups(const Slab<Storage, Operands>& slab, const TileOffsets<Operands>& offset,
                                    Index g) noexcept
      : offset_(&offset[0]) {
    for (std::size_t k = 0; k < groups; ++k) {
      for (std::size_t o = 0; o < Operands; ++o) {
        at_[k][o] = slab.data[o] + slab.channel_of(g + static_cast<Index>(k));
      }
    }
  }
  SYNCBN_ALWAYS_INLINE PacketOfEach<Operands> load(std::size_t k, Index row) const noexcept {
    PacketOfEach<Operands> result;
    unrolled<Operands>([&](auto o)
                           SYNCBN_INLINE_LAMBDA { result.of[o] = load_packet<double>(at_[k][o] + offset_[row][o]); });
    return result;
  }

 private:
  const std::array<Index, Operands>* offset_;
  const Storage* at_[groups][Operands];
};

// Adds a tile of rows, of `groups` groups from g on: values(origin, operands, first, second) adds a row's part to the two
// sums of its lane.
template <std::size_t groups, class Storage, std::size_t Operands, class Values>
SYNCBN_ALWAYS_INLINE void sum_tile(const Slab<Storage, Operands>& slab, const TileOffsets<Operands>& offset, Index rows,
                                   Index g, const ChannelPacket* origins, GroupSums* sums,
                                   TileAhead<Storage, Operands>& shared_ahead, const Values& values) noexcept {
  TileAhead<Storage, Operands> ahead = shared_ahead;  // in registers
  constexpr std::size_t lanes = chains / groups;
  const TileOfGroups<groups, Storage, Operands> tile(slab, offset, g);
  ChannelPacket origin[groups];
  unrolled<groups>([&](auto k) SYNCBN_INLINE_LAMBDA { origin[k] = origins[g + k]; });
  const Index whole = rows - rows % lane_count;
  for (std::size_t from = 0; from < lane_count; from += lanes) {
    ChannelPacket first[groups][lanes];
    ChannelPacket second[groups][lanes];
    unrolled<groups>([&](auto k) SYNCBN_INLINE_LAMBDA {
      unrolled<lanes>([&](auto lane) SYNCBN_INLINE_LAMBDA {
        first[k][lane] = sums[g + k].first[from + lane];
        second[k][lane] = sums[g + k].second[from + lane];
      });
    });
    for (auto r = static_cast<Index>(from); r < whole; r += lane_count) {
      ahead.ask(lanes);
      unrolled<lanes>([&](auto lane) SYNCBN_INLINE_LAMBDA {
        unrolled<groups>([&](auto k) SYNCBN_INLINE_LAMBDA {
          values(origin[k], tile.load(k, r + lane), first[k][lane], second[k][lane]);
        });
      });
    }
    unrolled<groups>([&](auto k) SYNCBN_INLINE_LAMBDA {
      unrolled<lanes>([&](auto lane) SYNCBN_INLINE_LAMBDA {
        sums[g + k].first[from + lane] = first[k][lane];
        sums[g + k].second[from + lane] = second[k][lane];
      });
    });
  }
  for (Index r = whole; r < rows; ++r) {
    unrolled<groups>([&](auto k) SYNCBN_INLINE_LAMBDA {
      values(origin[k], tile.load(k, r), sums[g + k].first[r - whole], sums[g + k].second[r - whole]);
    });
  }
  shared_ahead = ahead;
}

// Rows of fewer channels than a group has, each with zeros after it.
template <class Storage, std::size_t Operands>
class PaddedTile {
 public:
  // Puts them where the slab and the offsets say afterwards.
  void take(Slab<Storage, Operands>& slab, TileOffsets<Operands>& offset, Index rows) noexcept {
    for (std::size_t o = 0; o < Operands; ++o) {
      for (Index r = 0; r < rows; ++r) {
        const Storage* const row = slab.data[o] + offset[r][o];
        offset[r][o] = r * group_channels;
        std::memcpy(rows_[o] + offset[r][o], row, static_cast<std::size_t>(slab.channels) * sizeof(Storage));
      }
      slab.data[o] = rows_[o];
    }
  }

 private:
  Storage rows_[Operands][most_tile_rows * group_channels] = {};
};

// Adds n rows from the cursor on, of all groups. The lines of a tile are asked for while the one before is summed.
template <class Storage, std::size_t Operands, class Values>
void sum_rows(const Slab<Storage, Operands>& slab, Cursor<Operands> cursor, Index n, const ChannelPacket* origins,
              GroupSums* sums, const Values& values) noexcept {
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
  if (slab.channels < group_channels) {
    PaddedTile<Storage, Operands> padded;
    for (Index done = 0; done < n; done += most_tile_rows) {
      const Index rows = std::min(n - done, most_tile_rows);
      walk(rows, buffers[0]);
      auto tile = slab;
      padded.take(tile, buffers[0], rows);
      TileAhead<Storage, Operands> nothing(tile, buffers[0], 0);
      sum_tile<1>(tile, buffers[0], rows, 0, origins, sums, nothing, values);
    }
    return;
  }
  const Index most_rows = tile_rows<Operands>(slab.asks_ahead);
  Index rows = std::min(n, most_rows);
  walk(rows, buffers[0]);
  for (Index done = 0, tile = 0; done < n; ++tile) {
    const TileOffsets<Operands>& offset = buffers[tile % 2];
    TileOffsets<Operands>& next = buffers[(tile + 1) % 2];
    done += rows;
    const Index next_rows = std::min(n - done, most_rows);
    walk(next_rows, next);
    TileAhead<Storage, Operands> ahead(slab, next, next_rows);
    constexpr std::size_t together = groups_of_line<Storage>;
    Index g = 0;
    for (; g + static_cast<Index>(together) <= slab.groups(); g += static_cast<Index>(together)) {
      sum_tile<together>(slab, offset, rows, g, origins, sums, ahead, values);
    }
    for (; g < slab.groups(); ++g) sum_tile<1>(slab, offset, rows, g, origins, sums, ahead, values);
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

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
