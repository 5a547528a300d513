#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <nccl.h>
#include <set>
#include <string>
#include <thread>

#include "shared_meeting.hpp"
#include "stream.hpp"

// One rank of a group: what a handle of nccl_stand_in.cpp stands for.

namespace nccl_stand_in {

struct Reduction {
  const void* from;
  void* to;
  std::size_t count;
  ncclDataType_t type;
  ncclRedOp_t operation;
};
// Bytes of a word, or 0 if there are no such reductions here.
std::size_t word_bytes(ncclDataType_t type, ncclRedOp_t operation);

// What ncclGetLastError() says on this thread; returns the result.
ncclResult_t fail(ncclResult_t result, const std::string& what);
const char* last_failure();
std::string make_name();

class Communicator {
 public:
  using Job = std::function<ncclResult_t()>;

  Communicator(int device, bool blocking) : device_(device), blocking_(blocking) {}
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  // Does what takes several ranks: now, or, if this communicator does not block, in the background.
  ncclResult_t start(const Job& job);

  // Jobs. Waits for all ranks of the name.
  ncclResult_t attach(const std::string& name, int rank, int ranks);
  // Ranks of one color make a new group; child is null without a color.
  ncclResult_t split(int color, int key, Communicator* child);
  // Work of streams is done, and there will be no more.
  ncclResult_t finalize();

  // Work of a stream.
  void all_reduce(const Reduction& reduction);
  // That it is in this stream.
  void note(CUstream_st& stream);

  // Waits for the collective that runs now; what is still in streams, and it, go wrong.
  void abort();
  // Waits for what is in streams.
  void destroy();

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }
  int device() const { return device_; }
  bool blocking() const { return blocking_; }
  bool ready() const { return progress_ == ncclSuccess && !finalized_; }
  ncclResult_t progress() const { return progress_; }
  void set_progress(ncclResult_t progress) { progress_ = progress; }
  void set_error(ncclResult_t error) { error_ = error; }
  ncclResult_t error() const { return error_ != ncclSuccess ? error_ : progress_; }

 private:
  void end_job();
  bool sum_of_ranks(const Reduction& reduction, const std::byte* from);

  const int device_;
  const bool blocking_;
  int rank_ = 0;
  int ranks_ = 0;
  std::atomic<bool> aborted_{false};
  std::atomic<bool> destroyed_{false};
  std::atomic<bool> finalized_{false};
  std::atomic<ncclResult_t> progress_{ncclInProgress};
  std::atomic<ncclResult_t> error_{ncclSuccess};
  std::unique_ptr<Meeting> meeting_;
  std::mutex performing_;  // a collective
  std::mutex job_mutex_;
  std::thread job_;
  std::mutex mutex_;  // of what follows
  std::set<CUstream_st*> streams_;
};

// How many there have been: see nccl_stand_in.hpp.
struct Counters {
  std::atomic<long> all_reduces{0}, words{0};
};
Counters& counters();

}  // namespace nccl_stand_in
