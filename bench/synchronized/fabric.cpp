// What one exchange sends, and what that takes: frames and bytes of a rank, the time of their sums alone, and for MPI the
// time of an all-gather of 2 C + 1 floats, which is how PyTorch does it. See docs/benchmarks.md.
//
//   mpirun -n P bench_fabric        ranks are processes
//   bench_fabric --threads=P        ranks are threads
//
// Times mean something up to the number of processor cores; frames and bytes for any number of ranks.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include <mpi.h>

#include <syncbn/backends/mpi_communicator.hpp>
#include <syncbn/syncbn.hpp>

#include "support/recording_communicator.hpp"

namespace {

using syncbn::Index;
using Clock = std::chrono::steady_clock;

// Microseconds: the median over repetitions, of this rank.
template <class F>
double microseconds(const F& f) {
  std::vector<double> times;
  for (int i = -20; i < 200; ++i) {
    const auto begin = Clock::now();
    f();
    if (i >= 0) times.push_back(1e6 * std::chrono::duration<double>(Clock::now() - begin).count());
  }
  std::nth_element(times.begin(), times.begin() + 100, times.end());
  return times[100];
}

template <class Communicator>
void run(Communicator communicator) {
  const bool speaks = communicator.rank() == 0;
  for (const Index channels : {64, 512, 2048}) {
    using Recording = syncbn_test::RecordingCommunicator<Communicator>;
    Recording recording(communicator);
    syncbn::SyncBatchNorm<syncbn::CpuBackend<>, Recording> layer(channels, {}, recording);
    std::vector<float> values(static_cast<std::size_t>(2 * channels), 1);
    std::fill_n(values.begin(), channels, 0.0F);  // no channel needs a second sum
    const syncbn::TensorView<float> x(values.data(), {2, channels});
    const auto saved = layer.forward(x, x);
    std::vector<typename Communicator::frame> frames;
    Index words = 0;
    for (const Index size : recording.record().started) {
      frames.push_back(communicator.acquire(size));
      words += size;
    }
    typename Communicator::queue_type queue{};
    const double ours = microseconds([&] {
      for (auto& frame : frames) {
        communicator.start(frame, queue);
        communicator.finish(frame, queue);
      }
    });
    if (speaks) {
      std::printf("| %d | %lld | %zu | %lld | %.1f |", communicator.size(), static_cast<long long>(channels),
                  frames.size(), static_cast<long long>(words) * 8, ours);
    }
    if constexpr (std::is_same_v<Communicator, syncbn::MpiCommunicator>) {
      const int part = static_cast<int>(2 * channels + 1);
      std::vector<float> mine(static_cast<std::size_t>(part));
      std::vector<float> all(mine.size() * static_cast<std::size_t>(communicator.size()));
      const double gathered = microseconds(
          [&] { MPI_Allgather(mine.data(), part, MPI_FLOAT, all.data(), part, MPI_FLOAT, MPI_COMM_WORLD); });
      if (speaks) std::printf(" %.1f |", gathered);
    }
    if (speaks) std::printf("\n");
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) {
    const int threads = std::strncmp(argv[1], "--threads=", 10) == 0 ? std::atoi(argv[1] + 10) : 0;
    if (argc > 2 || threads < 1) {
      std::fprintf(stderr, "unknown arguments; see the first lines of bench/synchronized/fabric.cpp\n");
      return 2;
    }
    syncbn::run_thread_ranks(threads, [](syncbn::ThreadCommunicator communicator) { run(std::move(communicator)); });
    return 0;
  }
  MPI_Init(&argc, &argv);
  run(syncbn::MpiCommunicator());
  MPI_Finalize();
  return 0;
}
