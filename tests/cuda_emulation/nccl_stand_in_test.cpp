// The stand-in of NCCL: sums are right between threads and processes, whenever streams run, and what goes wrong goes wrong
// as it does with NCCL.

#include "nccl_stand_in.hpp"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <spawn.h>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sys/wait.h>

#include "devices.hpp"
#include "memory.hpp"
#include "options.hpp"
#include "streams.hpp"
#include "support/catch.hpp"

namespace {

using cuda_emulation::ExpectViolations;
using cuda_emulation::Options;

constexpr int most_devices = 3;

Options immediate() {
  Options o;
  o.devices = most_devices;
  return o;
}
Options deferred() {
  Options o = immediate();
  o.deferred = true;
  return o;
}
Options asynchronous() {
  Options o = immediate();
  o.asynchronous = true;
  return o;
}

// Leaves the options as they were, and no communicator behind.
class With {
 public:
  explicit With(const Options& o) : before_(std::exchange(cuda_emulation::options(), o)) {}
  ~With() {
    cuda_emulation::options() = before_;
    CHECK(nccl_stand_in::live_communicators() == live_);
  }
  With(const With&) = delete;
  With& operator=(const With&) = delete;

 private:
  Options before_;
  long live_ = nccl_stand_in::live_communicators();
};

// Made and used by rank threads: no assertions here.
struct Stream {
  Stream() { cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking); }
  ~Stream() { cudaStreamDestroy(stream); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t stream = nullptr;
};
template <class T = double>
class Words {
 public:
  explicit Words(const std::vector<T>& values) : n_(values.size()) {
    cudaMalloc(reinterpret_cast<void**>(&p_), n_ * sizeof(T));
    cudaMemcpy(p_, values.data(), n_ * sizeof(T), cudaMemcpyHostToDevice);
  }
  ~Words() { cudaFree(p_); }
  Words(const Words&) = delete;
  Words& operator=(const Words&) = delete;

  T* get() const { return p_; }
  std::size_t size() const { return n_; }
  std::vector<T> values() const {
    std::vector<T> result(n_);
    cudaMemcpy(result.data(), p_, n_ * sizeof(T), cudaMemcpyDeviceToHost);
    return result;
  }

 private:
  T* p_ = nullptr;
  std::size_t n_;
};

ncclUniqueId make_id() {
  ncclUniqueId id{};
  REQUIRE(ncclGetUniqueId(&id) == ncclSuccess);
  return id;
}
ncclResult_t sum(const Words<>& words, ncclComm_t comm, cudaStream_t stream) {
  return ncclAllReduce(words.get(), words.get(), words.size(), ncclFloat64, ncclSum, comm, stream);
}

// Each rank on a thread, with a device and a communicator of its own.
void run_ranks(int ranks, const std::function<void(int, ncclComm_t)>& body) {
  const ncclUniqueId id = make_id();
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      cudaSetDevice(r);
      ncclComm_t comm = nullptr;
      if (ncclCommInitRank(&comm, ranks, id, r) == ncclSuccess) body(r, comm);
    });
  }
  for (std::thread& t : threads) t.join();
}

template <class Condition>
bool soon(const Condition& condition) {
  for (int i = 0; i < 20'000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}
void a_while() { std::this_thread::sleep_for(std::chrono::milliseconds(30)); }

// What the ranks r have made of values 1, 2, ... r + 1 of type T.
template <class T>
std::vector<T> reduced(ncclDataType_t type, ncclRedOp_t operation) {
  std::vector<T> results(3);
  run_ranks(3, [&](int rank, ncclComm_t comm) {
    const Stream s;
    const Words<T> from({static_cast<T>(rank + 2)});
    const Words<T> to({T{}});
    ncclAllReduce(from.get(), to.get(), 1, type, operation, comm, s.stream);
    cudaStreamSynchronize(s.stream);
    results[static_cast<std::size_t>(rank)] = to.values()[0];
    ncclCommDestroy(comm);
  });
  return results;
}

}  // namespace

TEST_CASE("sums of three ranks with their own devices have the same bits, whenever streams run") {
  const std::size_t words = 20'000;  // several chunks
  for (const Options& o : {immediate(), deferred(), asynchronous()}) {
    const With with(o);
    const long before = nccl_stand_in::all_reduces();
    const long words_before = nccl_stand_in::words_reduced();
    std::vector<std::vector<double>> results(3);
    std::vector<int> told(3);
    run_ranks(3, [&](int rank, ncclComm_t comm) {
      const Stream s;
      std::vector<double> values(words);
      for (std::size_t i = 0; i < words; ++i) values[i] = 1.0 / static_cast<double>(i + 3) + 0.1 * rank;
      const Words<> mine(values);
      for (int i = 0; i < 2; ++i) sum(mine, comm, s.stream);
      cudaStreamSynchronize(s.stream);
      const auto index = static_cast<std::size_t>(rank);
      results[index] = mine.values();
      int number = -1, ranks = -1, device = -1;
      ncclCommUserRank(comm, &number);
      ncclCommCount(comm, &ranks);
      ncclCommCuDevice(comm, &device);
      told[index] = 100 * number + 10 * ranks + device;
      ncclCommDestroy(comm);
    });
    const double v = 1.0 / 3;
    const double once = v + (v + 0.1) + (v + 0.2);
    CHECK(results[0][0] == once + once + once);
    CHECK(results[0].back() > 0.3);
    CHECK(results[1] == results[0]);
    CHECK(results[2] == results[0]);
    CHECK(told == std::vector<int>{30, 131, 232});
    CHECK(nccl_stand_in::all_reduces() == before + 6);
    CHECK(nccl_stand_in::words_reduced() == words_before + 6 * static_cast<long>(words));
  }
}

TEST_CASE("types and operations") {
  const With with(immediate());
  CHECK(reduced<float>(ncclFloat32, ncclSum) == std::vector<float>(3, 9));
  CHECK(reduced<double>(ncclFloat64, ncclProd) == std::vector<double>(3, 24));
  CHECK(reduced<std::int32_t>(ncclInt32, ncclMax) == std::vector<std::int32_t>(3, 4));
  CHECK(reduced<std::int64_t>(ncclInt64, ncclMin) == std::vector<std::int64_t>(3, 2));
  CHECK(reduced<std::uint64_t>(ncclUint64, ncclSum) == std::vector<std::uint64_t>(3, 9));
}

TEST_CASE("one thread with several communicators needs a group, which may be captured") {
  for (const Options& o : {immediate(), deferred(), asynchronous()}) {
    const With with(o);
    ncclComm_t comms[2] = {};
    REQUIRE(ncclCommInitAll(comms, 2, nullptr) == ncclSuccess);
    const Words<> first({1, 2}), second({10, 20});
    const Stream s;
    cudaSetDevice(1);
    const Stream t;
    cudaSetDevice(0);
    const auto both = [&] {
      REQUIRE(ncclGroupStart() == ncclSuccess);
      REQUIRE(ncclGroupStart() == ncclSuccess);
      CHECK(sum(first, comms[0], s.stream) == ncclSuccess);
      CHECK(sum(first, comms[0], s.stream) == ncclSuccess);
      REQUIRE(ncclGroupEnd() == ncclSuccess);
      CHECK(sum(second, comms[1], t.stream) == ncclSuccess);
      CHECK(sum(second, comms[1], t.stream) == ncclSuccess);
      REQUIRE(ncclGroupEnd() == ncclSuccess);
    };
    both();
    REQUIRE(cudaStreamSynchronize(s.stream) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(t.stream) == cudaSuccess);
    CHECK(first.values() == std::vector<double>{22, 44});
    CHECK(second.values() == first.values());

    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    REQUIRE(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    REQUIRE(cudaStreamBeginCapture(t.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    both();
    REQUIRE(cudaStreamEndCapture(s.stream, &graph) == cudaSuccess);
    REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
    REQUIRE(cudaGraphLaunch(executable, s.stream) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(s.stream) == cudaSuccess);
    CHECK(first.values() == std::vector<double>{88, 176});
    CHECK(second.values() == first.values());
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
    REQUIRE(cudaStreamEndCapture(t.stream, &graph) == cudaSuccess);
    cudaGraphDestroy(graph);
    for (ncclComm_t comm : comms) CHECK(ncclCommDestroy(comm) == ncclSuccess);
  }
}

TEST_CASE("a captured sum is made again whenever its graph is launched") {
  for (const Options& o : {immediate(), deferred(), asynchronous()}) {
    const With with(o);
    const long before = nccl_stand_in::all_reduces();
    std::vector<double> results(2);
    std::vector<int> early(2);
    run_ranks(2, [&](int rank, ncclComm_t comm) {
      const auto index = static_cast<std::size_t>(rank);
      const Stream s;
      const Words<> words({1.0 + rank});
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t executable = nullptr;
      cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeThreadLocal);
      sum(words, comm, s.stream);
      cudaStreamEndCapture(s.stream, &graph);
      early[index] = static_cast<int>(words.values()[0]);
      cudaGraphInstantiate(&executable, graph, 0);
      for (int i = 0; i < 3; ++i) cudaGraphLaunch(executable, s.stream);
      cudaStreamSynchronize(s.stream);
      results[index] = words.values()[0];
      cudaGraphExecDestroy(executable);
      cudaGraphDestroy(graph);
      ncclCommDestroy(comm);
    });
    CHECK(early == std::vector<int>{1, 2});
    CHECK(results == std::vector<double>{12, 12});
    CHECK(nccl_stand_in::all_reduces() == before + 6);
  }
}

TEST_CASE("split: ranks of a color, in the order of their keys") {
  const With with(immediate());
  std::vector<std::string> told(3);
  run_ranks(3, [&](int rank, ncclComm_t comm) {
    const auto index = static_cast<std::size_t>(rank);
    ncclComm_t part = nullptr, none = comm;
    ncclCommSplit(comm, rank == 1 ? 7 : 4, -rank, &part, nullptr);
    ncclCommSplit(comm, rank == 1 ? 0 : NCCL_SPLIT_NOCOLOR, 0, &none, nullptr);
    int number = -1, ranks = -1;
    ncclCommUserRank(part, &number);
    ncclCommCount(part, &ranks);
    const Stream s;
    const Words<> words({1.0 + rank});
    sum(words, part, s.stream);
    cudaStreamSynchronize(s.stream);
    told[index] = std::to_string(number) + " of " + std::to_string(ranks) + ": " +
                  std::to_string(static_cast<int>(words.values()[0])) + (none == nullptr ? "" : ", some");
    ncclCommDestroy(none);
    ncclCommDestroy(part);
    ncclCommDestroy(comm);
  });
  CHECK(told == std::vector<std::string>{"1 of 2: 4", "0 of 1: 2, some", "0 of 2: 4"});
}

TEST_CASE("ranks whose calls differ, or that are missing, wait until they are aborted; the result is misleading") {
  enum class Way { count, operation, type, order, missing };
  for (const Options& o : {immediate(), deferred(), asynchronous()}) {
    for (const Way way : {Way::count, Way::operation, Way::type, Way::order, Way::missing}) {
      const With with(o);
      std::vector<std::vector<double>> results(2);
      std::vector<std::atomic<bool>> done(2);
      std::vector<int> early(2);
      const long all_begun = nccl_stand_in::all_reduces() + (way == Way::missing ? 1 : 2);
      run_ranks(2, [&](int rank, ncclComm_t comm) {
        const auto index = static_cast<std::size_t>(rank);
        const Stream s;
        const Words<> words({1.0 + rank, 3});
        const bool odd = rank == 1;
        std::thread work([&] {
          cudaSetDevice(rank);
          const auto all_reduce = [&](std::size_t count, ncclDataType_t type, ncclRedOp_t operation) {
            ncclAllReduce(words.get(), words.get(), count, type, operation, comm, s.stream);
          };
          ncclGroupStart();  // a call by itself may be made when the communicator is gone
          if (way == Way::order) all_reduce(odd ? 2 : 1, ncclFloat64, ncclSum);
          const std::size_t count = odd && (way == Way::count || way == Way::order) ? 1 : 2;
          const ncclDataType_t type = odd && way == Way::type ? ncclInt64 : ncclFloat64;
          const ncclRedOp_t operation = odd && way == Way::operation ? ncclMax : ncclSum;
          if (way != Way::missing || !odd) all_reduce(count, type, operation);
          ncclGroupEnd();
          cudaStreamSynchronize(s.stream);
          done[index] = true;
        });
        soon([&] { return nccl_stand_in::all_reduces() >= all_begun; });
        if (way == Way::missing && odd) soon([&] { return done[index].load(); });
        a_while();
        early[index] = done[index] ? 1 : 0;
        ncclCommAbort(comm);
        work.join();
        results[index] = words.values();
      });
      INFO("way " << static_cast<int>(way));
      CHECK(early[0] == 0);
      CHECK(early[1] == (way == Way::missing ? 1 : 0));
      CHECK(results[0] == (way == Way::order ? std::vector<double>{4, 6} : std::vector<double>{2, 6}));
      if (way == Way::count) CHECK(results[1] == std::vector<double>{4, 3});
    }
  }
}

TEST_CASE("whoever is in a sum with an aborted rank goes on waiting; queued sums go wrong, too") {
  const With with(asynchronous());
  std::atomic<bool> first_is_done{false}, second_gave_up{false};
  std::vector<std::vector<double>> results(2);
  bool early = true;
  double at_once = 0;
  const long begun = nccl_stand_in::all_reduces() + 1;
  run_ranks(2, [&](int rank, ncclComm_t comm) {
    const auto index = static_cast<std::size_t>(rank);
    const Stream s;
    const Words<> words({1.0 + rank}), others({5});
    if (rank == 0) {
      sum(words, comm, s.stream);
      sum(others, comm, s.stream);
      soon([&] { return nccl_stand_in::all_reduces() >= begun; });
      a_while();
      ncclCommAbort(comm);
      at_once = *words.get();
      cudaStreamSynchronize(s.stream);
      first_is_done = true;
      soon([&] { return second_gave_up.load(); });
    } else {
      soon([&] { return first_is_done.load(); });
      sum(others, comm, s.stream);
      a_while();
      early = cudaStreamQuery(s.stream) == cudaSuccess;
      ncclCommAbort(comm);
      cudaStreamSynchronize(s.stream);
      second_gave_up = true;
    }
    results[index] = words.values();
    results[index].push_back(others.values()[0]);
  });
  CHECK(first_is_done);
  CHECK(at_once == 2);  // abort waits for what ran
  CHECK_FALSE(early);
  CHECK(results[0] == std::vector<double>{2, 10});
  CHECK(results[1] == std::vector<double>{2, 10});
}

TEST_CASE("initialization that does not block") {
  const With with(asynchronous());
  const ncclUniqueId id = make_id();
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclComm_t comms[2] = {};
  const Words<> words({1});
  const Stream s;
  const auto state = [&](int i) {
    ncclResult_t result = ncclInternalError;
    CHECK(ncclCommGetAsyncError(comms[i], &result) == ncclSuccess);
    return result;
  };
  CHECK(ncclCommInitRankConfig(&comms[0], 2, id, 0, &config) == ncclInProgress);
  a_while();
  CHECK(state(0) == ncclInProgress);
  CHECK(sum(words, comms[0], s.stream) == ncclInvalidUsage);
  int count = 0;
  CHECK(ncclCommCount(comms[0], &count) == ncclInvalidUsage);
  CHECK(ncclCommDestroy(comms[0]) == ncclInvalidUsage);
  CHECK(ncclCommInitRankConfig(&comms[1], 2, id, 1, &config) == ncclInProgress);
  CHECK(soon([&] { return state(0) == ncclSuccess && state(1) == ncclSuccess; }));

  ncclComm_t parts[2] = {};
  CHECK(ncclCommSplit(comms[0], 0, 0, &parts[0], nullptr) == ncclSuccess);
  CHECK(state(0) == ncclInProgress);
  CHECK(ncclCommSplit(comms[1], 0, -1, &parts[1], nullptr) == ncclSuccess);
  CHECK(soon([&] { return state(0) == ncclSuccess && state(1) == ncclSuccess; }));
  int rank = -1;
  CHECK(ncclCommUserRank(parts[0], &rank) == ncclSuccess);
  CHECK(rank == 1);

  CHECK(ncclCommFinalize(comms[0]) == ncclInProgress);
  CHECK(soon([&] { return state(0) == ncclSuccess; }));
  CHECK(sum(words, comms[0], s.stream) == ncclInvalidUsage);
  for (ncclComm_t comm : {comms[0], comms[1], parts[0], parts[1]}) CHECK(ncclCommDestroy(comm) == ncclSuccess);

  ncclComm_t alone = nullptr;
  CHECK(ncclCommInitRankConfig(&alone, 2, make_id(), 0, &config) == ncclInProgress);
  CHECK(ncclCommAbort(alone) == ncclSuccess);
}

TEST_CASE("ranks that do not agree on how many they are do not get together") {
  const With with(immediate());
  const ncclUniqueId id = make_id();
  std::vector<ncclResult_t> results(2);
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r) {
    threads.emplace_back([&, r] {
      ncclComm_t comm = nullptr;
      results[static_cast<std::size_t>(r)] = ncclCommInitRank(&comm, 2 + r, id, r);
    });
  }
  for (std::thread& t : threads) t.join();
  CHECK(results == std::vector<ncclResult_t>(2, ncclRemoteError));
}

TEST_CASE("hooks for tests") {
  const With with(immediate());
  ncclComm_t comm = nullptr;
  const long live = nccl_stand_in::live_communicators();
  REQUIRE(ncclCommInitAll(&comm, 1, nullptr) == ncclSuccess);
  CHECK(nccl_stand_in::live_communicators() == live + 1);
  ncclResult_t error = ncclInternalError;
  CHECK(ncclCommGetAsyncError(comm, &error) == ncclSuccess);
  CHECK(error == ncclSuccess);
  nccl_stand_in::set_asynchronous_error(comm, ncclRemoteError);
  CHECK(ncclCommGetAsyncError(comm, &error) == ncclSuccess);
  CHECK(error == ncclRemoteError);

  const Words<> words({3});
  const long before = nccl_stand_in::all_reduces();
  nccl_stand_in::fail_next_all_reduce(ncclSystemError);
  CHECK(sum(words, comm, nullptr) == ncclSystemError);
  CHECK(nccl_stand_in::all_reduces() == before);
  CHECK(sum(words, comm, nullptr) == ncclSuccess);
  CHECK(nccl_stand_in::all_reduces() == before + 1);
  CHECK(words.values() == std::vector<double>{3});
  CHECK(ncclCommDestroy(comm) == ncclSuccess);
  CHECK(nccl_stand_in::live_communicators() == live);
}

TEST_CASE("calls that NCCL does not take") {
  const With with(immediate());
  ncclComm_t comm = nullptr;
  REQUIRE(ncclCommInitAll(&comm, 1, nullptr) == ncclSuccess);
  const Words<> words({3});
  double host = 0;
  const auto all_reduce = [&](const void* p, ncclDataType_t type, ncclRedOp_t operation,
                              cudaStream_t stream = nullptr) {
    return ncclAllReduce(p, words.get(), 1, type, operation, comm, stream);
  };
  CHECK(all_reduce(words.get(), ncclFloat16, ncclSum) == ncclInvalidArgument);
  CHECK(all_reduce(words.get(), ncclFloat64, ncclAvg) == ncclInvalidArgument);
  CHECK(all_reduce(&host, ncclFloat64, ncclSum) == ncclInvalidArgument);
  CHECK(std::string(ncclGetLastError(comm)) == "that is no memory of a device");
  CHECK(ncclAllReduce(nullptr, nullptr, 0, ncclFloat64, ncclSum, comm, nullptr) == ncclSuccess);
  CHECK(sum(words, nullptr, nullptr) == ncclInvalidArgument);
  CHECK(ncclGroupEnd() == ncclInvalidUsage);
  ncclComm_t other = nullptr;
  CHECK(ncclCommInitRank(&other, 2, make_id(), 2) == ncclInvalidArgument);
  {
    const cuda_emulation::OnDevice one(1);
    const Stream elsewhere;
    CHECK(all_reduce(words.get(), ncclFloat64, ncclSum, elsewhere.stream) == ncclUnhandledCudaError);
    CHECK(all_reduce(words.get(), ncclFloat64, ncclSum) == ncclSuccess);  // the default stream is the communicator's
  }
  CHECK(ncclCommDestroy(comm) == ncclSuccess);
  CHECK(std::string(ncclGetErrorString(ncclInProgress)).find("in progress") != std::string::npos);
}

TEST_CASE("mistakes with communicators are reported") {
  const With with(immediate());
  const ExpectViolations expected;
  const auto reports = [&] { return expected.texts().find("that was destroyed or aborted") != std::string::npos; };
  ncclComm_t comm = nullptr, aborted = nullptr;
  REQUIRE(ncclCommInitAll(&comm, 1, nullptr) == ncclSuccess);
  REQUIRE(ncclCommInitAll(&aborted, 1, nullptr) == ncclSuccess);
  const Stream s;
  const Words<> words({3});
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  REQUIRE(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  REQUIRE(sum(words, comm, s.stream) == ncclSuccess);
  REQUIRE(cudaStreamEndCapture(s.stream, &graph) == cudaSuccess);
  REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
  REQUIRE(ncclCommDestroy(comm) == ncclSuccess);
  REQUIRE(ncclCommAbort(aborted) == ncclSuccess);
  CHECK_FALSE(reports());
  CHECK(ncclCommDestroy(aborted) == ncclInvalidArgument);
  CHECK(reports());
  CHECK(ncclCommDestroy(comm) == ncclInvalidArgument);
  CHECK(sum(words, comm, s.stream) == ncclInvalidArgument);
  REQUIRE(cudaGraphLaunch(executable, s.stream) == cudaSuccess);
  REQUIRE(cudaStreamSynchronize(s.stream) == cudaSuccess);
  CHECK(expected.texts().find("whose communicator was destroyed") != std::string::npos);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

// ---- Processes -------------------------------------------------------------------------------------------------------

namespace {

constexpr int processes = 3;

double sum_of_process(const ncclUniqueId& id, int rank, bool dies) {
  const Stream s;
  const Words<> words({1.0 + rank});
  ncclComm_t comm = nullptr;
  if (ncclCommInitRank(&comm, processes, id, rank) != ncclSuccess) return -1;
  sum(words, comm, s.stream);
  cudaStreamSynchronize(s.stream);
  if (dies) std::_Exit(0);
  // The first process gives up on what the others are not in.
  std::thread abort;
  if (rank == 0) {
    const long begun = nccl_stand_in::all_reduces() + 1;
    abort = std::thread([comm, begun] {
      soon([&] { return nccl_stand_in::all_reduces() >= begun; });
      a_while();
      ncclCommAbort(comm);
    });
    sum(words, comm, s.stream);
    cudaStreamSynchronize(s.stream);
    abort.join();
  } else {
    ncclCommDestroy(comm);
  }
  return words.values()[0];
}

// This program again, as one of the ranks.
pid_t start_process(const ncclUniqueId& id, int rank, bool dies) {
  std::string settings[] = {std::string("NCCL_STAND_IN_ID=") + id.internal,
                            "NCCL_STAND_IN_RANK=" + std::to_string(rank),
                            std::string("NCCL_STAND_IN_DIES=") + (dies ? "1" : "0")};
  std::vector<char*> environment;
  for (std::string& setting : settings) environment.push_back(setting.data());
  for (char** entry = environ; *entry != nullptr; ++entry) environment.push_back(*entry);
  environment.push_back(nullptr);
  std::string program = "/proc/self/exe", what = "[.rank]";
  char* const arguments[] = {program.data(), what.data(), nullptr};
  pid_t process = 0;
  REQUIRE(posix_spawn(&process, program.c_str(), nullptr, nullptr, arguments, environment.data()) == 0);
  return process;
}

}  // namespace

TEST_CASE("one of several processes", "[.rank]") {
  ncclUniqueId id{};
  const char* const name = std::getenv("NCCL_STAND_IN_ID");
  REQUIRE(name != nullptr);
  std::string(name).copy(id.internal, sizeof id.internal - 1);
  const int rank = std::atoi(std::getenv("NCCL_STAND_IN_RANK"));
  CHECK(sum_of_process(id, rank, *std::getenv("NCCL_STAND_IN_DIES") == '1') == 6);
}

TEST_CASE("ranks may be processes, and may die") {
  for (const bool dies : {false, true}) {
    const With with(immediate());
    const ncclUniqueId id = make_id();
    std::vector<pid_t> others;
    for (int r = 1; r < processes; ++r) others.push_back(start_process(id, r, dies));
    CHECK(sum_of_process(id, 0, false) == 6 * processes);
    for (const pid_t process : others) {
      int status = -1;
      CHECK(waitpid(process, &status, 0) == process);
      CHECK(status == 0);
    }
  }
}
