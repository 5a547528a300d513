#pragma once

#include <algorithm>
#include <string>
#include <utility>

#include <syncbn/concepts.hpp>
#include <syncbn/detail/exchange_run.hpp>

namespace syncbn::inline v0 {

/// @brief One logical sum over the ranks at a time, of a constant number of words per channel.
///
/// | frame | words | when |
/// | --- | --- | --- |
/// | first | 512 | always: header, and the payload too if it is one block that fits (up to 495 words: 247 channels) |
/// | a block | its payload + 3 | for each block if they do not travel in the first frame, which then starts before accumulation |
/// | second round | as the block | only after again(): for centred sums |
/// | error round | 2 to 4 times 512 | only if a rank failed or ranks disagree; all then throw the same |
///
/// Blocks are what can be sent, summed and used while others are still accumulated: one; or, where ranks have said in
/// earlier exchanges that they gain from it and their tensors have 4 MiB or more, up to 256 of whole channels, each of
/// 256 KiB or more, of which up to 64 are under way. The plan is a function of the number of channels and of figures that
/// earlier exchanges have reduced, the same on all ranks; empty ranks and ranks that failed send the same frames.
/// Words are summed as they are packed, so a result depends on the communicator's order of summation only.
/// A copy has the same group, name and number of exchanges done, and frames of its own.
/// Communicators with deferred errors have an Exchange of their own: deferred_exchange.hpp.
/// @tparam Communicator  the fabric.
template <class Communicator>
class Exchange {
  static_assert(Communicator::errors == ErrorModel::immediate, "Exchange: that of deferred_exchange.hpp is missing");

 public:
  using Queue = typename Communicator::queue_type;  ///< what orders the frames

  /// @brief For one layer. Allocates the first frame, so that a later failure can still be told to the others.
  /// @param communicator  the group. @param name  the layer's name, the same on every rank; empty: its number in the
  /// order in which layers were made with the group. @throws Error if the group has more than 24800 ranks.
  explicit Exchange(Communicator communicator, std::string name = {})
      : run_(std::move(communicator), std::move(name)) {}

  /// @brief The same layer in another group. @param communicator  the new group. @return an exchange that counts from 0.
  /// @tparam Other  may be another fabric.
  template <class Other>
  Exchange<Other> with(Other communicator) const {
    Exchange<Other> result(std::move(communicator), run_.group.own_name());
    if constexpr (Other::errors == ErrorModel::immediate) {
      result.set_waits_for_header(run_.waits_for_header);
      result.set_most_blocks(run_.planner.most);
    }
    return result;
  }

  /// @brief The group. @return a handle that may be used between exchanges.
  Communicator& communicator() noexcept { return run_.group.communicator; }
  /// @copydoc communicator()
  const Communicator& communicator() const noexcept { return run_.group.communicator; }
  /// @brief The layer's name in messages and in the header. @return the name.
  const std::string& name() const noexcept { return run_.group.name(); }
  /// @brief Names the layer. @param name  the same on every rank.
  void set_name(std::string name) { run_.group.set_name(std::move(name)); }
  /// @brief Exchanges completed. @return the same number on every rank, or the next exchange throws.
  std::uint64_t sequence() const noexcept { return run_.sequence; }

  /// @brief Whether payload frames wait until the first frame was judged (the default). Without waiting, ranks that call
  /// different layers hand the fabric frames of different sizes: MPI then gives wrong sums or crashes. And a rank that
  /// cannot allocate its payload frames throws alone, so that the others run into their deadline.
  /// @param wait  the same on every rank.
  void set_waits_for_header(bool wait) noexcept { run_.waits_for_header = wait; }

  /// @brief How many blocks an exchange may have. @param most  1 to 256 (the default), the same on every rank; 1 sends
  /// everything in one frame, for fabrics that make no progress until they are waited for.
  void set_most_blocks(Index most) noexcept { run_.planner.most = std::clamp(most, Index{1}, detail::most_blocks); }

  /// @brief Allocates the frames of the blocks that the next exchange will have. @param words  of the payload.
  /// @throws std::bad_alloc, before any communication.
  void reserve(Index words) { run_.frames.reserve(communicator(), run_.planner.plan(words)); }

  /// @brief Opens an exchange; its header leaves now if it travels alone. To be followed by start() and finish() of every
  /// block on every rank, whatever happens in between.
  /// @param call     what this rank is doing. @param words  of the payload, a function of call.channels.
  /// @param count    values per channel on this rank.
  /// @param failure  what has gone wrong on this rank so far; watched until finish(). @param queue  orders the frames.
  /// @param by_blocks  whether this rank gains from several blocks; until one has said so, exchanges have one.
  void begin(const ExchangeCall& call, Index words, double count, const RankFailure& failure, Queue& queue,
             bool by_blocks = false) {
    if (run_.at.open) {
      run_.let_go();
      throw Error(run_.where() + "the exchange before was never finished");
    }
    run_.call = call;
    run_.by_blocks = by_blocks;
    run_.plan = run_.planner.plan(words);
    run_.count = count;
    run_.failure = &failure;
    run_.queue = &queue;
    run_.at = {};
    run_.fingerprint = detail::fingerprint(run_.call, run_.plan.blocks(), name(), run_.sequence);
    if (!run_.header.acquired())
      run_.header.acquire(communicator());  // of a group of one rank, which may never need it
    // A rank that could not allocate tells the others by the header, where they wait for it.
    if (run_.plan.travels_alone() && !run_.frames.fit(run_.plan) && !(run_.waits_for_header && failure.failed())) {
      throw Error(run_.where() + "no frames for the payload: reserve() has to come before");
    }
    if (run_.plan.travels_alone()) run_.start_header([](double*) {});
  }

  /// @brief Blocks of the exchange that begin() opened. @return 1 or more; they are started and finished in order.
  Index blocks() const noexcept { return run_.plan.blocks(); }
  /// @brief Where a block's words begin in the payload. @param block  0 to blocks(). @return the first word.
  Index first_word(Index block) const noexcept { return run_.plan.first_word(block); }
  /// @brief Blocks that were started. @return 0 to blocks().
  Index started() const noexcept { return run_.at.started; }
  /// @brief Blocks that were finished. @return 0 to started().
  Index finished() const noexcept { return run_.at.finished; }

  /// @brief Sends the next block; waits for the header's verdict before the first one that travels alone, and for the
  /// fabric where 64 blocks are under way. Throws with the other ranks if the header was judged bad.
  /// @param pack  `pack(double*)` writes the block's words; not called on a rank that failed. Must not throw.
  template <class Pack>
  void start(const Pack& pack) {
    if (run_.plan.travels_alone()) {
      if (run_.waits_for_header && !run_.at.judged) run_.judge_header();
      if (!run_.has_room()) run_.land(run_.at.landed);
      run_.start_block(run_.at.started, pack);
    } else {
      run_.start_header(pack);
    }
    ++run_.at.started;
  }

  /// @brief Makes progress. @return true if start() would not wait.
  bool poll_start() noexcept {
    if (!run_.plan.travels_alone()) return true;
    if (run_.waits_for_header && !run_.at.judged && !communicator().poll(run_.header.frame())) return false;
    return run_.has_room() || communicator().poll(run_.frames[run_.at.landed]);
  }

  /// @brief Makes progress. @return true if finish() would not wait: the next block was started and is there, or none is left.
  bool poll() noexcept {
    const bool has_header = run_.at.judged || !run_.plan.travels_alone() || communicator().poll(run_.header.frame());
    if (run_.at.finished < run_.at.landed) return has_header;
    if (run_.at.finished == run_.at.started) return run_.at.finished == blocks();
    return communicator().poll(run_.plan.travels_alone() ? run_.frames[run_.at.finished] : run_.header.frame()) &&
           has_header;
  }

  /// @brief Waits for the sums of the next block. @return its sums over all ranks; valid until the next exchange.
  /// @throws ShapeError, Error  on every rank alike if a rank failed or ranks disagree; the exchange may be tried again.
  /// @throws CommunicatorError  if the fabric failed.
  const double* finish() {
    const double* sums = run_.header.payload();
    if (!run_.at.judged) run_.judge_header();
    if (run_.plan.travels_alone()) {
      run_.land(run_.at.finished);
      sums = run_.sums_of(run_.at.finished);
    }
    if (++run_.at.finished == blocks()) run_.complete();
    return sums;
  }

  /// @brief One more sum of a block's size: every rank calls it after finish() of all blocks, or none does.
  /// @param pack  as for start(). @param block  which. @return the sums; they replace those of finish(), unless those came
  /// in the first frame.
  template <class Pack>
  const double* again(const Pack& pack, Index block = 0) {
    if (!run_.frames.fit(run_.plan)) run_.frames.reserve(communicator(), run_.plan);
    run_.start_block(block, pack);
    run_.finish_frame(run_.frames[block]);
    return run_.sums_of(block);
  }

  /// @brief The call that begin() opened. @return as given.
  const ExchangeCall& call() const noexcept { return run_.call; }

  /// @brief Values per channel on all ranks, after finish(). @return the sum of the counts given to begin().
  double total_count() const noexcept { return run_.total_count; }

 private:
  detail::ExchangeRun<Communicator> run_;
};

}  // namespace syncbn::inline v0
