#pragma once

#include <syncbn/exchange.hpp>
#include <syncbn/passes.hpp>
#include <syncbn/rank_failure.hpp>

/// @file
/// The exchange of the split API: begin, start, finish; between any two of them a rank may do other work. Every rank
/// calls all three, with an empty batch or after a failure too.

namespace syncbn::inline v0 {

/// @brief Opens an exchange of moments or gradient sums. Before accumulation, if it can be: with many channels the header
/// leaves now, and its latency hides behind the pass over x.
/// @param exchange  of this layer. @param backend  whose queue orders the frames.
/// @param call      what this rank is doing, the same on all. @param count  values per channel on this rank.
/// @param failure   what has gone wrong on this rank so far and until finish_exchange(); outlives it.
template <communicator Communicator, backend Backend>
  requires reaches_memory_of<Communicator, Backend>
void begin_exchange(Exchange<Communicator>& exchange, Backend& backend, ExchangeCall call, double count,
                    RankFailure& failure) {
  call.words = detail::words_per_channel;
  // Also on a rank that has failed already: it sends the same frames.
  RankFailure allocation;
  allocation.capture([&] { exchange.reserve(call.words * call.channels); });
  failure.capture([&] { allocation.rethrow(); });
  exchange.begin(call, call.words * call.channels, count, failure, backend.queue());
}

/// @brief Sends this rank's moments. @param exchange  opened. @param backend  whose memory.
/// @param local  this rank's, all micro-batches together. @throws as Exchange::start.
template <communicator Communicator, backend Backend>
void start_exchange(Exchange<Communicator>& exchange, Backend& backend, const Moments<Backend>& local) {
  exchange.start([&](double* words) {
    backend.for_each_channel(local.channels(), detail::PackMoments{local.count(), local.mean(), local.m2(), words});
  });
}

/// @brief Sends this rank's gradient sums. @param exchange  opened. @param backend  whose memory.
/// @param local  this rank's, all micro-batches together. @throws as Exchange::start.
template <communicator Communicator, backend Backend>
void start_exchange(Exchange<Communicator>& exchange, Backend& backend, const GradientSums<Backend>& local) {
  exchange.start([&](double* words) {
    backend.for_each_channel(local.channels(),
                             detail::CopyPairs{local.dy(), local.dy_centred(), words, words + 1, 1, 2});
  });
}

/// @brief Waits for the moments of all ranks; where the mean dwarfs the deviation of a channel, all ranks do a second sum
/// about the common mean (docs/numerics.md).
/// @param exchange  started. @param backend  whose memory. @param local  as sent.
/// @param global    filled; may not be @p local. @return values per channel on all ranks.
/// @throws as Exchange::finish.
template <communicator Communicator, backend Backend>
double finish_exchange(Exchange<Communicator>& exchange, Backend& backend, const Moments<Backend>& local,
                       Moments<Backend>& global) {
  const Index channels = local.channels();
  const double* sums = exchange.finish();
  const double count = exchange.total_count();
  bool again = false;
  for (Index c = 0; c < channels && !again; ++c) {
    again = needs_centred_sums(count, {sums[2 * c], sums[2 * c + 1]}, cancellation_limit(exchange.call().kind));
  }
  if (global.channels() != channels) global.reset(channels);
  const MomentsPointers to = global.pointers();
  backend.for_each_channel(channels, detail::UnpackMoments{count, sums, to.count, to.mean, to.m2});
  if (again) {
    const double* centred = exchange.again([&](double* words) {
      backend.for_each_channel(
          channels, detail::PackCentredMoments{local.count(), local.mean(), local.m2(), global.mean(), words});
    });
    backend.for_each_channel(channels, detail::UnpackCentredMoments{count, centred, to.mean, to.m2});
  }
  return count;
}

/// @brief Waits for the gradient sums of all ranks. @param exchange  started. @param backend  whose memory.
/// @param global  filled. @throws as Exchange::finish.
template <communicator Communicator, backend Backend>
void finish_exchange(Exchange<Communicator>& exchange, Backend& backend, GradientSums<Backend>& global) {
  const double* sums = exchange.finish();
  const Index channels = exchange.call().channels;
  if (global.channels() != channels) global.reset(channels);
  backend.for_each_channel(channels, detail::CopyPairs{sums, sums + 1, global.dy(), global.dy_centred(), 2, 1});
}

}  // namespace syncbn::inline v0
