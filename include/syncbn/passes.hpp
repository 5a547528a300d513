#pragma once

#include <cstdint>

#include <syncbn/concepts.hpp>
#include <syncbn/detail/channel_functors.hpp>
#include <syncbn/statistics.hpp>

/// @file
/// The split API: batch normalization in halves that can be called alone, on views, with state that somebody else owns.
///
///     accumulate(x) -> Moments          exchange   finalize -> Statistics             normalize(x)     -> y
///     accumulate(dy, x) -> GradientSums exchange   finalize -> GradientCoefficients   propagate(dy, x) -> dx
///
/// BatchNorm is a composition of these. Tensors are not validated here: extents must match (validation.hpp checks them).

namespace syncbn::inline v0 {

// ---- Forward ---------------------------------------------------------------------------------------------------------

/// @brief Adds the moments of x; call it for each micro-batch.
/// @param backend  whose kernels. @param x  activations. @shape{(N, C, S...)} @param moments  of C channels.
/// @determinism{bitwise for a shape and format: any executor, layout, alignment}
template <backend Backend, readable_by<Backend> X>
void accumulate(Backend& backend, const X& x, Moments<Backend>& moments) {
  using Element = typename view_t<const X>::value_type;
  backend.accumulate(TensorView<const Element, typename Backend::memory_space>(view(x)), moments.pointers());
}

/// @brief Turns moments into what normalizes. @param backend  whose memory. @param moments  global ones.
/// @param eps  added to the variance inside the root. @param statistics  filled.
template <backend Backend>
void finalize(Backend& backend, const Moments<Backend>& moments, double eps, Statistics<Backend>& statistics) {
  statistics.resize(backend, moments.channels());
  backend.for_each_channel(
      moments.channels(),
      detail::FinalizeMoments{moments.count(), moments.mean(), moments.m2(), eps, statistics.count(), statistics.mean(),
                              statistics.variance(), statistics.inverse_deviation()});
}

/// @brief Statistics of inference: the running ones. @param backend  whose memory.
/// @param running_mean  one per channel. @param running_var  one per channel. @param eps  added inside the root.
/// @param statistics  filled; its count is 0.
template <backend Backend>
void use_running(Backend& backend,
                 TensorView<const typename Backend::parameter_type, typename Backend::memory_space> running_mean,
                 TensorView<const typename Backend::parameter_type, typename Backend::memory_space> running_var,
                 double eps, Statistics<Backend>& statistics) {
  statistics.resize(backend, running_mean.extent(0));
  backend.for_each_channel(
      running_mean.extent(0),
      detail::UseRunning<typename Backend::parameter_type>{
          running_mean.data(), running_mean.stride(0), running_var.data(), running_var.stride(0), eps,
          statistics.count(), statistics.mean(), statistics.variance(), statistics.inverse_deviation()});
}

/// @brief running = (1 - momentum) * running + momentum * value, the variance unbiased. Nothing if fewer than 2 values.
/// @param backend  whose memory. @param statistics  of the batch. @param momentum  weight of the batch.
/// @param running_mean  one per channel, or a view of nothing. @param running_var  likewise.
/// @param batches  null; or, in the backend's memory, the batches so far, whose average is taken: momentum is then
/// 1 / (batches + 1).
template <backend Backend>
void update_running(Backend& backend, const Statistics<Backend>& statistics, double momentum,
                    TensorView<typename Backend::parameter_type, typename Backend::memory_space> running_mean,
                    TensorView<typename Backend::parameter_type, typename Backend::memory_space> running_var,
                    const std::int64_t* batches = nullptr) {
  backend.for_each_channel(statistics.channels(),
                           detail::UpdateRunning<typename Backend::parameter_type>{
                               statistics.count(), statistics.mean(), statistics.variance(), momentum, batches,
                               running_mean.data(), running_mean.stride(0), running_var.data(), running_var.stride(0)});
}

/// @brief y = (x - mean) / sqrt(variance + eps) * weight + bias.
/// @param backend  whose kernels. @param x  activations. @shape{(N, C, S...)} @param statistics  of C channels.
/// @param weight  one per channel, or a view of nothing: 1. @param bias  likewise: 0.
/// @param y  may be x. @shape{same as x}
template <backend Backend, readable_by<Backend> X, class Y>
  requires writable_by<Y, Backend> && same_format_as<const X, Y>
void normalize(const Backend& backend, const X& x, const Statistics<Backend>& statistics,
               TensorView<const typename Backend::parameter_type, typename Backend::memory_space> weight,
               TensorView<const typename Backend::parameter_type, typename Backend::memory_space> bias, Y&& y) {
  using Element = typename view_t<const X>::value_type;
  using P = typename Backend::parameter_type;
  backend.normalize(TensorView<const Element, typename Backend::memory_space>(view(x)),
                    detail::NormalizeChannel<P>{statistics.mean(), statistics.inverse_deviation(), weight.data(),
                                                weight.stride(0), bias.data(), bias.stride(0)},
                    view(y));
}

/// @brief accumulate(), finalize() and normalize() of a batch on this process alone, by one walk over memory where the
/// backend has one.
/// @param backend  whose kernels. @param x  activations. @shape{(N, C, S...)} @param eps  added inside the root.
/// @param moments  become those of x. @param statistics  filled. @param weight  one per channel, or a view of nothing: 1.
/// @param bias  likewise: 0. @param y  may be x. @shape{same as x}
/// @determinism{the same bits as by the three, unless the backend says otherwise}
template <backend Backend, readable_by<Backend> X, class Y>
  requires writable_by<Y, Backend> && same_format_as<const X, Y>
void normalize_alone(Backend& backend, const X& x, double eps, Moments<Backend>& moments,
                     Statistics<Backend>& statistics,
                     TensorView<const typename Backend::parameter_type, typename Backend::memory_space> weight,
                     TensorView<const typename Backend::parameter_type, typename Backend::memory_space> bias, Y&& y) {
  using Element = typename view_t<const X>::value_type;
  using P = typename Backend::parameter_type;
  const TensorView<const Element, typename Backend::memory_space> input(view(x));
  const auto output = view(y);
  moments.resize(backend, input.extent(1));
  statistics.resize(backend, input.extent(1));
  const detail::FinalizeMoments finish{
      moments.count(),    moments.mean(),    moments.m2(),          eps,
      statistics.count(), statistics.mean(), statistics.variance(), statistics.inverse_deviation()};
  const detail::NormalizeChannel<P> coefficients_of{
      statistics.mean(), statistics.inverse_deviation(), weight.data(), weight.stride(0), bias.data(), bias.stride(0)};
  if constexpr (requires {
                  backend.accumulate_and_normalize(input, moments.pointers(), finish, coefficients_of, output);
                }) {
    backend.accumulate_and_normalize(input, moments.pointers(), finish, coefficients_of, output);
  } else {
    moments.reset(backend, input.extent(1));
    backend.accumulate(input, moments.pointers());
    backend.for_each_channel(input.extent(1), finish);
    backend.normalize(input, coefficients_of, output);
  }
}

// ---- Backward --------------------------------------------------------------------------------------------------------

/// @brief Adds the sums of the gradient; call it for each micro-batch.
/// @param backend  whose kernels. @param dy  gradient of the output. @shape{same as x}
/// @param x  activations of the forward pass. @shape{(N, C, S...)} @param statistics  that normalized x.
/// @param sums  of C channels.
/// @determinism{bitwise for a shape and format: any executor, layout, alignment}
template <backend Backend, readable_by<Backend> D, readable_by<Backend> X>
  requires same_format_as<const D, const X>
void accumulate(Backend& backend, const D& dy, const X& x, const Statistics<Backend>& statistics,
                GradientSums<Backend>& sums) {
  using Gradient = typename view_t<const D>::value_type;
  using Element = typename view_t<const X>::value_type;
  using Space = typename Backend::memory_space;
  backend.accumulate(TensorView<const Gradient, Space>(view(dy)), TensorView<const Element, Space>(view(x)),
                     statistics.mean(), GradientSumsPointers{sums.dy(), sums.dy_centred()});
}

/// @brief Means of the gradient over all values. @param backend  whose memory. @param sums  global ones.
/// @param statistics  that normalized x; their count divides. @param coefficients  filled; zeros where the count is 0.
template <backend Backend>
void finalize(Backend& backend, const GradientSums<Backend>& sums, const Statistics<Backend>& statistics,
              GradientCoefficients<Backend>& coefficients) {
  coefficients.resize(backend, sums.channels());
  backend.for_each_channel(sums.channels(), detail::FinalizeGradient{statistics.count(), sums.dy(), sums.dy_centred(),
                                                                     coefficients.dy(), coefficients.dy_centred()});
}

/// @brief Adds the gradients of weight and bias: local sums, as data-parallel training wants them.
/// @param backend  whose memory. @param sums  this rank's own. @param statistics  that normalized x.
/// @param weight_grad  one per channel, or a view of nothing. @param bias_grad  likewise.
template <backend Backend>
void add_parameter_gradients(Backend& backend, const GradientSums<Backend>& sums, const Statistics<Backend>& statistics,
                             TensorView<typename Backend::parameter_type, typename Backend::memory_space> weight_grad,
                             TensorView<typename Backend::parameter_type, typename Backend::memory_space> bias_grad) {
  backend.for_each_channel(sums.channels(),
                           detail::AddParameterGradients<typename Backend::parameter_type>{
                               statistics.count(), sums.dy(), sums.dy_centred(), statistics.inverse_deviation(),
                               weight_grad.data(), weight_grad.stride(0), bias_grad.data(), bias_grad.stride(0)});
}

/// @brief The input gradient where batch statistics normalized x.
/// @param backend  whose kernels. @param dy  gradient of the output. @shape{same as x} @param x  activations.
/// @param statistics  that normalized x. @param coefficients  of the gradient.
/// @param weight  one per channel, or a view of nothing: 1. @param dx  may be dy or x. @shape{same as x}
/// @source{Ioffe and Szegedy 2015, section 3}
template <backend Backend, readable_by<Backend> D, readable_by<Backend> X, class DX>
  requires writable_by<DX, Backend> && same_format_as<const D, const X> && same_format_as<const X, DX>
void propagate(const Backend& backend, const D& dy, const X& x, const Statistics<Backend>& statistics,
               const GradientCoefficients<Backend>& coefficients,
               TensorView<const typename Backend::parameter_type, typename Backend::memory_space> weight, DX&& dx) {
  using Gradient = typename view_t<const D>::value_type;
  using Element = typename view_t<const X>::value_type;
  using Space = typename Backend::memory_space;
  using P = typename Backend::parameter_type;
  backend.propagate(TensorView<const Gradient, Space>(view(dy)), TensorView<const Element, Space>(view(x)),
                    detail::PropagateChannel<P>{statistics.mean(), statistics.inverse_deviation(), weight.data(),
                                                weight.stride(0), coefficients.dy(), coefficients.dy_centred()},
                    view(dx));
}

/// @brief accumulate(), finalize() and propagate() of a batch that was normalized on this process alone, by one walk over
/// memory where the backend has one.
/// @param backend  whose kernels. @param dy  gradient of the output. @shape{same as x} @param x  activations.
/// @param statistics  that normalized x. @param sums  become those of dy and x. @param coefficients  filled.
/// @param weight  one per channel, or a view of nothing: 1. @param dx  may be dy or x. @shape{same as x}
/// @determinism{the same bits as by the three, unless the backend says otherwise}
template <backend Backend, readable_by<Backend> D, readable_by<Backend> X, class DX>
  requires writable_by<DX, Backend> && same_format_as<const D, const X> && same_format_as<const X, DX>
void propagate_alone(Backend& backend, const D& dy, const X& x, const Statistics<Backend>& statistics,
                     GradientSums<Backend>& sums, GradientCoefficients<Backend>& coefficients,
                     TensorView<const typename Backend::parameter_type, typename Backend::memory_space> weight,
                     DX&& dx) {
  using Space = typename Backend::memory_space;
  using P = typename Backend::parameter_type;
  const TensorView<const typename view_t<const D>::value_type, Space> gradient(view(dy));
  const TensorView<const typename view_t<const X>::value_type, Space> input(view(x));
  const auto output = view(dx);
  sums.resize(backend, input.extent(1));
  coefficients.resize(backend, sums.channels());
  const GradientSumsPointers to{sums.dy(), sums.dy_centred()};
  const detail::FinalizeGradient finish{statistics.count(), sums.dy(), sums.dy_centred(), coefficients.dy(),
                                        coefficients.dy_centred()};
  const detail::PropagateChannel<P> coefficients_of{statistics.mean(), statistics.inverse_deviation(),
                                                    weight.data(),     weight.stride(0),
                                                    coefficients.dy(), coefficients.dy_centred()};
  if constexpr (requires {
                  backend.accumulate_and_propagate(gradient, input, statistics.mean(), to, finish, coefficients_of,
                                                   output);
                }) {
    backend.accumulate_and_propagate(gradient, input, statistics.mean(), to, finish, coefficients_of, output);
  } else {
    sums.reset(backend, input.extent(1));
    backend.accumulate(gradient, input, statistics.mean(), to);
    backend.for_each_channel(input.extent(1), finish);
    backend.propagate(gradient, input, coefficients_of, output);
  }
}

/// @brief The input gradient where running statistics normalized x: dx = dy * weight / sqrt(running_var + eps).
/// @param backend  whose kernels. @param dy  gradient of the output. @param statistics  by use_running().
/// @param weight  one per channel, or a view of nothing: 1. @param dx  may be dy. @shape{same as dy}
template <backend Backend, readable_by<Backend> D, class DX>
  requires writable_by<DX, Backend> && same_format_as<const D, DX>
void propagate(const Backend& backend, const D& dy, const Statistics<Backend>& statistics,
               TensorView<const typename Backend::parameter_type, typename Backend::memory_space> weight, DX&& dx) {
  using Gradient = typename view_t<const D>::value_type;
  using P = typename Backend::parameter_type;
  backend.normalize(TensorView<const Gradient, typename Backend::memory_space>(view(dy)),
                    detail::ScaleChannel<P>{statistics.inverse_deviation(), weight.data(), weight.stride(0)}, view(dx));
}

}  // namespace syncbn::inline v0
