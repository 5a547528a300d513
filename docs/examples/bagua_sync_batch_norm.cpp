// What a program with Bagua's SyncBatchNorm looks like here. Run: mpiexec -n 2 bagua_sync_batch_norm
//
// Bagua's layer lives in one group, that of all processes; so does this one unless it is given another. Its documentation
// offers momentum=None, a cumulative average, but the forward pass then raises a TypeError: here it works. It refuses CPU
// tensors and empty batches: here both are ordinary.

#include <cstddef>
#include <optional>
#include <tuple>
#include <vector>

#include <mpi.h>

#include <syncbn/backends/mpi_communicator.hpp>
#include <syncbn/syncbn.hpp>

#include "compare.hpp"

namespace {

constexpr syncbn::Index channels = 8, height = 4, width = 4;

bool run() {
  // [begin]
  using SyncBatchNorm = syncbn::SyncBatchNorm<syncbn::CpuBackend<float>, syncbn::MpiCommunicator>;

  // bn = SyncBatchNorm(channels, eps=1e-5, momentum=0.1)
  SyncBatchNorm bn(channels, {.eps = 1e-5, .momentum = 0.1});

  // bn = SyncBatchNorm(channels, momentum=None)
  SyncBatchNorm cumulative(channels, {.momentum = std::nullopt});

  // model = SyncBatchNorm.convert_sync_batchnorm(model)
  std::tuple<syncbn::BatchNorm2d<>, syncbn::BatchNorm2d<>> model(channels, channels);
  auto synchronized = syncbn::convert_sync_batchnorm(model, syncbn::MpiCommunicator());
  // [end]

  const syncbn::MpiCommunicator world;
  const syncbn::Index mine = world.rank() + 1, all = world.size() * (world.size() + 1) / 2;  // samples
  const syncbn::Index first = world.rank() * (world.rank() + 1) / 2;
  std::vector<double> mean(channels, 0);
  for (unsigned batch = 1; batch <= 3; ++batch) {
    // Each process makes the batch of all, to compare with, and normalizes its part.
    std::vector<float> values = example::numbers(static_cast<std::size_t>(all * channels * height * width), batch);
    std::vector<float> results(values.size());
    const syncbn::TensorView<float> x(values.data(), {all, channels, height, width});
    const syncbn::TensorView<float> y(results.data(), {all, channels, height, width});
    const auto part = [&](auto tensor) { return tensor.slice(0, first, first + mine); };
    static_cast<void>(bn.forward(part(x), part(y)));
    static_cast<void>(cumulative.forward(part(x), part(y)));
    static_cast<void>(std::get<0>(synchronized).forward(part(x), part(y)));

    syncbn::BatchNorm<2> whole(channels, {.momentum = 1.0});  // its running mean is the mean of this batch
    static_cast<void>(whole.forward(x, y));
    for (syncbn::Index c = 0; c < channels; ++c) mean[static_cast<std::size_t>(c)] += whole.running_mean()[c] / 3;
  }

  const auto numbers = [](const auto& view) { return std::vector(view.data(), view.data() + view.size()); };
  bool ok = example::agree("the cumulative average of three batches", numbers(cumulative.running_mean()), mean);
  ok &= example::holds("converted and constructed layers agree",
                       numbers(std::get<0>(synchronized).running_mean()) == numbers(bn.running_mean()));
  return ok;
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  const bool ok = run();
  MPI_Finalize();
  return ok ? 0 : 1;
}
