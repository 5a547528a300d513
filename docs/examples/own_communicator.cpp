// Synchronized batch normalization over three processes, by a communicator of one's own.

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <string>
#include <unistd.h>
#include <vector>

#include <sys/wait.h>

#include <syncbn/syncbn.hpp>

#include "compare.hpp"
#include "shared_memory_communicator.hpp"

namespace {

using example::SharedMemoryCommunicator;

// Runs f(communicator) in a process for each rank; whether all return true.
template <class F>
bool run_processes(int ranks, const F& f) {
  std::fflush(stdout);
  for (SharedMemoryCommunicator& communicator : SharedMemoryCommunicator::create(ranks)) {
    if (fork() != 0) continue;
    bool ok = false;
    try {
      ok = f(communicator);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "rank %d: %s\n", communicator.rank(), e.what());
    }
    std::fflush(stdout);
    _exit(ok ? 0 : 1);
  }
  bool all_ok = true;
  for (int status = 0; wait(&status) > 0;) all_ok = all_ok && status == 0;
  return all_ok;
}

constexpr syncbn::Index samples = 9, channels = 6, length = 11;

bool same_as_one_rank(SharedMemoryCommunicator ranks) {
  std::vector<float> values = example::numbers(samples * channels * length, 1), y(values.size()), expected(y.size());
  const auto tensor = [](std::vector<float>& v) {
    return syncbn::TensorView<float>(v.data(), {samples, channels, length});
  };
  syncbn::BatchNorm<1> alone(channels);
  static_cast<void>(alone.forward(tensor(values), tensor(expected)));

  const std::vector<syncbn::Index> firsts = {0, 6, 6, 9};  // 6 samples, none, 3
  const syncbn::Index first = firsts[static_cast<std::size_t>(ranks.rank())];
  const syncbn::Index last = firsts[static_cast<std::size_t>(ranks.rank()) + 1];
  // [begin]
  syncbn::SyncBatchNorm<syncbn::CpuBackend<float>, SharedMemoryCommunicator> bn(channels, {}, ranks);
  const auto saved = bn.forward(tensor(values).slice(0, first, last), tensor(y).slice(0, first, last));
  // [end]

  const auto mine = [&](auto& v) {
    return std::vector(v.data() + first * channels * length, v.data() + last * channels * length);
  };
  return example::agree("y of this process", mine(y), mine(expected));
}

// The last rank never comes; the others are told so.
bool missing_rank_is_named(SharedMemoryCommunicator ranks) {
  if (ranks.rank() == 2) return true;
  ranks.set_timeout(std::chrono::milliseconds(200));
  std::vector<double> values(10);
  try {
    syncbn::all_reduce_sum(ranks, values);
  } catch (const syncbn::CommunicatorError& error) {
    const std::string what = error.what();
    const bool told = what == "no answer in time from rank 2" || what == "another rank has given up";
    return example::holds(error.what(), told && !ranks.usable());
  }
  return false;
}

}  // namespace

int main() {
  const bool ok = run_processes(3, same_as_one_rank);
  return run_processes(3, missing_rank_is_named) && ok ? 0 : 1;
}
