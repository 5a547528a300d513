// Whatever goes wrong on one rank, every rank throws, none hangs, and the next step works.

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "support/activations.hpp"
#include "support/catch.hpp"
#include "support/failing_new.hpp"
#include "support/layer_judge.hpp"
#include "support/thread_ranks.hpp"
#include "support/thrown_by.hpp"
#include "support/values.hpp"

namespace syncbn_test {

/// @brief Counts down on one thread; at 0 something throws.
class Cue {
 public:
  void set(int calls) { left_ = calls; }
  void count() {
    if (left_ > 0 && --left_ == 0) throw std::runtime_error("failed on cue");
  }

 private:
  int left_ = 0;  // 0: never
};

/// @brief Throws when it is asked to run for the k-th time.
class FailingExecutor {
 public:
  FailingExecutor() : cue_(std::make_shared<Cue>()) {}
  Cue& cue() const { return *cue_; }

  template <class Task>
  void run(Index tasks, const Task& task) const {
    cue_->count();
    syncbn::SerialExecutor().run(tasks, task);
  }

 private:
  std::shared_ptr<Cue> cue_;
};

/// @brief A tensor whose trait throws when it is asked for the k-th time.
struct FailingTensor {
  syncbn::TensorView<float> view;
  Cue* cue;
};

}  // namespace syncbn_test

template <>
struct syncbn::tensor_traits<syncbn_test::FailingTensor> {
  static TensorView<float> view(const syncbn_test::FailingTensor& t) {
    t.cue->count();
    return t.view;
  }
};

namespace {

using namespace syncbn_test;
using syncbn::ThreadCommunicator;

constexpr Index small = 5;    // payload in the first frame
constexpr Index large = 300;  // payload in a frame of its own

// A rank of a layer, with its tensors.
template <class Backend>
struct Rank {
  using Layer = syncbn::BatchNorm<1, Backend, ThreadCommunicator>;

  Rank(ThreadCommunicator c, Index channels, Backend backend = Backend())
      : communicator(c),
        layer(channels, {}, c, std::move(backend)),
        x({3, channels, 2}, values(static_cast<std::size_t>(6 * channels), 7 + static_cast<std::uint64_t>(c.rank()))),
        dy({3, channels, 2}, values(static_cast<std::size_t>(6 * channels), 70 + static_cast<std::uint64_t>(c.rank()))),
        y({3, channels, 2}),
        dx({3, channels, 2}) {
    scramble(layer);
  }

  void forward() { layer.forward(x, y, saved); }
  void backward() { layer.backward(dy, x, saved, dx); }

  // What f throws. A rank that leaves alone would be waited for: the others are told at once.
  template <class F>
  std::string thrown(const F& f) {
    std::string text = thrown_by(f);
    if (text != "nothing" && text.find("[rank ") == std::string::npos) communicator.leave("alone: " + text);
    return text;
  }

  ThreadCommunicator communicator;
  Layer layer;
  typename Layer::Saved saved;
  Activations<float> x, dy, y, dx;
};

// What a rank came to: exceptions, and whether its state is what it should be.
struct Result {
  std::vector<std::string> thrown;
  bool unchanged = true;
  std::string afterwards;
  std::size_t allocations = 0;
};

// A whole step, after which the layer's numbers must be finite and equal on all ranks.
template <class Backend>
std::string next_step(Rank<Backend>& rank) {
  return thrown_by([&] {
    rank.forward();
    rank.backward();
    for (const Number value : rank.y.numbers()) {
      if (!std::isfinite(value)) throw std::runtime_error("y is not finite");
    }
  });
}

void check_all_threw(const std::vector<Result>& results, const std::string& text) {
  for (std::size_t r = 0; r < results.size(); ++r) {
    INFO("rank " << r);
    for (const std::string& thrown : results[r].thrown) CHECK(thrown == text);
    CHECK(results[r].unchanged);
    CHECK(results[r].afterwards == "nothing");
  }
}

}  // namespace

TEST_CASE("an executor that fails while one rank accumulates", "[agreement]") {
  using Backend = syncbn::CpuBackend<float, FailingExecutor>;
  for (const Index channels : {small, large}) {
    for (const bool waits : {true, false}) {
      for (const bool forward : {true, false}) {
        INFO(channels << " channels, " << (forward ? "forward" : "backward") << (waits ? "" : ", without waiting"));
        const auto results = on_thread_ranks(3, [&](ThreadCommunicator c) {
          const FailingExecutor executor;
          Rank<Backend> rank(c, channels, Backend(executor));
          rank.layer.exchange().set_waits_for_header(waits);
          if (!forward) rank.forward();
          const LayerSnapshot before(rank.layer);
          if (c.rank() == 1) executor.cue().set(1);
          Result result;
          result.thrown.push_back(rank.thrown([&] { forward ? rank.forward() : rank.backward(); }));
          result.unchanged = LayerSnapshot(rank.layer) == before;
          result.afterwards = next_step(rank);
          return result;
        });
        check_all_threw(results, "Error: failed on cue [rank 1 of 3] [layer '#0']");
      }
    }
  }
}

TEST_CASE("a rank that fails after the exchange is one step behind, and the next header tells", "[agreement]") {
  using Backend = syncbn::CpuBackend<float, FailingExecutor>;
  const auto results = on_thread_ranks(2, [&](ThreadCommunicator c) {
    const FailingExecutor executor;
    Rank<Backend> rank(c, small, Backend(executor));
    if (c.rank() == 1) executor.cue().set(2);  // accumulates, and fails to normalize
    Result result;
    result.thrown.push_back(thrown_by([&] { rank.forward(); }));
    result.thrown.push_back(thrown_by([&] { rank.forward(); }));
    // Rank 1 is wholly before the step: it can be brought to where rank 0 is.
    if (c.rank() == 1) rank.layer.set_num_batches_tracked(rank.layer.num_batches_tracked() + 1);
    result.afterwards = next_step(rank);
    return result;
  });
  CHECK(results[0].thrown[0] == "nothing");
  CHECK(results[1].thrown[0] == "another exception: failed on cue");
  for (const Result& result : results) {
    CHECK(result.thrown[1].find("Error: ranks disagree") == 0);
    CHECK(result.thrown[1].find("num_batches_tracked 4 [rank 0 of 2]") != std::string::npos);
    CHECK(result.thrown[1].find("num_batches_tracked 3 [rank 1 of 2]") != std::string::npos);
    CHECK(result.afterwards == "nothing");
  }
}

TEST_CASE("a tensor's trait that fails on one rank, whenever it is asked", "[agreement]") {
  using Backend = syncbn::CpuBackend<float>;
  for (const bool forward : {true, false}) {
    const int tensors = forward ? 2 : 3;
    for (int call = 1; call <= tensors; ++call) {
      INFO((forward ? "forward" : "backward") << ", call " << call);
      const auto results = on_thread_ranks(2, [&](ThreadCommunicator c) {
        Rank<Backend> rank(c, small);
        Cue cue;
        const FailingTensor x{rank.x.view(), &cue}, dy{rank.dy.view(), &cue};
        FailingTensor y{rank.y.view(), &cue}, dx{rank.dx.view(), &cue};
        if (!forward) rank.forward();
        const LayerSnapshot before(rank.layer);
        if (c.rank() == 1) cue.set(call);
        Result result;
        result.thrown.push_back(rank.thrown(
            [&] { forward ? rank.layer.forward(x, y, rank.saved) : rank.layer.backward(dy, x, rank.saved, dx); }));
        result.unchanged = LayerSnapshot(rank.layer) == before;
        result.afterwards = next_step(rank);
        return result;
      });
      check_all_threw(results, "Error: failed on cue [rank 1 of 2] [layer '#0']");
    }
    // Each tensor is asked once: a trait has no chance to fail after the exchange.
    const auto results = on_thread_ranks(2, [&](ThreadCommunicator c) {
      Rank<Backend> rank(c, small);
      Cue cue;
      const FailingTensor x{rank.x.view(), &cue}, dy{rank.dy.view(), &cue};
      FailingTensor y{rank.y.view(), &cue}, dx{rank.dx.view(), &cue};
      if (!forward) rank.forward();
      if (c.rank() == 1) cue.set(tensors + 1);
      Result result;
      result.thrown.push_back(rank.thrown(
          [&] { forward ? rank.layer.forward(x, y, rank.saved) : rank.layer.backward(dy, x, rank.saved, dx); }));
      return result;
    });
    for (const Result& result : results) CHECK(result.thrown[0] == "nothing");
  }
}

namespace {

// The passes in which an allocation may fail.
enum class Pass { forward, forward_with_new_memory, backward, forward_without_update };

const char* name(Pass pass) {
  switch (pass) {
    case Pass::forward:
      return "forward";
    case Pass::forward_with_new_memory:
      return "forward with new memory";
    case Pass::backward:
      return "backward";
    case Pass::forward_without_update:
      return "forward without update";
  }
  return "";
}

template <class Backend>
void run_pass(Rank<Backend>& rank, Pass pass) {
  switch (pass) {
    case Pass::forward:
      rank.forward();
      break;
    case Pass::forward_with_new_memory:
      static_cast<void>(rank.layer.forward(rank.x, rank.y));
      break;
    case Pass::backward:
      rank.backward();
      break;
    case Pass::forward_without_update:
      rank.layer.forward_without_update(rank.x, rank.y, rank.saved);
      break;
  }
}

// A layer's first pass of its kind, in which rank 1 gets no memory the k-th time it asks.
std::vector<Result> without_memory(Index channels, Pass pass, bool waits, std::size_t k) {
  return on_thread_ranks(2, [&](ThreadCommunicator c) {
    Rank<syncbn::CpuBackend<float>> rank(c, channels);
    rank.layer.exchange().set_waits_for_header(waits);
    if (pass == Pass::backward) rank.forward();
    const LayerSnapshot before(rank.layer);
    Result result;
    result.thrown.push_back(rank.thrown([&] {
      if (c.rank() == 1) FailingNew::fail_at(k);
      try {
        run_pass(rank, pass);
      } catch (...) {
        FailingNew::stop();
        throw;
      }
      result.allocations = FailingNew::stop();
    }));
    result.unchanged = LayerSnapshot(rank.layer) == before;
    result.afterwards = next_step(rank);
    return result;
  });
}

}  // namespace

TEST_CASE("one rank gets no memory, whenever it asks for some", "[agreement]") {
  for (const Pass pass : {Pass::forward, Pass::forward_with_new_memory, Pass::forward_without_update, Pass::backward}) {
    for (const Index channels : {small, large}) {
      for (const bool waits : {true, false}) {
        bool failed = true;
        for (std::size_t k = 1; failed && k < 100; ++k) {
          INFO(name(pass) << ", " << channels << " channels" << (waits ? "" : ", without waiting") << ", allocation "
                          << k);
          const std::vector<Result> results = without_memory(channels, pass, waits, k);
          failed = results[1].thrown[0] != "nothing";
          if (failed) {
            check_all_threw(results, "Error: std::bad_alloc [rank 1 of 2] [layer '#0']");
          } else {
            CHECK(results[0].thrown[0] == "nothing");
          }
        }
        CHECK_FALSE(failed);
      }
    }
  }
}

TEST_CASE("a step takes no memory once a step of its size was done", "[agreement]") {
  for (const Index channels : {small, large}) {
    INFO(channels << " channels");
    const auto allocations = on_thread_ranks(2, [&](ThreadCommunicator c) {
      Rank<syncbn::CpuBackend<float>> rank(c, channels);
      rank.forward();
      rank.backward();
      std::vector<std::size_t> counts;
      for (const Pass pass : {Pass::forward, Pass::forward_without_update, Pass::backward}) {
        FailingNew::watch();
        run_pass(rank, pass);
        counts.push_back(FailingNew::stop());
      }
      return counts;
    });
    for (const auto& counts : allocations) CHECK(counts == std::vector<std::size_t>{0, 0, 0});
  }
}

TEST_CASE("several ranks fail, each in its own way: the lowest is heard", "[agreement]") {
  const auto results = on_thread_ranks(4, [](ThreadCommunicator c) {
    Rank<syncbn::CpuBackend<float>> rank(c, small);
    const LayerSnapshot before(rank.layer);
    Activations<float> wrong_channels({2, 4, 2}), wrong_rank({2, 5, 1, 1});
    Result result;
    result.thrown.push_back(rank.thrown([&] {
      if (c.rank() == 3) rank.layer.forward(wrong_channels, wrong_channels, rank.saved);
      if (c.rank() == 2) rank.layer.forward(wrong_rank, wrong_rank, rank.saved);
      if (c.rank() < 2) rank.forward();
    }));
    result.unchanged = LayerSnapshot(rank.layer) == before;
    result.afterwards = next_step(rank);
    return result;
  });
  check_all_threw(results, "ShapeError: expected 2D or 3D input (got 4D input) [rank 2 of 4] [layer '#0']");
}

TEST_CASE("forward on one rank and backward on another", "[agreement]") {
  for (const Index channels : {small, large}) {
    const auto results = on_thread_ranks(3, [&](ThreadCommunicator c) {
      Rank<syncbn::CpuBackend<float>> rank(c, channels);
      rank.forward();
      const LayerSnapshot before(rank.layer);
      Result result;
      result.thrown.push_back(rank.thrown([&] { c.rank() == 2 ? rank.backward() : rank.forward(); }));
      result.unchanged = LayerSnapshot(rank.layer) == before;
      result.afterwards = next_step(rank);
      return result;
    });
    check_all_threw(results, results[0].thrown[0]);
    CHECK(results[0].thrown[0].find("calling: forward of layer '#0', exchange 1") != std::string::npos);
    CHECK(results[0].thrown[0].find("but backward of layer '#0', exchange 1") != std::string::npos);
  }
}

TEST_CASE("64 channels on one rank, 2048 on the other, in the second step", "[agreement]") {
  const auto results = on_thread_ranks(2, [](ThreadCommunicator c) {
    Rank<syncbn::CpuBackend<float>> narrow(c, 64);
    Rank<syncbn::CpuBackend<float>> wide(c, 2048);
    narrow.forward();
    wide.forward();
    const LayerSnapshot before(narrow.layer);
    const LayerSnapshot before_wide(wide.layer);
    Result result;
    for (int attempt = 0; attempt < 3; ++attempt) {  // each time anew
      result.thrown.push_back(narrow.thrown([&] { c.rank() == 0 ? narrow.forward() : wide.forward(); }));
      result.thrown.push_back(narrow.thrown([&] { c.rank() == 0 ? wide.forward() : narrow.forward(); }));
    }
    result.unchanged = LayerSnapshot(narrow.layer) == before && LayerSnapshot(wide.layer) == before_wide;
    result.afterwards = next_step(narrow);
    if (result.afterwards == "nothing") result.afterwards = next_step(wide);
    return result;
  });
  for (const Result& result : results) {
    for (std::size_t i = 0; i < result.thrown.size(); ++i) {
      CHECK(result.thrown[i] == results[0].thrown[i % 2]);
      CHECK(result.thrown[i].find(i % 2 == 0 ? "64 channels" : "2048 channels") <
            result.thrown[i].find(i % 2 == 0 ? "2048 channels" : " 64 channels"));
    }
    CHECK(result.unchanged);
    CHECK(result.afterwards == "nothing");
  }
}

TEST_CASE("64 channels on one rank, 2048 on the other, without waiting for the header: an error, no hang",
          "[agreement]") {
  const auto thrown = on_thread_ranks(2, [](ThreadCommunicator c) {
    Rank<syncbn::CpuBackend<float>> rank(c, c.rank() == 0 ? 64 : 2048);
    rank.layer.exchange().set_waits_for_header(false);
    const LayerSnapshot before(rank.layer);
    const std::string text = thrown_by([&] { rank.forward(); });
    return text + (LayerSnapshot(rank.layer) == before ? "" : " (the state has changed)");
  });
  for (const std::string& text : thrown) {
    CHECK(text.find("CommunicatorError: ") == 0);
    CHECK(text.find("frames of different sizes met in one sum: 512, 4099 words by rank") != std::string::npos);
    CHECK(text.find("changed") == std::string::npos);
  }
}

TEST_CASE("layers of another type are other layers", "[agreement]") {
  using Backend = syncbn::CpuBackend<double>;
  const auto thrown = on_thread_ranks(2, [](ThreadCommunicator c) {
    syncbn::BatchNorm<1, Backend, ThreadCommunicator> one(3, {}, c);
    syncbn::SyncBatchNorm<Backend, ThreadCommunicator> any(3, {}, c);
    one.set_name("layer");
    any.set_name("layer");
    Activations<float> f32({4, 3}, values(12, 1));
    Activations<double> f64({4, 3}, values(12, 1));
    std::vector<std::string> texts;
    const auto run = [&](auto& layer, auto& tensor) {
      texts.push_back(thrown_by([&] { static_cast<void>(layer.forward(tensor, tensor)); }));
    };
    c.rank() == 0 ? run(one, f64) : run(any, f64);
    c.rank() == 0 ? run(one, f64) : run(one, f32);
    run(one, f64);
    run(any, f32);
    return texts;
  });
  for (const auto& texts : thrown) {
    CHECK(texts[0].find("1 dims") < texts[0].find("any dims"));
    CHECK(texts[1].find("Double") < texts[1].find("Float"));
    CHECK(texts[2] == "nothing");
    CHECK(texts[3] == "nothing");
    CHECK(texts[0] == thrown[0][0]);
    CHECK(texts[1] == thrown[0][1]);
  }
}

TEST_CASE("layers made in another order on one rank are told apart, named ones are not", "[agreement]") {
  const auto thrown = on_thread_ranks(2, [](ThreadCommunicator c) {
    using Layer = syncbn::BatchNorm<1, syncbn::CpuBackend<float>, ThreadCommunicator>;
    std::unique_ptr<Layer> first, second;
    auto& made_first = c.rank() == 0 ? first : second;
    auto& made_second = c.rank() == 0 ? second : first;
    made_first = std::make_unique<Layer>(3, syncbn::BatchNormOptions{}, c);
    made_second = std::make_unique<Layer>(3, syncbn::BatchNormOptions{}, c);
    Activations<float> x({4, 3}, values(12, 1));
    std::vector<std::string> texts;
    texts.push_back(thrown_by([&] { static_cast<void>(first->forward(x, x)); }));
    first->set_name("first");
    second->set_name("second");
    texts.push_back(thrown_by([&] { static_cast<void>(first->forward(x, x)); }));
    texts.push_back(thrown_by([&] { static_cast<void>(second->forward(x, x)); }));
    return texts;
  });
  for (const auto& texts : thrown) {
    CHECK(texts[0].find("layer '#0'") < texts[0].find("layer '#1'"));
    CHECK(texts[0] == thrown[0][0]);
    CHECK(texts[1] == "nothing");
    CHECK(texts[2] == "nothing");
  }
}
