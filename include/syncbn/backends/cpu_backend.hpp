#pragma once

#include <concepts>
#include <cstring>
#include <utility>
#include <vector>

#include <syncbn/backends/detail/cpu_finalize.hpp>
#include <syncbn/backends/detail/cpu_tasks.hpp>
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

  /// @brief Host code has no queue. @return an empty object: what is to be done has been done when a call returns.
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
    if constexpr (requires { cpu::run(channels, f); }) {
      cpu::run(channels, f);
    } else {
      for (Index c = 0; c < channels; ++c) f(c);
    }
  }

  // ---- Passes over a tensor ------------------------------------------------------------------------------------------

  /// @brief Adds the moments of x. @param x  activations, rank >= 2. @shape{(N, C, S...)}
  /// @param moments  merged with those of x; unchanged if x has no values in a channel.
  template <class T>
  void accumulate(TensorView<const T> x, MomentsPointers moments) {
    const cpu::MomentsPass pass(syncbn::detail::storage_view(x));
    if (pass.grid.elements == 0) return;
    cpu::sum_all(executor_, pass, moments_);
    const double count = *moments.count;
    for (Index c = 0; c < pass.geometry.channels; ++c) {
      const ChannelMoments sum = merge({count, moments.mean[c], moments.m2[c]}, moments_[static_cast<std::size_t>(c)]);
      moments.mean[c] = sum.mean;
      moments.m2[c] = sum.m2;
    }
    *moments.count = count + static_cast<double>(pass.grid.elements);
  }

  /// @brief Adds the sums of the gradient. @param dy  gradient of the output. @param x  activations, as shaped.
  /// @param mean  of x, one per channel. @param sums  sum(dy) and sum(dy * (x - mean)) are added.
  template <class D, class T>
  void accumulate(TensorView<const D> dy, TensorView<const T> x, const double* mean, GradientSumsPointers sums) {
    const cpu::GradientPass pass(syncbn::detail::storage_view(dy), syncbn::detail::storage_view(x), mean);
    if (pass.grid.elements == 0) return;
    cpu::sum_all(executor_, pass, sums_);
    for (Index c = 0; c < pass.geometry.channels; ++c) {
      sums.dy[c] += sums_[static_cast<std::size_t>(c)].dy;
      sums.dy_centred[c] += sums_[static_cast<std::size_t>(c)].dy_centred;
    }
  }

  /// @brief y = coefficients_of(c)(x), elementwise. @param x  activations. @shape{(N, C, S...)}
  /// @param coefficients_of  gives a channel's NormalizeCoefficients. @param y  may be x. @shape{same as x}
  template <class T, class U, class CoefficientsOf>
  void normalize(TensorView<const T> x, const CoefficientsOf& coefficients_of, TensorView<U> y) const {
    cpu::map_all(executor_, map_pass(coefficients_of, y, x));
  }

  /// @brief dx = coefficients_of(c)(dy, x), elementwise. @param dy  gradient of the output. @param x  activations.
  /// @param coefficients_of  gives a channel's PropagateCoefficients. @param dx  may be dy or x. @shape{same as x}
  template <class D, class T, class U, class CoefficientsOf>
  void propagate(TensorView<const D> dy, TensorView<const T> x, const CoefficientsOf& coefficients_of,
                 TensorView<U> dx) const {
    cpu::map_all(executor_, map_pass(coefficients_of, dx, dy, x));
  }

  // ---- Two passes by one walk over memory ----------------------------------------------------------------------------

  /// @brief The three steps of a batch that is normalized by its own statistics, channel after channel, so that x comes
  /// from memory once. @param x  activations, rank >= 2. @shape{(N, C, S...)} @param moments  become those of x.
  /// @param finish  called with each channel once its moments are there. @param coefficients_of  as for normalize(), called
  /// after that. @param y  may be x. @shape{same as x}
  template <class T, class U, class Finish, class CoefficientsOf>
  void accumulate_and_normalize(TensorView<const T> x, MomentsPointers moments, const Finish& finish,
                                const CoefficientsOf& coefficients_of, TensorView<U> y) {
    if (!works_by_channels(x, y)) {
      *moments.count = 0;
      for (Index c = 0; c < x.extent(1); ++c) moments.mean[c] = moments.m2[c] = 0;
      accumulate(x, moments);
      for_each_channel(x.extent(1), finish);
      return normalize(x, coefficients_of, y);
    }
    const cpu::MomentsPass pass(syncbn::detail::storage_view(x));
    const auto map = map_pass(coefficients_of, y, x);
    *moments.count = static_cast<double>(pass.grid.elements);
    run_by_channels(pass, {0, x.extent(1)}, [&](ChannelRange range) {
      take(pass, range, moments);
      for (Index c = range.first; c < range.last; ++c) finish(c);
      map.summed_channels(range);
    });
  }

  /// @brief The three steps backward, channel after channel. @param dy  gradient of the output. @param x  activations.
  /// @param mean  of x, one per channel. @param sums  become those of dy and x. @param finish  called with each channel
  /// once its sums are there. @param coefficients_of  as for propagate(), called after that.
  /// @param dx  may be dy or x. @shape{same as x}
  template <class D, class T, class U, class Finish, class CoefficientsOf>
  void accumulate_and_propagate(TensorView<const D> dy, TensorView<const T> x, const double* mean,
                                GradientSumsPointers sums, const Finish& finish, const CoefficientsOf& coefficients_of,
                                TensorView<U> dx) {
    if (!works_by_channels(dy, x, dx)) {
      for (Index c = 0; c < x.extent(1); ++c) sums.dy[c] = sums.dy_centred[c] = 0;
      accumulate(dy, x, mean, sums);
      for_each_channel(x.extent(1), finish);
      return propagate(dy, x, coefficients_of, dx);
    }
    const cpu::GradientPass pass(syncbn::detail::storage_view(dy), syncbn::detail::storage_view(x), mean);
    const auto map = map_pass(coefficients_of, dx, dy, x);
    run_by_channels(pass, {0, x.extent(1)}, [&](ChannelRange range) {
      take(pass, range, sums);
      for (Index c = range.first; c < range.last; ++c) finish(c);
      map.summed_channels(range);
    });
  }

  // ---- Passes over some channels -------------------------------------------------------------------------------------

  /// @brief Whether passes over some channels cost no more than their share. @param tensors  of the same extents.
  /// @return true if so.
  template <class... Views>
  bool works_by_channels(const Views&... tensors) const noexcept {
    const cpu::Geometry<sizeof...(Views)> geometry(tensors...);
    return cpu::by_channels(geometry, cpu::Grid(geometry.elements));
  }
  /// @brief The moments of some channels. @param x  activations. @param range  which.
  /// @param moments  theirs are set; the count is left alone.
  template <class T>
  void accumulate(TensorView<const T> x, ChannelRange range, MomentsPointers moments) const {
    const cpu::MomentsPass pass(syncbn::detail::storage_view(x));
    run_by_channels(pass, range, [&](ChannelRange some) { take(pass, some, moments); });
  }
  /// @brief The sums of the gradient of some channels. @param dy  gradient of the output. @param x  activations.
  /// @param mean  of x, one per channel. @param range  which. @param sums  theirs are set.
  template <class D, class T>
  void accumulate(TensorView<const D> dy, TensorView<const T> x, const double* mean, ChannelRange range,
                  GradientSumsPointers sums) const {
    const cpu::GradientPass pass(syncbn::detail::storage_view(dy), syncbn::detail::storage_view(x), mean);
    run_by_channels(pass, range, [&](ChannelRange some) { take(pass, some, sums); });
  }
  /// @brief normalize() for some channels. @param x  activations. @param range  which. @param coefficients_of  as there.
  /// @param y  theirs are written.
  template <class T, class U, class CoefficientsOf>
  void normalize(TensorView<const T> x, ChannelRange range, const CoefficientsOf& coefficients_of,
                 TensorView<U> y) const {
    const auto map = map_pass(coefficients_of, y, x);
    run_by_channels(map, range, [&](ChannelRange some) { map.channels(some); });
  }
  /// @brief propagate() for some channels. @param dy  gradient of the output. @param x  activations. @param range  which.
  /// @param coefficients_of  as there. @param dx  theirs are written.
  template <class D, class T, class U, class CoefficientsOf>
  void propagate(TensorView<const D> dy, TensorView<const T> x, ChannelRange range,
                 const CoefficientsOf& coefficients_of, TensorView<U> dx) const {
    const auto map = map_pass(coefficients_of, dx, dy, x);
    run_by_channels(map, range, [&](ChannelRange some) { map.channels(some); });
  }

 private:
  template <class CoefficientsOf, class Out, class... In>
  static auto map_pass(const CoefficientsOf& coefficients_of, const Out& out, const In&... in) noexcept {
    return cpu::map_pass<Parameter>(coefficients_of, syncbn::detail::storage_view(out),
                                    syncbn::detail::storage_view(in)...);
  }

  template <class Pass, class Task>
  void run_by_channels(const Pass& pass, ChannelRange range, const Task& task) const {
    cpu::run_by_channels(executor_, pass, range, task);
  }

  // The sums of a few channels, put where they belong.
  template <class Storage>
  static void take(const cpu::MomentsPass<Storage>& pass, ChannelRange range, MomentsPointers to) noexcept {
    ChannelMoments sums[cpu::most_channels_at_once];
    pass.channels(range, sums);
    for (Index c = range.first; c < range.last; ++c) {
      to.mean[c] = sums[c - range.first].mean;
      to.m2[c] = sums[c - range.first].m2;
    }
  }
  template <class Storage>
  static void take(const cpu::GradientPass<Storage>& pass, ChannelRange range, GradientSumsPointers to) noexcept {
    cpu::TwoSums sums[cpu::most_channels_at_once];
    pass.channels(range, sums);
    for (Index c = range.first; c < range.last; ++c) {
      to.dy[c] = sums[c - range.first].dy;
      to.dy_centred[c] = sums[c - range.first].dy_centred;
    }
  }

  Executor executor_{};
  [[no_unique_address]] queue_type queue_{};
  // Reused by every pass.
  std::vector<ChannelMoments> moments_;
  std::vector<cpu::TwoSums> sums_;
};

}  // namespace SYNCBN_CPU_ISA
}  // namespace syncbn::inline v0
