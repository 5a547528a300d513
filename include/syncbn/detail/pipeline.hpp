#pragma once

#include <algorithm>
#include <chrono>
#include <thread>

#include <syncbn/synchronize.hpp>

// The order of an exchange's blocks on one rank: what is summed, sent, received and used when.

namespace syncbn::inline v0::detail {

// How far a rank sums ahead of the blocks that have come back. As far as its cache holds what it has summed, so that this
// need not be read from memory again to be used; there, a moment's wait for a block costs less than going on does. Where
// the fabric takes longer than that, a rank goes on.
class Pace {
 public:
  // Of activations that a block reads.
  explicit Pace(double block_bytes) noexcept
      : blocks_ahead_(static_cast<Index>(std::max(1.0, cached_bytes / std::max(1.0, block_bytes)))),
        patience_(block_bytes / bytes_read_per_second) {}

  // Whether to wait a moment rather than to sum another block.
  bool is_far_ahead(Index blocks) const noexcept { return blocks >= blocks_ahead_ && failed_ < most_failures; }

  // Polls for a moment.
  template <class Communicator>
  bool await(Exchange<Communicator>& exchange) noexcept {
    const auto begin = std::chrono::steady_clock::now();
    do {
      if (exchange.poll()) {
        failed_ = 0;
        return true;
      }
      std::this_thread::yield();
    } while (std::chrono::steady_clock::now() - begin < patience_);
    ++failed_;
    return false;
  }

 private:
  static constexpr double cached_bytes = 768 << 10;
  static constexpr double bytes_read_per_second = 2e10;
  static constexpr int most_failures = 2;  // in a row; then the fabric is slow, not a rank late

  Index blocks_ahead_;
  std::chrono::duration<double> patience_;
  int failed_ = 0;
};

// Every rank starts and finishes blocks in their order, and does what it can before it waits: a block is used as soon as
// its sums are there. send() and receive() are for the next block; accumulate(range) sums one.
template <class Communicator, class Accumulate, class Send, class Receive>
void pipeline(Exchange<Communicator>& exchange, Pace pace, const Accumulate& accumulate, const Send& send,
              const Receive& receive) {
  Index accumulated = 0;
  while (exchange.finished() < exchange.blocks()) {
    const bool may_send = exchange.started() < accumulated;
    const bool may_receive = exchange.finished() < exchange.started();
    const Index ahead = accumulated - exchange.finished();
    const bool sends = may_send && exchange.poll_start();
    const bool receives = !sends && may_receive && exchange.poll();
    const bool waits = accumulated == exchange.blocks() && !sends && !receives;  // nothing else is left to do
    if (sends || (waits && may_send)) {
      send();
    } else if (receives || waits) {
      receive();
    } else if (!(may_receive && pace.is_far_ahead(ahead) && pace.await(exchange))) {
      accumulate(channels_of(exchange, accumulated++));
    }
  }
}

}  // namespace syncbn::inline v0::detail
