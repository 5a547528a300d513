#include "stand_in_communicator.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <vector>

#include "options.hpp"

namespace nccl_stand_in {
namespace {

thread_local std::string failure;

// Integers wrap around.
template <class T>
T combined(T a, T b, ncclRedOp_t operation) {
  if (operation == ncclMax) return std::max(a, b);
  if (operation == ncclMin) return std::min(a, b);
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    const U x = static_cast<U>(a), y = static_cast<U>(b);
    return static_cast<T>(operation == ncclSum ? x + y : x * y);
  } else {
    return operation == ncclSum ? a + b : a * b;
  }
}

// In the order of ranks: the same bits on each of them.
template <class T>
void combine(const Meeting::Chunks& chunks, int ranks, ncclRedOp_t operation, std::byte* to, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const auto value_of = [&](int rank) {
      T value;
      std::memcpy(&value, chunks[static_cast<std::size_t>(rank)] + i * sizeof(T), sizeof(T));
      return value;
    };
    T result = value_of(0);
    for (int r = 1; r < ranks; ++r) result = combined(result, value_of(r), operation);
    std::memcpy(to + i * sizeof(T), &result, sizeof(T));
  }
}

using Combine = void (*)(const Meeting::Chunks&, int, ncclRedOp_t, std::byte*, std::size_t);

Combine combine_of(ncclDataType_t type) {
  switch (type) {
    case ncclInt32:
      return combine<std::int32_t>;
    case ncclInt64:
      return combine<std::int64_t>;
    case ncclUint64:
      return combine<std::uint64_t>;
    case ncclFloat32:
      return combine<float>;
    default:
      return combine<double>;
  }
}

struct SplitWish {
  int color, key;
  char name[NCCL_UNIQUE_ID_BYTES];  // of the new group, if this rank is the first in it
};

}  // namespace

std::size_t word_bytes(ncclDataType_t type, ncclRedOp_t operation) {
  if (operation < ncclSum || operation > ncclMin) return 0;
  switch (type) {
    case ncclInt32:
    case ncclFloat32:
      return 4;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
      return 8;
    default:
      return 0;
  }
}

ncclResult_t fail(ncclResult_t result, const std::string& what) {
  failure = what;
  return result;
}
const char* last_failure() { return failure.c_str(); }

std::string make_name() {
  std::random_device random;
  char name[NCCL_UNIQUE_ID_BYTES];
  std::snprintf(name, sizeof name, "/nccl-stand-in-%d-%08x%08x", static_cast<int>(getpid()), random(), random());
  return name;
}

Counters& counters() {
  static Counters c;
  return c;
}

Communicator::~Communicator() { end_job(); }
void Communicator::end_job() {
  const std::lock_guard lock(job_mutex_);
  if (job_.joinable()) job_.join();
}

ncclResult_t Communicator::start(const Job& job) {
  if (blocking_) {
    progress_ = job();
    return progress_;
  }
  const std::lock_guard lock(job_mutex_);
  if (job_.joinable()) job_.join();
  progress_ = ncclInProgress;
  job_ = std::thread([this, job] { progress_ = job(); });
  return ncclInProgress;
}

ncclResult_t Communicator::attach(const std::string& name, int rank, int ranks) {
  rank_ = rank;
  ranks_ = ranks;
  try {
    meeting_ = std::make_unique<Meeting>(name, rank, ranks, aborted_);
  } catch (const std::system_error& error) {
    return fail(ncclSystemError, error.what());
  }
  switch (meeting_->attach()) {
    case Meeting::Outcome::met:
      return ncclSuccess;
    case Meeting::Outcome::refused:
      return fail(ncclRemoteError, "ranks do not agree on how many they are, or which");
    default:
      return fail(ncclInternalError, "the communicator was aborted");
  }
}

ncclResult_t Communicator::split(int color, int key, Communicator* child) {
  SplitWish mine{color, key, {}};
  make_name().copy(mine.name, sizeof mine.name - 1);
  std::vector<std::pair<int, int>> members;  // key, rank
  std::string name;
  const auto read = [&](const Meeting::Chunks& chunks) {
    std::vector<SplitWish> wishes(static_cast<std::size_t>(ranks_));
    for (std::size_t r = 0; r < wishes.size(); ++r) {
      std::memcpy(&wishes[r], chunks[r], sizeof(SplitWish));
      if (wishes[r].color == color) members.emplace_back(wishes[r].key, static_cast<int>(r));
    }
    std::sort(members.begin(), members.end());
    name = wishes[static_cast<std::size_t>(members.front().second)].name;
  };
  if (!meeting_->exchange(Meeting::Channel::setup, {}, &mine, sizeof mine, read)) {
    return fail(ncclInternalError, "the communicator was aborted");
  }
  if (child == nullptr) return ncclSuccess;
  const auto place = std::find(members.begin(), members.end(), std::pair(key, rank_));
  return child->attach(name, static_cast<int>(place - members.begin()), static_cast<int>(members.size()));
}

ncclResult_t Communicator::finalize() {
  const auto streams = [this] {
    const std::lock_guard lock(mutex_);
    return streams_;
  };
  for (CUstream_st* stream : streams()) cuda_emulation::finish(stream);
  finalized_ = true;
  return ncclSuccess;
}

void Communicator::note(CUstream_st& stream) {
  const std::lock_guard lock(mutex_);
  streams_.insert(&stream);
}

bool Communicator::sum_of_ranks(const Reduction& reduction, const std::byte* from) {
  const std::size_t bytes = word_bytes(reduction.type, reduction.operation);
  const std::size_t most = chunk_bytes / bytes;
  auto* const to = static_cast<std::byte*>(reduction.to);
  for (std::size_t i = 0; i < reduction.count; i += most) {
    const std::size_t count = std::min(most, reduction.count - i);
    const auto use = [&](const Meeting::Chunks& chunks) {
      combine_of(reduction.type)(chunks, ranks_, reduction.operation, to + i * bytes, count);
    };
    const Call call{reduction.type, reduction.operation, reduction.count, i};
    if (!meeting_->exchange(Meeting::Channel::collectives, call, from + i * bytes, count * bytes, use)) return false;
  }
  return true;
}

void Communicator::all_reduce(const Reduction& reduction) {
  const std::lock_guard lock(performing_);
  if (destroyed_) {
    cuda_emulation::violate("a collective is performed whose communicator was destroyed");
    return;
  }
  ++counters().all_reduces;
  counters().words += static_cast<long>(reduction.count);
  // A copy: the result may take its place, or a part of it.
  const auto* const first = static_cast<const std::byte*>(reduction.from);
  const std::vector<std::byte> mine(first, first + reduction.count * word_bytes(reduction.type, reduction.operation));
  if (sum_of_ranks(reduction, mine.data())) return;
  Meeting::Chunks same{};
  same.fill(mine.data());
  combine_of(reduction.type)(same, ranks_, reduction.operation, static_cast<std::byte*>(reduction.to), reduction.count);
}

void Communicator::abort() {
  aborted_ = true;
  end_job();
  const std::lock_guard lock(performing_);  // what ran has returned
}
void Communicator::destroy() {
  end_job();
  finalize();
  destroyed_ = true;
}

}  // namespace nccl_stand_in
