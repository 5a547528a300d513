#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstring>
#include <utility>
#include <vector>

#include <syncbn/backends/detail/cpu_blocking.hpp>
#include <syncbn/backends/detail/cpu_columns.hpp>
#include <syncbn/backends/detail/cpu_map.hpp>
#include <syncbn/backends/detail/cpu_rows.hpp>
#include <syncbn/backends/executors.hpp>
#include <syncbn/concepts.hpp>
#include <syncbn/fwd.hpp>

namespace syncbn::inline v0 {
inline namespace SYNCBN_CPU_ISA {

/// @brief The processor's kernels, on Eigen's packets at the width the translation unit is compiled for.
///
/// Takes f16, bf16 and f32 tensors with float parameters, and f64 too with double ones; any strides, without copies.
/// Working memory is O(channels), at most 16 partial sums for each, and is reused.
/// @determinism{the same bits for any executor, alignment and memory layout; they may differ between instruction sets}
/// @tparam Parameter  float or double: the type of parameters and running statistics.
/// @tparam Executor   runs the tasks: SerialExecutor, OpenMpExecutor, ParallelFor.
template <class Parameter, class Executor>
class CpuBackend {
  static_assert(std::same_as<Parameter, float> || std::same_as<Parameter, double>,
                "CpuBackend: parameters and running statistics are float or double");
  static_assert(executor<Executor>, "CpuBackend: the executor lacks  void run(Index tasks, const Task& task) const");

 public:
  using memory_space = HostSpace;    ///< host memory
  using queue_type = HostQueue;      ///< none
  using parameter_type = Parameter;  ///< of weight, bias, running_mean, running_var and gradients
  template <class T>
  using buffer = std::vector<T>;  ///< owning array

  CpuBackend() = default;
  /// @brief With an executor. @param executor  copied.
  explicit CpuBackend(Executor executor) : executor_(std::move(executor)) {}
  /// @brief The same executor, fresh working memory. @param other  copied from.
  CpuBackend(const CpuBackend& other) : executor_(other.executor_) {}
  CpuBackend(CpuBackend&&) = default;  ///< Moves the working memory too.
  /// @brief The same executor, fresh working memory. @param other  copied from. @return *this.
  CpuBackend& operator=(const CpuBackend& other) {
    executor_ = other.executor_;
    return *this;
  }
  CpuBackend& operator=(CpuBackend&&) = default;  ///< Moves the working memory too. @return *this.
  ~CpuBackend() = default;

  /// @brief Whether elements of this format can be read and written. @param kind  the format. @return true if so.
  static constexpr bool accepts(ScalarKind kind) noexcept {
    return std::same_as<Parameter, double> || kind != ScalarKind::f64;
  }

  /// @brief Host code has no queue. @return a placeholder.
  queue_type& queue() noexcept { return queue_; }
  /// @brief How tasks are run. @return the executor.
  const Executor& executor_policy() const noexcept { return executor_; }

  /// @brief Copies from this backend's memory. @param from  source. @param n  elements. @param to  target on the host.
  template <class T>
  void download(const T* from, Index n, T* to) const {
    if (n > 0) std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(T));
  }
  /// @brief Copies to this backend's memory. @param from  source on the host. @param n  elements. @param to  target.
  template <class T>
  void upload(const T* from, Index n, T* to) const {
    download(from, n, to);
  }

  /// @brief Calls f(c) for c in [0, channels). @param channels  how many. @param f  a functor of the channel.
  template <class F>
  void for_each_channel(Index channels, const F& f) const {
    for (Index c = 0; c < channels; ++c) f(c);
  }

  /// @brief Adds the moments of x. @param x  activations, rank >= 2. @shape{(N, C, S...)}
  /// @param moments  merged with those of x; unchanged if x has no values in a channel.
  template <class T>
  void accumulate(TensorView<const T> x, MomentsPointers moments) {
    const auto source = syncbn::detail::storage_view(x);
    using Storage = typename decltype(source)::value_type;
    const cpu::Geometry<1> geometry(source);
    if (geometry.elements == 0) return;
    const cpu::Grid grid(geometry.elements);
    partial_moments_.resize(static_cast<std::size_t>(geometry.channels * grid.segments));
    ChannelMoments* partial = partial_moments_.data();

    const auto row = [&](Index channel, Index segment) {
      partial[channel * grid.segments + segment] = cpu::moments_of_segments(
          source.data() + channel * geometry.channel_stride[0], geometry, grid, segment, segment + 1);
    };
    const auto columns = [&](Index channel, Index channels, Index segment) {
      const cpu::Slab<Storage, 1> slab{{source.data() + channel}, {source.data() + source.size()}, channels};
      ChannelMoments block[cpu::most_channels<Storage>];
      for (Index b = grid.first_block(segment); b < grid.first_block(segment + 1); ++b) {
        cpu::moments_of_columns(slab, cpu::Cursor<1>(geometry, grid.first_element(b)), grid.size_of(b), block);
        for (Index c = 0; c < channels; ++c) {
          ChannelMoments& sum = partial[(channel + c) * grid.segments + segment];
          sum = b == grid.first_block(segment) ? block[c] : merge(sum, block[c]);
        }
      }
    };
    run_over_channels<Storage>(geometry, grid, row, columns);

    const double count = *moments.count;
    for (Index c = 0; c < geometry.channels; ++c) {
      ChannelMoments sum = partial[c * grid.segments];
      for (Index s = 1; s < grid.segments; ++s) sum = merge(sum, partial[c * grid.segments + s]);
      sum = merge({count, moments.mean[c], moments.m2[c]}, sum);
      moments.mean[c] = sum.mean;
      moments.m2[c] = sum.m2;
    }
    *moments.count = count + static_cast<double>(geometry.elements);
  }

  /// @brief The three steps of a batch that is normalized by its own statistics, channel after channel, so that x comes
  /// from memory once. @param x  activations, rank >= 2. @shape{(N, C, S...)} @param moments  become those of x.
  /// @param finish  called with each channel once its moments are there. @param coefficients_of  as for normalize(), called
  /// after that. @param y  may be x. @shape{same as x}
  template <class T, class U, class Finish, class CoefficientsOf>
  void accumulate_and_normalize(TensorView<const T> x, MomentsPointers moments, const Finish& finish,
                                const CoefficientsOf& coefficients_of, TensorView<U> y) {
    const auto source = syncbn::detail::storage_view(x);
    const auto target = syncbn::detail::storage_view(y);
    using Storage = typename decltype(source)::value_type;
    const cpu::Geometry<1> geometry(source);
    const cpu::Geometry<2> both(source, target);
    const cpu::Grid grid(geometry.elements);
    *moments.count = 0;
    if (!cpu::by_channels(both, grid)) {
      for (Index c = 0; c < geometry.channels; ++c) moments.mean[c] = moments.m2[c] = 0;
      accumulate(x, moments);
      for_each_channel(geometry.channels, finish);
      return normalize(x, coefficients_of, y);
    }
    *moments.count = static_cast<double>(geometry.elements);
    const cpu::Store store = cpu::store_for(target, source);
    run_by_channels<Storage>(grid, geometry.channels, [&](Index first, Index last) {
      ChannelMoments sums[cpu::most_channels_at_once];
      cpu::moments_of_channels(source.data(), geometry, grid, first, last, sums);
      for (Index c = first; c < last; ++c) {
        moments.mean[c] = sums[c - first].mean;
        moments.m2[c] = sums[c - first].m2;
        finish(c);
      }
      cpu::map_channels<Parameter, 1>(both, std::array<const Storage*, 1>{source.data()}, target.data(), first, last,
                                      coefficients_of, store);
    });
  }

  /// @brief Adds the sums of the gradient. @param dy  gradient of the output. @param x  activations, as shaped.
  /// @param mean  of x, one per channel. @param sums  sum(dy) and sum(dy * (x - mean)) are added.
  template <class D, class T>
  void accumulate(TensorView<const D> dy, TensorView<const T> x, const double* mean, GradientSumsPointers sums) {
    const auto gradient = syncbn::detail::storage_view(dy);
    const auto source = syncbn::detail::storage_view(x);
    using Storage = typename decltype(source)::value_type;
    const cpu::Geometry<2> geometry(gradient, source);
    if (geometry.elements == 0) return;
    const cpu::Grid grid(geometry.elements);
    partial_sums_.resize(static_cast<std::size_t>(geometry.channels * grid.segments));
    cpu::TwoSums* partial = partial_sums_.data();

    const auto row = [&](Index channel, Index segment) {
      partial[channel * grid.segments + segment] = cpu::gradient_sums_of_segments(
          gradient.data() + channel * geometry.channel_stride[0], source.data() + channel * geometry.channel_stride[1],
          geometry, grid, segment, segment + 1, mean[channel]);
    };
    const auto columns = [&](Index channel, Index channels, Index segment) {
      const cpu::Slab<Storage, 2> slab{{gradient.data() + channel, source.data() + channel},
                                       {gradient.data() + gradient.size(), source.data() + source.size()},
                                       channels};
      cpu::TwoSums block[cpu::most_channels<Storage>];
      for (Index b = grid.first_block(segment); b < grid.first_block(segment + 1); ++b) {
        cpu::gradient_sums_of_columns(slab, cpu::Cursor<2>(geometry, grid.first_element(b)), grid.size_of(b),
                                      mean + channel, block);
        for (Index c = 0; c < channels; ++c) {
          cpu::TwoSums& sum = partial[(channel + c) * grid.segments + segment];
          sum = b == grid.first_block(segment) ? block[c] : merge(sum, block[c]);
        }
      }
    };
    run_over_channels<Storage>(geometry, grid, row, columns);

    for (Index c = 0; c < geometry.channels; ++c) {
      cpu::TwoSums sum;
      for (Index s = 0; s < grid.segments; ++s) sum = merge(sum, partial[c * grid.segments + s]);
      sums.dy[c] += sum.dy;
      sums.dy_centred[c] += sum.dy_centred;
    }
  }

  /// @brief The three steps backward, channel after channel. @param dy  gradient of the output. @param x  activations.
  /// @param mean  of x, one per channel. @param sums  become those of dy and x. @param finish  called with each channel
  /// once its sums are there. @param coefficients_of  as for propagate(), called after that.
  /// @param dx  may be dy or x. @shape{same as x}
  template <class D, class T, class U, class Finish, class CoefficientsOf>
  void accumulate_and_propagate(TensorView<const D> dy, TensorView<const T> x, const double* mean,
                                GradientSumsPointers sums, const Finish& finish, const CoefficientsOf& coefficients_of,
                                TensorView<U> dx) {
    const auto gradient = syncbn::detail::storage_view(dy);
    const auto source = syncbn::detail::storage_view(x);
    const auto target = syncbn::detail::storage_view(dx);
    using Storage = typename decltype(source)::value_type;
    const cpu::Geometry<2> geometry(gradient, source);
    const cpu::Geometry<3> all(gradient, source, target);
    const cpu::Grid grid(geometry.elements);
    if (!cpu::by_channels(all, grid)) {
      for (Index c = 0; c < geometry.channels; ++c) sums.dy[c] = sums.dy_centred[c] = 0;
      accumulate(dy, x, mean, sums);
      for_each_channel(geometry.channels, finish);
      return propagate(dy, x, coefficients_of, dx);
    }
    const cpu::Store store = cpu::store_for(target, gradient, source);
    run_by_channels<Storage>(grid, geometry.channels, [&](Index first, Index last) {
      cpu::TwoSums both[cpu::most_channels_at_once];
      cpu::gradient_sums_of_channels(gradient.data(), source.data(), geometry, grid, first, last, mean, both);
      for (Index c = first; c < last; ++c) {
        sums.dy[c] = both[c - first].dy;
        sums.dy_centred[c] = both[c - first].dy_centred;
        finish(c);
      }
      cpu::map_channels<Parameter, 2>(all, std::array<const Storage*, 2>{gradient.data(), source.data()}, target.data(),
                                      first, last, coefficients_of, store);
    });
  }

  /// @brief y = coefficients_of(c)(x), elementwise. @param x  activations. @shape{(N, C, S...)}
  /// @param coefficients_of  gives a channel's NormalizeCoefficients. @param y  may be x. @shape{same as x}
  template <class T, class U, class CoefficientsOf>
  void normalize(TensorView<const T> x, const CoefficientsOf& coefficients_of, TensorView<U> y) const {
    map(coefficients_of, y, x);
  }

  /// @brief dx = coefficients_of(c)(dy, x), elementwise. @param dy  gradient of the output. @param x  activations.
  /// @param coefficients_of  gives a channel's PropagateCoefficients. @param dx  may be dy or x. @shape{same as x}
  template <class D, class T, class U, class CoefficientsOf>
  void propagate(TensorView<const D> dy, TensorView<const T> x, const CoefficientsOf& coefficients_of,
                 TensorView<U> dx) const {
    map(coefficients_of, dx, dy, x);
  }

 private:
  template <class Storage, class Task>
  void run_by_channels(const cpu::Grid& grid, Index channels, const Task& task) const {
    const Index at_once = cpu::channels_at_once<Storage>(grid);
    executor_.run((channels + at_once - 1) / at_once,
                  [&](Index group) { task(group * at_once, std::min((group + 1) * at_once, channels)); });
  }

  // Rows where a channel's elements are neighbours or nothing is; columns where channels are, a slab at a time. Both give
  // the same bits.
  template <class Storage, std::size_t Operands, class Row, class Columns>
  void run_over_channels(const cpu::Geometry<Operands>& geometry, const cpu::Grid& grid, const Row& row,
                         const Columns& columns) const {
    const Index slabs =
        cpu::in_columns(geometry) ? cpu::slabs_of<Storage>(geometry.channels, geometry.dense_rows()) : 0;
    if (slabs == 0) {
      executor_.run(geometry.channels * grid.segments,
                    [&](Index task) { row(task / grid.segments, task % grid.segments); });
      return;
    }
    executor_.run(slabs * grid.segments, [&](Index task) {
      const Index channel = task % slabs * cpu::slab_channels<Storage>;
      const Index last = task % slabs == slabs - 1 ? geometry.channels : channel + cpu::slab_channels<Storage>;
      columns(channel, last - channel, task / slabs);
    });
  }

  template <class CoefficientsOf, class U, class... T>
  void map(const CoefficientsOf& coefficients_of, TensorView<U> out, TensorView<const T>... in) const {
    constexpr std::size_t inputs = sizeof...(T);
    const auto target = syncbn::detail::storage_view(out);
    using Storage = typename decltype(target)::value_type;
    const cpu::Geometry<inputs + 1> geometry(in..., out);
    if (geometry.elements == 0 || geometry.channels == 0) return;
    const std::array<const Storage*, inputs> from{syncbn::detail::storage_view(in).data()...};
    const cpu::Grid grid(geometry.elements);
    const cpu::Store store = cpu::store_for(target, syncbn::detail::storage_view(in)...);
    const auto first = [&](Index segment) { return grid.first_element(grid.first_block(segment)); };
    if (cpu::in_columns(geometry)) {
      executor_.run(grid.segments, [&](Index segment) {
        cpu::map_columns<Parameter, inputs>(geometry, from, target.data(), first(segment), first(segment + 1),
                                            coefficients_of, store);
      });
    } else if (cpu::by_channels(geometry, grid) && cpu::has_short_runs<Storage>(geometry)) {
      run_by_channels<Storage>(grid, geometry.channels, [&](Index begin, Index end) {
        cpu::map_channels<Parameter, inputs>(geometry, from, target.data(), begin, end, coefficients_of, store);
      });
    } else {
      executor_.run(geometry.channels * grid.segments, [&](Index task) {
        const Index segment = task % grid.segments;
        cpu::map_rows<Parameter, inputs>(geometry, from, target.data(), task / grid.segments, first(segment),
                                         first(segment + 1), coefficients_of, store);
      });
    }
  }

  Executor executor_{};
  [[no_unique_address]] queue_type queue_{};
  std::vector<ChannelMoments> partial_moments_;
  std::vector<cpu::TwoSums> partial_sums_;
};

}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
