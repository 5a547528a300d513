// A layer on a backend of one's own finds what it finds on the library's.

#include <vector>

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/core.hpp>

#include "compare.hpp"
#include "plain_backend.hpp"

namespace {

struct Results {
  std::vector<float> y, dx;
  std::vector<double> weight_grad, running_var;
};

template <class Backend>
Results train() {
  std::vector<float> x = example::numbers(6 * 5 * 7 * 8, 1), dy = example::numbers(x.size(), 2);
  Results results{x, dy, {}, {}};
  const auto tensor = [](std::vector<float>& values) {
    return syncbn::TensorView<float>::channels_last(values.data(), {6, 5, 7, 8});
  };
  // [begin]
  syncbn::BatchNorm<2, Backend> bn(5);
  const auto saved = bn.forward(tensor(x), tensor(results.y));
  bn.backward(tensor(dy), tensor(x), saved, tensor(results.dx));
  // [end]
  const auto numbers = [](const auto& view) { return std::vector<double>(view.data(), view.data() + view.size()); };
  results.weight_grad = numbers(bn.weight_grad());
  results.running_var = numbers(bn.running_var());
  return results;
}

}  // namespace

int main() {
  const Results plain = train<example::PlainBackend>();
  const Results ours = train<syncbn::CpuBackend<double>>();
  bool ok = example::agree("y", plain.y, ours.y);
  ok &= example::agree("dx", plain.dx, ours.dx);
  ok &= example::agree("gradient of weight", plain.weight_grad, ours.weight_grad, 0x1p-40);
  ok &= example::agree("running variance", plain.running_var, ours.running_var, 0x1p-40);
  return ok ? 0 : 1;
}
