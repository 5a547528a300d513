#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

#include <syncbn/concepts.hpp>
#include <syncbn/detail/deferred_functors.hpp>
#include <syncbn/detail/named_group.hpp>
#include <syncbn/exchange.hpp>
#include <syncbn/rank_failure.hpp>
#include <syncbn/validation.hpp>

/// @file
/// The exchange where errors are deferred: put into a queue, judged there, and never waited for. A step can be captured in a
/// CUDA graph with it.

namespace syncbn::inline v0 {

/// @brief One sum over the ranks at a time, whose verdict stays with the queue.
///
/// | frame | words | when |
/// | --- | --- | --- |
/// | first | 16 + ranks / 50 + 2 C + 1, rounded up to whole multiples of 512 | always: header and payload |
/// | second | 2 C + 2, likewise | forward: centred sums, since nobody waits to see whether they are needed |
///
/// The number of the exchange and num_batches_tracked are read where they are, in the queue's memory. After a bad verdict
/// (a rank failed, ranks disagree, one value per channel on all of them) moments are NaN with a count of -1, and so the
/// output is NaN and no state changes, on any rank. A rank that failed sends the same frames, and throws in the call
/// itself; the others learn of it by check(), synchronize(), or at the end of their next call, whose own work is done.
/// Layers of different sizes that meet in one sum, which no verdict can be made of, end by the communicator's deadline.
/// A copy has the same group and name, frames of its own, and counts from 0.
/// @tparam Communicator  the fabric.
template <class Communicator>
  requires(Communicator::errors == ErrorModel::deferred)
class Exchange<Communicator> {
 public:
  using Queue = typename Communicator::queue_type;  ///< what orders the frames

  /// @brief For one layer. @param communicator  the group. @param name  the layer's name, the same on every rank; empty: its
  /// number in the order in which layers were made with the group. @throws Error if the group has more than 24800 ranks.
  explicit Exchange(Communicator communicator, std::string name = {})
      : group_(std::move(communicator), std::move(name)) {}
  /// @brief Counts from 0. @param other  copied from.
  Exchange(const Exchange& other) : group_(other.group_) {
    if (other.books_.size() > 0) reserve(other.payload_words_);
  }
  Exchange(Exchange&&) = default;  ///< Moves the frames too.
  /// @brief Counts from 0. @param other  copied from. @return *this.
  Exchange& operator=(const Exchange& other) {
    if (this != &other) *this = Exchange(other);
    return *this;
  }
  Exchange& operator=(Exchange&&) = default;  ///< Moves the frames too. @return *this.
  ~Exchange() = default;

  /// @brief The same layer in another group. @param communicator  the new group. @return an exchange that counts from 0.
  /// @tparam Other  may be another fabric.
  template <class Other>
  Exchange<Other> with(Other communicator) const {
    return Exchange<Other>(std::move(communicator), group_.own_name());
  }

  /// @brief The group. @return a handle that may be used between exchanges.
  Communicator& communicator() noexcept { return group_.communicator; }
  /// @copydoc communicator()
  const Communicator& communicator() const noexcept { return group_.communicator; }
  /// @brief The layer's name in messages and in the header. @return the name.
  const std::string& name() const noexcept { return group_.name(); }
  /// @brief Names the layer. @param name  the same on every rank.
  void set_name(std::string name) { group_.set_name(std::move(name)); }

  /// @brief Allocates what an exchange needs; not to be done while the queue is captured.
  /// @param words  of the payload. @throws what the communicator does, before any communication.
  void reserve(Index words) {
    const detail::DeferredFrame layout(words, communicator().size());
    if (books_.size() == 0) {
      mailbox_ = communicator().open_mailbox();
      books_ = communicator().acquire(2);
    }
    if (!(layout == layout_)) {
      layout_ = {};
      first_ = communicator().acquire(layout.words());
      second_ = communicator().acquire(layout.second_words());
      layout_ = layout;
    }
    payload_words_ = words;
  }

  /// @brief Throws what has come of earlier exchanges, as far as it is known; does not wait.
  /// @param queue  of the exchanges. @throws ShapeError, Error  if one ended badly. @throws CommunicatorError  if the fabric
  /// has failed, or a deadline has passed.
  void check(Queue& queue) {
    at_fabric([&] { communicator().check(queue); });
    throw_report();
  }
  /// @brief Waits for the queue as long as the communicator's deadline allows; then as check(). Ranks that call it at the same
  /// place throw together. @param queue  of the exchanges.
  void synchronize(Queue& queue) {
    at_fabric([&] { communicator().synchronize(queue); });
    throw_report();
  }

  /// @cond
  // For deferred_synchronize.hpp, which fills the queue.
  void begin(const ExchangeCall& call, double count, const RankFailure& failure) {
    if (!communicator().usable()) throw CommunicatorError(where(call) + "the communicator is not usable any more");
    call_ = call;
    count_ = count;
    failure_ = &failure;
    launch_ = {};
    fingerprint_ = detail::fingerprint(call, 1, name(), 0);
  }
  detail::DeferredCall call_on_device() const noexcept {
    return {layout_,
            first_.data(),
            second_.data(),
            {books_.data(), books_.data() + 1, mailbox_.word(), communicator().stopped()},
            fingerprint_,
            call_.batches_at,
            count_,
            communicator().rank(),
            communicator().size(),
            failure_->failed(),
            call_.needs_several_values};
  }
  const ExchangeCall& call() const noexcept { return call_; }
  bool failed() const noexcept { return failure_->failed(); }
  // Whatever goes wrong between two sums waits until both are on their way.
  template <class F>
  void launch(const F& f) noexcept {
    launch_.capture(f);
  }
  void throw_launch_failure() const { launch_.rethrow(); }
  double* payload() const noexcept { return first_.data() + layout_.payload(); }
  double* second_payload() const noexcept { return second_.data() + detail::DeferredFrame::second_payload; }
  void sum_first(Queue& queue) { sum(first_, queue); }
  void sum_second(Queue& queue) { sum(second_, queue); }
  /// @endcond

 private:
  using Frame = typename Communicator::frame;

  void sum(Frame& frame, Queue& queue) {
    at_fabric([&] {
      communicator().start(frame, queue);
      communicator().finish(frame, queue);
    });
  }

  std::string where(const ExchangeCall& call) const {
    return std::string(call.operation) + " of layer '" + name() + "', rank " + std::to_string(communicator().rank()) +
           " of " + std::to_string(communicator().size()) + ": ";
  }
  template <class F>
  void at_fabric(const F& f) {
    try {
      f();
    } catch (const CommunicatorError& e) {
      std::string before;  // which may be why the others did not come
      try {
        throw_report();
      } catch (const std::exception& report) {
        before = std::string("; before that, ") + report.what();
      }
      throw CommunicatorError(where(call_) + e.what() + before);
    }
  }

  void throw_report() {
    if (books_.size() == 0) return;
    const double word = std::atomic_ref<double>(*mailbox_.word()).exchange(0);
    if (word == 0) return;
    const detail::Report report = detail::Report::of(word);
    const int ranks = communicator().size();
    const std::string of_layer = " [layer '" + name() + "', exchange " + std::to_string(report.sequence) + ", rank " +
                                 std::to_string(communicator().rank()) + " of " + std::to_string(ranks) + "]";
    switch (report.ending) {
      case detail::Ending::failure:
        throw Error("an exchange was given up because rank " + std::to_string(report.rank) +
                    " failed, which has thrown why" + of_layer);
      case detail::Ending::single_value:
        check_more_than_one_value(1.0, ranks);
        break;
      case detail::Ending::disagreement:
        throw Error("ranks disagree about what they are calling" + of_layer);
      default:
        throw CommunicatorError("frames of different exchanges met in one sum" + of_layer);
    }
  }

  detail::NamedGroup<Communicator> group_;
  detail::DeferredFrame layout_;
  Frame first_, second_;
  Frame books_;  // never summed: exchanges that ended well, and the last verdict
  typename Communicator::mailbox mailbox_;
  Index payload_words_ = 0;

  // The exchange under way.
  ExchangeCall call_;
  double count_ = 0;
  const RankFailure* failure_ = nullptr;
  RankFailure launch_;
  std::uint64_t fingerprint_ = 0;
};

}  // namespace syncbn::inline v0
