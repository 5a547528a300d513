// A rank that never comes, to the end: past the deadline the others throw, and with a frame still under way each process
// ends by std::quick_exit, as MpiCommunicator's documentation says. Prints "deadline: all is well", from rank 0, if so;
// whatever mpiexec thinks of processes that leave without MPI_Finalize.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include <mpi.h>

#include <syncbn/backends/mpi_communicator.hpp>
#include <syncbn/syncbn.hpp>

#include "support/thrown_by.hpp"

namespace {

using Layer = syncbn::BatchNorm<1, syncbn::CpuBackend<float>, syncbn::MpiCommunicator>;

std::string forward(Layer& layer) {
  std::vector<float> x(2 * static_cast<std::size_t>(layer.channels()), 1);
  const syncbn::TensorView<float> view(x.data(), {2, layer.channels()});
  return syncbn_test::thrown_by([&] { static_cast<void>(layer.forward(view, view)); });
}

// What is wrong; empty if nothing is.
std::string waits_in_vain(int rank, int ranks) {
  syncbn::MpiCommunicator world;
  world.set_timeout(std::chrono::milliseconds(300));
  // Both kinds of first frame: header and payload in one, and the header alone.
  auto small = std::make_unique<Layer>(5, syncbn::BatchNormOptions{}, world);
  auto large = std::make_unique<Layer>(600, syncbn::BatchNormOptions{}, world);
  if (rank == ranks - 1) return "";  // never comes
  const std::string thrown = forward(rank % 2 == 0 ? *large : *small);
  if (thrown.find("CommunicatorError: forward of layer '#") != 0) return thrown;
  if (thrown.find("no answer within 0.300000 s") == std::string::npos) return thrown;
  world.set_timeout(std::chrono::minutes(10));  // nothing waits any more
  if (world.usable()) return "the communicator says that it is usable";
  if (forward(*small).find("CommunicatorError") != 0) return "a second call did not throw";
  // Destroying what has a frame under way neither waits nor crashes.
  small.reset();
  large.reset();
  return "";
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0;
  int ranks = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  const std::string wrong = waits_in_vain(rank, ranks);
  if (!wrong.empty()) std::printf("rank %d: %s\n", rank, wrong.c_str());
  // The user's own communicator is as good as ever.
  int failures = wrong.empty() ? 0 : 1;
  MPI_Allreduce(MPI_IN_PLACE, &failures, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
  const char* declared = std::getenv("SYNCBN_TEST_RANKS");
  if (declared == nullptr || std::atoi(declared) != ranks) failures = 1;
  if (rank == 0) std::printf("deadline: %s\n", failures == 0 ? "all is well" : "something is wrong");
  std::fflush(nullptr);
  MPI_Barrier(MPI_COMM_WORLD);
  std::quick_exit(failures == 0 ? 0 : 1);
}
