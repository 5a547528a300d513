#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include <syncbn/backends/detail/cpu_blocking.hpp>
#include <syncbn/backends/detail/cpu_lanes.hpp>
#include <syncbn/backends/detail/cpu_memory.hpp>
#include <syncbn/moments.hpp>

// The reductions, moments of x and the two sums of the gradient, for elements that are neighbours within a channel;
// cpu_columns.hpp has those for channels that are neighbours. Both add the same numbers in the same order: element i of a
// block belongs to lane i % 8, lanes are added as sum_of_lanes() does.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

// One block's moments, from sums about a value near its mean: the corrected formula of Chan, Golub and LeVeque 1983.
inline ChannelMoments moments_about(double shift, double count, double sum, double squares) noexcept {
  const double m2 = squares - sum * sum / count;
  return {count, shift + sum / count, m2 < 0 ? 0 : m2};
}

// An infinite shift would make inf - inf = NaN of a mean that is infinite.
inline double finite_or_zero(double value) noexcept { return std::isfinite(value) ? value : 0; }

// f64 data need a shift closer to the mean than the block's first element is: see docs/numerics.md.
template <class Storage>
inline constexpr bool refines_shift = std::is_same_v<Storage, double>;

// Blocks that are summed side by side: a block alone is one chain of additions, each of which waits for the one before.
inline constexpr std::size_t blocks_at_once = std::max<std::size_t>(1, most_blocks_at_once / Lanes::count);

// `count` blocks of n elements each, walked side by side: where their elements are neighbours, in pieces as long as the
// shortest run that is left; otherwise gathered first, as are runs so short that pieces would end within lanes too often.
template <std::size_t count, class Storage, std::size_t Operands>
class Blocks {
 public:
  using Pointers = const Storage* [Operands][count];
  struct Place {
    std::array<const Storage*, Operands> channel;
    Index first;  // element
  };

  // place(k) is where block k begins.
  template <class PlaceOf>
  Blocks(const Geometry<Operands>& geometry, Index n, const PlaceOf& place) noexcept
      : n_(n),
        together_(begin_together(place)),
        in_place_(geometry.contiguous_runs() && has_long_pieces(geometry)),
        cursors_([&]<std::size_t... k>(std::index_sequence<k...>) {
          return std::array<Cursor<Operands>, count>{Cursor<Operands>(geometry, place(k).first)...};
        }(std::make_index_sequence<count>())) {
    for (std::size_t k = 0; k < count; ++k) {
      channels_[k] = place(k).channel;
      for (std::size_t o = 0; o < Operands && !in_place_; ++o) {
        gathered_[o][k] = fetch(channels_[k][o], cursors_[k], geometry, o, n, buffer_[o][k]);
      }
    }
  }

  Index size() const noexcept { return n_; }
  double first_of(std::size_t k) const noexcept {
    return load_element<double>(in_place_ ? channels_[k][0] + cursors_[k].offset(0) : gathered_[0][k]);
  }

  // visit(pointers, m, lane): the next m elements of all blocks, of which the first belongs to `lane`.
  template <class Visit>
  SYNCBN_ALWAYS_INLINE void for_each_piece(const Visit& visit) const noexcept {
    auto cursors = cursors_;
    const std::size_t apart = together_ ? 1 : count;
    Pointers at = {};
    if (!in_place_) std::copy_n(&gathered_[0][0], Operands * count, &at[0][0]);
    for (Index left = n_; left > 0;) {
      Index m = left;
      if (in_place_) {
        for (std::size_t k = 0; k < apart; ++k) m = std::min(m, cursors[k].run());
        unrolled<count>([&](auto k) SYNCBN_INLINE_LAMBDA {
          const Cursor<Operands>& cursor = cursors[together_ ? 0 : k];
          unrolled<Operands>([&](auto o) SYNCBN_INLINE_LAMBDA { at[o][k] = channels_[k][o] + cursor.offset(o); });
        });
      }
      visit(at, m, (n_ - left) % lane_count);
      left -= m;
      for (std::size_t k = 0; k < apart && left > 0; ++k) cursors[k].advance(m);
    }
  }

 private:
  template <class PlaceOf>
  static bool begin_together(const PlaceOf& place) noexcept {
    bool result = true;
    for (std::size_t k = 1; k < count; ++k) result = result && place(k).first == place(0).first;
    return result;
  }
  // Of runs that all blocks begin together short ones are walked too, where an instruction loads a part of the lanes; others
  // cut each other into pieces.
  bool has_long_pieces(const Geometry<Operands>& geometry) const noexcept {
    constexpr Index long_enough = 16 * lane_count;
    const bool takes_short_ones = together_ && Lanes::loads_some_at_once<Storage>;
    return takes_short_ones || geometry.run_length() >= long_enough || geometry.run_length() % lane_count == 0;
  }

  Index n_;
  bool together_;  // blocks begin at the same element, so that one cursor is for all
  bool in_place_;
  std::array<Cursor<Operands>, count> cursors_;
  std::array<const Storage*, Operands> channels_[count];
  Pointers gathered_;
  Storage buffer_[Operands][count][block_elements];
};

// Calls visit(k, lanes of block k in each operand); rest[o][k] stands in for elements beyond the last.
template <std::size_t count, class Storage, std::size_t Operands, class Visit>
SYNCBN_ALWAYS_INLINE void for_each_lanes(const Blocks<count, Storage, Operands>& blocks,
                                         const double (&rest)[Operands][count], const Visit& visit) noexcept {
  constexpr int line = 64 / static_cast<int>(sizeof(Storage));
  const auto piece = [&](const typename Blocks<count, Storage, Operands>::Pointers& at, Index m,
                         Index lane) SYNCBN_INLINE_LAMBDA {
    // Elements from i on, which belong to the lanes [first, last).
    const auto some = [&](Index i, Index first, Index last) SYNCBN_INLINE_LAMBDA {
      unrolled<count>([&](auto k) SYNCBN_INLINE_LAMBDA {
        std::array<Lanes, Operands> lanes;
        unrolled<Operands>(
            [&](auto o) SYNCBN_INLINE_LAMBDA { lanes[o] = Lanes::load_some(at[o][k] + i, first, last, rest[o][k]); });
        visit(k, lanes);
      });
    };
    const Index head = lane == 0 ? 0 : std::min(lane_count - lane, m);
    if (head > 0) some(0, lane, lane + head);
    const auto whole = [&](Index i) SYNCBN_INLINE_LAMBDA {
      unrolled<count>([&](auto k) SYNCBN_INLINE_LAMBDA {
        std::array<Lanes, Operands> lanes;
        unrolled<Operands>([&](auto o) SYNCBN_INLINE_LAMBDA { lanes[o] = Lanes::load(at[o][k] + i); });
        visit(k, lanes);
      });
    };
    const auto ask_ahead = [&](Index i) SYNCBN_INLINE_LAMBDA {
      unrolled<count>([&](auto k) SYNCBN_INLINE_LAMBDA {
        unrolled<Operands>([&](auto o) SYNCBN_INLINE_LAMBDA { prefetch_beyond(at[o][k] + i, bytes_ahead_of_walk); });
      });
    };
    Index i = head;
    for (; i + line <= m; i += line) {
      ask_ahead(i);
      unrolled<line / lane_count>([&](auto part) SYNCBN_INLINE_LAMBDA { whole(i + part * lane_count); });
    }
    if (i < m) ask_ahead(i);
    for (; i + lane_count <= m; i += lane_count) whole(i);
    if (i < m) some(i, 0, m - i);
  };
  blocks.for_each_piece(piece);
}

template <std::size_t count, class Storage>
void moments_of_blocks(const Blocks<count, Storage, 1>& blocks, ChannelMoments (&out)[count]) noexcept {
  const double elements = static_cast<double>(blocks.size());
  double shift[1][count];
  Lanes origin[count];
  Lanes sum[count];
  unrolled<count>([&](auto k) SYNCBN_INLINE_LAMBDA { shift[0][k] = finite_or_zero(blocks.first_of(k)); });
  const auto set_origin = [&](auto k) SYNCBN_INLINE_LAMBDA {
    origin[k] = Lanes::all(shift[0][k]);
    sum[k] = Lanes::all(0);
  };
  unrolled<count>(set_origin);
  if constexpr (refines_shift<Storage>) {
    for_each_lanes(blocks, shift, [&](auto k, const std::array<Lanes, 1>& x) SYNCBN_INLINE_LAMBDA {
      sum[k] = sum[k] + (x[0] - origin[k]);
    });
    unrolled<count>([&](auto k) SYNCBN_INLINE_LAMBDA {
      shift[0][k] = finite_or_zero(shift[0][k] + sum_of_lanes(sum[k]) / elements);
    });
    unrolled<count>(set_origin);
  }
  Lanes squares[count];
  unrolled<count>([&](auto k) SYNCBN_INLINE_LAMBDA { squares[k] = Lanes::all(0); });
  for_each_lanes(blocks, shift, [&](auto k, const std::array<Lanes, 1>& x) SYNCBN_INLINE_LAMBDA {
    const Lanes d = x[0] - origin[k];
    sum[k] = sum[k] + d;
    squares[k] = multiply_add(d, d, squares[k]);
  });
  unrolled<count>([&](auto k) SYNCBN_INLINE_LAMBDA {
    out[k] = moments_about(shift[0][k], elements, sum_of_lanes(sum[k]), sum_of_lanes(squares[k]));
  });
}

struct TwoSums {
  double dy = 0;
  double dy_centred = 0;
};
inline TwoSums merge(TwoSums a, TwoSums b) noexcept { return {a.dy + b.dy, a.dy_centred + b.dy_centred}; }

// About a mean that is not finite there are no deviations, in whatever layout.
inline double centred_sum(double sum, double mean) noexcept {
  return std::isfinite(mean) ? sum : std::numeric_limits<double>::quiet_NaN();
}

// Operand 0 is dy, 1 is x; mean is that of each block's channel.
template <std::size_t count, class Storage>
void gradient_sums_of_blocks(const Blocks<count, Storage, 2>& blocks, const double (&mean)[count],
                             TwoSums (&out)[count]) noexcept {
  double rest[2][count];
  Lanes origin[count];
  Lanes sum[count];
  Lanes centred[count];
  unrolled<count>([&](auto k) SYNCBN_INLINE_LAMBDA {
    rest[0][k] = 0;
    rest[1][k] = mean[k];
    origin[k] = Lanes::all(mean[k]);
    sum[k] = centred[k] = Lanes::all(0);
  });
  for_each_lanes(blocks, rest, [&](auto k, const std::array<Lanes, 2>& lanes) SYNCBN_INLINE_LAMBDA {
    sum[k] = sum[k] + lanes[0];
    centred[k] = multiply_add(lanes[0], lanes[1] - origin[k], centred[k]);
  });
  unrolled<count>([&](auto k) SYNCBN_INLINE_LAMBDA {
    out[k] = {sum_of_lanes(sum[k]), centred_sum(sum_of_lanes(centred[k]), mean[k])};
  });
}

// Merges the sums of one channel's blocks, which come in order, into segments, and those in order.
template <class Sum>
class Merger {
 public:
  // From a segment on.
  Merger(const Grid& grid, Index segment) noexcept : grid_(grid), current_(segment) {}

  void add(Index block, const Sum& sum) noexcept {
    if (block == grid_.first_block(current_ + 1)) {
      total_ = merge(total_, segment_);
      segment_ = {};
      ++current_;
    }
    segment_ = merge(segment_, sum);
  }
  Sum total() const noexcept { return merge(total_, segment_); }

 private:
  const Grid& grid_;
  Index current_;
  Sum total_;
  Sum segment_;
};

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
