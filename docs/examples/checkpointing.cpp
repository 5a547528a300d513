// Activation checkpointing: activations are thrown away after the forward pass and computed once more for the backward
// pass. The second forward pass must not count as another batch.

#include <vector>

#include <syncbn/syncbn.hpp>

#include "compare.hpp"

namespace {

constexpr syncbn::Index samples = 6, channels = 5, length = 9;

syncbn::TensorView<float> tensor(std::vector<float>& values) { return {values.data(), {samples, channels, length}}; }

}  // namespace

int main() {
  std::vector<float> x = example::numbers(samples * channels * length, 1);
  std::vector<float> dy = example::numbers(x.size(), 2);
  std::vector<float> y(x.size()), recomputed(x.size()), dx(x.size()), expected(x.size());
  syncbn::BatchNorm<1> bn(channels);

  // [begin]
  {
    const auto saved = bn.forward(tensor(x), tensor(y));  // `saved` is dropped, y is used and then dropped as well
  }
  // ... the rest of the network, and the backward passes of the layers above ...
  syncbn::BatchNorm<1>::Saved saved;
  bn.forward_without_update(tensor(x), tensor(recomputed), saved);
  bn.backward(tensor(dy), tensor(x), saved, tensor(dx));
  // [end]

  syncbn::BatchNorm<1> plain(channels);
  const auto kept = plain.forward(tensor(x), tensor(expected));
  plain.backward(tensor(dy), tensor(x), kept, tensor(expected));
  bool ok = example::holds("y is recomputed to the bit", recomputed == y);
  ok &= example::holds("one batch was counted", bn.num_batches_tracked() == 1);
  ok &= example::holds("the running mean was updated once", bn.running_mean()[0] == plain.running_mean()[0]);
  ok &= example::agree("dx", dx, expected);
  return ok ? 0 : 1;
}
