#pragma once

#include <string>
#include <utility>

#include <syncbn/all_reduce.hpp>
#include <syncbn/concepts.hpp>
#include <syncbn/detail/agreement.hpp>
#include <syncbn/detail/call.hpp>

namespace syncbn::inline v0 {

namespace detail {
/// Whether the group numbers the layers that are made with it.
template <class C>
concept numbers_layers = requires(C& c) {
  { c.next_ordinal() } -> std::same_as<std::uint64_t>;
};
}  // namespace detail

/// @brief One logical sum over the ranks at a time, of a constant number of words per channel.
///
/// | frame | words | when |
/// | --- | --- | --- |
/// | first | 512 | always: header, and the payload too if it fits (up to 495 words: 247 channels) |
/// | payload | payload + 3 | only if it does not fit in the first, which then starts before accumulation |
/// | second round | payload + 3 | only after again(): for centred sums |
/// | error round | 2 to 4 times 512 | only if a rank failed or ranks disagree; all then throw the same |
///
/// The sizes are functions of the number of channels alone; empty ranks and ranks that failed send the same frames.
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
      : communicator_(std::move(communicator)), name_(std::move(name)), has_own_name_(!name_.empty()) {
    if (communicator_.size() > detail::most_ranks) {
      throw Error("groups of more than " + std::to_string(detail::most_ranks) + " ranks are not possible");
    }
    if constexpr (detail::numbers_layers<Communicator>) {
      const std::uint64_t ordinal = communicator_.next_ordinal();
      if (!has_own_name_) name_ = std::string("#") + std::to_string(ordinal);
    }
    if (communicator_.size() > 1) acquire_header();
  }
  /// @brief Same group, name and number of exchanges done; own frames. @param other  copied from.
  Exchange(const Exchange& other)
      : communicator_(other.communicator_),
        name_(other.name_),
        has_own_name_(other.has_own_name_),
        sequence_(other.sequence_),
        waits_for_header_(other.waits_for_header_) {
    if (other.header_.size() > 0) acquire_header();
    if (other.payload_.size() > 0) payload_ = communicator_.acquire(other.payload_.size());
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
    Exchange<Other> result(std::move(communicator), has_own_name_ ? name_ : std::string());
    result.set_waits_for_header(waits_for_header_);
    return result;
  }

  /// @brief The group. @return a handle that may be used between exchanges.
  Communicator& communicator() noexcept { return communicator_; }
  /// @copydoc communicator()
  const Communicator& communicator() const noexcept { return communicator_; }
  /// @brief The layer's name in messages and in the header. @return the name.
  const std::string& name() const noexcept { return name_; }
  /// @brief Names the layer. @param name  the same on every rank.
  void set_name(std::string name) {
    name_ = std::move(name);
    has_own_name_ = true;
  }
  /// @brief Exchanges completed. @return the same number on every rank, or the next exchange throws.
  std::uint64_t sequence() const noexcept { return sequence_; }

  /// @brief Whether payload frames wait until the first frame was judged (the default). Without waiting, ranks that call
  /// different layers hand the fabric frames of different sizes: MPI then gives wrong sums or crashes. And a rank that
  /// cannot allocate its payload frame throws alone, so that the others run into their deadline; layers allocate it when
  /// they are made.
  /// @param wait  the same on every rank.
  void set_waits_for_header(bool wait) noexcept { waits_for_header_ = wait; }

  /// @brief Allocates the payload frame. @param words  of the payload. @throws std::bad_alloc, before any communication.
  void reserve(Index words) {
    if (payload_.size() != words + 3) payload_ = communicator_.acquire(words + 3);
  }

  /// @brief Opens an exchange; its header leaves now if it travels alone. To be followed by start() and finish() on every
  /// rank, whatever happens in between.
  /// @param call     what this rank is doing. @param words  of the payload, a function of call.channels.
  /// @param count    values per channel on this rank.
  /// @param failure  what has gone wrong on this rank so far; watched until finish(). @param queue  orders the frames.
  void begin(const ExchangeCall& call, Index words, double count, const RankFailure& failure, Queue& queue) {
    call_ = call;
    words_ = words;
    count_ = count;
    failure_ = &failure;
    queue_ = &queue;
    travels_alone_ = words > detail::header::payload_capacity;
    fingerprint_ = detail::fingerprint(call_, name_, sequence_);
    if (header_.size() == 0) acquire_header();  // of a group of one rank, which may never need it
    if (travels_alone_ && !waits_for_header_ && payload_.size() != words + 3) {
      throw Error(where() + "no frame for the payload; without waiting for the header, reserve() has to come before");
    }
    stage_ = Stage::begun;
    if (travels_alone_) start_header();
  }

  /// @brief Sends the payload; throws with the other ranks if the header was judged bad.
  /// @param pack  `pack(double*)` writes the words; not called on a rank that failed. Must not throw.
  template <class Pack>
  void start(const Pack& pack) {
    stage_ = Stage::started;
    if (!travels_alone_) {
      detail::write_header(header_.data(), count_, failure_->failed(), fingerprint_);
      if (!failure_->failed()) pack(header_.data() + detail::header::payload);
      at_fabric([&] { communicator_.start(header_, *queue_); });
      return;
    }
    if (waits_for_header_) judge_header();
    start_payload(pack);
  }

  /// @brief Makes progress. @return true if start() was called and finish() would not wait.
  bool poll() noexcept {
    if (stage_ == Stage::begun) {
      if (travels_alone_) communicator_.poll(header_);
      return false;
    }
    return communicator_.poll(travels_alone_ ? payload_ : header_);
  }

  /// @brief Waits for the sums. @return the payload's sums over all ranks; valid until the next call.
  /// @throws ShapeError, Error  on every rank alike if a rank failed or ranks disagree; the exchange may be tried again.
  /// @throws CommunicatorError  if the fabric failed.
  const double* finish() {
    const double* sums = header_.data() + detail::header::payload;
    if (!travels_alone_ || !waits_for_header_) judge_header();
    if (travels_alone_) sums = finish_payload();
    ++sequence_;
    return sums;
  }

  /// @brief One more sum of the same size: every rank calls it after finish(), or none does.
  /// @param pack  as for start(). @return the sums; those of finish() are kept only if they came in the first frame.
  template <class Pack>
  const double* again(const Pack& pack) {
    start_payload(pack);
    return finish_payload();
  }

  /// @brief The call that begin() opened. @return as given.
  const ExchangeCall& call() const noexcept { return call_; }

  /// @brief Values per channel on all ranks, after finish(). @return the sum of the counts given to begin().
  double total_count() const noexcept { return total_count_; }

 private:
  static constexpr Index payload_leading = 0;
  static constexpr Index payload_failures = 1;
  static constexpr Index payload_first = 2;

  void acquire_header() { header_ = communicator_.acquire(detail::header_frame_words); }

  void start_header() {
    detail::write_header(header_.data(), count_, failure_->failed(), fingerprint_);
    at_fabric([&] { communicator_.start(header_, *queue_); });
  }

  void judge_header() {
    at_fabric([&] { communicator_.finish(header_, *queue_); });
    const double* words = header_.data();
    const int ranks = communicator_.size();
    check_whole(words[detail::header::leading], words[detail::header::trailing]);
    total_count_ = words[detail::header::count];
    if (words[detail::header::failures] == 0 && detail::digits_agree(words, ranks)) return;
    // Without waiting, every rank has a payload frame under way: it is brought home first.
    if (travels_alone_ && !waits_for_header_) at_fabric([&] { communicator_.finish(payload_, *queue_); });
    throw_together();
  }

  template <class Pack>
  void start_payload(const Pack& pack) {
    double* words = payload_.data();
    for (Index i = 0; i < words_ + 3; ++i) words[i] = 0;
    words[payload_leading] = 1;
    words[words_ + 2] = 1;
    words[payload_failures] = failure_->failed() ? 1 : 0;
    if (!failure_->failed()) pack(words + payload_first);
    at_fabric([&] { communicator_.start(payload_, *queue_); });
  }

  const double* finish_payload() {
    at_fabric([&] { communicator_.finish(payload_, *queue_); });
    const double* words = payload_.data();
    check_whole(words[payload_leading], words[words_ + 2]);
    if (words[payload_failures] != 0) throw_together();
    return words + payload_first;
  }

  void check_whole(double leading, double trailing) const {
    if (detail::frame_is_whole(leading, trailing, communicator_.size())) return;
    throw CommunicatorError(where() + "frames of different exchanges met in one sum");
  }

  [[noreturn]] void throw_together() {
    at_fabric([&] {
      detail::throw_together(
          header_.data(), communicator_.rank(), communicator_.size(), fingerprint_, *failure_, name_,
          [&] {
            communicator_.start(header_, *queue_);
            communicator_.finish(header_, *queue_);
          },
          [&] { return detail::describe(call_, name_, sequence_); });
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
  std::string where() const {
    return std::string(call_.operation) + " of layer '" + name_ + "', exchange " + std::to_string(sequence_) +
           ", rank " + std::to_string(communicator_.rank()) + " of " + std::to_string(communicator_.size()) + ": ";
  }

  Communicator communicator_;
  std::string name_;
  bool has_own_name_ = false;
  std::uint64_t sequence_ = 0;
  bool waits_for_header_ = true;
  Frame header_;
  Frame payload_;

  // The exchange under way.
  enum class Stage : std::uint8_t { begun, started };
  Stage stage_ = Stage::started;
  ExchangeCall call_;
  Index words_ = 0;
  double count_ = 0;
  double total_count_ = 0;
  std::uint64_t fingerprint_ = 0;
  bool travels_alone_ = false;
  const RankFailure* failure_ = nullptr;
  Queue* queue_ = nullptr;
};

}  // namespace syncbn::inline v0
