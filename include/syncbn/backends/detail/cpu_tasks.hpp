#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include <syncbn/backends/detail/cpu_blocking.hpp>
#include <syncbn/backends/detail/cpu_columns.hpp>
#include <syncbn/backends/detail/cpu_few_columns.hpp>
#include <syncbn/backends/detail/cpu_map.hpp>
#include <syncbn/backends/detail/cpu_rows.hpp>
#include <syncbn/concepts.hpp>

// The passes over a tensor, each as an object that knows its operands and does a part of the work: some channels, a
// segment of one channel, or, where channels are neighbours, a block or a segment of several; and how an executor's tasks
// share them out.

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {
namespace cpu {

// The moments of x.
template <class Storage>
struct MomentsPass {
  using Element = Storage;
  using Sum = ChannelMoments;

  explicit MomentsPass(TensorView<const Storage> x) noexcept : geometry(x), grid(geometry.elements), data(x.data()) {}

  void channels(ChannelRange range, Sum* out) const noexcept {
    sum_channels(grid, range, channels_side_by_side<Storage>(geometry, grid), out, summer());
  }
  Sum row(Index channel, Index segment) const noexcept {
    return sum_segments<Sum>(grid, channel, segment, segment + 1, summer());
  }
  template <class Put>
  void columns(ChannelRange range, Index block, const Put& put) const noexcept {
    const Slab<Storage, 1> slab{{data + range.first}, range.size(), asks_ahead(bytes_of<Storage>(geometry))};
    const Cursor<1> cursor(geometry, grid.first_element(block));
    const Index n = grid.size_of(block);
    if (!with_few_columns(geometry, [&](auto few) { moments_of_few_columns<few()>(slab, cursor, n, put); })) {
      moments_of_columns(slab, cursor, n, put);
    }
  }

  Geometry<1> geometry;
  Grid grid;
  const Storage* data;

 private:
  auto summer() const noexcept { return moments_summer(data, geometry, grid); }
};

// The sums of the gradient.
template <class Storage>
struct GradientPass {
  using Element = Storage;
  using Sum = TwoSums;

  GradientPass(TensorView<const Storage> dy, TensorView<const Storage> x, const double* mean_of_x) noexcept
      : geometry(dy, x), grid(geometry.elements), data{dy.data(), x.data()}, mean(mean_of_x) {}

  void channels(ChannelRange range, Sum* out) const noexcept {
    sum_channels(grid, range, channels_side_by_side<Storage>(geometry, grid), out, summer());
  }
  Sum row(Index channel, Index segment) const noexcept {
    return sum_segments<Sum>(grid, channel, segment, segment + 1, summer());
  }
  template <class Put>
  void columns(ChannelRange range, Index block, const Put& put) const noexcept {
    const Slab<Storage, 2> slab{
        {data[0] + range.first, data[1] + range.first}, range.size(), asks_ahead(bytes_of<Storage>(geometry))};
    const Cursor<2> cursor(geometry, grid.first_element(block));
    const Index n = grid.size_of(block);
    const double* const means = mean + range.first;
    if (!with_few_columns(geometry,
                          [&](auto few) { gradient_sums_of_few_columns<few()>(slab, cursor, n, means, put); })) {
      gradient_sums_of_columns(slab, cursor, n, means, put);
    }
  }

  Geometry<2> geometry;
  Grid grid;
  std::array<const Storage*, 2> data;
  const double* mean;

 private:
  auto summer() const noexcept { return gradient_summer(data, geometry, grid, mean); }
};

// out = coefficients_of(channel)(in...), elementwise.
template <class P, class Storage, std::size_t Inputs, class CoefficientsOf>
struct MapPass {
  using Element = Storage;

  template <class... In>
  MapPass(const CoefficientsOf& coefficients, TensorView<Storage> to, const In&... from) noexcept
      : geometry(from..., to),
        grid(geometry.elements),
        in{from.data()...},
        out(to.data()),
        coefficients_of(coefficients),
        access(access_to(to, from...)) {}

  void channels(ChannelRange range) const noexcept {
    map_channels<P, Inputs>(geometry, in, out, range, 0, grid.elements, coefficients_of, access);
  }
  // Of channels that were just summed.
  void summed_channels(ChannelRange range) const noexcept {
    const Access how{access.past_caches, bytes_to_next_channels<Storage>(geometry, grid)};
    if (!outgrows_cache<Storage>(geometry, grid)) {
      return map_channels<P, Inputs>(geometry, in, out, range, 0, grid.elements, coefficients_of, how);
    }
    for (Index s = grid.segments; s-- > 0;) {
      map_channels<P, Inputs>(geometry, in, out, range, first(s), first(s + 1), coefficients_of, how);
    }
  }
  // A segment, but of whole runs where they are short, or none has to be shared by threads: what is asked for ahead comes next
  // then.
  void rows(ChannelRange range, Index segment, bool of_whole_runs) const noexcept {
    const Index unit = of_whole_runs || has_short_runs<Storage>(geometry) ? geometry.run_length() : 1;
    const auto begin = [&](Index s) { return first(s) / unit * unit; };
    map_channels<P, Inputs>(geometry, in, out, range, begin(segment), begin(segment + 1), coefficients_of, access);
  }
  void columns(Index part, Index parts) const noexcept {
    const Index row_bytes = geometry.channels * static_cast<Index>(sizeof(Storage));
    const auto begin = [&](Index p) { return first_row_of_part(p, parts, grid.elements, row_bytes); };
    map_columns<P, Inputs>(geometry, in, out, begin(part), begin(part + 1), coefficients_of, access);
  }

  Geometry<Inputs + 1> geometry;
  Grid grid;
  std::array<const Storage*, Inputs> in;
  Storage* out;
  const CoefficientsOf& coefficients_of;
  Access access;

 private:
  Index first(Index segment) const noexcept { return grid.first_element(grid.first_block(segment)); }
};
template <class P, class CoefficientsOf, class Storage, class... In>
auto map_pass(const CoefficientsOf& coefficients_of, TensorView<Storage> out, const In&... in) noexcept {
  return MapPass<P, Storage, sizeof...(In), CoefficientsOf>(coefficients_of, out, in...);
}

// task(range) for a few channels at a time.
template <class Executor, class Pass, class Task>
void run_by_channels(const Executor& executor, const Pass& pass, ChannelRange range, const Task& task) {
  const Index at_once = channels_at_once<typename Pass::Element>(pass.geometry, pass.grid);
  executor.run((range.size() + at_once - 1) / at_once, [&](Index group) {
    const Index first = range.first + group * at_once;
    task(ChannelRange{first, std::min(first + at_once, range.last)});
  });
}

// The sums of all channels, in sums[channel].
template <class Executor, class Pass>
void sum_all(const Executor& executor, const Pass& pass, std::vector<typename Pass::Sum>& sums) {
  using Sum = typename Pass::Sum;
  const Grid& grid = pass.grid;
  const Index channels = pass.geometry.channels;
  if (by_channels(pass.geometry, grid)) {
    sums.resize(static_cast<std::size_t>(channels));
    run_by_channels(executor, pass, {0, channels},
                    [&](ChannelRange range) { pass.channels(range, sums.data() + range.first); });
    return;
  }
  sums.resize(static_cast<std::size_t>(channels * grid.segments));
  Sum* const partial = sums.data();
  const Index width = slab_channels<typename Pass::Element, Executor>(grid);
  const Index slabs = in_columns(pass.geometry) && channels > 1 ? slabs_of(channels, width) : 0;
  if (slabs == 0) {
    executor.run(channels * grid.segments,
                 [&](Index task) { partial[task] = pass.row(task / grid.segments, task % grid.segments); });
  } else {
    executor.run(slabs * grid.segments, [&](Index task) {
      const Index segment = task / slabs;
      const Index first = task % slabs * width;
      const ChannelRange range{first, task % slabs == slabs - 1 ? channels : first + width};
      const Index first_block = grid.first_block(segment);
      for (Index b = first_block; b < grid.first_block(segment + 1); ++b) {
        pass.columns(range, b, [&](Index c, const Sum& of_block) {
          Sum& sum = partial[(range.first + c) * grid.segments + segment];
          sum = b == first_block ? of_block : merge(sum, of_block);
        });
      }
    });
  }
  for (Index c = 0; c < channels; ++c) {
    Sum sum;
    for (Index s = 0; s < grid.segments; ++s) sum = merge(sum, partial[c * grid.segments + s]);
    partial[c] = sum;  // never before what is still to be read
  }
}

template <class Executor, class Pass>
void map_all(const Executor& executor, const Pass& pass) {
  const Grid& grid = pass.grid;
  const Index channels = pass.geometry.channels;
  if (grid.elements == 0 || channels == 0) return;
  if (in_columns(pass.geometry)) {
    const Index parts = mapped_parts<typename Pass::Element, Executor>(pass.geometry, grid);
    executor.run(parts, [&](Index task) { pass.columns(segment_of<Executor>(task, parts), parts); });
  } else {
    const Index at_once = mapped_channels_at_once<Executor>(channels, grid);
    const Index groups = (channels + at_once - 1) / at_once;
    executor.run(groups * grid.segments, [&](Index task) {
      const Index first = task / grid.segments * at_once;
      const ChannelRange range{first, std::min(first + at_once, channels)};
      const Index segment = segment_of<Executor>(task % grid.segments, grid.segments);
      pass.rows(range, segment, std::is_same_v<Executor, SerialExecutor>);
    });
  }
}

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
