#pragma once

#include <algorithm>

#include <syncbn/concepts.hpp>
#include <syncbn/deferred_exchange.hpp>
#include <syncbn/detail/deferred_functors.hpp>
#include <syncbn/passes.hpp>
#include <syncbn/rank_failure.hpp>

/// @file
/// The split API where errors are deferred: what synchronize.hpp documents, put into the queue.

namespace syncbn::inline v0 {

/// @cond
// Overloads of what synchronize.hpp declares for every fabric; the documentation stands there.

template <defers_errors Communicator, backend Backend>
  requires has_frames_for<Communicator, Backend>
void begin_exchange(Exchange<Communicator>& exchange, Backend&, ExchangeCall call, double count, RankFailure& failure,
                    bool = false) {
  call.words = detail::words_per_channel;
  exchange.reserve(call.words * call.channels);
  exchange.begin(call, count, failure);
}

namespace detail {

// Frames leave whatever happens here: one that was not written is no whole frame, and condemned on all ranks.
template <class Communicator, class Backend, class Pack>
void send_deferred(Exchange<Communicator>& exchange, Backend& backend, const Pack& pack) {
  const Index channels = exchange.call().channels;
  exchange.launch([&] {
    backend.for_each_channel(std::max(channels, Index{1}),
                             SendDeferred<Pack>{exchange.call_on_device(), pack, channels});
  });
  exchange.sum_first(backend.queue());
}

template <class Communicator, class Backend>
void judge_deferred(Exchange<Communicator>& exchange, Backend& backend, bool has_second) {
  backend.for_each_channel(Index{1}, JudgeDeferred{exchange.call_on_device(), has_second});
}

template <class Communicator, class Backend>
void receive_deferred(Exchange<Communicator>& exchange, Backend& backend, double* local, double* local_centred,
                      GradientSums<Backend>& global) {
  exchange.throw_launch_failure();
  const Index channels = exchange.failed() ? 0 : exchange.call().channels;
  if (!exchange.failed()) global.resize(backend, channels);
  const double* sums = exchange.payload();
  judge_deferred(exchange, backend, false);
  backend.for_each_channel(channels,
                           ReceiveDeferredSums{exchange.call_on_device(),
                                               {sums, sums + 1, global.dy(), global.dy_centred(), words_per_channel, 1},
                                               local,
                                               local_centred,
                                               channels});
}

}  // namespace detail

template <defers_errors Communicator, backend Backend>
void start_exchange(Exchange<Communicator>& exchange, Backend& backend, const Moments<Backend>& local) {
  detail::PackMoments pack{};
  if (!exchange.failed()) pack = {local.count(), local.mean(), local.m2(), exchange.payload()};
  detail::send_deferred(exchange, backend, pack);
}
template <defers_errors Communicator, backend Backend>
void start_exchange(Exchange<Communicator>& exchange, Backend& backend, const GradientSums<Backend>& local) {
  double* const words = exchange.payload();
  detail::send_deferred(
      exchange, backend,
      detail::CopyPairs{local.dy(), local.dy_centred(), words, words + 1, 1, detail::words_per_channel});
}

template <defers_errors Communicator, backend Backend>
void finish_exchange(Exchange<Communicator>& exchange, Backend& backend, const Moments<Backend>& local,
                     Moments<Backend>& global) {
  const Index channels = exchange.failed() ? 0 : exchange.call().channels;
  MomentsPointers to{};
  detail::PackCentredMoments pack{};
  exchange.launch([&] {
    if (!exchange.failed()) {
      global.resize(backend, channels);
      to = global.pointers();
      pack = {local.count(), local.mean(), local.m2(), to.mean, exchange.second_payload()};
    }
    backend.for_each_channel(
        std::max(channels, Index{1}),
        detail::ReceiveDeferredMoments{exchange.call_on_device(), cancellation_limit(exchange.call().kind), to, pack,
                                       channels});
  });
  exchange.sum_second(backend.queue());
  exchange.throw_launch_failure();
  detail::judge_deferred(exchange, backend, true);
  backend.for_each_channel(channels, detail::ReceiveDeferredCentred{exchange.call_on_device(), to, channels});
}

template <defers_errors Communicator, backend Backend>
void finish_exchange(Exchange<Communicator>& exchange, Backend& backend, GradientSums<Backend>& global) {
  detail::receive_deferred(exchange, backend, nullptr, nullptr, global);
}
template <defers_errors Communicator, backend Backend>
void finish_exchange(Exchange<Communicator>& exchange, Backend& backend, GradientSums<Backend>& local,
                     GradientSums<Backend>& global) {
  detail::receive_deferred(exchange, backend, local.dy(), local.dy_centred(), global);
}
/// @endcond

}  // namespace syncbn::inline v0
