// Synchronized batch normalization over threads: a batch of 8 samples, cut into 5, none and 3, gives what one rank gives
// with all 8.

#include <cstddef>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "compare.hpp"

namespace {

constexpr syncbn::Index samples = 8, channels = 4, height = 6, width = 5;

// Memory for one (N, C, H, W) tensor, and a view of it.
struct Batch {
  std::vector<float> values;
  syncbn::TensorView<float> view{values.data(), {samples, channels, height, width}};

  explicit Batch(unsigned seed) : values(example::numbers(samples * channels * height * width, seed)) {}
};

struct Results {
  Batch y{0}, dx{0};
  std::vector<double> weight_grad = std::vector<double>(channels);
};

void on_one_rank(const Batch& x, const Batch& dy, Results& results) {
  syncbn::BatchNorm<2> bn(channels);
  const auto saved = bn.forward(x.view, results.y.view);
  bn.backward(dy.view, x.view, saved, results.dx.view);
  for (syncbn::Index c = 0; c < channels; ++c) results.weight_grad[static_cast<std::size_t>(c)] = bn.weight_grad()[c];
}

void on_three_ranks(const Batch& x, const Batch& dy, Results& results) {
  // [begin]
  using Layer = syncbn::SyncBatchNorm<syncbn::CpuBackend<float>, syncbn::ThreadCommunicator>;
  const std::vector<syncbn::Index> first = {0, 5, 5, 8};  // rank r has the samples from first[r] to first[r + 1]

  syncbn::run_thread_ranks(3, [&](syncbn::ThreadCommunicator ranks) {
    const auto rank = static_cast<std::size_t>(ranks.rank());
    const auto mine = [&](const Batch& batch) { return batch.view.slice(0, first[rank], first[rank + 1]); };

    Layer bn(channels, {}, ranks);
    const auto saved = bn.forward(mine(x), mine(results.y));  // statistics of all 8 samples
    bn.backward(mine(dy), mine(x), saved, mine(results.dx));  // gradient of the sum of all ranks' losses

    // Gradients of parameters are this rank's part: sum them as those of your other layers.
    std::vector<double> weight_grad(bn.weight_grad().data(), bn.weight_grad().data() + channels);
    syncbn::all_reduce_sum(ranks, weight_grad);
    if (rank == 0) results.weight_grad = weight_grad;
  });
  // [end]
}

}  // namespace

int main() {
  const Batch x(1), dy(2);
  Results one, three;
  on_one_rank(x, dy, one);
  on_three_ranks(x, dy, three);
  bool ok = example::agree("y", three.y.values, one.y.values);
  ok &= example::agree("dx", three.dx.values, one.dx.values);
  ok &= example::agree("gradient of weight", three.weight_grad, one.weight_grad);
  return ok ? 0 : 1;
}
