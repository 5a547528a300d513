#include "shared_meeting.hpp"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>

namespace nccl_stand_in {

// What a rank brings to one channel.
struct Slot {
  std::atomic<long> brought;  // chunks, ever
  std::atomic<long> taken;    // of all ranks
  std::atomic<bool> left;     // aborted: the last chunk is not to be used by those who come later
  Call call;
  alignas(64) std::byte data[chunk_bytes];
};
// All zero at first. No locks: a process that dies takes none with it.
struct Segment {
  std::atomic<std::uint32_t> version;  // of what follows; waited for
  std::atomic<int> attached;
  std::array<std::atomic<int>, most_ranks> ranks;  // how many there are, in the opinion of each
  std::array<std::array<Slot, most_ranks>, 2> slots;
};
static_assert(std::atomic<long>::is_always_lock_free && std::atomic<std::uint32_t>::is_always_lock_free);

namespace {

constexpr long look_again_nanoseconds = 2'000'000;

[[noreturn]] void throw_error(const char* call) { throw std::system_error(errno, std::generic_category(), call); }

}  // namespace

Meeting::Meeting(std::string name, int rank, int ranks, const std::atomic<bool>& aborted)
    : name_(std::move(name)), rank_(rank), ranks_(ranks), aborted_(aborted) {
  const int file = shm_open(name_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) throw_error("shm_open");
  void* p = MAP_FAILED;
  if (ftruncate(file, sizeof(Segment)) == 0) {
    p = mmap(nullptr, sizeof(Segment), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  }
  close(file);
  if (p == MAP_FAILED) throw_error("mmap");
  segment_ = static_cast<Segment*>(p);
}
Meeting::~Meeting() { munmap(segment_, sizeof(Segment)); }

template <class Ready>
bool Meeting::wait(const Ready& ready) {
  for (;;) {
    const std::uint32_t version = segment_->version;
    if (aborted_) return false;
    if (ready()) return true;
    const timespec time{0, look_again_nanoseconds};
    syscall(SYS_futex, &segment_->version, FUTEX_WAIT, version, &time, nullptr, 0);
  }
}
void Meeting::wake() {
  ++segment_->version;
  syscall(SYS_futex, &segment_->version, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

Meeting::Outcome Meeting::attach() {
  int nobody = 0;
  if (!segment_->ranks[static_cast<std::size_t>(rank_)].compare_exchange_strong(nobody, ranks_)) {
    return Outcome::refused;
  }
  ++segment_->attached;
  wake();
  const auto disagree = [&] {
    return std::any_of(segment_->ranks.begin(), segment_->ranks.end(),
                       [&](const std::atomic<int>& r) { return r != 0 && r != ranks_; });
  };
  const bool met = wait([&] { return segment_->attached >= ranks_ || disagree(); });
  // Everybody who will ever come has it open.
  shm_unlink(name_.c_str());
  if (!met) return Outcome::aborted;
  return disagree() ? Outcome::refused : Outcome::met;
}

bool Meeting::exchange(Channel channel, const Call& call, const void* mine, std::size_t bytes,
                       const std::function<void(const Chunks&)>& use) {
  const auto index = static_cast<std::size_t>(channel);
  long& step = steps_[index];
  Slot* const first = segment_->slots[index].data();
  Slot* const last = first + ranks_;
  Slot& own = first[rank_];
  const auto all = [&](const auto& holds) { return wait([&] { return std::all_of(first, last, holds); }); };
  if (!all([&](const Slot& s) { return s.taken >= step; })) return false;
  own.call = call;
  std::memcpy(own.data, mine, bytes);
  own.brought = step + 1;
  wake();
  const auto brought = [&](const Slot& s) { return s.brought > step && (s.taken > step || !s.left); };
  if (!all(brought) || !all([&](const Slot& s) { return s.call == call; })) {
    own.left = true;
    return false;
  }
  Chunks chunks{};
  std::transform(first, last, chunks.begin(), [](const Slot& s) { return static_cast<const std::byte*>(s.data); });
  use(chunks);
  own.taken = ++step;
  wake();
  return true;
}

}  // namespace nccl_stand_in
