#include <syncbn/convert.hpp>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "support/activations.hpp"
#include "support/catch.hpp"
#include "support/layer_judge.hpp"
#include "support/thread_ranks.hpp"
#include "support/values.hpp"

using namespace syncbn_test;
using syncbn::convert_sync_batchnorm;
using syncbn::revert_sync_batchnorm;
using syncbn::ThreadCommunicator;

namespace {

template <std::size_t Dims>
using Plain = syncbn::BatchNorm<Dims>;
template <std::size_t Dims>
using Synced = syncbn::BatchNorm<Dims, syncbn::CpuBackend<>, ThreadCommunicator>;

ThreadCommunicator group_of(int ranks) { return ThreadCommunicator::create(ranks).front(); }

template <std::size_t Dims>
Plain<Dims> scrambled(syncbn::BatchNormOptions options = {}) {
  Plain<Dims> layer(3, options);
  scramble(layer);
  layer.weight_grad()[0] = 7;
  return layer;
}

}  // namespace

TEST_CASE("a converted layer keeps everything but its group", "[convert]") {
  Plain<2> layer = scrambled<2>({.eps = 0.5, .momentum = std::nullopt});
  layer.eval();
  layer.set_track_running_stats(false);
  layer.set_requires_grad(false, true);
  const LayerSnapshot before(layer);
  const auto check_same = [&](const auto& converted) {
    CHECK(LayerSnapshot(converted) == before);
    CHECK(converted.options().eps == 0.5);
    CHECK(converted.options().momentum == std::nullopt);
    CHECK_FALSE(converted.is_training());  // PyTorch before 2.2 turned it on
    CHECK_FALSE(converted.tracks_running_stats());
    auto copy = converted;
    const Activations<float> x({2, 3, 1, 1}, values(6, 1));
    Activations<float> y(x.extents());
    copy.zero_grad();
    copy.backward(x, x, copy.forward(x, y), y);
    CHECK(numbers_of(copy.weight_grad()) == Numbers{0, 0, 0});  // still frozen
    CHECK(numbers_of(copy.bias_grad()) != Numbers{0, 0, 0});
  };
  const auto synced = convert_sync_batchnorm(layer, group_of(2));
  STATIC_REQUIRE(std::is_same_v<decltype(synced), const Synced<2>>);  // Dims stays; PyTorch's conversion loses it
  CHECK(synced.communicator().size() == 2);
  check_same(synced);
  const auto reverted = revert_sync_batchnorm(synced);
  STATIC_REQUIRE(std::is_same_v<decltype(reverted), const Plain<2>>);
  check_same(reverted);
  check_same(layer);
  // Synchronized already: another group.
  const auto regrouped = convert_sync_batchnorm(synced, group_of(4));
  STATIC_REQUIRE(std::is_same_v<decltype(regrouped), const Synced<2>>);
  CHECK(regrouped.communicator().size() == 4);
  check_same(regrouped);
}

TEST_CASE("a layer by value is copied from an lvalue and moved from an rvalue", "[convert]") {
  Plain<1> layer = scrambled<1>();
  const LayerSnapshot before(layer);
  auto copy = convert_sync_batchnorm(layer, group_of(2));
  copy.weight()[0] = 99;
  CHECK(LayerSnapshot(layer) == before);
  const float* weight = layer.weight().data();
  auto moved = convert_sync_batchnorm(std::move(layer), group_of(2));
  CHECK(LayerSnapshot(moved) == before);
  CHECK(moved.weight().data() == weight);
}

TEST_CASE("names and exchange options are kept", "[convert]") {
  Plain<1> layer = scrambled<1>();
  layer.set_name("stem");
  layer.exchange().set_waits_for_header(false);
  const auto synced = convert_sync_batchnorm(layer, group_of(2));
  CHECK(synced.exchange().name() == "stem");
  CHECK(revert_sync_batchnorm(synced).exchange().name() == "stem");
}

TEST_CASE("a shared layer and its converted form have one state", "[convert]") {
  const auto layer = std::make_shared<Plain<1>>(scrambled<1>());
  const auto synced = convert_sync_batchnorm(layer, group_of(1));
  STATIC_REQUIRE(std::is_same_v<decltype(synced), const std::shared_ptr<Synced<1>>>);
  CHECK(LayerSnapshot(*synced) == LayerSnapshot(*layer));
  // An optimizer made before goes on with the same parameters and gradients.
  CHECK(synced->weight().data() == layer->weight().data());
  CHECK(synced->bias_grad().data() == layer->bias_grad().data());
  const Activations<float> x({4, 3}, values(12, 1));
  Activations<float> y(x.extents()), dx(x.extents());
  const auto saved = synced->forward(x, y);
  synced->backward(x, x, saved, dx);
  CHECK(layer->num_batches_tracked() == 4);
  CHECK(LayerSnapshot(*synced) == LayerSnapshot(*layer));
  const auto reverted = revert_sync_batchnorm(synced);
  CHECK(reverted->weight().data() == layer->weight().data());
  // It outlives the old layer.
  auto lonely = convert_sync_batchnorm(std::make_shared<Plain<1>>(scrambled<1>()), group_of(1));
  (void)lonely->forward(x, y);
  CHECK(lonely->num_batches_tracked() == 4);
  // A copy of a layer is its own all the same.
  Synced<1> copy = *synced;
  copy.weight()[0] = 99;
  CHECK(layer->weight()[0] != 99);
}

TEST_CASE("pointers to one layer become pointers to one layer", "[convert]") {
  const auto layer = std::make_shared<Plain<2>>(3);
  const auto other = std::make_shared<Plain<2>>(3);
  const auto converted =
      convert_sync_batchnorm(std::tuple(layer, std::pair(other, layer), std::array{other, layer}), group_of(2));
  const auto& first = std::get<0>(converted);
  CHECK(std::get<1>(converted).second == first);
  CHECK(std::get<2>(converted)[1] == first);
  CHECK(std::get<1>(converted).first == std::get<2>(converted)[0]);
  CHECK(std::get<1>(converted).first != first);
  const std::shared_ptr<Plain<2>> nothing;
  CHECK(convert_sync_batchnorm(nothing, group_of(2)) == nullptr);
}

TEST_CASE("containers are converted within each other, everything else is passed on", "[convert]") {
  struct Convolution {
    int channels;
    bool operator==(const Convolution&) const = default;
  };
  const std::tuple network(Convolution{3}, std::pair(scrambled<2>(), 5.0), std::array{scrambled<1>(), scrambled<1>()},
                           std::tuple(std::tuple(scrambled<3>()), std::string("relu")));
  const auto converted = convert_sync_batchnorm(network, group_of(2));
  STATIC_REQUIRE(std::is_same_v<decltype(converted),
                                const std::tuple<Convolution, std::pair<Synced<2>, double>, std::array<Synced<1>, 2>,
                                                 std::tuple<std::tuple<Synced<3>>, std::string>>>);
  CHECK(std::get<0>(converted) == Convolution{3});
  CHECK(std::get<1>(converted).second == 5.0);
  CHECK(std::get<1>(std::get<3>(converted)) == "relu");
  CHECK(LayerSnapshot(std::get<1>(converted).first) == LayerSnapshot(scrambled<2>()));
  CHECK(LayerSnapshot(std::get<0>(std::get<0>(std::get<3>(converted)))) == LayerSnapshot(scrambled<3>()));
  const auto back = revert_sync_batchnorm(converted);
  STATIC_REQUIRE(std::is_same_v<decltype(back), decltype(network)>);
}

TEST_CASE("lazy layers are converted, before and after their first input", "[convert]") {
  using Lazy = syncbn::LazyBatchNorm<1, syncbn::CpuBackend<>, syncbn::SingleProcessCommunicator>;
  using SyncedLazy = syncbn::LazyBatchNorm<1, syncbn::CpuBackend<>, ThreadCommunicator>;
  Lazy lazy({.eps = 0.5});
  lazy.eval();
  auto synced = convert_sync_batchnorm(lazy, group_of(1));
  STATIC_REQUIRE(std::is_same_v<decltype(synced), SyncedLazy>);
  CHECK_FALSE(synced.is_materialized());
  CHECK_FALSE(synced.is_training());
  CHECK(synced.options().eps == 0.5);
  synced.train();
  const Activations<float> x({4, 3}, values(12, 1));
  Activations<float> y(x.extents());
  (void)synced.forward(x, y);
  CHECK(synced.layer().channels() == 3);
  const auto reverted = revert_sync_batchnorm(synced);
  REQUIRE(reverted.is_materialized());
  CHECK(LayerSnapshot(reverted.layer()) == LayerSnapshot(synced.layer()));
}

TEST_CASE("a converted lazy layer takes one number in its group, whether it was used or not", "[convert]") {
  using Lazy = syncbn::LazyBatchNorm<1, syncbn::CpuBackend<>, syncbn::SingleProcessCommunicator>;
  const ThreadCommunicator group = group_of(1);
  Lazy used;
  used.materialize(3);
  auto first = convert_sync_batchnorm(used, group);
  auto second = convert_sync_batchnorm(Lazy(), group);
  second.materialize(3);
  CHECK(first.layer().exchange().name() == "#0");
  CHECK(second.layer().exchange().name() == "#1");
  CHECK(Synced<1>(3, {}, group).exchange().name() == "#2");
}

TEST_CASE("what names a layer is known through const and pointers", "[convert]") {
  using syncbn::detail::names_layers;
  STATIC_REQUIRE(names_layers<std::shared_ptr<const Plain<2>>>);
  STATIC_REQUIRE(names_layers<std::vector<const Plain<2>*>>);
  STATIC_REQUIRE(names_layers<Plain<2>*>);
  STATIC_REQUIRE_FALSE(names_layers<std::vector<const int*>>);
}

TEST_CASE("shared lazy layers are converted, and pointers to one stay pointers to one", "[convert]") {
  using Lazy = syncbn::LazyBatchNorm<1, syncbn::CpuBackend<>, syncbn::SingleProcessCommunicator>;
  using SyncedLazy = syncbn::LazyBatchNorm<1, syncbn::CpuBackend<>, ThreadCommunicator>;
  const auto fresh = std::make_shared<Lazy>();
  const auto used = std::make_shared<Lazy>();
  used->materialize(3);
  const auto converted = convert_sync_batchnorm(std::tuple(fresh, used, fresh), group_of(2));
  STATIC_REQUIRE(std::is_same_v<std::tuple_element_t<0, decltype(converted)>, const std::shared_ptr<SyncedLazy>>);
  CHECK(std::get<0>(converted) == std::get<2>(converted));
  CHECK_FALSE(std::get<0>(converted)->is_materialized());
  REQUIRE(std::get<1>(converted)->is_materialized());
  used->layer().weight()[1] = 5;
  CHECK(std::get<1>(converted)->layer().weight()[1] == 5);  // one state
}

TEST_CASE("vectors are converted, also of pointers and of pairs", "[convert]") {
  const auto layer = std::make_shared<Plain<2>>(3);
  const std::vector<std::pair<std::string, std::shared_ptr<Plain<2>>>> blocks{
      {"a", layer}, {"b", layer}, {"c", nullptr}};
  const auto converted = convert_sync_batchnorm(blocks, group_of(2));
  STATIC_REQUIRE(
      std::is_same_v<decltype(converted), const std::vector<std::pair<std::string, std::shared_ptr<Synced<2>>>>>);
  REQUIRE(converted.size() == 3);
  CHECK(converted[1].first == "b");
  CHECK(converted[0].second == converted[1].second);
  CHECK(converted[2].second == nullptr);
  CHECK(convert_sync_batchnorm(std::vector<Plain<1>>(), group_of(2)).empty());
  CHECK(convert_sync_batchnorm(std::vector{1.5, 2.5}, group_of(2)) == std::vector{1.5, 2.5});
}

TEST_CASE("converted layers are synchronized", "[convert]") {
  // Bagua's layer is this one over all ranks: the same arguments, and momentum may be empty.
  const Activations<double> whole({6, 3}, values(18, 1));
  syncbn::BatchNorm<1, syncbn::CpuBackend<double>> alone(3, {.momentum = std::nullopt});
  Activations<double> expected(whole.extents());
  (void)alone.forward(whole, expected);
  const auto states = on_thread_ranks(2, [&](ThreadCommunicator world) {
    const std::pair network(syncbn::BatchNorm<1, syncbn::CpuBackend<double>>(3, {.momentum = std::nullopt}), 0);
    auto synced = convert_sync_batchnorm(network, world).first;
    const Numbers all = whole.numbers();
    const auto from = all.begin() + 9 * world.rank();
    const Activations<double> mine({3, 3}, Numbers(from, from + 9));
    Activations<double> y(mine.extents());
    (void)synced.forward(mine, y);
    return LayerSnapshot(synced);
  });
  for (const LayerSnapshot& state : states) {
    CHECK(state.batches == 1);
    for (std::size_t c = 0; c < 3; ++c) {
      // Sums of 6 numbers of size 1, in another order.
      const Number bound = bounds::gamma(64);
      CHECK(std::fabs(state.tensors[4][c] - numbers_of(alone.running_mean())[c]) <= bound);
      CHECK(std::fabs(state.tensors[5][c] - numbers_of(alone.running_var())[c]) <= bound);
    }
  }
}
