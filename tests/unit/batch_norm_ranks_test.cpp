// The layer on several ranks, which are threads. Every rank returns what it came to; the main thread judges.

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "support/activations.hpp"
#include "support/catch.hpp"
#include "support/echo_communicator.hpp"
#include "support/layer_judge.hpp"
#include "support/recording_communicator.hpp"
#include "support/thread_ranks.hpp"
#include "support/thrown_by.hpp"
#include "support/values.hpp"

using namespace syncbn_test;

namespace {

using syncbn::ThreadCommunicator;
template <class P = float>
using Layer = syncbn::SyncBatchNorm<syncbn::CpuBackend<P>, ThreadCommunicator>;
template <class P = float>
using State = syncbn::BatchNormState<syncbn::CpuBackend<P>>;

using Samples = std::vector<Index>;  // of each rank

// Cannot copy to the host, on threads that are told so.
class ForgetfulBackend : public syncbn::CpuBackend<> {
 public:
  static bool& forgets() {
    static thread_local bool value = false;
    return value;
  }
  template <class T>
  void download(const T* from, Index n, T* to) const {
    if (forgets()) throw syncbn::Error("no such counter");
    syncbn::CpuBackend<>::download(from, n, to);
  }
};

// A batch that ranks share: rank r has the samples after those of the ranks before it.
struct SharedBatch {
  SharedBatch(Samples samples_of_ranks, std::vector<Index> inner, std::uint64_t seed, Number centre = 0.75L)
      : samples(std::move(samples_of_ranks)), extents(std::move(inner)) {
    extents.insert(extents.begin(), 0);
    for (const Index s : samples) extents[0] += s;
    numbers = values(shape_of(extents).elements(), seed, centre, 2);
  }

  int ranks() const { return static_cast<int>(samples.size()); }

  template <class T>
  Activations<T> part(int rank, Layout layout = Layout::contiguous) const {
    std::vector<Index> mine = extents;
    std::ptrdiff_t first = 0;
    for (int r = 0; r < rank; ++r) first += samples[static_cast<std::size_t>(r)];
    mine[0] = samples[static_cast<std::size_t>(rank)];
    std::ptrdiff_t sample = 1;
    for (std::size_t d = 1; d < extents.size(); ++d) sample *= extents[d];
    const auto from = numbers.begin() + first * sample;
    return {mine, Numbers(from, from + mine[0] * sample), layout};
  }

  Samples samples;
  std::vector<Index> extents;
  Numbers numbers;
};

// What a rank came to.
template <class P = float>
struct RankResult {
  Numbers x, y, dy, dx;
  std::optional<State<P>> before, after;  // around forward()
  Numbers weight_grad, bias_grad;
  std::string thrown = "nothing";
  bool synchronized = false;
  std::uint64_t exchanges = 0;
};

// Forward and backward on all ranks. @param set_up  changes the layer first.
template <class T, class P>
std::vector<RankResult<P>> run(const SharedBatch& x, const SharedBatch& dy, const syncbn::BatchNormOptions& options,
                               const std::function<void(Layer<P>&)>& set_up) {
  return on_thread_ranks(x.ranks(), [&](ThreadCommunicator communicator) {
    const int rank = communicator.rank();
    Layer<P> layer(x.extents[1], options, communicator);
    scramble(layer);
    set_up(layer);
    // Ranks need not agree about layouts.
    const auto mine = x.part<T>(rank, all_layouts[rank % 3]);
    const auto gradient = dy.part<T>(rank, all_layouts[(rank + 1) % 3]);
    Activations<T> y(mine.extents()), dx(mine.extents());
    RankResult<P> result;
    result.before = layer;
    const auto saved = layer.forward(mine, y);
    result.after = layer;
    layer.backward(gradient, mine, saved, dx);
    result.x = mine.numbers();
    result.y = y.numbers();
    result.dy = gradient.numbers();
    result.dx = dx.numbers();
    result.weight_grad = numbers_of(layer.weight_grad());
    result.bias_grad = numbers_of(layer.bias_grad());
    result.synchronized = saved.synchronized;
    result.exchanges = layer.exchange().sequence();
    return result;
  });
}

template <class P>
Numbers concatenated(const std::vector<RankResult<P>>& ranks, Numbers RankResult<P>::* member) {
  Numbers all;
  for (const auto& rank : ranks) all.insert(all.end(), (rank.*member).begin(), (rank.*member).end());
  return all;
}

template <class P>
Numbers summed(const std::vector<RankResult<P>>& ranks, Numbers RankResult<P>::* member) {
  Numbers sums((ranks[0].*member).size());
  for (const auto& rank : ranks) {
    for (std::size_t c = 0; c < sums.size(); ++c) sums[c] += (rank.*member)[c];
  }
  return sums;
}

// All ranks together are one rank with the whole batch.
template <class T, class P>
void check_synchronized(const SharedBatch& x, const std::vector<RankResult<P>>& ranks, std::optional<Number> factor) {
  LayerJudge<T, State<P>> judge(NormalizedBy::batch, concatenated(ranks, &RankResult<P>::x), shape_of(x.extents),
                                *ranks[0].before, x.ranks());
  judge.output(concatenated(ranks, &RankResult<P>::y));
  for (const auto& rank : ranks) {
    if (factor) {
      judge.update(*rank.after, *factor);
    } else {
      CHECK(LayerSnapshot(*rank.after) == LayerSnapshot(*rank.before));
    }
    CHECK(LayerSnapshot(*rank.after) == LayerSnapshot(*ranks[0].after));  // to the bit
    CHECK(rank.synchronized);
    CHECK(rank.exchanges == 2);
  }
  judge.gradients(concatenated(ranks, &RankResult<P>::dy), concatenated(ranks, &RankResult<P>::dx),
                  summed(ranks, &RankResult<P>::weight_grad), summed(ranks, &RankResult<P>::bias_grad));
  check(judge);
}

// Each rank for itself.
template <class T, class P>
void check_local(NormalizedBy by, const SharedBatch& x, const std::vector<RankResult<P>>& ranks) {
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    std::vector<Index> extents = x.extents;
    extents[0] = x.samples[r];
    LayerJudge<T, State<P>> judge(by, ranks[r].x, shape_of(extents), *ranks[r].before);
    judge.output(ranks[r].y);
    judge.gradients(ranks[r].dy, ranks[r].dx, ranks[r].weight_grad, ranks[r].bias_grad);
    check(judge);
    CHECK(LayerSnapshot(*ranks[r].after) == LayerSnapshot(*ranks[r].before));
    CHECK_FALSE(ranks[r].synchronized);
    CHECK(ranks[r].exchanges == 0);
  }
}

const Samples splits[] = {{4, 4}, {5, 3}, {0, 6}, {1, 1}, {3, 0, 1, 7}, {1, 1, 1}, {0, 0, 0, 2}};

}  // namespace

TEST_CASE("ranks together are one rank with the whole batch", "[batch_norm][ranks]") {
  for (const Samples& samples : splits) {
    INFO("ranks: " << samples.size());
    const SharedBatch x(samples, {3, 4, 2}, 1);
    const SharedBatch dy(samples, {3, 4, 2}, 2);
    const syncbn::BatchNormOptions options{.eps = 1e-3, .momentum = 0.3};
    const auto nothing_set = [](auto&) {};
    check_synchronized<float, float>(x, run<float, float>(x, dy, options, nothing_set), 0.3);
    check_synchronized<double, double>(x, run<double, double>(x, dy, options, nothing_set), 0.3);
    // Empty ranks and 16 bits: what is exchanged is f64 whatever the tensors are.
    check_synchronized<syncbn::Float16, float>(x, run<syncbn::Float16, float>(x, dy, options, nothing_set), 0.3);
    check_synchronized<syncbn::BFloat16, double>(x, run<syncbn::BFloat16, double>(x, dy, options, nothing_set), 0.3);
  }
}

TEST_CASE("ranks with tensors (N, C) and one value each", "[batch_norm][ranks]") {
  for (const Samples& samples : {Samples{1, 1}, {1, 1, 1}, {0, 1, 1}, {2, 1}}) {
    const SharedBatch x(samples, {5}, 1);
    const SharedBatch dy(samples, {5}, 2);
    check_synchronized<float, float>(x, run<float, float>(x, dy, {}, [](auto&) {}), 0.1);
    check_synchronized<double, double>(x, run<double, double>(x, dy, {}, [](auto&) {}), 0.1);
  }
}

TEST_CASE("a cumulative average over ranks", "[batch_norm][ranks]") {
  const SharedBatch x({3, 1, 2}, {4}, 1);
  const auto ranks = run<double, double>(x, x, {.momentum = std::nullopt}, [](auto&) {});
  check_synchronized<double, double>(x, ranks, Number{1} / 4);  // scramble() has counted three
  for (const auto& rank : ranks) CHECK(rank.after->num_batches_tracked() == 4);
}

TEST_CASE("mode, flag and buffers decide what ranks exchange", "[batch_norm][ranks]") {
  struct Mode {
    bool training, track, buffers, synchronized, updates;
    NormalizedBy by;
  };
  const Mode modes[] = {{true, true, true, true, true, NormalizedBy::batch},
                        {true, true, false, true, false, NormalizedBy::batch},
                        {true, false, true, true, false, NormalizedBy::batch},
                        {true, false, false, true, false, NormalizedBy::batch},
                        {false, true, true, false, false, NormalizedBy::running},
                        {false, false, true, false, false, NormalizedBy::running},
                        {false, false, false, false, false, NormalizedBy::batch},
                        {false, true, false, false, false, NormalizedBy::batch}};
  const SharedBatch x({3, 2}, {3, 4}, 1);
  const SharedBatch dy({3, 2}, {3, 4}, 2);
  for (const Mode& mode : modes) {
    for (const bool affine : {true, false}) {
      INFO("training " << mode.training << ", flag " << mode.track << ", buffers " << mode.buffers);
      const auto ranks =
          run<float, float>(x, dy, {.affine = affine, .track_running_stats = mode.buffers}, [&](Layer<>& layer) {
            layer.train(mode.training);
            layer.set_track_running_stats(mode.track);
          });
      if (mode.synchronized) {
        check_synchronized<float, float>(x, ranks, mode.updates ? std::optional<Number>(0.1) : std::nullopt);
      } else {
        check_local<float, float>(mode.by, x, ranks);
      }
    }
  }
}

TEST_CASE("evaluation and inference touch no communicator", "[batch_norm][ranks]") {
  using Recording = RecordingCommunicator<ThreadCommunicator>;
  const auto group = ThreadCommunicator::create(3);  // of which two never come
  for (const bool tracked : {true, false}) {
    Recording communicator(group[0]);
    syncbn::BatchNorm<1, syncbn::CpuBackend<>, Recording> layer(4, {.track_running_stats = tracked}, communicator);
    scramble(layer);
    communicator.record().clear();
    const Activations<float> x({5, 4}, values(20, 1));
    Activations<float> y(x.extents()), dx(x.extents());
    layer.infer(x, y);
    layer.eval();
    layer.infer(x, y);
    const auto saved = layer.forward(x, y);
    layer.backward(y, x, saved, dx);
    layer.backward(y, x, saved, syncbn::no_gradient);
    CHECK(communicator.record().calls() == 0);
    // Local statistics, local rules.
    Activations<float> one({1, 4}, values(4, 1));
    CHECK(thrown_by([&] { (void)layer.forward(one, one); }) ==
          (tracked ? "nothing"
                   : "ShapeError: Expected more than 1 value per channel when training, got input size [1, 4]"));
    CHECK(communicator.record().calls() == 0);
  }
}

TEST_CASE("training exchanges once forward and once backward, in frames of fixed sizes", "[batch_norm][ranks]") {
  using Recording = RecordingCommunicator<ThreadCommunicator>;
  struct Sizes {
    Index channels;
    std::vector<Index> frames;
  };
  // 495 words fit beside the header: two for each of 247 channels.
  for (const Sizes& sizes : {Sizes{1, {512}}, Sizes{247, {512}}, Sizes{248, {512, 2 * 248 + 3}}}) {
    for (const Samples& samples : {Samples{2, 2}, {0, 3}, {0, 0}}) {
      const auto frames = on_thread_ranks(2, [&](ThreadCommunicator thread) {
        Recording communicator(thread);
        syncbn::BatchNorm<1, syncbn::CpuBackend<>, Recording> layer(sizes.channels, {}, communicator);
        const Activations<float> x = SharedBatch(samples, {sizes.channels}, 1).part<float>(thread.rank());
        Activations<float> y(x.extents()), dx(x.extents());
        const auto saved = layer.forward(x, y);
        const std::vector<Index> forward = communicator.record().started;
        communicator.record().clear();
        layer.backward(y, x, saved, dx);
        const std::vector<Index> backward = communicator.record().started;
        communicator.record().clear();
        layer.backward(y, x, saved, syncbn::no_gradient);
        return std::vector<std::vector<Index>>{forward, backward, communicator.record().started};
      });
      for (const auto& rank : frames) CHECK(rank == std::vector<std::vector<Index>>(3, sizes.frames));
    }
  }
}

TEST_CASE("many channels, with and without waiting for the header", "[batch_norm][ranks]") {
  const SharedBatch x({3, 0, 2}, {300, 2}, 1);
  const SharedBatch dy({3, 0, 2}, {300, 2}, 2);
  for (const bool waits : {true, false}) {
    const auto set_up = [&](Layer<>& layer) { layer.exchange().set_waits_for_header(waits); };
    check_synchronized<float, float>(x, run<float, float>(x, dy, {}, set_up), 0.1);
  }
}

TEST_CASE("one value on all ranks together is refused on every rank", "[batch_norm][ranks]") {
  struct Result {
    std::string thrown, thrown_again;
    LayerSnapshot before, after, at_last;
  };
  for (const Samples& samples : {Samples{1, 0}, {0, 0, 1}}) {
    for (const bool tracked : {true, false}) {
      const auto ranks = static_cast<int>(samples.size());
      const auto results = on_thread_ranks(ranks, [&](ThreadCommunicator communicator) {
        Layer<> layer(3, {.momentum = 0.0, .track_running_stats = tracked}, communicator);
        scramble(layer);
        const auto x = SharedBatch(samples, {3}, 1).part<float>(communicator.rank());
        Activations<float> y(x.extents());
        Result result;
        result.before = LayerSnapshot(layer);
        result.thrown = thrown_by([&] { (void)layer.forward(x, y); });
        Layer<>::Saved saved;
        result.thrown_again = thrown_by([&] { layer.forward_without_update(x, y, saved); });
        result.after = LayerSnapshot(layer);
        // The layer is usable: two values on rank 0.
        const Activations<float> two({communicator.rank() == 0 ? 2 : 0, 3},
                                     values(communicator.rank() == 0 ? 6 : 0, 1));
        Activations<float> z(two.extents());
        (void)layer.forward(two, z);
        result.at_last = LayerSnapshot(layer);
        return result;
      });
      const std::string text =
          "ShapeError: Expected more than 1 value per channel when training, got input size 1 (over all " +
          std::to_string(ranks) + " ranks)";
      for (const Result& result : results) {
        CHECK(result.thrown == text);
        CHECK(result.thrown_again == text);
        CHECK(result.after == result.before);
        CHECK(result.at_last == results[0].at_last);
        CHECK(result.at_last.batches == (tracked ? 4 : 0));
      }
    }
  }
}

TEST_CASE("a batch that is empty on all ranks updates nothing and is not counted", "[batch_norm][ranks]") {
  struct Result {
    LayerSnapshot before, after;
    bool no_nan = true;
  };
  for (const std::optional<double> momentum : {std::optional<double>(0.1), std::optional<double>()}) {
    const auto results = on_thread_ranks(3, [&](ThreadCommunicator communicator) {
      Layer<> layer(3, {.momentum = momentum}, communicator);
      scramble(layer);
      Result result;
      result.before = LayerSnapshot(layer);
      for (const std::vector<Index>& extents : {std::vector<Index>{0, 3, 5}, {4, 3, 0}, {0, 3, 0}}) {
        Activations<float> x(extents), y(extents), dx(extents);
        const auto saved = layer.forward(x, y);
        layer.backward(y, x, saved, dx);
        for (Index c = 0; c < 3; ++c) result.no_nan &= std::isfinite(saved.statistics.inverse_deviation()[c]);
      }
      result.after = LayerSnapshot(layer);
      return result;
    });
    for (const Result& result : results) {
      CHECK(result.after == result.before);  // gradients of parameters included: zero was added
      CHECK(result.no_nan);
    }
  }
}

TEST_CASE("an empty rank's part of the parameters' gradients is zero", "[batch_norm][ranks]") {
  const SharedBatch x({0, 4}, {3, 2}, 1);
  const auto ranks = run<float, float>(x, x, {}, [](auto&) {});
  CHECK(ranks[0].weight_grad == Numbers{0, 0, 0});
  CHECK(ranks[0].bias_grad == Numbers{0, 0, 0});
  CHECK(ranks[0].y.empty());
  CHECK(ranks[0].after->num_batches_tracked() == 4);  // the batch was not empty
  CHECK(LayerSnapshot(*ranks[0].after) == LayerSnapshot(*ranks[1].after));
}

TEST_CASE("ranks need not want the same gradients", "[batch_norm][ranks]") {
  const SharedBatch x({3, 2, 4}, {3, 2}, 1);
  const SharedBatch dy({3, 2, 4}, {3, 2}, 2);
  const auto expected = run<float, float>(x, dy, {}, [](auto&) {});
  const auto results = on_thread_ranks(3, [&](ThreadCommunicator communicator) {
    Layer<> layer(3, {}, communicator);
    scramble(layer);
    const int rank = communicator.rank();
    const auto mine = x.part<float>(rank);
    Activations<float> y(mine.extents()), dx(mine.extents());
    const auto saved = layer.forward(mine, y);
    layer.set_requires_grad(rank != 0, rank != 2);
    if (rank == 1) {
      layer.backward(dy.part<float>(rank), mine, saved, syncbn::no_gradient);
    } else {
      layer.backward(dy.part<float>(rank), mine, saved, dx);
    }
    RankResult<> result;
    result.dx = dx.numbers();
    result.weight_grad = numbers_of(layer.weight_grad());
    result.bias_grad = numbers_of(layer.bias_grad());
    return result;
  });
  const Numbers zero{0, 0, 0};
  CHECK(results[0].dx == expected[0].dx);
  CHECK(results[2].dx == expected[2].dx);
  CHECK(results[0].weight_grad == zero);
  CHECK(results[1].weight_grad == expected[1].weight_grad);
  CHECK(results[2].weight_grad == expected[2].weight_grad);
  CHECK(results[0].bias_grad == expected[0].bias_grad);
  CHECK(results[1].bias_grad == expected[1].bias_grad);
  CHECK(results[2].bias_grad == zero);
}

TEST_CASE("recomputation is synchronized and leaves no trace on any rank", "[batch_norm][ranks]") {
  const SharedBatch x({3, 2}, {3, 2}, 1);
  const auto results = on_thread_ranks(2, [&](ThreadCommunicator communicator) {
    Layer<> layer(3, {}, communicator);
    scramble(layer);
    const auto mine = x.part<float>(communicator.rank());
    Activations<float> y(mine.extents()), again(mine.extents());
    (void)layer.forward(mine, y);
    const LayerSnapshot after(layer);
    Layer<>::Saved saved;
    layer.forward_without_update(mine, again, saved);
    return y.numbers() == again.numbers() && LayerSnapshot(layer) == after && saved.synchronized &&
           layer.exchange().sequence() == 2;
  });
  CHECK(results[0]);
  CHECK(results[1]);
}

TEST_CASE("an input that one rank refuses is refused by all, and nothing has changed", "[batch_norm][ranks]") {
  struct Bad {
    std::vector<Index> extents;
    std::string text;
  };
  const Bad bads[] = {
      {{2, 4}, "Error: running_mean should contain 4 elements not 3 (x has 4 channels)"},
      {{3}, "ShapeError: expected at least 2D input (got 1D input)"},
      {{2, 0}, "ShapeError: SyncBatchNorm number of input channels should be non-zero"},
  };
  struct Result {
    std::string forward, backward;
    LayerSnapshot before, after, at_last;
  };
  for (const Bad& bad : bads) {
    for (const int culprit : {0, 2}) {
      const auto results = on_thread_ranks(3, [&](ThreadCommunicator communicator) {
        const bool guilty = communicator.rank() == culprit;
        Layer<> layer(3, {}, communicator);
        layer.set_name("stem");
        scramble(layer);
        Result result;
        result.before = LayerSnapshot(layer);
        const Activations<float> good({2, 3}, values(6, 1));
        Activations<float> x = guilty ? Activations<float>(bad.extents) : good;
        Activations<float> y(x.extents());
        result.forward = thrown_by([&] { (void)layer.forward(x, y); });
        result.after = LayerSnapshot(layer);
        Activations<float> dy({2, 3}, values(6, 2)), dx({2, 3});
        Activations<float> wrong({2, 3, 1});
        const auto saved = layer.forward(good, dx);
        result.backward = thrown_by([&] { layer.backward(guilty ? wrong : dy, good, saved, dx); });
        layer.backward(dy, good, saved, dx);
        result.at_last = LayerSnapshot(layer);
        return result;
      });
      const std::string who = " [rank " + std::to_string(culprit) + " of 3] [layer 'stem']";
      for (const Result& result : results) {
        CHECK(result.forward == bad.text + who);
        CHECK(result.after == result.before);
        CHECK(result.backward == "ShapeError: dy has shape [2, 3, 1], but x has [2, 3]" + who);
        CHECK(result.at_last.batches == result.before.batches + 1);
        CHECK(result.at_last == results[0].at_last);  // all ranks had the same input
      }
    }
  }
}

TEST_CASE("a layer that cannot be made takes no number in its group", "[batch_norm][ranks]") {
  const ThreadCommunicator group = ThreadCommunicator::create(1).front();
  CHECK(thrown_by([&] { Layer<> impossible(-1, {}, group); }).find("Error: Trying to create tensor") == 0);
  CHECK(Layer<>(3, {}, group).exchange().name() == "#0");
}

TEST_CASE("a counter that one rank's backend cannot tell makes all throw", "[batch_norm][ranks]") {
  const auto thrown = on_thread_ranks(2, [](ThreadCommunicator c) {
    ForgetfulBackend::forgets() = c.rank() == 1;
    syncbn::SyncBatchNorm<ForgetfulBackend, ThreadCommunicator> bn(3, {}, c);
    Activations<float> x({4, 3}, values(12, 1));
    return thrown_by([&] { static_cast<void>(bn.forward(x, x)); });
  });
  CHECK(thrown == std::vector<std::string>(2, "Error: no such counter [rank 1 of 2] [layer '#0']"));
}

TEST_CASE("ranks whose layers differ throw, all of them", "[batch_norm][ranks]") {
  struct Difference {
    const char* what;
    std::function<void(Layer<>&)> set;
  };
  const Difference differences[] = {
      {"eps", [](Layer<>& l) { l.set_eps(1e-3); }},
      {"momentum", [](Layer<>& l) { l.set_momentum(std::nullopt); }},
      {"flag", [](Layer<>& l) { l.set_track_running_stats(false); }},
      {"counter", [](Layer<>& l) { l.set_num_batches_tracked(7); }},
      {"name", [](Layer<>& l) { l.set_name("another"); }},
  };
  struct Result {
    std::string thrown, thrown_afterwards;
    bool unchanged = false;
  };
  for (const Difference& difference : differences) {
    INFO(difference.what);
    const auto results = on_thread_ranks(3, [&](ThreadCommunicator communicator) {
      Layer<> layer(3, {}, communicator);
      layer.set_name("one");
      scramble(layer);
      const Layer<> agreed = layer;
      if (communicator.rank() == 1) difference.set(layer);
      const Activations<float> x({2, 3}, values(6, 1));
      Activations<float> y(x.extents());
      const LayerSnapshot before(layer);
      Result result;
      result.thrown = thrown_by([&] { (void)layer.forward(x, y); });
      result.unchanged = LayerSnapshot(layer) == before;
      Layer<> again = agreed;
      result.thrown_afterwards = thrown_by([&] { (void)again.forward(x, y); });
      return result;
    });
    for (const Result& result : results) {
      CHECK(result.thrown.rfind("Error: ranks disagree about what they are calling: forward of layer 'one'", 0) == 0);
      CHECK(result.thrown == results[0].thrown);
      CHECK(result.thrown.find("[rank 0 of 3], but ") != std::string::npos);
      CHECK(result.thrown.find("[rank 1 of 3]") != std::string::npos);
      CHECK(result.unchanged);
      CHECK(result.thrown_afterwards == "nothing");
    }
  }
}

TEST_CASE("statistics of a group are those of its ranks alone", "[batch_norm][ranks]") {
  const SharedBatch x({3, 2, 1, 4}, {3, 2}, 1);
  const auto results = on_thread_ranks(4, [&](ThreadCommunicator world) {
    const int rank = world.rank();
    ThreadCommunicator half = world.split(rank % 2, rank);
    Layer<double> layer(3, {}, half);
    scramble(layer);
    RankResult<double> result;
    result.before = layer;
    const auto mine = x.part<double>(rank);
    Activations<double> y(mine.extents()), dx(mine.extents());
    const auto saved = layer.forward(mine, y);
    result.after = layer;
    layer.backward(mine, mine, saved, dx);
    result.x = result.dy = mine.numbers();
    result.y = y.numbers();
    result.dx = dx.numbers();
    result.weight_grad = numbers_of(layer.weight_grad());
    result.bias_grad = numbers_of(layer.bias_grad());
    result.synchronized = saved.synchronized;
    result.exchanges = layer.exchange().sequence();
    return result;
  });
  for (const std::size_t color : {0U, 1U}) {
    const std::vector<RankResult<double>> half{results[color], results[color + 2]};
    SharedBatch part({x.samples[color], x.samples[color + 2]}, {3, 2}, 1);
    check_synchronized<double, double>(part, half, 0.1);
  }
}

TEST_CASE("a layer goes on in another group", "[batch_norm][ranks]") {
  const SharedBatch x({3, 2}, {3, 2}, 1);
  const auto results = on_thread_ranks(2, [&](ThreadCommunicator world) {
    ThreadCommunicator other = world.split(0, -world.rank());  // in the opposite order
    Layer<> layer(3, {}, world);
    scramble(layer);
    const auto mine = x.part<float>(world.rank());
    Activations<float> y(mine.extents()), dx(mine.extents());
    const auto saved = layer.forward(mine, y);
    layer.set_communicator(other);
    const bool fresh = layer.exchange().sequence() == 0 && layer.communicator().rank() == 1 - world.rank();
    layer.backward(mine, mine, saved, dx);  // begun there, ended here
    (void)layer.forward(mine, y);
    RankResult<> result;
    result.synchronized = fresh && layer.exchange().sequence() == 2;
    result.after = layer;
    return result;
  });
  for (const auto& result : results) {
    CHECK(result.synchronized);
    CHECK(result.after->num_batches_tracked() == 5);
    CHECK(LayerSnapshot(*result.after).tensors[4] == LayerSnapshot(*results[0].after).tensors[4]);
  }
}

TEST_CASE("what a synchronized pass saved serves a layer that is alone", "[batch_norm][ranks]") {
  const SharedBatch x({3, 2}, {3, 2}, 1);
  const auto thrown = on_thread_ranks(2, [&](ThreadCommunicator communicator) {
    Layer<> layer(3, {}, communicator);
    const auto mine = x.part<float>(communicator.rank());
    Activations<float> y(mine.extents()), dx(mine.extents());
    const auto saved = layer.forward(mine, y);
    layer.set_communicator(ThreadCommunicator::create(1).front());
    return thrown_by([&] { layer.backward(mine, mine, saved, dx); });
  });
  CHECK(thrown == std::vector<std::string>{"nothing", "nothing"});
}

TEST_CASE("counts beyond 2^24 and 2^31 are exact", "[batch_norm][ranks]") {
  struct Size {
    int ranks;
    Index values;
  };
  for (const Size& size : {Size{20000, 1000}, Size{24000, 100000}}) {
    using Layer = syncbn::BatchNorm<1, syncbn::CpuBackend<double>, EchoCommunicator>;
    Layer layer(2, {.momentum = 1.0}, EchoCommunicator(size.ranks));
    const Activations<double> x({size.values, 2}, values(static_cast<std::size_t>(2 * size.values), 1, 0.5L, 1));
    const Activations<double> dy(x.extents(), values(static_cast<std::size_t>(2 * size.values), 2));
    Activations<double> y(x.extents()), dx(x.extents());
    const auto saved = layer.forward(x, y);
    const double count = static_cast<double>(size.ranks) * static_cast<double>(size.values);
    REQUIRE(count > (size.ranks == 20000 ? 0x1p24 : 0x1p31));
    CHECK(*saved.statistics.count() == count);
    CHECK(layer.num_batches_tracked() == 1);
    // So many times the same batch has the same mean, biased variance, output and input gradient.
    layer.backward(dy, x, saved, dx);
    LayerJudge<double, State<double>> judge(NormalizedBy::batch, x.numbers(), shape_of(x.extents()),
                                            State<double>(2, {}, {}), size.ranks);
    judge.output(y.numbers());
    judge.gradients(dy.numbers(), dx.numbers(), numbers_of(layer.weight_grad()), numbers_of(layer.bias_grad()));
    check(judge);
    for (std::size_t c = 0; c < 2; ++c) {
      // Unbiased by the count of all: n_glob / (n_glob - 1), not n / (n - 1).
      const double biased = saved.statistics.variance()[c];
      CHECK(layer.running_var()[static_cast<Index>(c)] == biased * count / (count - 1));
    }
  }
}
