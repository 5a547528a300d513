#include <syncbn/lazy.hpp>

#include <optional>
#include <string>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "support/activations.hpp"
#include "support/catch.hpp"
#include "support/layer_judge.hpp"
#include "support/thread_ranks.hpp"
#include "support/thrown_by.hpp"
#include "support/values.hpp"

using namespace syncbn_test;
using syncbn::ThreadCommunicator;

namespace {

template <std::size_t Dims>
using Lazy = syncbn::LazyBatchNorm<Dims, syncbn::CpuBackend<>, syncbn::SingleProcessCommunicator>;
template <std::size_t Dims>
using Synced = syncbn::LazyBatchNorm<Dims, syncbn::CpuBackend<>, ThreadCommunicator>;

Activations<float> random(const std::vector<Index>& extents, std::uint64_t seed = 1) {
  return {extents, values(shape_of(extents).elements(), seed)};
}

}  // namespace

TEST_CASE("a lazy layer becomes the layer of its first input", "[lazy]") {
  for (const bool training : {true, false}) {
    for (const std::vector<Index>& extents : {std::vector<Index>{4, 3}, {4, 3, 5}, {0, 3, 5}, {4, 3, 0}}) {
      const auto x = random(extents);
      const syncbn::BatchNormOptions options{.eps = 0.5, .momentum = 0.25};
      Lazy<1> lazy(options);
      syncbn::BatchNorm<1> eager(3, options);
      lazy.train(training);
      eager.train(training);
      Activations<float> y(extents), expected(extents), dx(extents), expected_dx(extents);
      const auto saved = lazy.forward(x, y);
      const auto eager_saved = eager.forward(x, expected);
      CHECK(y.numbers() == expected.numbers());
      REQUIRE(lazy.is_materialized());
      CHECK(lazy.layer().channels() == 3);
      CHECK(lazy.layer().options().eps == 0.5);
      CHECK(lazy.is_training() == training);
      CHECK(lazy.layer().is_training() == training);
      lazy.backward(x, x, saved, dx);
      eager.backward(x, x, eager_saved, expected_dx);
      CHECK(dx.numbers() == expected_dx.numbers());
      CHECK(LayerSnapshot(lazy.layer()) == LayerSnapshot(eager));
      lazy.infer(x, y);
      eager.infer(x, expected);
      CHECK(y.numbers() == expected.numbers());
    }
  }
}

TEST_CASE("a lazy layer without parameters and running statistics knows its channels all the same", "[lazy]") {
  Lazy<2> lazy({.affine = false, .track_running_stats = false});
  const auto x = random({2, 5, 2, 2});
  Activations<float> y(x.extents());
  (void)lazy.forward(x, y);
  CHECK(lazy.layer().channels() == 5);  // PyTorch: 0 for ever
}

TEST_CASE("an input that is refused leaves a lazy layer lazy", "[lazy]") {
  Lazy<1> lazy;
  const auto refused = [&](const std::vector<Index>& extents) {
    Activations<float> x(extents), y(extents);
    const std::string text = thrown_by([&] { (void)lazy.forward(x, y); });
    CHECK_FALSE(lazy.is_materialized());
    return text;
  };
  // PyTorch fixes the number of channels before it looks at the dimensions.
  CHECK(refused({4, 3, 2, 2}) == "ShapeError: expected 2D or 3D input (got 4D input)");
  CHECK(refused({3}) == "ShapeError: expected 2D or 3D input (got 1D input)");
  CHECK(refused({}) == "ShapeError: expected 2D or 3D input (got 0D input)");
  CHECK(refused({1, 3}) == "ShapeError: Expected more than 1 value per channel when training, got input size [1, 3]");
  const auto x = random({4, 5});
  Activations<float> y({4, 6});
  CHECK(thrown_by([&] { (void)lazy.forward(x, y); }) == "ShapeError: y has shape [4, 6], but x has [4, 5]");
  CHECK_FALSE(lazy.is_materialized());
  Activations<float> good(x.extents());
  (void)lazy.forward(x, good);
  CHECK(lazy.layer().channels() == 5);
  CHECK(lazy.layer().num_batches_tracked() == 1);
  // From now on 5 it is.
  const auto other = random({4, 6});
  CHECK(thrown_by([&] { (void)lazy.forward(other, y); }) ==
        "Error: running_mean should contain 6 elements not 5 (x has 6 channels)");
}

TEST_CASE("a lazy layer can be materialized without an input", "[lazy]") {
  Lazy<1> lazy({.momentum = std::nullopt});
  lazy.eval();
  lazy.materialize(4);
  REQUIRE(lazy.is_materialized());
  CHECK(LayerSnapshot(lazy.layer()) == LayerSnapshot(syncbn::BatchNorm<1>(4)));
  CHECK_FALSE(lazy.layer().is_training());
  lazy.materialize(7);  // too late
  CHECK(lazy.layer().channels() == 4);
  Lazy<1> negative;
  CHECK(thrown_by([&] { negative.materialize(-1); }) ==
        "Error: Trying to create tensor with negative dimension -1: [-1]");
  CHECK_FALSE(negative.is_materialized());
}

TEST_CASE("a lazy layer has nothing to give before its first input", "[lazy]") {
  Lazy<1> lazy;
  const auto x = random({4, 3});
  Activations<float> y(x.extents());
  const std::string text = "Error: a lazy layer has no parameters before its first forward()";
  CHECK(thrown_by([&] { (void)lazy.layer(); }) == text);
  CHECK(thrown_by([&] { (void)std::as_const(lazy).layer(); }) == text);
  CHECK(thrown_by([&] { lazy.infer(x, y); }) == text);
  CHECK(thrown_by([&] { lazy.backward(x, x, Lazy<1>::Saved(), y); }) == text);
  CHECK(thrown_by([&] { lazy.reset_running_stats(); }) == text);
  lazy.reset_parameters();  // nothing to do, as in PyTorch
  Lazy<1> untracked({.track_running_stats = false});
  untracked.reset_running_stats();
  CHECK_FALSE(untracked.is_materialized());

  (void)lazy.forward(x, y);
  lazy.layer().weight()[0] = 5;
  lazy.reset_running_stats();
  CHECK(lazy.layer().num_batches_tracked() == 0);
  CHECK(lazy.layer().weight()[0] == 5);
  lazy.reset_parameters();
  CHECK(lazy.layer().weight()[0] == 1);
}

TEST_CASE("copies of a lazy layer are layers of their own", "[lazy]") {
  Lazy<1> lazy;
  Lazy<1> copy = lazy;
  const auto x = random({4, 3});
  Activations<float> y(x.extents());
  (void)lazy.forward(x, y);
  CHECK_FALSE(copy.is_materialized());
  copy = lazy;
  copy.layer().weight()[0] = 5;
  CHECK(lazy.layer().weight()[0] == 1);
  lazy.train(false);
  CHECK(copy.is_training());
}

TEST_CASE("lazy layers on ranks materialize together", "[lazy][ranks]") {
  // PyTorch has no lazy synchronized layer.
  for (const std::vector<Index>& counts : {std::vector<Index>{3, 2}, {0, 4}, {1, 1}}) {
    const auto states = on_thread_ranks(2, [&](ThreadCommunicator communicator) {
      const auto rank = static_cast<std::size_t>(communicator.rank());
      Synced<1> lazy({}, communicator);
      const auto x = random({counts[rank], 3}, rank);
      Activations<float> y(x.extents()), dx(x.extents());
      const auto saved = lazy.forward(x, y);
      lazy.backward(x, x, saved, dx);
      (void)lazy.forward(x, y);
      LayerSnapshot snapshot(lazy.layer());
      snapshot.tensors[2] = snapshot.tensors[3] = {};  // local parts of gradients differ
      return std::pair(snapshot, lazy.layer().exchange().sequence());
    });
    CHECK(states[0].first == states[1].first);
    CHECK(states[0].first.batches == 2);
    CHECK(states[0].second == 3);
  }
}

TEST_CASE("lazy layers whose inputs do not fit together stay lazy on all ranks", "[lazy][ranks]") {
  struct Result {
    std::string thrown;
    bool lazy, good_afterwards;
  };
  struct Inputs {
    const char* what;
    std::vector<std::vector<Index>> extents;
    std::string text;  // begins with
  };
  const Inputs all[] = {
      {"channels differ", {{4, 3}, {4, 3}, {4, 5}}, "Error: ranks disagree about what they are calling: "},
      {"too many dimensions",
       {{4, 3}, {4, 3, 2, 2}, {4, 3}},
       "ShapeError: expected 2D or 3D input (got 4D input) [rank 1 of 3] [layer 'bn']"},
      {"too few dimensions",
       {{3}, {4, 3}, {4, 3}},
       "ShapeError: expected 2D or 3D input (got 1D input) [rank 0 of 3] [layer 'bn']"},
      {"one value in all",
       {{0, 3}, {1, 3}, {0, 3}},
       "ShapeError: Expected more than 1 value per channel when training, got input size 1 (over all 3 ranks)"},
      {"no channels",
       {{4, 0}, {4, 0}, {4, 0}},
       "ShapeError: SyncBatchNorm number of input channels should be non-zero [rank 0 of 3] [layer 'bn']"},
  };
  for (const Inputs& inputs : all) {
    INFO(inputs.what);
    const auto results = on_thread_ranks(3, [&](ThreadCommunicator communicator) {
      Synced<1> lazy({}, communicator);
      lazy.set_name("bn");
      const Activations<float> x(inputs.extents[static_cast<std::size_t>(communicator.rank())]);
      Activations<float> y(x.extents());
      Result result;
      result.thrown = thrown_by([&] { (void)lazy.forward(x, y); });
      result.lazy = !lazy.is_materialized();
      const auto good = random({2, 3});
      Activations<float> z(good.extents());
      result.good_afterwards =
          thrown_by([&] { (void)lazy.forward(good, z); }) == "nothing" && lazy.layer().num_batches_tracked() == 1;
      return result;
    });
    for (const Result& result : results) {
      CHECK(result.thrown.rfind(inputs.text, 0) == 0);
      CHECK(result.thrown == results[0].thrown);
      CHECK(result.lazy);
      CHECK(result.good_afterwards);
    }
  }
}

TEST_CASE("a lazy layer evaluates on one rank alone", "[lazy][ranks]") {
  const auto group = ThreadCommunicator::create(2);  // the other rank never comes
  Synced<1> lazy({}, group[0]);
  lazy.eval();
  const auto x = random({1, 3});
  Activations<float> y(x.extents());
  (void)lazy.forward(x, y);
  CHECK(lazy.layer().channels() == 3);
  CHECK(lazy.layer().num_batches_tracked() == 0);
  CHECK(lazy.layer().exchange().sequence() == 0);
}
