#include <syncbn/together.hpp>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "support/activations.hpp"
#include "support/catch.hpp"
#include "support/failing_communicator.hpp"
#include "support/layer_judge.hpp"
#include "support/recording_communicator.hpp"
#include "support/thread_ranks.hpp"
#include "support/thrown_by.hpp"
#include "support/values.hpp"

// Layers whose exchange has several blocks of channels. The bits must be those of one frame: what is added to what is the
// same.

using namespace syncbn_test;

namespace {

using syncbn::ThreadCommunicator;
using Recording = RecordingCommunicator<ThreadCommunicator>;

// 6 MiB of f32 on a rank: a block for each channel.
constexpr Index channels = 24;
const std::vector<Index> extents{16, channels, 64, 64};
const std::vector<Index> block_frames = [] {
  std::vector<Index> frames(1 + channels, 5);
  frames[0] = 512;
  return frames;
}();

// Numbers with a different mean in each channel, the same whatever the rank's layout is. Made once: they are many.
const Activations<float>& batch(int rank, std::uint64_t seed, Layout layout, bool constant_channels = false) {
  using Key = std::tuple<int, std::uint64_t, Layout, bool>;
  static std::mutex mutex;
  static std::map<Key, Activations<float>> made;
  const std::lock_guard lock(mutex);
  const Key key(rank, seed, layout, constant_channels);
  if (const auto found = made.find(key); found != made.end()) return found->second;
  Numbers numbers(shape_of(extents).elements());
  std::uint64_t state = seed * 1000003 + static_cast<std::uint64_t>(rank) + 1;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    const std::size_t channel = i / (64 * 64) % channels;
    numbers[i] = constant_channels && channel % 9 == 4
                     ? 12345.678L
                     : static_cast<Number>(channel) + static_cast<Number>(state >> 40U) / 16777216;
  }
  return made.emplace(key, Activations<float>(extents, numbers, layout)).first->second;
}

// In the order of memory.
std::vector<float> elements(const Activations<float>& tensor) {
  const auto view = syncbn::view(tensor);
  return {view.data(), view.data() + view.size()};
}

struct Result {
  std::vector<float> y, dx;
  std::vector<double> statistics;
  Numbers state;
  bool operator==(const Result&) const = default;
};

template <class Layer>
Result step(Layer& layer, const Activations<float>& x, const Activations<float>& dy) {
  Activations<float> y(x.extents()), dx(x.extents());
  const auto saved = layer.forward(x, y);
  layer.backward(dy, x, saved, dx);
  const auto& used = saved.statistics;
  Result result{elements(y), elements(dx), {used.mean(), used.mean() + 3 * channels}, {}};
  for (const auto& tensor : {layer.running_mean(), layer.running_var(), layer.weight_grad(), layer.bias_grad()}) {
    const Numbers numbers = numbers_of(tensor);
    result.state.insert(result.state.end(), numbers.begin(), numbers.end());
  }
  return result;
}

}  // namespace

TEST_CASE("a layer that exchanges blocks computes the bits of one that does not", "[together]") {
  for (const bool constant_channels : {false, true}) {
    for (const bool waits : {true, false}) {
      INFO((constant_channels ? "some channels need a second sum" : "plain") << (waits ? "" : ", without waiting"));
      const auto wrong = on_thread_ranks(3, [&](ThreadCommunicator thread) -> std::string {
        Recording communicator(thread);
        syncbn::SyncBatchNorm<syncbn::CpuBackend<>, Recording> layer(channels, {}, communicator);
        layer.exchange().set_waits_for_header(waits);
        scramble(layer);
        auto blockless = layer;
        blockless.exchange().set_most_blocks(1);
        // A rank that cannot work by channels takes part all the same.
        const Layout layout = thread.rank() == 1 ? Layout::channels_last : Layout::contiguous;
        const auto& x = batch(thread.rank(), 1, layout, constant_channels);
        const auto& dy = batch(thread.rank(), 2, layout);
        step(layer, x, dy);
        step(blockless, x, dy);
        layer.zero_grad();
        blockless.zero_grad();
        const auto started = [&](auto& some_layer, Result& result) {
          communicator.record().clear();
          result = step(some_layer, x, dy);
          return communicator.record().started;
        };
        std::vector<Index> expected = block_frames;
        if (constant_channels) expected.insert(expected.end(), {5, 5, 5});  // channels 4, 13 and 22
        expected.insert(expected.end(), block_frames.begin(), block_frames.end());
        Result in_blocks, at_once;
        if (started(layer, in_blocks) != expected) return "frames";
        if (!communicator.record().acquired.empty()) return "frames were acquired";
        started(blockless, at_once);
        if (in_blocks.y != at_once.y) return "y";
        if (in_blocks.dx != at_once.dx) return "dx";
        return in_blocks == at_once ? "" : "state";
      });
      CHECK(wrong == std::vector<std::string>(3));
    }
  }
}

TEST_CASE("blocks: in place, and where some ranks have no samples", "[together]") {
  const auto wrong = on_thread_ranks(3, [](ThreadCommunicator thread) -> std::string {
    syncbn::SyncBatchNorm<syncbn::CpuBackend<>, ThreadCommunicator> layer(channels, {}, thread);
    auto blockless = layer;
    blockless.exchange().set_most_blocks(1);
    const Activations<float> nothing({0, channels, 64, 64}, {});
    const auto x = thread.rank() == 1 ? nothing : batch(thread.rank(), 3, Layout::contiguous);
    const auto dy = thread.rank() == 1 ? nothing : batch(thread.rank(), 4, Layout::contiguous);
    step(layer, x, dy);
    step(blockless, x, dy);
    const Result expected = step(blockless, x, dy);
    auto y = x;
    auto dx = dy;
    syncbn::SavedForward<syncbn::CpuBackend<>> saved;
    layer.forward(y, y, saved);
    if (elements(y) != expected.y) return "y";
    layer.backward(dx, x, saved, dx);
    return elements(dx) == expected.dx ? "" : "dx";
  });
  CHECK(wrong == std::vector<std::string>(3));
}

namespace {

// Fails at a chosen task of all that it is given.
struct FailingExecutor {
  std::shared_ptr<std::atomic<Index>> tasks_left = std::make_shared<std::atomic<Index>>(Index{1} << 40U);

  template <class Task>
  void run(Index tasks, const Task& task) const {
    for (Index i = 0; i < tasks; ++i) {
      if ((*tasks_left)-- == 0) throw std::runtime_error("no thread is left");
      task(i);
    }
  }
};

}  // namespace

TEST_CASE("what fails on a rank while blocks are under way, summing or normalizing, is thrown by all", "[together]") {
  using Backend = syncbn::CpuBackend<float, FailingExecutor>;
  // Forward has 48 tasks on a rank, one for each channel and pass; so has backward. Whatever the order, the last frame
  // leaves after the 24th at the earliest. Afterwards a rank is alone with its failure, as after any exchange.
  for (const Index task : {0, 7, 8, 15, 16, 23, 48, 55, 56, 71}) {
    INFO("task " << task);
    const auto seen = on_thread_ranks(2, [&](ThreadCommunicator thread) {
      const FailingExecutor executor;
      syncbn::SyncBatchNorm<Backend, ThreadCommunicator> layer(channels, {}, thread, Backend(executor));
      const auto& x = batch(thread.rank(), 5, Layout::contiguous);
      const auto& dy = batch(thread.rank(), 6, Layout::contiguous);
      const Result before = step(layer, x, dy);
      if (thread.rank() == 1) *executor.tasks_left = task;
      const std::string thrown = thrown_by([&] { step(layer, x, dy); });
      *executor.tasks_left = Index{1} << 40U;
      const bool counted = layer.num_batches_tracked() == (task < 48 ? 1 : 2);
      return thrown + (counted && step(layer, x, dy).y == before.y ? ", and all is well" : ", and nothing works");
    });
    CHECK(seen == std::vector<std::string>(2, "Error: no thread is left [rank 1 of 2] [layer '#0'], and all is well"));
  }
}

TEST_CASE("a fault of the fabric at any frame of an exchange in blocks ends on every rank", "[together]") {
  using Failing = FailingCommunicator<ThreadCommunicator>;
  for (const Fault::Kind kind : {Fault::Kind::throws_at_start, Fault::Kind::throws_at_finish, Fault::Kind::dies}) {
    for (const std::size_t frame : {1U, 2U, 7U, 25U, 26U, 27U, 50U}) {  // the header, 24 blocks; likewise backward
      // Which sum is waited for when several blocks are under way is a matter of time.
      if (kind == Fault::Kind::throws_at_finish && frame % 25 > 1) continue;
      const auto thrown = on_thread_ranks(2, [&](ThreadCommunicator thread) {
        Failing communicator(thread, {});
        syncbn::SyncBatchNorm<syncbn::CpuBackend<>, Failing> layer(channels, {}, communicator);
        const auto& x = batch(thread.rank(), 5, Layout::contiguous);
        step(layer, x, x);
        thread.set_timeout(std::chrono::milliseconds(300));
        if (thread.rank() == 1) communicator.set_fault({kind, frame, {}, {}});
        return thrown_by([&] { step(layer, x, x); });
      });
      INFO("kind " << static_cast<int>(kind) << " at frame " << frame << ": " << thrown[0] << " | " << thrown[1]);
      CHECK(thrown[1] != "nothing");
      // A sum that arrived on one rank and was lost on another is not noticed before the next.
      if (kind != Fault::Kind::throws_at_finish || frame != 50) CHECK(thrown[0].starts_with("CommunicatorError: "));
    }
  }
}
