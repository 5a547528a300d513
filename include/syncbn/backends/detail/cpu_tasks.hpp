#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include <syncbn/backends/detail/cpu_blocking.hpp>
#include <syncbn/backends/detail/cpu_columns.hpp>
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

  explicit MomentsPass(TensorView<const Storage> x) noexcept
      : geometry(x), grid(geometry.elements), data(x.data()), end(x.data() + x.size()) {}

  void channels(ChannelRange range, Sum* out) const noexcept { moments_of_channels(data, geometry, grid, range, out); }
  Sum row(Index channel, Index segment) const noexcept {
    return moments_of_segments(data + channel * geometry.channel_stride[0], geometry, grid, segment, segment + 1);
  }
  void columns(ChannelRange range, Index block, Sum* out) const noexcept {
    const Slab<Storage, 1> slab{{data + range.first}, {end}, range.size()};
    moments_of_columns(slab, Cursor<1>(geometry, grid.first_element(block)), grid.size_of(block), out);
  }

  Geometry<1> geometry;
  Grid grid;
  const Storage* data;
  const Storage* end;
};

// The sums of the gradient.
template <class Storage>
struct GradientPass {
  using Element = Storage;
  using Sum = TwoSums;

  GradientPass(TensorView<const Storage> dy, TensorView<const Storage> x, const double* mean_of_x) noexcept
      : geometry(dy, x),
        grid(geometry.elements),
        data{dy.data(), x.data()},
        end{dy.data() + dy.size(), x.data() + x.size()},
        mean(mean_of_x) {}

  void channels(ChannelRange range, Sum* out) const noexcept {
    gradient_sums_of_channels(data[0], data[1], geometry, grid, range, mean, out);
  }
  Sum row(Index channel, Index segment) const noexcept {
    return gradient_sums_of_segments(data[0] + channel * geometry.channel_stride[0],
                                     data[1] + channel * geometry.channel_stride[1], geometry, grid, segment,
                                     segment + 1, mean[channel]);
  }
  void columns(ChannelRange range, Index block, Sum* out) const noexcept {
    const Slab<Storage, 2> slab{{data[0] + range.first, data[1] + range.first}, end, range.size()};
    gradient_sums_of_columns(slab, Cursor<2>(geometry, grid.first_element(block)), grid.size_of(block),
                             mean + range.first, out);
  }

  Geometry<2> geometry;
  Grid grid;
  std::array<const Storage*, 2> data;
  std::array<const Storage*, 2> end;
  const double* mean;
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
        store(store_for(to, from...)) {}

  void channels(ChannelRange range) const noexcept {
    map_channels<P, Inputs>(geometry, in, out, range, coefficients_of, store);
  }
  void row(Index channel, Index segment) const noexcept {
    map_rows<P, Inputs>(geometry, in, out, channel, first(segment), first(segment + 1), coefficients_of, store);
  }
  void columns(Index segment) const noexcept {
    map_columns<P, Inputs>(geometry, in, out, first(segment), first(segment + 1), coefficients_of, store);
  }

  Geometry<Inputs + 1> geometry;
  Grid grid;
  std::array<const Storage*, Inputs> in;
  Storage* out;
  const CoefficientsOf& coefficients_of;
  Store store;

 private:
  Index first(Index segment) const noexcept { return grid.first_element(grid.first_block(segment)); }
};
template <class P, class CoefficientsOf, class Storage, class... In>
auto map_pass(const CoefficientsOf& coefficients_of, TensorView<Storage> out, const In&... in) noexcept {
  return MapPass<P, Storage, sizeof...(In), CoefficientsOf>(coefficients_of, out, in...);
}

// task(range) for a few channels at a time.
template <class Storage, class Executor, class Task>
void run_by_channels(const Executor& executor, const Grid& grid, ChannelRange range, const Task& task) {
  const Index at_once = channels_at_once<Storage>(grid);
  executor.run((range.size() + at_once - 1) / at_once, [&](Index group) {
    const Index first = range.first + group * at_once;
    task(ChannelRange{first, std::min(first + at_once, range.last)});
  });
}

// The sums of all channels, in sums[channel].
template <class Executor, class Pass>
void sum_all(const Executor& executor, const Pass& pass, std::vector<typename Pass::Sum>& sums) {
  using Sum = typename Pass::Sum;
  using Storage = typename Pass::Element;
  const Grid& grid = pass.grid;
  const Index channels = pass.geometry.channels;
  if (by_channels(pass.geometry, grid)) {
    sums.resize(static_cast<std::size_t>(channels));
    run_by_channels<Storage>(executor, grid, {0, channels},
                             [&](ChannelRange range) { pass.channels(range, sums.data() + range.first); });
    return;
  }
  sums.resize(static_cast<std::size_t>(channels * grid.segments));
  Sum* const partial = sums.data();
  const Index width = slab_channels<Storage>(pass.geometry, grid);
  const Index slabs = in_columns(pass.geometry) ? slabs_of(channels, width, pass.geometry.dense_rows()) : 0;
  if (slabs == 0) {
    executor.run(channels * grid.segments,
                 [&](Index task) { partial[task] = pass.row(task / grid.segments, task % grid.segments); });
  } else {
    executor.run(slabs * grid.segments, [&](Index task) {
      const Index segment = task / slabs;
      const Index first = task % slabs * width;
      const ChannelRange range{first, task % slabs == slabs - 1 ? channels : first + width};
      Sum block[most_channels<Storage>];
      for (Index b = grid.first_block(segment); b < grid.first_block(segment + 1); ++b) {
        pass.columns(range, b, block);
        for (Index c = range.first; c < range.last; ++c) {
          Sum& sum = partial[c * grid.segments + segment];
          sum = b == grid.first_block(segment) ? block[c - first] : merge(sum, block[c - first]);
        }
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
  using Storage = typename Pass::Element;
  const Grid& grid = pass.grid;
  const Index channels = pass.geometry.channels;
  if (grid.elements == 0 || channels == 0) return;
  if (in_columns(pass.geometry)) {
    executor.run(grid.segments, [&](Index segment) { pass.columns(segment); });
  } else if (by_channels(pass.geometry, grid) && has_short_runs<Storage>(pass.geometry)) {
    run_by_channels<Storage>(executor, grid, {0, channels}, [&](ChannelRange range) { pass.channels(range); });
  } else {
    executor.run(channels * grid.segments, [&](Index task) { pass.row(task / grid.segments, task % grid.segments); });
  }
}

}  // namespace cpu
}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
