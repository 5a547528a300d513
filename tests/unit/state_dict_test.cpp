#include <syncbn/state_dict.hpp>

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "support/activations.hpp"
#include "support/catch.hpp"
#include "support/layer_judge.hpp"
#include "support/thread_ranks.hpp"
#include "support/thrown_by.hpp"

using namespace syncbn_test;
using syncbn::StateDict;
using syncbn::StateEntry;
using syncbn::Strictness;

namespace {

template <class P = float>
using Layer = syncbn::BatchNorm<2, syncbn::CpuBackend<P>>;

std::vector<std::string> names_of(const StateDict& dict) {
  std::vector<std::string> names;
  for (const StateEntry& entry : dict.entries) names.push_back(entry.name);
  return names;
}

StateDict without(StateDict dict, const std::string& name) {
  std::erase_if(dict.entries, [&](const StateEntry& entry) { return entry.name == name; });
  return dict;
}

template <class P = float>
Layer<P> scrambled(syncbn::BatchNormOptions options = {}, Index channels = 3, std::uint64_t seed = 1) {
  Layer<P> layer(channels, options);
  scramble(layer, seed);
  return layer;
}

const std::string error = "Error: Error(s) in loading state_dict for BatchNorm2d:";

}  // namespace

TEST_CASE("a state dictionary has PyTorch's names in PyTorch's order", "[state_dict]") {
  using Names = std::vector<std::string>;
  CHECK(names_of(state_dict(scrambled())) ==
        Names{"weight", "bias", "running_mean", "running_var", "num_batches_tracked"});
  CHECK(names_of(state_dict(scrambled({.affine = false}))) ==
        Names{"running_mean", "running_var", "num_batches_tracked"});
  CHECK(names_of(state_dict(scrambled({.track_running_stats = false}))) == Names{"weight", "bias"});
  CHECK(names_of(state_dict(scrambled({.affine = false, .track_running_stats = false}))).empty());
  CHECK(state_dict(scrambled()).version == 2);
}

TEST_CASE("a state dictionary has shapes and values", "[state_dict]") {
  const Layer<> layer = scrambled();
  const StateDict dict = state_dict(layer);
  for (std::size_t i = 0; i < 4; ++i) {
    const StateEntry& entry = dict.entries[i];
    CHECK(entry.shape == std::vector<Index>{3});
    const auto& got = std::get<std::vector<float>>(entry.values);
    CHECK(Numbers(got.begin(), got.end()) ==
          numbers_of(std::vector{layer.weight(), layer.bias(), layer.running_mean(), layer.running_var()}[i]));
    CHECK_FALSE(entry.uninitialized);
  }
  CHECK(dict.entries[4].shape.empty());
  CHECK(std::get<std::vector<std::int64_t>>(dict.entries[4].values) == std::vector<std::int64_t>{3});
  CHECK(std::holds_alternative<std::vector<double>>(state_dict(scrambled<double>()).entries[0].values));
  CHECK(dict.find("bias") == &dict.entries[1]);
  CHECK(dict.find("nothing") == nullptr);
}

TEST_CASE("a loaded layer is the saved one", "[state_dict]") {
  for (const syncbn::BatchNormOptions& options :
       {syncbn::BatchNormOptions{}, {.affine = false}, {.track_running_stats = false}}) {
    const Layer<> saved = scrambled(options);
    Layer<> loaded(3, options);
    loaded.eval();
    const syncbn::LoadResult result = load_state_dict(loaded, state_dict(saved));
    CHECK(result.missing.empty());
    CHECK(result.unexpected.empty());
    CHECK(LayerSnapshot(loaded) == LayerSnapshot(saved));
    CHECK_FALSE(loaded.is_training());  // no part of the state, as gradients and options are not
  }
}

TEST_CASE("a dictionary is converted to the layer's parameter type", "[state_dict]") {
  const Layer<double> wide = scrambled<double>();
  Layer<float> narrow(3);
  load_state_dict(narrow, state_dict(wide));
  for (Index c = 0; c < 3; ++c) CHECK(narrow.weight()[c] == static_cast<float>(wide.weight()[c]));
  Layer<double> again(3);
  load_state_dict(again, state_dict(narrow));
  for (Index c = 0; c < 3; ++c) CHECK(again.running_var()[c] == static_cast<double>(narrow.running_var()[c]));
  CHECK(again.num_batches_tracked() == 3);
}

TEST_CASE("several layers share a dictionary by prefixes", "[state_dict]") {
  const Layer<> first = scrambled({}, 3, 1);
  const Layer<> second = scrambled({.affine = false}, 5, 2);
  StateDict dict;
  append_state(first, dict, "layer1.bn.");
  append_state(second, dict, "layer2.bn.");
  CHECK(dict.entries.size() == 8);
  CHECK(names_of(dict)[0] == "layer1.bn.weight");
  CHECK(names_of(dict)[5] == "layer2.bn.running_mean");
  CHECK(state_dict(first, "x.").entries[4].name == "x.num_batches_tracked");
  Layer<> one(3), two(5, {.affine = false});
  const auto result = load_state_dict(one, dict, "layer1.bn.");
  CHECK(result.unexpected.empty());  // the other layer's names are not looked at
  load_state_dict(two, dict, "layer2.bn.");
  CHECK(LayerSnapshot(one) == LayerSnapshot(first));
  CHECK(LayerSnapshot(two) == LayerSnapshot(second));
  CHECK(thrown_by([&] { load_state_dict(one, dict, "layer3."); }) ==
        error +
            "\n\tMissing key(s) in state_dict: \"layer3.weight\", \"layer3.bias\", \"layer3.running_mean\", "
            "\"layer3.running_var\", \"layer3.num_batches_tracked\". ");
}

TEST_CASE("an old dictionary may lack the counter, which then stays", "[state_dict]") {
  const Layer<> saved = scrambled({}, 3, 9);
  StateDict dict = without(state_dict(saved), "num_batches_tracked");
  for (const std::optional<int> version : {std::optional<int>(), std::optional<int>(1)}) {
    dict.version = version;
    Layer<> layer(3);
    layer.set_num_batches_tracked(42);
    const auto result = load_state_dict(layer, dict);
    CHECK(result.missing.empty());
    CHECK(layer.num_batches_tracked() == 42);
    CHECK(numbers_of(layer.running_mean()) == numbers_of(saved.running_mean()));
    // One that has it is believed.
    StateDict full = state_dict(saved);
    full.version = version;
    load_state_dict(layer, full);
    CHECK(layer.num_batches_tracked() == 3);
  }
  dict.version = 2;
  Layer<> layer = scrambled();
  const LayerSnapshot before(layer);
  CHECK(thrown_by([&] { load_state_dict(layer, dict); }) ==
        error + "\n\tMissing key(s) in state_dict: \"num_batches_tracked\". ");
  CHECK(LayerSnapshot(layer) == before);
}

TEST_CASE("what does not match is listed together, and nothing is loaded", "[state_dict]") {
  Layer<> layer = scrambled({.track_running_stats = false}, 4);
  const LayerSnapshot before(layer);
  CHECK(thrown_by([&] { load_state_dict(layer, state_dict(scrambled({}, 4))); }) ==
        error + "\n\tUnexpected key(s) in state_dict: \"running_mean\", \"running_var\", \"num_batches_tracked\". ");
  CHECK(thrown_by([&] { load_state_dict(layer, state_dict(scrambled({.track_running_stats = false}, 3))); }) ==
        error +
            "\n\tsize mismatch for weight: copying a param with shape [3] from checkpoint, the shape in current model "
            "is [4]."
            "\n\tsize mismatch for bias: copying a param with shape [3] from checkpoint, the shape in current model is "
            "[4].");
  CHECK(thrown_by([&] { load_state_dict(layer, without(state_dict(scrambled({}, 3)), "bias")); }) ==
        error +
            "\n\tMissing key(s) in state_dict: \"bias\". "
            "\n\tUnexpected key(s) in state_dict: \"running_mean\", \"running_var\", \"num_batches_tracked\". "
            "\n\tsize mismatch for weight: copying a param with shape [3] from checkpoint, the shape in current model "
            "is [4].");
  CHECK(LayerSnapshot(layer) == before);

  // The counter has no dimension; a tensor has as many values as its shape says.
  Layer<> tracked = scrambled();
  const LayerSnapshot tracked_before(tracked);
  StateDict dict = state_dict(tracked);
  dict.entries[4].shape = {1};
  dict.entries[3].values = std::vector<float>{1, 2};
  CHECK(thrown_by([&] { load_state_dict(tracked, dict); }) ==
        error +
            "\n\trunning_var has shape [3] but 2 values."
            "\n\tsize mismatch for num_batches_tracked: copying a param with shape [1] from checkpoint, the shape in "
            "current model is [].");
  CHECK(LayerSnapshot(tracked) == tracked_before);
}

TEST_CASE("tolerance is about names, not shapes", "[state_dict]") {
  const Layer<> saved = scrambled({.affine = false}, 3, 5);
  StateDict dict = without(state_dict(saved), "running_var");
  dict.entries.push_back({"stranger", {2}, std::vector<float>{1, 2}});
  Layer<> layer = scrambled();
  const LayerSnapshot before(layer);
  const auto result = load_state_dict(layer, dict, "", Strictness::tolerant);
  CHECK(result.missing == std::vector<std::string>{"weight", "bias", "running_var"});
  CHECK(result.unexpected == std::vector<std::string>{"stranger"});
  CHECK(numbers_of(layer.running_mean()) == numbers_of(saved.running_mean()));
  CHECK(numbers_of(layer.running_var()) == before.tensors[5]);
  CHECK(numbers_of(layer.weight()) == before.tensors[0]);

  // A tensor that the layer has not is passed over.
  Layer<> plain = scrambled({.affine = false, .track_running_stats = false});
  const auto all = load_state_dict(plain, state_dict(scrambled()), "", Strictness::tolerant);
  CHECK(all.unexpected.size() == 5);
  CHECK(plain.weight().data() == nullptr);

  Layer<> larger(4);
  const LayerSnapshot larger_before(larger);
  CHECK(thrown_by([&] { load_state_dict(larger, dict, "", Strictness::tolerant); }) ==
        error +
            "\n\tsize mismatch for running_mean: copying a param with shape [3] from checkpoint, the shape in current "
            "model is [4].");
  CHECK(LayerSnapshot(larger) == larger_before);
}

TEST_CASE("synchronized and plain layers exchange dictionaries", "[state_dict]") {
  using Synced = syncbn::SyncBatchNorm<syncbn::CpuBackend<>, syncbn::ThreadCommunicator>;
  const auto group = syncbn::ThreadCommunicator::create(2);
  const Layer<> plain = scrambled();
  Synced synced(3, {}, group[0]);
  load_state_dict(synced, state_dict(plain));
  CHECK(LayerSnapshot(synced) == LayerSnapshot(plain));
  CHECK(names_of(state_dict(synced)) == names_of(state_dict(plain)));  // the group is not saved
  Layer<> back(3);
  load_state_dict(back, state_dict(synced));
  CHECK(LayerSnapshot(back) == LayerSnapshot(plain));
  CHECK(thrown_by([&] { load_state_dict(synced, {}); }).find("loading state_dict for SyncBatchNorm:") !=
        std::string::npos);
}

TEST_CASE("a lazy layer takes its channels from a dictionary", "[state_dict]") {
  using Lazy = syncbn::LazyBatchNorm<2, syncbn::CpuBackend<>, syncbn::SingleProcessCommunicator>;
  for (const syncbn::BatchNormOptions& options :
       {syncbn::BatchNormOptions{}, {.affine = false}, {.track_running_stats = false}}) {
    const Layer<> saved = scrambled(options);
    Lazy lazy(options);
    lazy.eval();
    load_state_dict(lazy, state_dict(saved));
    REQUIRE(lazy.is_materialized());
    CHECK(LayerSnapshot(lazy.layer()) == LayerSnapshot(saved));
    CHECK_FALSE(lazy.layer().is_training());
    load_state_dict(lazy, state_dict(scrambled(options, 3, 8)));  // from then on as any layer
    CHECK(names_of(state_dict(lazy)) == names_of(state_dict(saved)));
  }
  // What is refused leaves it lazy.
  Lazy lazy;
  CHECK(thrown_by([&] { load_state_dict(lazy, without(state_dict(scrambled()), "bias")); }) ==
        error + "\n\tMissing key(s) in state_dict: \"bias\". ");
  CHECK_FALSE(lazy.is_materialized());
}

TEST_CASE("the state of a lazy layer without channels cannot be loaded into another kind", "[state_dict]") {
  using Lazy = syncbn::LazyBatchNorm<2, syncbn::CpuBackend<>, syncbn::SingleProcessCommunicator>;
  const StateDict dict = state_dict(Lazy());
  CHECK(names_of(dict) ==
        std::vector<std::string>{"weight", "bias", "running_mean", "running_var", "num_batches_tracked"});
  CHECK(dict.find("weight")->uninitialized);
  CHECK_FALSE(dict.find("num_batches_tracked")->uninitialized);  // 0
  CHECK(dict.find("num_batches_tracked")->shape.empty());
  Layer<> layer = scrambled();
  const LayerSnapshot before(layer);
  const std::string text = thrown_by([&] { load_state_dict(layer, dict); });
  CHECK(text.find(error) == 0);
  for (const std::string name : {"weight", "bias", "running_mean", "running_var"}) {
    CHECK(text.find("\n\tCan't access the shape of an uninitialized parameter or buffer: " + name) !=
          std::string::npos);
  }
  CHECK(LayerSnapshot(layer) == before);
  // A lazy layer takes it and stays lazy.
  Lazy other;
  CHECK(thrown_by([&] { load_state_dict(other, dict); }) == "nothing");
  CHECK_FALSE(other.is_materialized());
}

TEST_CASE("a lazy layer that gets no channels is as strict about names", "[state_dict]") {
  using Lazy = syncbn::LazyBatchNorm<2, syncbn::CpuBackend<>, syncbn::SingleProcessCommunicator>;
  const std::string error_of_lazy = "Error: Error(s) in loading state_dict for LazyBatchNorm2d:";
  Lazy lazy;
  const auto load = [&](const StateDict& dict, syncbn::Strictness strictness) {
    return thrown_by([&] { load_state_dict(lazy, dict, "", strictness); });
  };
  StateDict dict = without(state_dict(lazy), "bias");
  CHECK(load(dict, syncbn::Strictness::strict) == error_of_lazy + "\n\tMissing key(s) in state_dict: \"bias\". ");
  CHECK(load(dict, syncbn::Strictness::tolerant) == "nothing");
  CHECK(load_state_dict(lazy, dict, "", syncbn::Strictness::tolerant).missing == std::vector<std::string>{"bias"});
  dict = state_dict(lazy);
  dict.entries.push_back({"scale", {}, std::vector<float>{1}});
  CHECK(load(dict, syncbn::Strictness::strict) == error_of_lazy + "\n\tUnexpected key(s) in state_dict: \"scale\". ");
  CHECK(load(dict, syncbn::Strictness::tolerant) == "nothing");
  CHECK(load(StateDict(), syncbn::Strictness::strict).find("Missing key(s) in state_dict: \"weight\", \"bias\"") !=
        std::string::npos);
  // A shape, but not one value per channel.
  dict = state_dict(lazy);
  for (StateEntry& entry : dict.entries) {
    if (entry.name == "weight") entry = {"weight", {2, 3}, std::vector<float>(6)};
  }
  CHECK(load(dict, syncbn::Strictness::tolerant).find(error_of_lazy + "\n\tsize mismatch for weight") == 0);
  CHECK_FALSE(lazy.is_materialized());
}
