#include "nccl_stand_in.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "devices.hpp"
#include "memory.hpp"
#include "options.hpp"
#include "stand_in_communicator.hpp"
#include "stream.hpp"
#include "streams.hpp"

using cuda_emulation::OnDevice;
using nccl_stand_in::Communicator;
using nccl_stand_in::fail;
using nccl_stand_in::Reduction;

struct ncclComm {};

namespace {

using Pointer = std::shared_ptr<Communicator>;

// Handles that live. None is ever used again: whoever keeps one too long is found out.
struct Registry {
  std::mutex mutex;
  std::map<ncclComm_t, Pointer> live;
  std::deque<ncclComm> handles;
};
Registry& registry() {
  static auto* const r = new Registry;
  return *r;
}

ncclComm_t add(const Pointer& communicator) {
  const std::lock_guard lock(registry().mutex);
  const ncclComm_t handle = &registry().handles.emplace_back();
  registry().live[handle] = communicator;
  return handle;
}
Pointer find(ncclComm_t handle) {
  if (handle == nullptr) {
    fail(ncclInvalidArgument, "no communicator");
    return nullptr;
  }
  const std::lock_guard lock(registry().mutex);
  const auto found = registry().live.find(handle);
  if (found != registry().live.end()) return found->second;
  cuda_emulation::violate("a communicator is used that was destroyed or aborted");
  return nullptr;
}
// False if somebody else has just done it.
bool remove(ncclComm_t handle) {
  const std::lock_guard lock(registry().mutex);
  return registry().live.erase(handle) == 1;
}
ncclResult_t end(ncclComm_t handle) {
  if (remove(handle)) return ncclSuccess;
  cuda_emulation::violate("a communicator is destroyed or aborted twice");
  return ncclInvalidArgument;
}

// ---- Groups ----------------------------------------------------------------------------------------------------------

// What needs other ranks before any stream does anything: making communicators.
struct Setup {
  Pointer communicator;
  Communicator::Job job;
  ncclComm_t* handle;  // taken back if it fails
};
struct Launch {
  Pointer communicator;
  CUstream_st* stream;
  Reduction reduction;
};
struct Group {
  int depth = 0;
  std::vector<Setup> setups;
  std::vector<Launch> launches;
};
thread_local Group group;
thread_local ncclResult_t next_all_reduce = ncclSuccess;

// Each on a thread of its own, so that they may wait for each other.
void together(const std::vector<std::function<void()>>& tasks) {
  std::vector<std::thread> threads;
  for (const auto& task : tasks) threads.emplace_back(task);
  for (std::thread& t : threads) t.join();
}

ncclResult_t perform(const Setup& setup) {
  const ncclResult_t result = setup.communicator->start(setup.job);
  if (result == ncclSuccess || result == ncclInProgress || setup.handle == nullptr) return result;
  remove(*setup.handle);
  *setup.handle = nullptr;
  return result;
}

ncclResult_t perform(const std::vector<Setup>& setups) {
  if (setups.size() == 1) return perform(setups.front());
  std::vector<ncclResult_t> results(setups.size(), ncclSuccess);
  std::vector<std::function<void()>> tasks;
  for (std::size_t i = 0; i < setups.size(); ++i) tasks.emplace_back([&, i] { results[i] = perform(setups[i]); });
  together(tasks);
  const auto is_error = [](ncclResult_t r) { return r != ncclSuccess && r != ncclInProgress; };
  const auto error = std::find_if(results.begin(), results.end(), is_error);
  if (error != results.end()) return *error;
  return std::count(results.begin(), results.end(), ncclInProgress) > 0 ? ncclInProgress : ncclSuccess;
}

ncclResult_t submit(const Launch& launch) {
  const auto work = [communicator = launch.communicator, reduction = launch.reduction] {
    communicator->all_reduce(reduction);
    return cudaSuccess;
  };
  if (cuda_emulation::submit(launch.stream, work) == cudaSuccess) return ncclSuccess;
  return fail(ncclUnhandledCudaError, "the stream takes no work");
}

// One list for each communicator, in the order of calls.
std::vector<std::vector<Launch>> by_communicator(const std::vector<Launch>& launches) {
  std::vector<std::vector<Launch>> lists;
  for (const Launch& launch : launches) {
    const auto same = [&](const auto& list) { return list.front().communicator == launch.communicator; };
    auto found = std::find_if(lists.begin(), lists.end(), same);
    if (found == lists.end()) found = lists.insert(lists.end(), std::vector<Launch>());
    found->push_back(launch);
  }
  return lists;
}

// A graph does one thing after another: all ranks' collectives are one of them.
ncclResult_t submit_as_one(const std::vector<std::vector<Launch>>& lists) {
  const auto work = [lists] {
    std::vector<std::function<void()>> tasks;
    for (const std::vector<Launch>& list : lists) {
      tasks.emplace_back([&list] {
        for (const Launch& launch : list) launch.communicator->all_reduce(launch.reduction);
      });
    }
    together(tasks);
    return cudaSuccess;
  };
  cuda_emulation::submit(lists.front().front().stream, work);
  return ncclSuccess;
}

ncclResult_t perform(const std::vector<Launch>& launches) {
  const auto lists = by_communicator(launches);
  const bool captured = cuda_emulation::is_captured(launches.front().stream);
  if (lists.size() > 1 && captured) return submit_as_one(lists);
  if (lists.size() == 1 || cuda_emulation::options().asynchronous) {
    ncclResult_t result = ncclSuccess;
    for (const Launch& launch : launches) result = std::max(result, submit(launch));
    return result;
  }
  std::vector<ncclResult_t> results(lists.size(), ncclSuccess);
  std::vector<std::function<void()>> tasks;
  for (std::size_t i = 0; i < lists.size(); ++i) {
    tasks.emplace_back([&, i] {
      for (const Launch& launch : lists[i]) {
        results[i] = std::max(results[i], submit(launch));
        cuda_emulation::finish(launch.stream);
      }
    });
  }
  together(tasks);
  return *std::max_element(results.begin(), results.end());
}

ncclResult_t end_group() {
  const std::vector<Setup> setups = std::exchange(group.setups, {});
  const std::vector<Launch> launches = std::exchange(group.launches, {});
  ncclResult_t result = setups.empty() ? ncclSuccess : perform(setups);
  if (!launches.empty()) result = std::max(result, perform(launches));
  return result;
}
ncclResult_t put(Setup setup) {
  group.setups.push_back(std::move(setup));
  return group.depth > 0 ? ncclSuccess : end_group();
}
ncclResult_t put(Launch launch) {
  group.launches.push_back(std::move(launch));
  return group.depth > 0 ? ncclSuccess : end_group();
}

// ---- Calls -----------------------------------------------------------------------------------------------------------

ncclResult_t initialize(ncclComm_t* handle, int ranks, const ncclUniqueId& id, int rank, bool blocking) {
  if (handle == nullptr || ranks < 1 || ranks > nccl_stand_in::most_ranks || rank < 0 || rank >= ranks) {
    return fail(ncclInvalidArgument, "no such rank");
  }
  const auto communicator = std::make_shared<Communicator>(cuda_emulation::current_device(), blocking);
  *handle = add(communicator);
  const std::string name = id.internal;
  Communicator* const c = communicator.get();
  return put({communicator, [=] { return c->attach(name, rank, ranks); }, handle});
}

// Whether a kernel could use so many bytes there.
bool is_memory_of_device(const void* p) {
  cuda_emulation::MemoryKind kind{};
  return cuda_emulation::find_memory(p, kind);
}

template <class Get>
ncclResult_t get(ncclComm_t handle, int* value, const Get& of) {
  const Pointer c = find(handle);
  if (!c || value == nullptr) return ncclInvalidArgument;
  if (c->progress() != ncclSuccess) return fail(ncclInvalidUsage, "the communicator is not ready");
  *value = of(*c);
  return ncclSuccess;
}

bool is_blocking(const ncclConfig_t* config, bool otherwise) {
  return config == nullptr || config->blocking == NCCL_CONFIG_UNDEF_INT ? otherwise : config->blocking != 0;
}

ncclResult_t check(const Communicator& c, const Reduction& r, const CUstream_st& stream) {
  if (!c.ready()) return fail(ncclInvalidUsage, "the communicator is not ready");
  if (nccl_stand_in::word_bytes(r.type, r.operation) == 0) return fail(ncclInvalidArgument, "no such reduction");
  if (r.count > 0 && (!is_memory_of_device(r.from) || !is_memory_of_device(r.to))) {
    return fail(ncclInvalidArgument, "that is no memory of a device");
  }
  if (stream.device != c.device()) return fail(ncclUnhandledCudaError, "the stream is another device's");
  return ncclSuccess;
}

}  // namespace

namespace nccl_stand_in {

void set_asynchronous_error(ncclComm_t communicator, ncclResult_t error) {
  if (const Pointer c = find(communicator)) c->set_error(error);
}
void fail_next_all_reduce(ncclResult_t result) { next_all_reduce = result; }
long all_reduces() { return counters().all_reduces; }
long words_reduced() { return counters().words; }
long live_communicators() {
  const std::lock_guard lock(registry().mutex);
  return static_cast<long>(registry().live.size());
}

}  // namespace nccl_stand_in

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
  constexpr const char* texts[] = {"no error",
                                   "unhandled cuda error",
                                   "unhandled system error",
                                   "internal error",
                                   "invalid argument",
                                   "invalid usage",
                                   "remote process exited or there was a network error",
                                   "NCCL operation in progress"};
  return result >= 0 && result < ncclNumResults ? texts[result] : "unknown result code";
}
const char* ncclGetLastError(ncclComm_t) { return nccl_stand_in::last_failure(); }
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  *id = {};
  nccl_stand_in::make_name().copy(id->internal, sizeof id->internal - 1);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
  return initialize(comm, ranks, id, rank, true);
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  return initialize(comm, ranks, id, rank, is_blocking(config, true));
}
ncclResult_t ncclCommInitAll(ncclComm_t* comms, int ranks, const int* devices) {
  ncclUniqueId id;
  ncclGetUniqueId(&id);
  ncclGroupStart();
  ncclResult_t result = ncclSuccess;
  for (int r = 0; r < ranks; ++r) {
    const OnDevice on(devices == nullptr ? r : devices[r]);
    result = std::max(result, ncclCommInitRank(comms + r, ranks, id, r));
  }
  return std::max(result, ncclGroupEnd());
}
ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* child, ncclConfig_t* config) {
  const Pointer parent = find(comm);
  if (!parent || child == nullptr) return ncclInvalidArgument;
  if (!parent->ready()) return fail(ncclInvalidUsage, "the communicator is not ready");
  *child = nullptr;
  Communicator* const p = parent.get();
  if (color == NCCL_SPLIT_NOCOLOR) return put({parent, [=] { return p->split(color, key, nullptr); }, nullptr});
  const auto made = std::make_shared<Communicator>(parent->device(), is_blocking(config, parent->blocking()));
  const ncclComm_t handle = add(made);
  // The parent's job: its ranks have to meet first. One that does not block has succeeded until then, with nothing to show:
  // the handle comes when it is done.
  const bool late = !parent->blocking();
  if (!late) *child = handle;
  const auto job = [=] {
    made->set_progress(p->split(color, key, made.get()));
    if (late && made->progress() == ncclSuccess) *child = handle;
    if (late && made->progress() != ncclSuccess) remove(handle);
    return made->progress();
  };
  const ncclResult_t result = put({parent, job, late ? nullptr : child});
  return result == ncclInProgress ? ncclSuccess : result;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  const Pointer c = find(comm);
  if (!c) return ncclInvalidArgument;
  if (!c->ready()) return fail(ncclInvalidUsage, "the communicator is not ready");
  Communicator* const raw = c.get();
  return c->start([=] { return raw->finalize(); });
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (comm == nullptr) return ncclSuccess;
  const Pointer c = find(comm);
  if (!c) return ncclInvalidArgument;
  if (c->progress() == ncclInProgress) return fail(ncclInvalidUsage, "the communicator is not ready");
  c->destroy();
  return end(comm);
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  if (comm == nullptr) return ncclSuccess;
  const Pointer c = find(comm);
  if (!c) return ncclInvalidArgument;
  c->abort();
  return end(comm);
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  const Pointer c = find(comm);
  if (!c || error == nullptr) return ncclInvalidArgument;
  *error = c->error();
  return ncclSuccess;
}
ncclResult_t ncclCommCount(const ncclComm_t comm, int* count) {
  return get(comm, count, [](const Communicator& c) { return c.ranks(); });
}
ncclResult_t ncclCommUserRank(const ncclComm_t comm, int* rank) {
  return get(comm, rank, [](const Communicator& c) { return c.rank(); });
}
ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int* device) {
  return get(comm, device, [](const Communicator& c) { return c.device(); });
}

ncclResult_t ncclGroupStart() {
  ++group.depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  if (group.depth == 0) return fail(ncclInvalidUsage, "no group was started");
  return --group.depth > 0 ? ncclSuccess : end_group();
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t operation,
                           ncclComm_t comm, cudaStream_t stream) {
  if (next_all_reduce != ncclSuccess) {
    return fail(std::exchange(next_all_reduce, ncclSuccess), "a test wants this to fail");
  }
  const Pointer c = find(comm);
  if (!c) return ncclInvalidArgument;
  const OnDevice on(c->device());  // whose default streams are meant
  CUstream_st& s = cuda_emulation::stream_of(stream);
  const Reduction reduction{from, to, count, type, operation};
  if (const ncclResult_t error = check(*c, reduction, s); error != ncclSuccess) return error;
  if (count == 0) return ncclSuccess;
  c->note(s);
  return put(Launch{c, &s, reduction});
}

}  // extern "C"
