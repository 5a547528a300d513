// Ranks that do not come: the others throw when the deadline has passed, and go on in another group.

#include <chrono>
#include <cmath>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "support/activations.hpp"
#include "support/catch.hpp"
#include "support/failing_communicator.hpp"
#include "support/layer_judge.hpp"
#include "support/thread_ranks.hpp"
#include "support/thrown_by.hpp"
#include "support/values.hpp"

namespace {

using namespace syncbn_test;
using std::chrono::milliseconds;
using syncbn::ThreadCommunicator;
using Failing = FailingCommunicator<ThreadCommunicator>;
template <class Communicator>
using Layer = syncbn::BatchNorm<1, syncbn::CpuBackend<double>, Communicator>;

constexpr Index small = 5;    // payload in the first frame
constexpr Index large = 300;  // payload in a frame of its own

// A rank's tensors.
struct Tensors {
  Tensors(int rank, Index channels)
      : x({4, channels}, values(static_cast<std::size_t>(4 * channels), 3 + static_cast<std::uint64_t>(rank))),
        dy({4, channels}, values(static_cast<std::size_t>(4 * channels), 4 + static_cast<std::uint64_t>(rank))),
        y({4, channels}),
        dx({4, channels}) {}
  Activations<double> x, dy, y, dx;
};

template <class Communicator>
std::string forward(Layer<Communicator>& layer, Tensors& t) {
  return thrown_by([&] {
    typename Layer<Communicator>::Saved saved;
    layer.forward(t.x, t.y, saved);
  });
}

// A rank's end: what it threw, whether its group was usable then, and its state against the one before.
struct End {
  std::string thrown = "nothing";
  bool usable = true;
  bool unchanged = false;
  std::string again;
};

}  // namespace

TEST_CASE("a rank that dies at its k-th frame is named by all others", "[deadline]") {
  // Frames of a step forward: 512, or 512 and 2 C + 3.
  for (const auto& scene : {std::pair{small, 1}, {large, 1}, {large, 2}}) {
    const Index channels = scene.first;
    const auto dies_at = static_cast<std::size_t>(scene.second);
    INFO(channels << " channels, dies at frame " << dies_at);
    auto group = ThreadCommunicator::create(4);
    group[0].set_timeout(milliseconds(100));
    std::vector<End> ends(4);
    {
      std::vector<std::jthread> threads;
      for (std::size_t r = 0; r < 4; ++r) {
        threads.emplace_back([&, r] {
          Fault fault;
          if (r == 2) {
            fault.kind = Fault::Kind::dies;
            fault.at = dies_at;
          }
          Failing c(group[r], fault);
          Layer<Failing> layer(channels, {}, c);
          layer.set_name("stem");
          scramble(layer);
          const LayerSnapshot before(layer);
          Tensors t(static_cast<int>(r), channels);
          ends[r].thrown = forward(layer, t);
          ends[r].usable = c.usable();
          ends[r].unchanged = LayerSnapshot(layer) == before;
          if (r != 2) ends[r].again = forward(layer, t);
        });
      }
    }
    CHECK(ends[2].thrown == "another exception: this rank died on cue");
    for (const std::size_t r : {0U, 1U, 3U}) {
      INFO("rank " << r);
      const std::string where =
          "CommunicatorError: forward of layer 'stem', exchange 0, rank " + std::to_string(r) + " of 4: ";
      CHECK(ends[r].thrown == where + "no answer within 0.100000 s from rank 2");
      CHECK_FALSE(ends[r].usable);
      CHECK(ends[r].unchanged);
      CHECK(ends[r].again == ends[r].thrown);
    }
  }
}

TEST_CASE("a rank that dies in the error round, in the second round, or backward", "[deadline]") {
  struct Scene {
    const char* name;
    std::size_t dies_at;
    bool one_fails, constant, backward;
  };
  for (const Scene& scene : {Scene{"error round, first frame", 2, true, false, false},
                             Scene{"error round, second frame", 3, true, false, false},
                             Scene{"second round", 2, false, true, false}, Scene{"backward", 2, false, false, true}}) {
    INFO(scene.name);
    auto group = ThreadCommunicator::create(3);
    group[0].set_timeout(milliseconds(100));
    std::vector<End> ends(3);
    {
      std::vector<std::jthread> threads;
      for (std::size_t r = 0; r < 3; ++r) {
        threads.emplace_back([&, r] {
          Fault fault;
          if (r == 0) {
            fault.kind = Fault::Kind::dies;
            fault.at = scene.dies_at;
          }
          Failing c(group[r], fault);
          Layer<Failing> layer(small, {}, c);
          Tensors t(static_cast<int>(r), small);
          if (scene.constant) t.x = Activations<double>({4, small}, Numbers(20, 0.1L));
          if (scene.one_fails && r == 1) t.x = Activations<double>({4, small + 1});
          LayerSnapshot before(layer);
          ends[r].thrown = thrown_by([&] {
            Layer<Failing>::Saved saved;
            layer.forward(t.x, t.y, saved);
            before = LayerSnapshot(layer);
            if (scene.backward) layer.backward(t.dy, t.x, saved, t.dx);
          });
          ends[r].unchanged = LayerSnapshot(layer) == before;
        });
      }
    }
    CHECK(ends[0].thrown == "another exception: this rank died on cue");
    for (const std::size_t r : {1U, 2U}) {
      CHECK(ends[r].thrown.find(std::string("CommunicatorError: ") + (scene.backward ? "backward" : "forward")) == 0);
      CHECK(ends[r].thrown.find("no answer within 0.100000 s from rank 0") != std::string::npos);
      CHECK(ends[r].unchanged);
    }
  }
}

TEST_CASE("those who are left go on in another group, from the state before the fault", "[deadline]") {
  auto group = ThreadCommunicator::create(3);
  auto survivors = ThreadCommunicator::create(2);
  group[0].set_timeout(milliseconds(100));
  std::vector<std::string> thrown(3);
  std::vector<Numbers> y(3), mean(3);
  {
    std::vector<std::jthread> threads;
    for (std::size_t r = 0; r < 3; ++r) {
      threads.emplace_back([&, r] {
        Layer<ThreadCommunicator> layer(small, {}, group[r]);
        Tensors t(static_cast<int>(r), small);
        thrown[r] = forward(layer, t);
        if (r == 1) return;  // dies
        thrown[r] += "; " + forward(layer, t).substr(0, 17);
        layer.set_communicator(survivors[r / 2]);
        thrown[r] += "; " + forward(layer, t);
        thrown[r] += "; " + forward(layer, t);
        thrown[r] += "; exchange " + std::to_string(layer.exchange().sequence());
        y[r] = t.y.numbers();
        mean[r] = numbers_of(layer.running_mean());
      });
    }
  }
  CHECK(thrown[1] == "nothing");
  for (const std::size_t r : {0U, 2U}) {
    CHECK(thrown[r] == "nothing; CommunicatorError; nothing; nothing; exchange 2");
  }
  CHECK(mean[0] == mean[2]);

  // As two ranks alone: three steps, of which the first had a third rank's samples too.
  Numbers x;
  for (const int r : {0, 2}) {
    const Numbers part = Tensors(r, small).x.numbers();
    x.insert(x.end(), part.begin(), part.end());
  }
  const oracle::Shape shape{8, 5, 1};
  const oracle::Statistics exact = oracle::statistics(x, shape);
  const LayerBounds bounds = LayerBounds::of_batch<double, double>(x, shape, {}, {}, 1e-5, 2);
  Numbers together = y[0];
  together.insert(together.end(), y[2].begin(), y[2].end());
  Comparison comparison;
  comparison.add("y", together, oracle::normalize(x, shape, exact, {}, {}, 1e-5), shape,
                 [&](std::size_t i, std::size_t c) { return bounds.y(i, c); });
  INFO(comparison.place());
  CHECK(comparison.worst() <= 1);
}

TEST_CASE("a layer whose group has failed is destroyed at once, and its frames stay as long as a late rank may write",
          "[deadline]") {
  auto group = ThreadCommunicator::create(2);
  group[0].set_timeout(milliseconds(20));
  auto late = std::make_optional<Layer<ThreadCommunicator>>(large, syncbn::BatchNormOptions{}, group[1]);
  Tensors t(0, large);
  {
    Layer<ThreadCommunicator> layer(large, {}, group[0]);
    CHECK(forward(layer, t).find("no answer within") != std::string::npos);
    group[0].set_timeout(std::chrono::minutes(10));  // whoever waits now, waits for long
  }
  group.erase(group.begin());  // nobody holds rank 0 any more
  // The late rank comes, is refused, and has nothing left of it.
  CHECK(forward(*late, t).find("CommunicatorError: ") == 0);
  CHECK_FALSE(late->communicator().usable());
  late.reset();
}

TEST_CASE("a rank that comes late is wholly before or wholly after the step", "[deadline]") {
  // Rank 1 waits until rank 0 has given up.
  auto group = ThreadCommunicator::create(2);
  group[0].set_timeout(milliseconds(20));
  Layer<ThreadCommunicator> a(small, {}, group[0]), b(small, {}, group[1]);
  const LayerSnapshot before(b);
  Tensors t(0, small);
  CHECK(forward(a, t).find("from rank 1") != std::string::npos);
  CHECK(LayerSnapshot(a) == before);
  const std::string thrown = forward(b, t);
  CHECK((LayerSnapshot(b) == before) == (thrown != "nothing"));
  CHECK(forward(b, t).find("CommunicatorError") == 0);
}

TEST_CASE("a fabric that reports an error: the rank throws it with the place, the state is as before", "[deadline]") {
  for (const Fault::Kind kind : {Fault::Kind::throws_at_start, Fault::Kind::throws_at_finish}) {
    for (const std::size_t frame : {1U, 2U}) {
      INFO((kind == Fault::Kind::throws_at_start ? "start" : "finish") << " of frame " << frame);
      const auto ends = on_thread_ranks(2, [&](ThreadCommunicator group) {
        Fault fault;
        if (group.rank() == 1) fault = {kind, frame, milliseconds(0), {}};
        Failing c(group, fault);
        Layer<Failing> layer(large, {}, c);
        layer.set_name("stem");
        const LayerSnapshot before(layer);
        Tensors t(group.rank(), large);
        End end;
        end.thrown = forward(layer, t);
        end.unchanged = LayerSnapshot(layer) == before;
        return end;
      });
      CHECK(ends[1].thrown == std::string("CommunicatorError: forward of layer 'stem', exchange 0, rank 1 of 2: ") +
                                  (kind == Fault::Kind::throws_at_start ? "start" : "finish") + " failed on cue");
      CHECK(ends[1].unchanged);
      // The other has not heard of it: it is before the step, or, when all frames had been sent, after it.
      const bool complete = kind == Fault::Kind::throws_at_finish && frame == 2;
      if (complete) {
        CHECK(ends[0].thrown == "nothing");
        CHECK_FALSE(ends[0].unchanged);
      } else {
        CHECK(ends[0].thrown.find("rank 1 has left the group") != std::string::npos);
        CHECK(ends[0].unchanged);
      }
    }
  }
}

TEST_CASE("ranks that lag, but come, change no bit", "[deadline]") {
  const auto run = [](int slow) {
    return on_thread_ranks(3, [&](ThreadCommunicator group) {
      Fault fault;
      fault.delay = milliseconds(group.rank() == slow ? 2 : 0);
      Layer<Failing> layer(large, {}, Failing(group, fault));
      Tensors t(group.rank(), large);
      Layer<Failing>::Saved saved;
      Numbers result;
      for (int step = 0; step < 3; ++step) {
        layer.forward(t.x, t.y, saved);
        layer.backward(t.dy, t.x, saved, t.dx);
        for (const Numbers& n : {t.y.numbers(), t.dx.numbers(), numbers_of(layer.running_var())}) {
          result.insert(result.end(), n.begin(), n.end());
        }
      }
      return result;
    });
  };
  const auto prompt = run(-1);
  for (const int slow : {0, 1, 2}) CHECK(run(slow) == prompt);
}

TEST_CASE("a layer in evaluation serves on, whatever has become of its group", "[deadline]") {
  auto group = ThreadCommunicator::create(2);
  group[1].leave("gone");
  Layer<ThreadCommunicator> layer(small, {}, group[0]);
  Tensors t(0, small);
  CHECK(forward(layer, t).find("rank 1 left with an error: gone") != std::string::npos);
  CHECK(thrown_by([&] { layer.infer(t.x, t.y); }) == "nothing");
  layer.eval();
  CHECK(forward(layer, t) == "nothing");
  Layer<ThreadCommunicator> copy = layer;
  CHECK(forward(copy, t) == "nothing");
}
