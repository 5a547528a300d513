// Processes of MPI as ranks, and groups smaller than the world: mpiexec -n 4 mpi_ranks takes statistics over pairs. Each
// pair has a batch of 6 samples, 1 on its first rank and 5 on the second.

#include <cstddef>
#include <vector>

#include <mpi.h>

#include <syncbn/backends/mpi_communicator.hpp>
#include <syncbn/syncbn.hpp>

#include "compare.hpp"

namespace {

constexpr syncbn::Index samples = 6, channels = 300, length = 7;

// The batch of a group, in full on each of its ranks; a rank works on its part.
struct Batch {
  std::vector<float> values;  // (N, C, L)

  explicit Batch(unsigned seed) : values(example::numbers(samples * channels * length, seed)) {}
  syncbn::TensorView<float> view() { return {values.data(), {samples, channels, length}}; }
  syncbn::TensorView<float> part(const syncbn::MpiCommunicator& group) {
    return view().slice(0, group.rank(), group.rank() + 1 == group.size() ? samples : group.rank() + 1);
  }
};

// When it returns, all communicators are gone: MPI_Finalize may follow.
bool run() {
  int world_rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
  const unsigned seed = 3 * static_cast<unsigned>(world_rank / 2) + 1;
  Batch x(seed), dy(seed + 1), y(0), dx(0), expected_y(0), expected_dx(0);

  // [begin]
  using Layer = syncbn::BatchNorm<1, syncbn::CpuBackend<float>, syncbn::MpiCommunicator>;

  syncbn::MpiCommunicator world(MPI_COMM_WORLD);
  syncbn::MpiCommunicator pair = world.split(world.rank() / 2, world.rank());  // ranks 0 and 1, ranks 2 and 3, ...
  Layer bn(channels, {.eps = 1e-5, .momentum = 0.1}, pair);

  const auto saved = bn.forward(x.part(pair), y.part(pair));  // my samples, by the statistics of the pair's
  bn.backward(dy.part(pair), x.part(pair), saved, dx.part(pair));
  // [end]

  syncbn::BatchNorm<1> alone(channels);
  const auto kept = alone.forward(x.view(), expected_y.view());
  alone.backward(dy.view(), x.view(), kept, expected_dx.view());
  const auto numbers = [&](Batch& batch) {
    const syncbn::TensorView<float> mine = batch.part(pair);
    return std::vector<float>(mine.data(), mine.data() + mine.size());
  };
  bool ok = example::agree("y of this rank", numbers(y), numbers(expected_y));
  ok &= example::agree("dx of this rank", numbers(dx), numbers(expected_dx));
  std::vector<double> failures = {ok ? 0.0 : 1.0};
  syncbn::all_reduce_sum(world, failures);
  return failures[0] == 0;
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  const bool ok = run();
  MPI_Finalize();
  return ok ? 0 : 1;
}
