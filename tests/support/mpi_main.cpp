// main for tests that mpiexec starts: each process is a rank and runs every test case. Rank 0 prints; another rank does
// only if it failed. A failure on any rank fails the test.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <thread>

#include <mpi.h>

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

int run_tests(int rank, int argc, char** argv) {
  if (rank == 0) return syncbn_test::run_catch(argc, argv);
  std::ostringstream output;
  std::streambuf* const terminal = std::cout.rdbuf(output.rdbuf());
  const int status = syncbn_test::run_catch(argc, argv);
  std::cout.rdbuf(terminal);
  if (status != 0) std::cerr << "---- rank " << rank << "\n" << output.str() << std::flush;
  return status;
}

// Whether all ranks have come to the end without a failure. One that did fail may never come, or leave another waiting.
bool all_succeeded(int status) {
  int failures = status != 0 ? 1 : 0;
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Iallreduce(MPI_IN_PLACE, &failures, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD, &request);
  const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  int done = 0;
  while (done == 0 && std::chrono::steady_clock::now() < patience) {
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return done != 0 && failures == 0;
}

}  // namespace

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  const int status = world_has_declared_size() ? run_tests(rank, argc, argv) : 1;
  if (!all_succeeded(status)) {
    // A moment, so that each rank can say what it saw.
    std::fflush(nullptr);
    std::this_thread::sleep_for(std::chrono::seconds(1));
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  MPI_Finalize();
  return 0;
}
