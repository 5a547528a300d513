// A model's layers become synchronized and come back: layers used twice stay one layer, and an optimizer that holds
// pointers to parameters need not be told.

#include <memory>
#include <tuple>
#include <type_traits>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "compare.hpp"

namespace {

struct Rectifier {};  // anything that is not a normalization is passed on

using Layer = syncbn::BatchNorm<2>;
using Shared = std::shared_ptr<Layer>;

syncbn::TensorView<float> tensor(std::vector<float>& values) { return {values.data(), {2, 3, 4, 5}}; }

bool convert_on(const syncbn::ThreadCommunicator& ranks) {
  const auto bn = std::make_shared<Layer>(3);
  bn->set_name("features.1");
  const float* const held_by_optimizer = bn->weight().data();

  // [begin]
  // The same layer in two places, and one by value.
  std::tuple<Shared, Rectifier, std::pair<Shared, Layer>> model{bn, {}, {bn, Layer(3)}};

  auto synchronized = syncbn::convert_sync_batchnorm(model, ranks);
  auto& first = std::get<0>(synchronized);            // shared_ptr to BatchNorm<2, CpuBackend<>, ThreadCommunicator>
  auto& second = std::get<2>(synchronized).first;     // the same pointer
  auto& by_value = std::get<2>(synchronized).second;  // a layer

  auto reverted = syncbn::revert_sync_batchnorm(synchronized);  // for export: statistics of this process alone
  // [end]

  static_assert(std::is_same_v<decltype(reverted), decltype(model)>);
  std::vector<float> x = example::numbers(2 * 3 * 4 * 5, 1), y(x.size());
  static_cast<void>(first->forward(tensor(x), tensor(y)));
  static_cast<void>(by_value.forward(tensor(x), tensor(y)));
  bool ok = first == second && first->exchange().name() == "features.1";
  ok &= first->weight().data() == held_by_optimizer && std::get<0>(reverted)->weight().data() == held_by_optimizer;
  ok &= bn->num_batches_tracked() == 1 && std::get<0>(reverted)->running_mean()[0] == bn->running_mean()[0];
  return ok;
}

bool save_and_load() {
  Layer trained(3), fresh(3);
  std::vector<float> x = example::numbers(2 * 3 * 4 * 5, 1), y(x.size());
  static_cast<void>(trained.forward(tensor(x), tensor(y)));

  // [begin state]
  syncbn::StateDict checkpoint = syncbn::state_dict(trained, "features.1.");  // features.1.weight, features.1.bias, ...
  syncbn::load_state_dict(fresh, checkpoint, "features.1.");
  // [end state]

  return checkpoint.find("features.1.num_batches_tracked") != nullptr && fresh.num_batches_tracked() == 1 &&
         fresh.running_var()[2] == trained.running_var()[2];
}

}  // namespace

int main() {
  std::vector<int> converted(2);
  syncbn::run_thread_ranks(2, [&](const syncbn::ThreadCommunicator& ranks) {
    converted[static_cast<std::size_t>(ranks.rank())] = convert_on(ranks) ? 1 : 0;
  });
  bool ok = example::holds("conversion keeps aliases and storage", converted == std::vector<int>{1, 1});
  ok &= example::holds("a loaded layer has the saved state", save_and_load());
  return ok ? 0 : 1;
}
