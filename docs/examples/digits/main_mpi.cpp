// The program of main.cpp with the processes of MPI as ranks: mpirun -np 2 digits_demo_mpi

#include <array>
#include <chrono>
#include <cstdio>
#include <exception>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>

#include <mpi.h>

#include <syncbn/backends/mpi_communicator.hpp>
#include <syncbn/syncbn.hpp>

#include "experiment.hpp"
#include "options.hpp"
#include "report.hpp"

namespace {

// MPI, from here to the end of the block. The library neither starts nor ends it.
class MpiScope {
 public:
  MpiScope(int& argc, char**& argv) { MPI_Init(&argc, &argv); }
  ~MpiScope() { MPI_Finalize(); }
  MpiScope(const MpiScope&) = delete;
  MpiScope& operator=(const MpiScope&) = delete;
};

// Waits for all ranks as MPI_Barrier does, but asleep: rank 0 may have all processors for the training of (a).
void sleep_until_all_are_here() {
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Ibarrier(MPI_COMM_WORLD, &request);
  for (int done = 0; done == 0; MPI_Test(&request, &done, MPI_STATUS_IGNORE)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

template <class T>
bool demo(const digits::Options& options) {
  syncbn::MpiCommunicator world(MPI_COMM_WORLD);
  if (world.size() > digits::max_ranks) {
    throw std::runtime_error("at most " + std::to_string(digits::max_ranks) + " ranks share 32 samples");
  }
  const bool speaks = world.rank() == 0;
  const digits::Dataset data = digits::read_dataset(options.data);
  const digits::Recipe recipe{.epochs = options.epochs};
  // No bar: mpirun gives its processes a terminal, wherever it sends what they print.
  digits::Progress progress(speaks ? digits::Progress::Style::lines : digits::Progress::Style::silent);
  digits::Baseline<T> baseline;
  if (speaks) {
    std::printf("%td digits to learn from, %td to test with, %s, ranks are MPI processes\n", data.train.size(),
                data.test.size(), digits::type_name<T>);
    baseline = digits::train_baseline<T>(data, recipe, progress);
  }
  sleep_until_all_are_here();

  const std::array comparison{digits::train_ranks<T>(world, data, recipe, baseline, progress)};
  const std::string picture = "digits_loss_mpi_" + std::to_string(world.size()) + ".svg";
  return !speaks || digits::report<T>(options, picture, baseline, comparison);
}

int run(int argc, char** argv) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  try {
    const digits::Options options = digits::parse_options({argv, static_cast<std::size_t>(argc)}, false);
    if (!options.help) return (options.check ? demo<double>(options) : demo<float>(options)) ? 0 : 1;
    if (rank == 0) digits::print_usage(stdout, false);
    return 0;
  } catch (const digits::UsageError& error) {  // the same on all ranks
    if (rank == 0) {
      std::fprintf(stderr, "digits_demo_mpi: %s\n", error.what());
      digits::print_usage(stderr, false);
    }
    return 2;
  } catch (const std::exception& error) {  // perhaps on this rank alone: the others must not wait for it
    std::fprintf(stderr, "digits_demo_mpi, rank %d: %s\n", rank, error.what());
    MPI_Abort(MPI_COMM_WORLD, 1);
    return 1;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const MpiScope mpi(argc, argv);
  return run(argc, argv);
}
