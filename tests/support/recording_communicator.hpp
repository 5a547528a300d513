#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <syncbn/concepts.hpp>

namespace syncbn_test {

/// @brief What went through a RecordingCommunicator on one rank.
struct Record {
  std::vector<syncbn::Index> acquired;  ///< sizes, in order
  std::vector<syncbn::Index> started;   ///< sizes, in order
  std::size_t finished = 0;

  std::size_t calls() const { return acquired.size() + started.size() + finished; }
  void clear() { *this = {}; }
};

struct NoMailbox {};
template <class Communicator>
struct MailboxOf {
  using type = NoMailbox;
};
template <syncbn::has_mailboxes Communicator>
struct MailboxOf<Communicator> {
  using type = typename Communicator::mailbox;
};
template <class Communicator>
using mailbox_of = typename MailboxOf<Communicator>::type;

/// @brief Any communicator, with a list of what was done. Copies share the list, as they share the rank.
template <class Communicator>
class RecordingCommunicator {
 public:
  using memory_space = typename Communicator::memory_space;
  using queue_type = typename Communicator::queue_type;
  using frame = typename Communicator::frame;
  using mailbox = mailbox_of<Communicator>;
  static constexpr syncbn::ErrorModel errors = Communicator::errors;

  explicit RecordingCommunicator(Communicator communicator)
      : communicator_(std::move(communicator)), record_(std::make_shared<Record>()) {}

  Record& record() noexcept { return *record_; }

  int rank() const noexcept { return communicator_.rank(); }
  int size() const noexcept
    requires(!syncbn::always_alone<Communicator>)
  {
    return communicator_.size();
  }
  static constexpr int size() noexcept
    requires syncbn::always_alone<Communicator>
  {
    return 1;
  }
  bool usable() const noexcept { return communicator_.usable(); }
  frame acquire(syncbn::Index words) {
    record_->acquired.push_back(words);
    return communicator_.acquire(words);
  }
  void start(frame& f, queue_type& queue) {
    record_->started.push_back(f.size());
    communicator_.start(f, queue);
  }
  bool poll(frame& f) noexcept { return communicator_.poll(f); }
  void finish(frame& f, queue_type& queue) {
    ++record_->finished;
    communicator_.finish(f, queue);
  }
  auto open_mailbox()
    requires syncbn::has_mailboxes<Communicator>
  {
    return communicator_.open_mailbox();
  }
  const double* stopped() const noexcept
    requires syncbn::has_mailboxes<Communicator>
  {
    return communicator_.stopped();
  }
  void check(queue_type& queue)
    requires syncbn::checks_later<Communicator>
  {
    communicator_.check(queue);
  }
  void synchronize(queue_type& queue)
    requires syncbn::checks_later<Communicator>
  {
    communicator_.synchronize(queue);
  }
  std::uint64_t next_ordinal() noexcept
    requires requires(Communicator& c) { c.next_ordinal(); }
  {
    return communicator_.next_ordinal();
  }

 private:
  Communicator communicator_;
  std::shared_ptr<Record> record_;
};

}  // namespace syncbn_test
