#pragma once

#include <algorithm>
#include <string>
#include <utility>

#include <syncbn/all_reduce.hpp>
#include <syncbn/concepts.hpp>
#include <syncbn/detail/agreement.hpp>
#include <syncbn/detail/block_frames.hpp>
#include <syncbn/detail/call.hpp>
#include <syncbn/detail/named_group.hpp>
#include <syncbn/detail/plan.hpp>

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
/// @tparam Communicator  the fabric.
template <class Communicator>
class Exchange {
  static_assert(Communicator::errors == ErrorModel::immediate, "Exchange: deferred errors are not available here");

 public:
  using Queue = typename Communicator::queue_type;  ///< what orders the frames
  using Frame = typename Communicator::frame;       ///< the fabric's frame

  /// @brief For one layer. Allocates the first frame, so that a later failure can still be told to the others.
  /// @param communicator  the group. @param name  the layer's name, the same on every rank; empty: its number in the
  /// order in which layers were made with the group. @throws Error if the group has more than 24800 ranks.
  explicit Exchange(Communicator communicator, std::string name = {})
      : group_(std::move(communicator), std::move(name)) {
    if (group_.communicator.size() > 1) acquire_header();
  }
  /// @brief Same group, name and number of exchanges done; own frames. @param other  copied from.
  Exchange(const Exchange& other)
      : group_(other.group_),
        sequence_(other.sequence_),
        waits_for_header_(other.waits_for_header_),
        most_blocks_(other.most_blocks_),
        most_bytes_(other.most_bytes_) {
    if (other.header_.size() > 0) acquire_header();
    if (other.frames_.fit(other.frames_.plan())) reserve(other.frames_.plan().words);
  }
  Exchange(Exchange&&) = default;  ///< Moves the frames.
  /// @brief As the copy constructor. @param other  copied from. @return *this.
  Exchange& operator=(const Exchange& other) { return *this = Exchange(other); }
  Exchange& operator=(Exchange&&) = default;  ///< Moves the frames. @return *this.
  ~Exchange() = default;

  /// @brief The same layer in another group. @param communicator  the new group. @return an exchange that counts from 0.
  /// @tparam Other  may be another fabric.
  template <class Other>
  Exchange<Other> with(Other communicator) const {
    Exchange<Other> result(std::move(communicator), group_.own_name());
    result.set_waits_for_header(waits_for_header_);
    result.set_most_blocks(most_blocks_);
    return result;
  }

  /// @brief The group. @return a handle that may be used between exchanges.
  Communicator& communicator() noexcept { return group_.communicator; }
  /// @copydoc communicator()
  const Communicator& communicator() const noexcept { return group_.communicator; }
  /// @brief The layer's name in messages and in the header. @return the name.
  const std::string& name() const noexcept { return group_.name(); }
  /// @brief Names the layer. @param name  the same on every rank.
  void set_name(std::string name) { group_.set_name(std::move(name)); }
  /// @brief Exchanges completed. @return the same number on every rank, or the next exchange throws.
  std::uint64_t sequence() const noexcept { return sequence_; }

  /// @brief Whether payload frames wait until the first frame was judged (the default). Without waiting, ranks that call
  /// different layers hand the fabric frames of different sizes: MPI then gives wrong sums or crashes. And a rank that
  /// cannot allocate its payload frames throws alone, so that the others run into their deadline; layers allocate one when
  /// they are made, and those of more blocks after the exchange that has shown their use.
  /// @param wait  the same on every rank.
  void set_waits_for_header(bool wait) noexcept { waits_for_header_ = wait; }

  /// @brief How many blocks an exchange may have. @param most  1 to 256 (the default), the same on every rank; 1 sends
  /// everything in one frame, for fabrics that make no progress until they are waited for.
  void set_most_blocks(Index most) noexcept { most_blocks_ = std::clamp(most, Index{1}, detail::most_blocks); }

  /// @brief Allocates the frames of the blocks that the next exchange will have. @param words  of the payload.
  /// @throws std::bad_alloc, before any communication.
  void reserve(Index words) { frames_.reserve(communicator(), detail::plan_of(words, most_bytes_, most_blocks_)); }

  /// @brief Opens an exchange; its header leaves now if it travels alone. To be followed by start() and finish() of every
  /// block on every rank, whatever happens in between.
  /// @param call     what this rank is doing. @param words  of the payload, a function of call.channels.
  /// @param count    values per channel on this rank.
  /// @param failure  what has gone wrong on this rank so far; watched until finish(). @param queue  orders the frames.
  /// @param by_blocks  whether this rank gains from several blocks; until one has said so, exchanges have one.
  void begin(const ExchangeCall& call, Index words, double count, const RankFailure& failure, Queue& queue,
             bool by_blocks = false) {
    call_ = call;
    by_blocks_ = by_blocks;
    plan_ = detail::plan_of(words, most_bytes_, most_blocks_);
    count_ = count;
    failure_ = &failure;
    queue_ = &queue;
    started_ = landed_ = finished_ = 0;
    judged_ = false;
    fingerprint_ = detail::fingerprint(call_, plan_.blocks(), name(), sequence_);
    if (header_.size() == 0) acquire_header();  // of a group of one rank, which may never need it
    // A rank that could not allocate tells the others by the header, where they wait for it.
    if (plan_.travels_alone() && !frames_.fit(plan_) && !(waits_for_header_ && failure.failed())) {
      throw Error(where() + "no frames for the payload: reserve() has to come before");
    }
    if (plan_.travels_alone()) start_header();
  }

  /// @brief Blocks of the exchange that begin() opened. @return 1 or more; they are started and finished in order.
  Index blocks() const noexcept { return plan_.blocks(); }
  /// @brief Where a block's words begin in the payload. @param block  0 to blocks(). @return the first word.
  Index first_word(Index block) const noexcept { return plan_.first_word(block); }
  /// @brief Blocks that were started. @return 0 to blocks().
  Index started() const noexcept { return started_; }
  /// @brief Blocks that were finished. @return 0 to started().
  Index finished() const noexcept { return finished_; }

  /// @brief Sends the next block; waits for the header's verdict before the first one that travels alone, and for the
  /// fabric where 64 blocks are under way. Throws with the other ranks if the header was judged bad.
  /// @param pack  `pack(double*)` writes the block's words; not called on a rank that failed. Must not throw.
  template <class Pack>
  void start(const Pack& pack) {
    if (plan_.travels_alone()) {
      if (waits_for_header_ && !judged_) judge_header();
      if (!has_room()) land(landed_);
      start_block(started_, pack);
    } else {
      detail::write_header(header_.data(), count_, failure_->failed(), by_blocks_, fingerprint_);
      if (!failure_->failed()) pack(header_.data() + detail::header::payload);
      at_fabric([&] { communicator().start(header_, *queue_); });
    }
    ++started_;
  }

  /// @brief Makes progress. @return true if start() would not wait.
  bool poll_start() noexcept {
    if (!plan_.travels_alone()) return true;
    if (waits_for_header_ && !judged_ && !communicator().poll(header_)) return false;
    return has_room() || communicator().poll(frames_[landed_]);
  }

  /// @brief Makes progress. @return true if finish() would not wait: the next block was started and is there, or none is left.
  bool poll() noexcept {
    const bool has_header = judged_ || !plan_.travels_alone() || communicator().poll(header_);
    if (finished_ < landed_) return has_header;
    if (finished_ == started_) return finished_ == blocks();
    return communicator().poll(plan_.travels_alone() ? frames_[finished_] : header_) && has_header;
  }

  /// @brief Waits for the sums of the next block. @return its sums over all ranks; valid until the next exchange.
  /// @throws ShapeError, Error  on every rank alike if a rank failed or ranks disagree; the exchange may be tried again.
  /// @throws CommunicatorError  if the fabric failed.
  const double* finish() {
    const double* sums = header_.data() + detail::header::payload;
    if (!judged_) judge_header();
    if (plan_.travels_alone()) {
      land(finished_);
      sums = sums_of(finished_);
    }
    if (++finished_ == blocks()) complete();
    return sums;
  }

  /// @brief One more sum of a block's size: every rank calls it after finish() of all blocks, or none does.
  /// @param pack  as for start(). @param block  which. @return the sums; they replace those of finish(), unless those came
  /// in the first frame.
  template <class Pack>
  const double* again(const Pack& pack, Index block = 0) {
    start_block(block, pack);
    at_fabric([&] { communicator().finish(frames_[block], *queue_); });
    return sums_of(block);
  }

  /// @brief The call that begin() opened. @return as given.
  const ExchangeCall& call() const noexcept { return call_; }

  /// @brief Values per channel on all ranks, after finish(). @return the sum of the counts given to begin().
  double total_count() const noexcept { return total_count_; }

 private:
  void acquire_header() { header_ = communicator().acquire(detail::header_frame_words); }

  void start_header() {
    detail::write_header(header_.data(), count_, failure_->failed(), by_blocks_, fingerprint_);
    at_fabric([&] { communicator().start(header_, *queue_); });
  }

  void judge_header() {
    at_fabric([&] { communicator().finish(header_, *queue_); });
    const double* words = header_.data();
    const int ranks = communicator().size();
    if (!detail::frame_is_whole(words[detail::header::leading], words[detail::header::trailing], ranks)) {
      throw_mixed_up();
    }
    total_count_ = words[detail::header::count];
    by_blocks_ = words[detail::header::by_blocks] > 0;  // any rank
    judged_ = true;
    if (words[detail::header::failures] == 0 && detail::digits_agree(words, ranks)) return;
    // Without waiting, blocks are under way.
    if (plan_.travels_alone() && !waits_for_header_) bring_home();
    throw_together();
  }

  bool has_room() const noexcept { return started_ - landed_ < detail::most_blocks_under_way; }

  // Waits for the sums of the blocks up to this one.
  void land(Index block) {
    for (; landed_ <= block; ++landed_) at_fabric([&] { communicator().finish(frames_[landed_], *queue_); });
  }

  template <class Pack>
  void start_block(Index block, const Pack& pack) {
    frames_.write(block, failure_->failed(), pack);
    at_fabric([&] { communicator().start(frames_[block], *queue_); });
  }

  // Of a block that has landed.
  const double* sums_of(Index block) {
    if (!frames_.is_whole(block, communicator().size())) throw_mixed_up();
    if (!frames_.has_failures(block)) return frames_.payload(block);
    if (finished_ < blocks()) bring_home();
    throw_together();
  }

  // A bad verdict: every rank sends the blocks that it has not sent yet, and waits for all, before the error round.
  void bring_home() {
    for (; started_ < blocks(); ++started_) {
      if (!has_room()) land(landed_);
      start_block(started_, [](double*) {});
    }
    land(blocks() - 1);
  }

  void complete() noexcept {
    ++sequence_;
    if (!by_blocks_) return;
    const double elements = total_count_ * static_cast<double>(call_.channels) / communicator().size();
    most_bytes_ = std::max(most_bytes_, elements * static_cast<double>(size_of(call_.kind)));
    frames_.prepare(communicator(), detail::plan_of(plan_.words, most_bytes_, most_blocks_));
  }

  [[noreturn]] void throw_mixed_up() {
    // Nobody knows what is still under way: other frames next time.
    header_ = Frame();
    frames_.drop();
    plan_ = {};
    started_ = landed_ = finished_ = 0;
    throw CommunicatorError(where() + "frames of different exchanges met in one sum");
  }

  [[noreturn]] void throw_together() {
    at_fabric([&] {
      detail::throw_together(
          header_.data(), communicator().rank(), communicator().size(), fingerprint_, *failure_, name(),
          [&] {
            communicator().start(header_, *queue_);
            communicator().finish(header_, *queue_);
          },
          [&] { return detail::describe(call_, blocks(), name(), sequence_); });
    });
    throw Error("unreachable");
  }

  // Tells which call a fault of the fabric belongs to.
  template <class F>
  void at_fabric(const F& f) const {
    try {
      f();
    } catch (const CommunicatorError& e) {
      throw CommunicatorError(where() + e.what());
    }
  }
  std::string where() const { return group_.where(call_.operation, sequence_); }

  detail::NamedGroup<Communicator> group_;
  std::uint64_t sequence_ = 0;
  bool waits_for_header_ = true;
  Index most_blocks_ = detail::most_blocks;
  double most_bytes_ = 0;  // of a rank's tensor in the largest exchange, on average
  Frame header_;
  detail::BlockFrames<Communicator> frames_;

  // The exchange under way.
  ExchangeCall call_;
  detail::Plan plan_;
  Index started_ = 0;   // blocks: handed to the fabric
  Index landed_ = 0;    // back from it
  Index finished_ = 0;  // handed on
  bool judged_ = false;
  bool by_blocks_ = false;
  double count_ = 0;
  double total_count_ = 0;
  std::uint64_t fingerprint_ = 0;
  const RankFailure* failure_ = nullptr;
  Queue* queue_ = nullptr;
};

}  // namespace syncbn::inline v0
