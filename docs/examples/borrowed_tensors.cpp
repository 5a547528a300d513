// A module of a framework that owns its tensors, and a layer that borrows them.

#include <cstddef>
#include <cstdint>
#include <vector>

#include <syncbn/borrowed.hpp>
#include <syncbn/syncbn.hpp>

#include "compare.hpp"

namespace acme {

// [begin]
class Module {
 public:
  explicit Module(syncbn::Index channels)
      : weight(static_cast<std::size_t>(channels), 1),
        bias(weight.size()),
        weight_grad(weight.size()),
        bias_grad(weight.size()),
        running_mean(weight.size()),
        running_var(weight.size(), 1),
        layer_(channels) {}

  // Saved, replaced and optimized by the framework.
  std::vector<float> weight, bias, weight_grad, bias_grad, running_mean, running_var;
  std::int64_t batches = 0;

  syncbn::BorrowingBatchNorm<2>& layer() {
    layer_.borrow({.weight = weight,
                   .bias = bias,
                   .weight_grad = weight_grad,
                   .bias_grad = bias_grad,
                   .running_mean = running_mean,
                   .running_var = running_var,
                   .num_batches_tracked = {&batches, 1}});
    return layer_;
  }

 private:
  syncbn::BorrowingBatchNorm<2> layer_;
};
// [end]

}  // namespace acme

int main() {
  std::vector<float> values = example::numbers(4 * 3 * 5 * 6, 1), out(values.size()), expected(values.size());
  const auto tensor = [&](std::vector<float>& v) { return syncbn::TensorView<float>(v.data(), {4, 3, 5, 6}); };

  acme::Module module(3);
  module.weight = {1, 2, 3};  // other memory than before, as after loading
  const auto saved = module.layer().forward(tensor(values), tensor(out));
  module.layer().backward(tensor(out), tensor(values), saved, syncbn::no_gradient);

  syncbn::BatchNorm<2> owner(3);
  for (syncbn::Index c = 0; c < 3; ++c) owner.weight()[c] = static_cast<float>(c + 1);
  const auto its_saved = owner.forward(tensor(values), tensor(expected));
  owner.backward(tensor(expected), tensor(values), its_saved, syncbn::no_gradient);
  const auto numbers = [](const auto& view) { return std::vector<float>(view.data(), view.data() + 3); };
  const bool ok = example::holds("y, gradients and statistics are those of a layer that owns them",
                                 out == expected && module.weight_grad == numbers(owner.weight_grad()) &&
                                     module.bias_grad == numbers(owner.bias_grad()) &&
                                     module.running_mean == numbers(owner.running_mean()) &&
                                     module.running_var == numbers(owner.running_var()) && module.batches == 1);
  return ok ? 0 : 1;
}
