/// @file
/// Ranks that mpiexec has started: a communicator is made from MPI_COMM_WORLD, whose size mpi_main.cpp has checked.
#pragma once

#include <concepts>
#include <cstddef>
#include <string>
#include <vector>

#include <mpi.h>

#include "conformance/launcher.hpp"

namespace syncbn_test {

/// @brief The strings of all ranks of the world, in order.
inline std::vector<std::string> gather_over_mpi(const std::string& mine) {
  int ranks = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  const int length = static_cast<int>(mine.size());
  std::vector<int> lengths(static_cast<std::size_t>(ranks));
  MPI_Allgather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, MPI_COMM_WORLD);
  std::vector<int> offsets(lengths.size());
  int total = 0;
  for (std::size_t r = 0; r < lengths.size(); ++r) {
    offsets[r] = total;
    total += lengths[r];
  }
  std::string all(static_cast<std::size_t>(total), '\0');
  MPI_Allgatherv(mine.data(), length, MPI_CHAR, all.data(), lengths.data(), offsets.data(), MPI_CHAR, MPI_COMM_WORLD);
  std::vector<std::string> result;
  for (std::size_t r = 0; r < lengths.size(); ++r) {
    result.push_back(all.substr(static_cast<std::size_t>(offsets[r]), static_cast<std::size_t>(lengths[r])));
  }
  return result;
}

/// @brief Each process is a rank.
template <class Communicator>
  requires std::constructible_from<Communicator, MPI_Comm>
struct Launcher<Communicator> {
  static constexpr bool outlives_faults = false;  // MPI_Finalize may wait for collectives that never end

  static Outcomes run(int ranks, const RankBody<Communicator>& body) {
    int world = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    if (world != ranks) return Outcomes(1, Outcome{{}, "the world has another size than SYNCBN_TEST_RANKS says"});
    return run_in_this_process(
        Communicator(MPI_COMM_WORLD), [] { MPI_Barrier(MPI_COMM_WORLD); }, gather_over_mpi, body);
  }
};

}  // namespace syncbn_test
