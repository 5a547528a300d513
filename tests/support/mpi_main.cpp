// main for tests that mpiexec starts: each process is a rank, and runs every test case.
#include <mpi.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "support/run_catch.hpp"

namespace {

// A launcher of another MPI than the one linked starts every process as a world of its own, in which all tests pass.
bool world_has_declared_size() {
  const char* declared = std::getenv("SYNCBN_TEST_RANKS");
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (declared != nullptr && std::atoi(declared) == size) return true;
  std::fprintf(stderr, "MPI_COMM_WORLD has %d ranks, SYNCBN_TEST_RANKS is %s\n", size, declared ? declared : "unset");
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  int status = 1;
  if (world_has_declared_size()) status = syncbn_test::run_catch(argc, argv);
  if (status != 0) {
    // The others may wait for this rank for ever. A moment, so that each can say what it saw.
    std::fflush(nullptr);
    std::this_thread::sleep_for(std::chrono::seconds(2));
    MPI_Abort(MPI_COMM_WORLD, status);
  }
  MPI_Finalize();
  return status;
}
