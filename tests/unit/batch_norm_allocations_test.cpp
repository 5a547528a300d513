#include <barrier>
#include <memory>
#include <thread>
#include <vector>

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/backends/thread_communicator.hpp>
#include <syncbn/batch_norm.hpp>
#include <syncbn/functional.hpp>

#include "support/catch.hpp"
#include "support/counting_allocator.hpp"

namespace {

using syncbn::Index;
using syncbn::TensorView;
using syncbn_test::Allocations;
using syncbn_test::allocations;

// x, dy, y and dx of one shape and layout, over buffers that are large enough for any.
struct Views {
  TensorView<const float> x, dy;
  TensorView<float> y, dx;
};

class Tensors {
 public:
  explicit Tensors(std::size_t size) : x_(size), dy_(size), y_(size), dx_(size) {
    for (std::size_t i = 0; i < size; ++i) {
      x_[i] = static_cast<float>(i % 97);
      dy_[i] = static_cast<float>(i % 31) - 15;
    }
  }
  Views contiguous(std::initializer_list<Index> extents) {
    return {TensorView<const float>(x_.data(), extents), TensorView<const float>(dy_.data(), extents),
            TensorView<float>(y_.data(), extents), TensorView<float>(dx_.data(), extents)};
  }
  Views channels_last(std::initializer_list<Index> extents) {
    return {TensorView<const float>::channels_last(x_.data(), extents),
            TensorView<const float>::channels_last(dy_.data(), extents),
            TensorView<float>::channels_last(y_.data(), extents),
            TensorView<float>::channels_last(dx_.data(), extents)};
  }

 private:
  std::vector<float> x_, dy_, y_, dx_;
};

template <class Layer>
void step(Layer& bn, const Views& t, typename Layer::Saved& saved) {
  bn.forward(t.x, t.y, saved);
  bn.backward(t.dy, t.x, saved, t.dx);
  bn.backward(t.dy, t.x, saved, syncbn::no_gradient);
  bn.infer(t.x, t.y);
}

}  // namespace

TEST_CASE("allocations are counted", "[support]") {
  const Allocations before = allocations();
  auto one = std::make_unique<char[]>(1000);
  const std::vector<double> two(100, one[0]);
  const Allocations made = allocations() - before;
  CHECK(made.calls == (syncbn_test::counts_allocations ? 2 : 0));
  CHECK(made.bytes == (syncbn_test::counts_allocations ? 1800 : 0));
  CHECK(two[99] == 0);
}

TEMPLATE_TEST_CASE("a layer allocates nothing after its first step", "[batch_norm]", float, double) {
  syncbn::BatchNorm2d<syncbn::CpuBackend<TestType>> bn(19);
  typename decltype(bn)::Saved saved;
  Tensors tensors(4 * 19 * 40 * 50);
  step(bn, tensors.contiguous({4, 19, 40, 50}), saved);
  step(bn, tensors.channels_last({4, 19, 40, 50}), saved);  // has partial sums besides

  const Allocations before = allocations();
  for (int i = 0; i < 3; ++i) step(bn, tensors.contiguous({4, 19, 40, 50}), saved);
  step(bn, tensors.channels_last({4, 19, 40, 50}), saved);
  step(bn, tensors.contiguous({2, 19, 40, 50}), saved);  // less than before
  step(bn, tensors.channels_last({3, 19, 7, 1}), saved);
  const Views t = tensors.contiguous({4, 19, 40, 50});
  bn.forward(t.x, t.y, saved);
  bn.backward(t.dy, t.x, saved, t.y);
  bn.eval();
  step(bn, t, saved);
  bn.train();
  bn.zero_grad();
  step(bn, tensors.contiguous({0, 19, 5, 5}), saved);
  const Allocations made = allocations() - before;
  CHECK(made.calls == 0);
  CHECK(made.bytes == 0);
}

TEST_CASE("a layer without running statistics takes memory of its channels for inference", "[batch_norm]") {
  // Batch statistics are taken without touching the layer, which other threads may use at the same time.
  const syncbn::BatchNorm2d<> bn(19, {.track_running_stats = false});
  Tensors tensors(4 * 19 * 40 * 50);
  const Views t = tensors.contiguous({4, 19, 40, 50});
  const Allocations before = allocations();
  bn.infer(t.x, t.y);
  // Moments, statistics, 16 partial moments for each channel.
  CHECK((allocations() - before).bytes <= 19 * (5 * sizeof(double) + 16 * sizeof(syncbn::ChannelMoments)) + 64);
}

TEST_CASE("all memory of a layer is a constant times its channels", "[batch_norm]") {
  for (const Index channels : {8, 17}) {
    Tensors tensors(static_cast<std::size_t>(channels * 66000));
    for (const bool channels_last : {false, true}) {
      const Views t =
          channels_last ? tensors.channels_last({3, channels, 100, 220}) : tensors.contiguous({3, channels, 100, 220});
      const Allocations before = allocations();
      syncbn::BatchNorm2d<syncbn::CpuBackend<double>> bn(channels);
      decltype(bn)::Saved saved;
      for (int i = 0; i < 2; ++i) step(bn, t, saved);
      const Allocations made = allocations() - before;
      // For each channel: parameters, their gradients and running statistics; moments; statistics; gradient sums on
      // this rank and on all; their means; and 16 partial results of either reduction (66000 elements have 16
      // segments).
      const std::size_t words = 6 + 2 + 3 + 2 + 2 + 2;
      const std::size_t partial = 16 * (sizeof(syncbn::ChannelMoments) + 2 * sizeof(double));
      const std::size_t besides = 1024;  // whatever the channels: counters, the state's own size
      CAPTURE(channels, channels_last, made.calls);
      CHECK(made.bytes <= static_cast<std::size_t>(channels) * (words * sizeof(double) + partial) + besides);
      // Partial sums are for channels that several tasks share.
      if (syncbn_test::counts_allocations && channels_last) {
        CHECK(made.bytes >= static_cast<std::size_t>(channels) * partial);
      }
    }
  }
}

TEST_CASE("the functional form allocates as much as its channels need", "[functional]") {
  Tensors tensors(4 * 8 * 90 * 100);
  const Views t = tensors.contiguous({4, 8, 90, 100});
  const Allocations before = allocations();
  const auto saved = syncbn::batch_norm(t.x, t.y, {}, true);
  syncbn::batch_norm_backward(t.dy, t.x, saved, {}, t.dx);
  const std::size_t partial = 16 * (sizeof(syncbn::ChannelMoments) + 2 * sizeof(double));
  const std::size_t words = 2 + 3 + 2 + 2;
  CHECK((allocations() - before).bytes <= 8 * (words * sizeof(double) + partial) + 256);
}

TEST_CASE("synchronized layers allocate nothing after their first step", "[batch_norm]") {
  using Layer = syncbn::BatchNorm<2, syncbn::CpuBackend<float>, syncbn::ThreadCommunicator>;
  for (const Index channels : {7, 1000}) {  // with and without frames for the payload
    std::vector<syncbn::ThreadCommunicator> ranks = syncbn::ThreadCommunicator::create(2);
    std::vector<std::unique_ptr<Tensors>> tensors;
    for (int i = 0; i < 2; ++i) tensors.push_back(std::make_unique<Tensors>(static_cast<std::size_t>(channels * 100)));
    std::barrier together(2);
    Allocations made;
    const auto run = [&](std::size_t rank) {
      Layer bn(channels, {}, ranks[rank]);
      Layer::Saved saved;
      const Views t = tensors[rank]->contiguous({4, channels, 5, 5});
      step(bn, t, saved);
      step(bn, t, saved);
      together.arrive_and_wait();
      const Allocations before = allocations();
      together.arrive_and_wait();
      for (int i = 0; i < 5; ++i) step(bn, t, saved);
      together.arrive_and_wait();
      if (rank == 0) made = allocations() - before;
      together.arrive_and_wait();
    };
    std::thread other(run, 1);
    run(0);
    other.join();
    CAPTURE(channels);
    CHECK(made.calls == 0);
  }
}
