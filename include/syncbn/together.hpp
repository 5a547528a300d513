#pragma once

#include <syncbn/detail/pipeline.hpp>
#include <syncbn/passes.hpp>
#include <syncbn/synchronize.hpp>
#include <syncbn/validation.hpp>

/// @file
/// Passes over a batch that all ranks share. Where the exchange has several blocks of channels and the backend works by
/// channels, a block is normalized as soon as its sums are there, from the caches if the fabric is fast, while the sums of
/// the next ones travel. Otherwise everything is summed, exchanged, and normalized. The bits are the same.

namespace syncbn::inline v0 {

/// @brief Whether a pass over these tensors gains from an exchange in blocks. @param backend  whose kernels.
/// @param first  an input. @param others  further ones and the output, of the same extents.
/// @return true if the backend works by channels here.
template <backend Backend, class First, class... Others>
bool gains_from_blocks(const Backend& backend, const First& first, const Others&... others) noexcept {
  if constexpr (passes_over_channels<Backend, typename First::value_type>) {
    return backend.works_by_channels(first, others...);
  } else {
    return false;
  }
}

namespace detail {

// Whether an exchange may have more than one block, which the backend then works on one by one.
template <class Communicator, class Backend, class X>
inline constexpr bool may_have_blocks =
    !defers_errors<Communicator> && passes_over_channels<Backend, typename view_t<const X>::value_type>;

// Activations that a block of the exchange reads.
template <class Communicator, class... Inputs>
double bytes_of_block(const Exchange<Communicator>& exchange, const Inputs&... inputs) noexcept {
  const auto channels = static_cast<double>(channels_of(exchange, 0).size());
  return (... + (channels * static_cast<double>(elements_per_channel(inputs) *
                                                static_cast<Index>(sizeof(typename Inputs::value_type)))));
}

template <class Communicator, class Backend, class X, class Y, class CoefficientsOf>
void normalize_by_blocks(Exchange<Communicator>& exchange, Backend& backend, const X& x, double eps,
                         Moments<Backend>& local, Moments<Backend>& global, Statistics<Backend>& statistics,
                         const CoefficientsOf& coefficients_of, const Y& y, RankFailure& failure) {
  const FinalizeMoments finish{
      global.count(),     global.mean(),     global.m2(),           eps,
      statistics.count(), statistics.mean(), statistics.variance(), statistics.inverse_deviation()};
  const auto use = [&](Index block) {
    if (exchange.total_count() == 1) return;  // an error, thrown once all blocks are home
    failure.capture([&] {
      const ChannelRange range = channels_of(exchange, block);
      for (Index c = range.first; c < range.last; ++c) finish(c);
      backend.normalize(x, range, coefficients_of, y);
    });
  };
  bool again[most_blocks];
  *local.pointers().count = static_cast<double>(elements_per_channel(x));
  pipeline(
      exchange, Pace(bytes_of_block(exchange, x)),
      [&](ChannelRange range) { failure.capture([&] { backend.accumulate(x, range, local.pointers()); }); },
      [&] { send(exchange, backend, local); },
      [&] {
        const Index block = exchange.finished();
        again[block] = receive(exchange, backend, global);
        if (!again[block]) use(block);
      });
  for (Index block = 0; block < exchange.blocks(); ++block) {
    if (!again[block]) continue;
    receive_centred(exchange, backend, block, local, global);
    use(block);
  }
  failure.rethrow();
}

template <class Communicator, class Backend, class D, class X, class DX, class CoefficientsOf>
void propagate_by_blocks(Exchange<Communicator>& exchange, Backend& backend, const D& dy, const X& x,
                         const Statistics<Backend>& statistics, GradientSums<Backend>& local,
                         GradientSums<Backend>& global, GradientCoefficients<Backend>& coefficients,
                         const CoefficientsOf& coefficients_of, const DX& dx, RankFailure& failure) {
  const FinalizeGradient finish{statistics.count(), global.dy(), global.dy_centred(), coefficients.dy(),
                                coefficients.dy_centred()};
  const GradientSumsPointers to{local.dy(), local.dy_centred()};
  pipeline(
      exchange, Pace(bytes_of_block(exchange, dy, x)),
      [&](ChannelRange range) { failure.capture([&] { backend.accumulate(dy, x, statistics.mean(), range, to); }); },
      [&] { send(exchange, backend, local); },
      [&] {
        const ChannelRange range = channels_of(exchange, exchange.finished());
        receive(exchange, backend, global);
        failure.capture([&] {
          for (Index c = range.first; c < range.last; ++c) finish(c);
          backend.propagate(dy, x, range, coefficients_of, dx);
        });
      });
  failure.rethrow();
}

}  // namespace detail

/// @brief accumulate(), exchange, finalize() and normalize() of a batch that all ranks share.
/// @param exchange  opened by begin_exchange(). @param backend  whose kernels. @param x  activations.
/// @shape{(N, C, S...)} @param eps  added inside the root. @param local  becomes the moments of x.
/// @param global  becomes those of all ranks. @param statistics  filled. @param weight  one per channel, or a view of
/// nothing: 1. @param bias  likewise: 0. @param y  may be x; undefined after an exception. @shape{same as x}
/// @param failure  as given to begin_exchange(); x and y are not looked at where it has failed.
/// @determinism{the same bits as by the four}
/// @throws as finish_exchange(); ShapeError if all ranks together have one value per channel.
template <communicator Communicator, backend Backend, readable_by<Backend> X, class Y>
  requires writable_by<Y, Backend> && same_format_as<const X, Y>
void normalize_together(Exchange<Communicator>& exchange, Backend& backend, const X& x, double eps,
                        Moments<Backend>& local, Moments<Backend>& global, Statistics<Backend>& statistics,
                        TensorView<const typename Backend::parameter_type, typename Backend::memory_space> weight,
                        TensorView<const typename Backend::parameter_type, typename Backend::memory_space> bias, Y&& y,
                        RankFailure& failure) {
  const auto check_count = [&] {
    if constexpr (defers_errors<Communicator>) {
      failure.rethrow();
    } else {
      check_more_than_one_value(exchange.total_count(), exchange.communicator().size());
    }
  };
  decltype(detail::read_only(view(x))) input;
  decltype(view(y)) output;
  failure.capture([&] {
    input = detail::read_only(view(x));
    output = view(y);
    local.reset(backend, exchange.call().channels);
    global.resize(backend, exchange.call().channels);
    statistics.resize(backend, exchange.call().channels);
  });
  if constexpr (detail::may_have_blocks<Communicator, Backend, X>) {
    if (exchange.blocks() > 1 && !failure.failed() && backend.works_by_channels(input, output)) {
      const detail::NormalizeChannel<typename Backend::parameter_type> coefficients_of{
          statistics.mean(), statistics.inverse_deviation(), weight.data(), weight.stride(0), bias.data(),
          bias.stride(0)};
      detail::normalize_by_blocks(exchange, backend, input, eps, local, global, statistics, coefficients_of, output,
                                  failure);
      return check_count();
    }
  }
  failure.capture([&] { accumulate(backend, input, local); });
  start_exchange(exchange, backend, local);
  finish_exchange(exchange, backend, local, global);
  check_count();
  finalize(backend, global, eps, statistics);
  normalize(backend, input, statistics, weight, bias, output);
}

/// @brief accumulate(), exchange, finalize() and propagate() of a batch that was normalized by all ranks' statistics.
/// @param exchange  opened by begin_exchange(). @param backend  whose kernels. @param dy  gradient of the output.
/// @shape{same as x} @param x  activations. @param statistics  that normalized x. @param local  becomes this rank's sums.
/// @param global  becomes those of all ranks. @param coefficients  filled. @param weight  one per channel, or a view of
/// nothing: 1. @param dx  may be dy or x; undefined after an exception. @shape{same as x}
/// @param failure  as given to begin_exchange(); dy, x and dx are not looked at where it has failed.
/// @determinism{the same bits as by the four} @throws as finish_exchange().
template <communicator Communicator, backend Backend, readable_by<Backend> D, readable_by<Backend> X, class DX>
  requires writable_by<DX, Backend> && same_format_as<const D, const X> && same_format_as<const X, DX>
void propagate_together(Exchange<Communicator>& exchange, Backend& backend, const D& dy, const X& x,
                        const Statistics<Backend>& statistics, GradientSums<Backend>& local,
                        GradientSums<Backend>& global, GradientCoefficients<Backend>& coefficients,
                        TensorView<const typename Backend::parameter_type, typename Backend::memory_space> weight,
                        DX&& dx, RankFailure& failure) {
  decltype(detail::read_only(view(dy))) gradient;
  decltype(detail::read_only(view(x))) input;
  decltype(view(dx)) output;
  failure.capture([&] {
    gradient = detail::read_only(view(dy));
    input = detail::read_only(view(x));
    output = view(dx);
    local.reset(backend, exchange.call().channels);
    global.resize(backend, exchange.call().channels);
    coefficients.resize(backend, exchange.call().channels);
  });
  if constexpr (detail::may_have_blocks<Communicator, Backend, X>) {
    if (exchange.blocks() > 1 && !failure.failed() && backend.works_by_channels(gradient, input, output)) {
      const detail::PropagateChannel<typename Backend::parameter_type> coefficients_of{
          statistics.mean(), statistics.inverse_deviation(), weight.data(), weight.stride(0),
          coefficients.dy(), coefficients.dy_centred()};
      return detail::propagate_by_blocks(exchange, backend, gradient, input, statistics, local, global, coefficients,
                                         coefficients_of, output, failure);
    }
  }
  failure.capture([&] { accumulate(backend, gradient, input, statistics, local); });
  start_exchange(exchange, backend, local);
  finish_exchange(exchange, backend, local, global);
  if constexpr (defers_errors<Communicator>) failure.rethrow();
  finalize(backend, global, statistics, coefficients);
  propagate(backend, gradient, input, statistics, coefficients, weight, output);
}

}  // namespace syncbn::inline v0
