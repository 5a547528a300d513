#pragma once

#include <syncbn/deferred_synchronize.hpp>
#include <syncbn/exchange.hpp>
#include <syncbn/passes.hpp>
#include <syncbn/rank_failure.hpp>

/// @file
/// The exchange of the split API: begin, start, finish; between any two of them a rank may do other work. Every rank
/// calls all three, with an empty batch or after a failure too.
///
/// Where errors are deferred (NCCL) the same three calls put the exchange into the queue and wait for nothing:
/// begin_exchange() throws where the group is not usable any more or its frames cannot be had, and what the queue does after
/// finish_exchange() sees the sums of all ranks, or after a bad end a count of -1 and NaN.

namespace syncbn::inline v0 {

/// @brief Opens an exchange of moments or gradient sums. Before accumulation, if it can be: with many channels the header
/// leaves now, and its latency hides behind the pass over x.
/// @param exchange  of this layer. @param backend  whose queue orders the frames.
/// @param call      what this rank is doing, the same on all. @param count  values per channel on this rank.
/// @param failure   what has gone wrong on this rank so far and until finish_exchange(); outlives it.
/// @param by_blocks  whether this rank gains from an exchange in blocks: see gains_from_blocks().
template <communicator Communicator, backend Backend>
  requires has_frames_for<Communicator, Backend>
void begin_exchange(Exchange<Communicator>& exchange, Backend& backend, ExchangeCall call, double count,
                    RankFailure& failure, bool by_blocks = false) {
  call.words = detail::words_per_channel;
  // Also on a rank that has failed already: it sends the same frames.
  RankFailure allocation;
  allocation.capture([&] { exchange.reserve(call.words * call.channels); });
  failure.capture([&] { allocation.rethrow(); });
  exchange.begin(call, call.words * call.channels, count, failure, backend.queue(), by_blocks);
}

namespace detail {

template <class Communicator>
ChannelRange channels_of(const Exchange<Communicator>& exchange, Index block) noexcept {
  return {exchange.first_word(block) / words_per_channel, exchange.first_word(block + 1) / words_per_channel};
}

// Sends the next block.
template <class Communicator, class Backend>
void send(Exchange<Communicator>& exchange, Backend& backend, const Moments<Backend>& local) {
  const ChannelRange range = channels_of(exchange, exchange.started());
  exchange.start([&](double* words) {
    backend.for_each_channel(range.size(),
                             PackMoments{local.count(), local.mean() + range.first, local.m2() + range.first, words});
  });
}
template <class Communicator, class Backend>
void send(Exchange<Communicator>& exchange, Backend& backend, const GradientSums<Backend>& local) {
  const ChannelRange range = channels_of(exchange, exchange.started());
  exchange.start([&](double* words) {
    backend.for_each_channel(
        range.size(), CopyPairs{local.dy() + range.first, local.dy_centred() + range.first, words, words + 1, 1, 2});
  });
}

// Takes the sums of the next block. Returns true if a second round has to follow, on all ranks.
template <class Communicator, class Backend>
bool receive(Exchange<Communicator>& exchange, Backend& backend, Moments<Backend>& global) {
  const ChannelRange range = channels_of(exchange, exchange.finished());
  const double* sums = exchange.finish();
  global.resize(backend, exchange.call().channels);
  const double count = exchange.total_count();
  const double limit = cancellation_limit(exchange.call().kind);
  bool again = false;
  for (Index c = 0; c < range.size() && !again; ++c) {
    again = needs_centred_sums(count, {sums[2 * c], sums[2 * c + 1]}, limit);
  }
  const MomentsPointers to = global.pointers();
  backend.for_each_channel(range.size(),
                           UnpackMoments{count, sums, limit, to.count, to.mean + range.first, to.m2 + range.first});
  return again;
}
template <class Communicator, class Backend>
void receive(Exchange<Communicator>& exchange, Backend& backend, GradientSums<Backend>& global) {
  const ChannelRange range = channels_of(exchange, exchange.finished());
  const double* sums = exchange.finish();
  global.resize(backend, exchange.call().channels);
  backend.for_each_channel(
      range.size(), CopyPairs{sums, sums + 1, global.dy() + range.first, global.dy_centred() + range.first, 2, 1});
}

// The second round of a block, once all blocks were received.
template <class Communicator, class Backend>
void receive_centred(Exchange<Communicator>& exchange, Backend& backend, Index block, const Moments<Backend>& local,
                     Moments<Backend>& global) {
  const ChannelRange range = channels_of(exchange, block);
  const MomentsPointers to = global.pointers();
  const double* centred = exchange.again(
      [&](double* words) {
        backend.for_each_channel(range.size(),
                                 PackCentredMoments{local.count(), local.mean() + range.first, local.m2() + range.first,
                                                    to.mean + range.first, words});
      },
      block);
  backend.for_each_channel(
      range.size(), UnpackCentredMoments{exchange.total_count(), centred, to.mean + range.first, to.m2 + range.first});
}

}  // namespace detail

/// @brief Sends this rank's moments or gradient sums, all blocks. @param exchange  opened. @param backend  whose memory.
/// @param local  this rank's, all micro-batches together. @throws as Exchange::start.
template <communicator Communicator, backend Backend, class Sums>
  requires std::same_as<Sums, Moments<Backend>> || std::same_as<Sums, GradientSums<Backend>>
void start_exchange(Exchange<Communicator>& exchange, Backend& backend, const Sums& local) {
  while (exchange.started() < exchange.blocks()) detail::send(exchange, backend, local);
}

/// @brief Waits for the moments of all ranks; where the mean dwarfs the deviation of a channel, all ranks do a second sum
/// of its block about the common mean, for such channels (docs/numerics.md).
/// @param exchange  started. @param backend  whose memory. @param local  as sent.
/// @param global    filled; may not be @p local. Of as many channels beforehand, if memory may run out: a rank that cannot
/// make room now throws alone. @return values per channel on all ranks; nothing where errors are deferred.
/// @throws as Exchange::finish.
template <communicator Communicator, backend Backend>
double finish_exchange(Exchange<Communicator>& exchange, Backend& backend, const Moments<Backend>& local,
                       Moments<Backend>& global) {
  bool again[detail::most_blocks];
  for (Index block = 0; block < exchange.blocks(); ++block) again[block] = detail::receive(exchange, backend, global);
  for (Index block = 0; block < exchange.blocks(); ++block) {
    if (again[block]) detail::receive_centred(exchange, backend, block, local, global);
  }
  return exchange.total_count();
}

/// @brief Waits for the gradient sums of all ranks. @param exchange  started. @param backend  whose memory.
/// @param global  filled; as above. @throws as Exchange::finish.
template <communicator Communicator, backend Backend>
void finish_exchange(Exchange<Communicator>& exchange, Backend& backend, GradientSums<Backend>& global) {
  while (exchange.finished() < exchange.blocks()) detail::receive(exchange, backend, global);
}
/// @brief The same, for code that knows no fabric: where errors are deferred, the sums sent become zeros after a bad end.
/// @param exchange  started. @param backend  whose memory. @param global  filled; as above.
template <communicator Communicator, backend Backend>
void finish_exchange(Exchange<Communicator>& exchange, Backend& backend, GradientSums<Backend>&,
                     GradientSums<Backend>& global) {
  finish_exchange(exchange, backend, global);
}

namespace detail {

// An exchange in which this rank has nothing to say but that it failed.
template <class Communicator, class Backend>
void fail_together(Exchange<Communicator>& exchange, Backend& backend, const ExchangeCall& call, RankFailure& failure) {
  Moments<Backend> nothing;
  nothing.resize(backend, call.channels);
  begin_exchange(exchange, backend, call, 0, failure);
  start_exchange(exchange, backend, nothing);
  if constexpr (Communicator::errors == ErrorModel::deferred) {
    Moments<Backend> sums;
    finish_exchange(exchange, backend, nothing, sums);
  } else {
    exchange.finish();
  }
}

}  // namespace detail

}  // namespace syncbn::inline v0
