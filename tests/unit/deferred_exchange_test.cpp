// Layers whose errors are deferred, on threads: the bits of the others, and what remains after a bad end.

#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "conformance/outcomes.hpp"
#include "support/activations.hpp"
#include "support/catch.hpp"
#include "support/deferred_communicator.hpp"
#include "support/layer_judge.hpp"
#include "support/thread_ranks.hpp"
#include "support/thrown_by.hpp"
#include "support/values.hpp"

using namespace syncbn_test;

namespace {

using syncbn::ThreadCommunicator;
using Deferred = DeferredCommunicator<ThreadCommunicator>;
using Backend = syncbn::CpuBackend<float>;
template <class Communicator>
using LayerOf = syncbn::BatchNorm<1, Backend, Communicator>;
using Layer = LayerOf<Deferred>;

constexpr Index channels = 5;

// A rank's part of a batch. Channel 3 is constant, so that its deviation is seen by centred sums alone.
Activations<float> input(int rank, Index samples = 4, Index of_channels = channels) {
  Numbers numbers =
      values(static_cast<std::size_t>(samples * of_channels), 20 + static_cast<std::uint64_t>(rank), 0.5L, 2);
  for (std::size_t i = 3; i < numbers.size(); i += static_cast<std::size_t>(of_channels)) numbers[i] = 330000.03L;
  return {{samples, of_channels}, numbers, Layout::contiguous};
}

void append(std::vector<double>& all, const Numbers& numbers) {
  for (const Number value : numbers) all.push_back(static_cast<double>(value));
}

template <class AnyLayer>
std::vector<double> state_of(AnyLayer& layer) {
  std::vector<double> all;
  for (const auto& view : {layer.weight(), layer.bias(), layer.weight_grad(), layer.bias_grad(), layer.running_mean(),
                           layer.running_var()}) {
    append(all, numbers_of(view));
  }
  all.push_back(static_cast<double>(layer.num_batches_tracked()));
  return all;
}

bool all_nan(const Activations<float>& tensor) {
  for (const Number value : tensor.numbers()) {
    if (!std::isnan(value)) return false;
  }
  return true;
}

// Three steps; what each leaves.
template <class Communicator>
std::vector<double> three_steps(Communicator communicator) {
  LayerOf<Communicator> layer(channels, {.momentum = {}}, communicator);
  scramble(layer);
  const auto x = input(communicator.rank(), communicator.rank() == 1 ? 0 : 4);
  Activations<float> y(x.extents()), dx(x.extents());
  std::vector<double> all;
  for (int step = 0; step < 3; ++step) {
    const auto saved = layer.forward(x, y);
    layer.backward(y, x, saved, dx);
    append(all, y.numbers());
    append(all, dx.numbers());
    layer.backward(y, x, saved, syncbn::no_gradient);
    const auto state = state_of(layer);
    all.insert(all.end(), state.begin(), state.end());
  }
  return all;
}

// A layer on each of 3 ranks, which has done a step, and does another one that ends badly by what `spoil` does.
struct Spoiled {
  std::vector<double> before, after;
  std::string thrown;  // by forward() or synchronize()
  std::string again;   // by a second synchronize()
  bool nan_y = false;  // where forward() returned
  bool goes_on = false;
};
using Spoil = std::function<std::string(Layer&, Activations<float>& y)>;
std::vector<Spoiled> spoil_a_step(const Spoil& spoil) {
  return on_thread_ranks(3, [&](ThreadCommunicator communicator) {
    Layer layer(channels, {}, Deferred(communicator));
    const auto x = input(communicator.rank());
    Activations<float> y(x.extents()), dx(x.extents());
    layer.backward(x, x, layer.forward(x, y), dx);
    layer.synchronize();
    Spoiled result;
    result.before = state_of(layer);
    result.thrown = spoil(layer, y);
    result.nan_y = all_nan(y);
    result.after = state_of(layer);
    result.again = thrown_by([&] { layer.synchronize(); });
    layer.communicator().tamper({});
    layer.backward(x, x, layer.forward(x, y), dx);
    layer.synchronize();
    result.goes_on = !all_nan(y) && !all_nan(dx) && layer.num_batches_tracked() == 2;
    return result;
  });
}
void check_nothing_happened(const std::vector<Spoiled>& ranks) {
  for (const Spoiled& rank : ranks) {
    CHECK(same_bits(rank.before, rank.after));
    CHECK(rank.again == "nothing");
    CHECK(rank.goes_on);
  }
}

std::string forward_and_wait(Layer& layer, const Activations<float>& x, Activations<float>& y) {
  return thrown_by([&] {
    Layer::Saved saved;
    layer.forward(x, y, saved);
    layer.synchronize();
  });
}

// Whose launches fail, on a thread that is told so, after some that do not.
class FailingBackend : public Backend {
 public:
  static int& launches_left() {
    static thread_local int value = -1;
    return value;
  }
  template <class F>
  void for_each_channel(Index n, const F& f) {
    if (launches_left() >= 0 && launches_left()-- == 0) throw syncbn::Error("no launch");
    Backend::for_each_channel(n, f);
  }
};

}  // namespace

TEST_CASE("deferred: a launch that fails on one rank costs no sum", "[deferred]") {
  // Whichever of the launches of a forward pass it is, up to the second sum: the ranks stay together.
  for (int launches = 0; launches < 3; ++launches) {
    INFO("after " << launches << " launches");
    const auto ranks = on_thread_ranks(2, [&](ThreadCommunicator communicator) {
      using Failing = syncbn::BatchNorm<1, FailingBackend, Deferred>;
      Failing layer(channels, {}, Deferred(communicator));
      const auto x = input(communicator.rank());
      Activations<float> y(x.extents());
      Failing::Saved saved;
      const auto before = state_of(layer);
      if (communicator.rank() == 1) FailingBackend::launches_left() = launches;
      const std::string thrown = thrown_by([&] {
        layer.forward(x, y, saved);
        layer.synchronize();
      });
      FailingBackend::launches_left() = -1;
      const bool same = same_bits(before, state_of(layer));
      layer.forward(x, y, saved);
      layer.synchronize();
      return std::tuple(thrown, same, layer.num_batches_tracked());
    });
    for (const auto& [thrown, same, batches] : ranks) {
      CHECK(thrown != "nothing");
      CHECK(same);
      CHECK(batches == 1);
    }
  }
}

TEST_CASE("deferred: a step has the bits of one with immediate errors", "[deferred]") {
  const auto immediate = on_thread_ranks(3, [](ThreadCommunicator c) { return three_steps(c); });
  const auto deferred = on_thread_ranks(3, [](ThreadCommunicator c) { return three_steps(Deferred(c)); });
  for (std::size_t r = 0; r < 3; ++r) CHECK(same_bits(immediate[r], deferred[r]));
}

TEST_CASE("deferred: a rank that fails throws in its call, the others later, and nothing has changed", "[deferred]") {
  const auto ranks = spoil_a_step([](Layer& layer, Activations<float>& y) {
    const int rank = layer.communicator().rank();
    return forward_and_wait(layer, input(rank, 4, rank == 1 ? channels + 1 : channels), y);
  });
  check_nothing_happened(ranks);
  CHECK(ranks[1].thrown == "Error: running_mean should contain 6 elements not 5 (x has 6 channels)");
  for (const std::size_t r : {std::size_t{0}, std::size_t{2}}) {
    CHECK(ranks[r].nan_y);
    CHECK(ranks[r].thrown ==
          "Error: an exchange was given up because rank 1 failed, which has thrown why [layer '#0', "
          "exchange 2, rank " +
              std::to_string(r) + " of 3]");
  }
}

TEST_CASE("deferred: one value per channel on all ranks is an error", "[deferred]") {
  const auto ranks = spoil_a_step([](Layer& layer, Activations<float>& y) {
    const int rank = layer.communicator().rank();
    const auto x = input(rank, rank == 2 ? 1 : 0);
    Activations<float> z(x.extents());
    const std::string thrown = forward_and_wait(layer, x, z);
    if (rank == 2) y = Activations<float>({4, channels}, Numbers(4 * channels, z.numbers()[0]), Layout::contiguous);
    return thrown;
  });
  check_nothing_happened(ranks);
  CHECK(ranks[2].nan_y);
  for (const Spoiled& rank : ranks) {
    CHECK(rank.thrown ==
          "ShapeError: Expected more than 1 value per channel when training, got input size 1 (over all 3 ranks)");
  }
}

TEST_CASE("deferred: ranks that differ, in calls or in counters, disagree", "[deferred]") {
  const auto other_eps = spoil_a_step([](Layer& layer, Activations<float>& y) {
    if (layer.communicator().rank() == 2) layer.set_eps(0.5);
    const std::string thrown = forward_and_wait(layer, input(layer.communicator().rank()), y);
    layer.set_eps(1e-5);
    return thrown;
  });
  check_nothing_happened(other_eps);
  const auto other_counter = spoil_a_step([](Layer& layer, Activations<float>& y) {
    if (layer.communicator().rank() == 0) layer.set_num_batches_tracked(7);
    const std::string thrown = forward_and_wait(layer, input(layer.communicator().rank()), y);
    layer.set_num_batches_tracked(1);
    return thrown;
  });
  check_nothing_happened(other_counter);
  for (std::size_t r = 0; r < 3; ++r) {
    const std::string expected = "Error: ranks disagree about what they are calling [layer '#0', exchange 2, rank " +
                                 std::to_string(r) + " of 3]";
    CHECK(other_eps[r].thrown == expected);
    CHECK(other_counter[r].thrown == expected);
    CHECK(other_eps[r].nan_y);
  }
}

TEST_CASE("deferred: frames that met something else are condemned, the second ones too", "[deferred]") {
  for (const int which : {0, 1}) {
    for (const bool at_the_end : {false, true}) {
      INFO("frame " << which << (at_the_end ? ", at its end" : ""));
      const auto ranks = spoil_a_step([&](Layer& layer, Activations<float>& y) {
        auto seen = std::make_shared<int>(0);
        layer.communicator().tamper([=](double* words, Index size) {
          if ((*seen)++ == which) words[at_the_end ? size - 1 : 0] += 1;
        });
        return forward_and_wait(layer, input(layer.communicator().rank()), y);
      });
      check_nothing_happened(ranks);
      for (const Spoiled& rank : ranks) {
        CHECK(rank.nan_y);
        CHECK(rank.thrown.starts_with("CommunicatorError: frames of different exchanges met in one sum [layer '#0'"));
      }
    }
  }
}

TEST_CASE("deferred: gradients of a bad backward are not added", "[deferred]") {
  const auto ranks = on_thread_ranks(2, [](ThreadCommunicator communicator) {
    Layer layer(channels, {}, Deferred(communicator));
    const auto x = input(communicator.rank());
    Activations<float> y(x.extents()), dx(x.extents());
    const auto saved = layer.forward(x, y);
    const auto before = state_of(layer);
    const auto wrong = input(communicator.rank(), 3);
    const bool fails = communicator.rank() == 1;
    const std::string thrown = thrown_by([&] { layer.backward(fails ? wrong : x, x, saved, dx); });
    const bool same = same_bits(before, state_of(layer));
    const std::string later = thrown_by([&] { layer.synchronize(); });
    layer.backward(x, x, saved, dx);
    return std::tuple(thrown, same, later, all_nan(dx), same_bits(before, state_of(layer)));
  });
  CHECK(std::get<0>(ranks[0]).starts_with("Error: an exchange was given up because rank 1 failed"));
  CHECK(std::get<0>(ranks[1]) == "ShapeError: dy has shape [3, 5], but x has [4, 5]");
  for (const auto& [thrown, same, later, nan, same_at_last] : ranks) {
    CHECK(same);
    CHECK(later == "nothing");
    CHECK_FALSE(nan);
    CHECK_FALSE(same_at_last);
  }
}

TEST_CASE("deferred: backward after a forward that ended badly adds nothing", "[deferred]") {
  const auto ranks = on_thread_ranks(2, [](ThreadCommunicator communicator) {
    Layer layer(channels, {}, Deferred(communicator));
    const auto x = input(communicator.rank());
    Activations<float> y(x.extents()), dx(x.extents());
    const auto before = state_of(layer);
    // On both ranks, so that both have the statistics of a bad end and call backward.
    layer.communicator().tamper([](double* words, Index) { words[0] += 1; });
    Layer::Saved saved;
    const std::string thrown = thrown_by([&] { layer.forward(x, y, saved); });
    layer.communicator().tamper({});
    layer.backward(x, x, saved, dx);
    layer.synchronize();
    return std::tuple(thrown, all_nan(y), all_nan(dx), same_bits(before, state_of(layer)));
  });
  for (const auto& [thrown, nan_y, nan_dx, same] : ranks) {
    CHECK(thrown.starts_with("CommunicatorError: frames of different exchanges"));
    CHECK(nan_y);
    CHECK(nan_dx);
    CHECK(same);
  }
}

TEST_CASE("deferred: sums that go on after a group was given up are not used", "[deferred]") {
  const auto ranks = on_thread_ranks(2, [](ThreadCommunicator communicator) {
    Layer layer(channels, {}, Deferred(communicator));
    const auto x = input(communicator.rank());
    Activations<float> y(x.extents());
    Layer::Saved saved;
    layer.forward(x, y, saved);
    const auto before = state_of(layer);
    // Behind the back of the host: as a watchdog would between two frames.
    Deferred handle = layer.communicator();
    layer.communicator().tamper([&handle](double*, Index) { handle.give_up(); });
    const std::string first = thrown_by([&] { layer.forward(x, y, saved); });
    const std::string second = thrown_by([&] { layer.forward(x, y, saved); });
    return std::tuple(first, second, all_nan(y), same_bits(before, state_of(layer)));
  });
  for (std::size_t r = 0; r < 2; ++r) {
    const auto& [first, second, nan, same] = ranks[r];
    const std::string where = "CommunicatorError: forward of layer '#0', rank " + std::to_string(r) + " of 2: ";
    CHECK(first == where + "the group was given up");
    CHECK(second == where + "the communicator is not usable any more");
    CHECK(nan);
    CHECK(same);
  }
}

TEST_CASE("deferred: copies and other groups count for themselves", "[deferred]") {
  const auto ranks = on_thread_ranks(2, [](ThreadCommunicator communicator) {
    const Deferred deferred(communicator);
    Layer layer(channels, {}, deferred);
    const auto x = input(communicator.rank());
    Activations<float> y(x.extents()), z(x.extents());
    Layer::Saved saved;
    layer.forward(x, y, saved);
    Layer copy = layer;
    copy.forward(x, z, saved);
    layer.forward(x, y, saved);
    LayerOf<ThreadCommunicator> immediate = syncbn::convert_sync_batchnorm(layer, communicator);
    immediate.forward(x, z, saved);
    Layer back = syncbn::convert_sync_batchnorm(immediate, deferred);
    back.set_communicator(deferred);
    back.forward(x, z, saved);
    back.synchronize();
    syncbn::LazyBatchNorm<1, Backend, Deferred> lazy({}, deferred);
    lazy.forward(x, z, saved);
    return std::vector<double>{static_cast<double>(copy.num_batches_tracked()),
                               static_cast<double>(layer.num_batches_tracked()),
                               static_cast<double>(back.num_batches_tracked()), lazy.is_materialized() ? 1.0 : 0.0};
  });
  for (const auto& rank : ranks) CHECK(rank == std::vector<double>{2, 2, 4, 1});
}

TEST_CASE("deferred: a report is one word", "[deferred]") {
  using syncbn::detail::Ending;
  using syncbn::detail::Report;
  for (const Report report : {Report{Ending::failure, 24799, (std::int64_t{1} << 34) - 1},
                              Report{Ending::single_value, 0, 0}, Report{Ending::mixed_up, 1, 77}}) {
    const Report read = Report::of(report.word());
    CHECK(report.word() != 0);
    CHECK(read.ending == report.ending);
    CHECK(read.rank == report.rank);
    CHECK(read.sequence == report.sequence);
  }
}
