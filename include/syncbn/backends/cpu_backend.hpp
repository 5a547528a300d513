#pragma once

#include <array>
#include <concepts>
#include <cstring>
#include <utility>
#include <vector>

#include <syncbn/backends/detail/cpu_map.hpp>
#include <syncbn/backends/detail/cpu_sums.hpp>
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
      partial[channel * grid.segments + segment] =
          moments_of_segment(source.data() + channel * geometry.channel_stride[0], geometry, grid, segment);
    };
    const auto columns = [&](Index channel, Index segment) {
      ChannelMoments block[cpu::lane_count];
      for (Index b = grid.first_block(segment); b < grid.first_block(segment + 1); ++b) {
        const Index first = grid.first_element(b);
        cpu::moments_of_channels<Storage>(source.data() + channel, cpu::Cursor<1>(geometry, first),
                                          grid.first_element(b + 1) - first, block);
        for (Index c = 0; c < cpu::lane_count; ++c) {
          ChannelMoments& sum = partial[(channel + c) * grid.segments + segment];
          sum = b == grid.first_block(segment) ? block[c] : merge(sum, block[c]);
        }
      }
    };
    run_over_channels(geometry, grid, row, columns);

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
      partial[channel * grid.segments + segment] = gradient_sums_of_segment(
          gradient.data() + channel * geometry.channel_stride[0], source.data() + channel * geometry.channel_stride[1],
          geometry, grid, segment, mean[channel]);
    };
    const auto columns = [&](Index channel, Index segment) {
      cpu::TwoSums block[cpu::lane_count];
      for (Index c = 0; c < cpu::lane_count; ++c) partial[(channel + c) * grid.segments + segment] = {};
      for (Index b = grid.first_block(segment); b < grid.first_block(segment + 1); ++b) {
        const Index first = grid.first_element(b);
        cpu::gradient_sums_of_channels<Storage>(gradient.data() + channel, source.data() + channel,
                                                cpu::Cursor<2>(geometry, first), grid.first_element(b + 1) - first,
                                                mean + channel, block);
        for (Index c = 0; c < cpu::lane_count; ++c) add(partial[(channel + c) * grid.segments + segment], block[c]);
      }
    };
    run_over_channels(geometry, grid, row, columns);

    for (Index c = 0; c < geometry.channels; ++c) {
      cpu::TwoSums sum;
      for (Index s = 0; s < grid.segments; ++s) add(sum, partial[c * grid.segments + s]);
      sums.dy[c] += sum.dy;
      sums.dy_centred[c] += sum.dy_centred;
    }
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
  static void add(cpu::TwoSums& sum, const cpu::TwoSums& other) noexcept {
    sum.dy += other.dy;
    sum.dy_centred += other.dy_centred;
  }

  template <class Storage>
  static ChannelMoments moments_of_segment(const Storage* channel, const cpu::Geometry<1>& geometry,
                                           const cpu::Grid& grid, Index segment) noexcept {
    using Load = cpu::load_type<Storage>;
    Load buffer[cpu::block_elements];
    ChannelMoments sum;
    for (Index b = grid.first_block(segment); b < grid.first_block(segment + 1); ++b) {
      const Index first = grid.first_element(b);
      const Index n = grid.first_element(b + 1) - first;
      const Load* x = cpu::fetch<Load>(channel, cpu::Cursor<1>(geometry, first), geometry, 0, n, buffer);
      sum = merge(sum, cpu::moments_of_block(x, n));
    }
    return sum;
  }

  template <class Storage>
  static cpu::TwoSums gradient_sums_of_segment(const Storage* dy_channel, const Storage* x_channel,
                                               const cpu::Geometry<2>& geometry, const cpu::Grid& grid, Index segment,
                                               double mean) noexcept {
    using Load = cpu::load_type<Storage>;
    Load dy_buffer[cpu::block_elements];
    Load x_buffer[cpu::block_elements];
    cpu::TwoSums sum;
    for (Index b = grid.first_block(segment); b < grid.first_block(segment + 1); ++b) {
      const Index first = grid.first_element(b);
      const Index n = grid.first_element(b + 1) - first;
      const cpu::Cursor<2> cursor(geometry, first);
      const Load* dy = cpu::fetch<Load>(dy_channel, cursor, geometry, 0, n, dy_buffer);
      const Load* x = cpu::fetch<Load>(x_channel, cursor, geometry, 1, n, x_buffer);
      add(sum, cpu::gradient_sums_of_block(dy, x, n, mean));
    }
    return sum;
  }

  // Rows where a channel's elements are neighbours or nothing is; columns where channels are, eight at a time, and rows
  // for those left over. Both give the same bits.
  template <std::size_t Operands, class Row, class Columns>
  void run_over_channels(const cpu::Geometry<Operands>& geometry, const cpu::Grid& grid, const Row& row,
                         const Columns& columns) const {
    const bool in_columns = geometry.contiguous_channels() && !geometry.contiguous_runs();
    const Index groups = in_columns ? geometry.channels / cpu::lane_count : 0;
    const Index rest = geometry.channels - groups * cpu::lane_count;
    executor_.run((groups + rest) * grid.segments, [&](Index task) {
      const Index unit = task / grid.segments;
      const Index segment = task % grid.segments;
      if (unit < groups) {
        columns(unit * cpu::lane_count, segment);
      } else {
        row(groups * cpu::lane_count + unit - groups, segment);
      }
    });
  }

  template <class CoefficientsOf, class U, class... T>
  void map(const CoefficientsOf& coefficients_of, TensorView<U> out, TensorView<const T>... in) const {
    constexpr std::size_t inputs = sizeof...(T);
    const auto target = syncbn::detail::storage_view(out);
    using Storage = typename decltype(target)::value_type;
    const cpu::Geometry<inputs + 1> geometry(in..., out);
    if (geometry.elements == 0) return;
    const std::array<const Storage*, inputs> from{syncbn::detail::storage_view(in).data()...};
    const cpu::Grid grid(geometry.elements);
    const auto first = [&](Index segment) { return grid.first_element(grid.first_block(segment)); };
    if (geometry.contiguous_channels() && !geometry.contiguous_runs()) {
      executor_.run(grid.segments, [&](Index segment) {
        cpu::map_columns<Parameter, inputs>(geometry, from, target.data(), first(segment), first(segment + 1),
                                            coefficients_of);
      });
    } else {
      executor_.run(geometry.channels * grid.segments, [&](Index task) {
        const Index segment = task % grid.segments;
        cpu::map_rows<Parameter, inputs>(geometry, from, target.data(), task / grid.segments, first(segment),
                                         first(segment + 1), coefficients_of);
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
