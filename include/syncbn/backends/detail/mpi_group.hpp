#pragma once

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include <mpi.h>

#include <syncbn/backends/detail/frame_pool.hpp>
#include <syncbn/errors.hpp>

// What the copies of one MpiCommunicator share: the duplicated MPI communicator and the storage of its frames.

namespace syncbn::inline v0::detail {

struct MpiFlight {
  MPI_Request request = MPI_REQUEST_NULL;
  int status = MPI_SUCCESS;                          // of a test that failed
  std::chrono::steady_clock::time_point deadline{};  // none before somebody asks
};

class MpiGroup : public std::enable_shared_from_this<MpiGroup> {
 public:
  using Clock = std::chrono::steady_clock;
  using Storage = FrameStorage<MpiFlight>;

  // The one group of a user's communicator: kept as its attribute, so that all layers share one duplicate.
  static std::shared_ptr<MpiGroup> of(MPI_Comm user) {
    check_running();
    // Asked for here: MPI would end the process instead of reporting it.
    if (user == MPI_COMM_NULL) throw CommunicatorError("MPI_COMM_NULL is no group of ranks");
    int is_inter = 0;
    check(MPI_Comm_test_inter(user, &is_inter), "MPI_Comm_test_inter");
    if (is_inter != 0) throw CommunicatorError("an inter-communicator is no group of ranks");
    const int key = keyval();
    void* attribute = nullptr;
    int found = 0;
    check(MPI_Comm_get_attr(user, key, &attribute, &found), "MPI_Comm_get_attr");
    if (found != 0) return *static_cast<std::shared_ptr<MpiGroup>*>(attribute);
    MPI_Comm copy = MPI_COMM_NULL;
    check(MPI_Comm_dup(user, &copy), "MPI_Comm_dup");
    auto group = std::make_shared<MpiGroup>(copy);
    auto kept = std::make_unique<std::shared_ptr<MpiGroup>>(group);
    check(MPI_Comm_set_attr(user, key, kept.get()), "MPI_Comm_set_attr");
    static_cast<void>(kept.release());  // user_communicator_freed() deletes it
    return group;
  }

  explicit MpiGroup(MPI_Comm owned) : communicator_(owned) {
    check(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_rank(communicator_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(communicator_, &size_), "MPI_Comm_size");
  }
  MpiGroup(const MpiGroup&) = delete;
  MpiGroup& operator=(const MpiGroup&) = delete;
  ~MpiGroup() { free_communicator(); }

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  bool usable() const noexcept { return failure_.empty(); }
  void set_timeout(Clock::duration timeout) noexcept { timeout_ = timeout; }
  std::uint64_t next_ordinal() noexcept { return layers_++; }

  static void check_length(Index words) {
    if (words > INT_MAX) throw Error("a frame of " + std::to_string(words) + " words is too long for MPI");
  }
  Storage* acquire(Index words) {
    check_length(words);
    return pool_.acquire(words, [this](MpiFlight& flight) { return landed(flight); });
  }
  void release(Storage& storage) noexcept { storage.owned = false; }

  void check_usable() const {
    if (!usable()) throw CommunicatorError("the communicator is not usable any more: " + failure_);
    check_running();
  }

  // Whether MPI will not touch the words any more. What fails here is told by finish(): MPI may have forgotten the request by
  // then.
  bool landed(MpiFlight& flight) noexcept {
    if (flight.request == MPI_REQUEST_NULL) return true;
    if (!usable() || flight.status != MPI_SUCCESS || !running()) return false;
    int done = 0;
    flight.status = MPI_Test(&flight.request, &done, MPI_STATUS_IGNORE);
    return flight.status == MPI_SUCCESS && done != 0;
  }

  // The words of a frame that is as long as acquire() allows.
  void start(double* words, Index size, MpiFlight& flight) {
    check_usable();
    flight = {};
    const int status = MPI_Iallreduce(MPI_IN_PLACE, words, static_cast<int>(size), MPI_DOUBLE, MPI_SUM, communicator_,
                                      &flight.request);
    if (status != MPI_SUCCESS) fail("MPI_Iallreduce: " + message(status));
  }

  // True whenever finish() will not wait: it may throw at once.
  bool poll(MpiFlight& flight) noexcept {
    if (!usable() || landed(flight) || flight.status != MPI_SUCCESS) return true;
    if (flight.deadline == Clock::time_point()) flight.deadline = deadline();
    return Clock::now() >= flight.deadline;
  }

  void finish(MpiFlight& flight) {
    check_usable();
    // Ranks may share cores: give way at once, and sleep when it takes long.
    constexpr auto patience = std::chrono::milliseconds(2);
    const auto begin = Clock::now();
    if (flight.status != MPI_SUCCESS) fail("MPI_Test: " + message(flight.status));
    // Time spent on other work before anybody asked does not count.
    if (flight.deadline == Clock::time_point() || flight.deadline > begin) flight.deadline = deadline();
    while (true) {
      int done = 0;
      const int status = MPI_Test(&flight.request, &done, MPI_STATUS_IGNORE);
      if (status != MPI_SUCCESS) fail("MPI_Test: " + message(status));
      if (done != 0) return;
      const auto now = Clock::now();
      if (now >= flight.deadline) {
        fail("no answer within " + std::to_string(std::chrono::duration<double>(timeout_).count()) +
             " s; MPI cannot tell which ranks are missing");
      }
      if (now - begin < patience) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
    }
  }

  std::shared_ptr<MpiGroup> split(int color, int key) {
    check_usable();
    int first_wrong = color < 0 ? rank_ : size_;
    int status = MPI_Allreduce(MPI_IN_PLACE, &first_wrong, 1, MPI_INT, MPI_MIN, communicator_);
    if (status != MPI_SUCCESS) fail("MPI_Allreduce: " + message(status));
    if (first_wrong < size_) throw Error("split: rank " + std::to_string(first_wrong) + " gave a negative color");
    MPI_Comm part = MPI_COMM_NULL;
    status = MPI_Comm_split(communicator_, color, key, &part);
    if (status != MPI_SUCCESS) fail("MPI_Comm_split: " + message(status));
    auto group = std::make_shared<MpiGroup>(part);
    group->set_timeout(timeout_);
    return group;
  }

 private:
  static bool running() noexcept {
    int initialized = 0;
    int finalized = 0;
    MPI_Initialized(&initialized);
    MPI_Finalized(&finalized);
    return initialized != 0 && finalized == 0 && !finalizing();
  }

  // Set by MPI_Finalize, which deletes the attributes of MPI_COMM_SELF before anything else.
  static bool& finalizing() noexcept {
    static bool begun = false;
    return begun;
  }
  static int finalize_begins(MPI_Comm, int, void*, void*) noexcept {
    finalizing() = true;
    return MPI_SUCCESS;
  }
  static void check_running() {
    if (!running()) throw CommunicatorError("MPI is not running: call MPI_Init before, and MPI_Finalize after");
  }
  static std::string message(int status) {
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(status, text, &length);
    return std::string(text, static_cast<std::size_t>(length));
  }
  static void check(int status, const char* call) {
    if (status != MPI_SUCCESS) throw CommunicatorError(std::string(call) + ": " + message(status));
  }

  // The key under which groups are kept, the same for the life of MPI in this process.
  static int keyval() {
    static const int key = [] {
      int made = MPI_KEYVAL_INVALID;
      check(MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, &user_communicator_freed, &made, nullptr),
            "MPI_Comm_create_keyval");
      int at_end = MPI_KEYVAL_INVALID;
      check(MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, &finalize_begins, &at_end, nullptr),
            "MPI_Comm_create_keyval");
      check(MPI_Comm_set_attr(MPI_COMM_SELF, at_end, nullptr), "MPI_Comm_set_attr");
      return made;
    }();
    return key;
  }

  // MPI calls this in MPI_Comm_free of the user's communicator, which is collective as freeing ours has to be. The world
  // goes only with MPI itself, when nothing may be freed any more.
  static int user_communicator_freed(MPI_Comm user, int, void* attribute, void*) noexcept {
    const std::unique_ptr<std::shared_ptr<MpiGroup>> kept(static_cast<std::shared_ptr<MpiGroup>*>(attribute));
    MpiGroup& group = **kept;
    if (user == MPI_COMM_WORLD || user == MPI_COMM_SELF) {
      group.communicator_ = MPI_COMM_NULL;
      group.leave_to_process_unless([](const MpiFlight& flight) { return flight.request == MPI_REQUEST_NULL; });
    } else {
      group.free_communicator();
    }
    try {
      if (group.failure_.empty()) group.failure_ = "the MPI communicator was freed";
    } catch (...) {
      group.failure_ = "freed";  // so short that no memory is needed
    }
    return MPI_SUCCESS;
  }

  // Neither waits nor frees while a frame is under way or after a fault: MPI could block for ever. The storage that MPI
  // may still write to is then left to the process.
  void free_communicator() noexcept {
    if (communicator_ == MPI_COMM_NULL || !running()) return;
    const bool landed_all = leave_to_process_unless([this](MpiFlight& flight) { return landed(flight); });
    if (landed_all && failure_.empty()) MPI_Comm_free(&communicator_);
    communicator_ = MPI_COMM_NULL;
  }
  template <class Landed>
  bool leave_to_process_unless(const Landed& landed) noexcept {
    if (pool_.all_landed(landed)) return true;
    if (left_to_process_ == nullptr) return false;
    *left_to_process_ = std::move(pool_);
    static_cast<void>(left_to_process_.release());
    return false;
  }

  Clock::time_point deadline() const noexcept {
    return Clock::now() + std::min<Clock::duration>(timeout_, std::chrono::hours(24 * 365));
  }

  [[noreturn]] void fail(std::string why) {
    failure_ = std::move(why);
    throw CommunicatorError(failure_);
  }

  MPI_Comm communicator_;
  int rank_ = 0;
  int size_ = 1;
  std::uint64_t layers_ = 0;
  FramePool<MpiFlight> pool_;
  // Made beforehand: where it is needed nothing may fail.
  std::unique_ptr<FramePool<MpiFlight>> left_to_process_ = std::make_unique<FramePool<MpiFlight>>();
  std::string failure_;  // empty while the group is usable
  Clock::duration timeout_ = std::chrono::minutes(10);
};

}  // namespace syncbn::inline v0::detail
