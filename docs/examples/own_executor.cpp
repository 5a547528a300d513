// A framework's own threads run the kernels. The results do not depend on how many there are.

#include <algorithm>
#include <cstddef>
#include <thread>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "compare.hpp"

namespace acme {

// Stands for what a framework has: a loop over [0, n) on threads of its own, which returns when all calls have.
class Workers {
 public:
  explicit Workers(unsigned count) : count_(count) {}

  template <class Body>
  void parallel_for(std::ptrdiff_t n, const Body& body) {
    std::vector<std::jthread> threads;
    for (std::ptrdiff_t first = 0; first < count_; ++first) {
      threads.emplace_back([&, first] {
        for (std::ptrdiff_t i = first; i < n; i += count_) body(i);
      });
    }
  }

 private:
  std::ptrdiff_t count_;
};

}  // namespace acme

namespace {

// [begin]
struct OnWorkers {
  acme::Workers* workers;  // outlives the layers

  template <class Task>
  void operator()(syncbn::Index tasks, const Task& task) const {
    workers->parallel_for(tasks, task);
  }
};
using Backend = syncbn::CpuBackend<float, syncbn::ParallelFor<OnWorkers>>;
using Layer = syncbn::BatchNorm<2, Backend>;

Layer make_layer(syncbn::Index channels, acme::Workers& workers) {
  return Layer(channels, {}, {}, Backend(syncbn::ParallelFor(OnWorkers{&workers})));
}
// [end]

}  // namespace

int main() {
  constexpr syncbn::Index n = 4, channels = 3, height = 120, width = 100;
  std::vector<float> x = example::numbers(n * channels * height * width, 1);
  const auto forward = [&](auto& layer) {
    std::vector<float> y(x.size());
    static_cast<void>(layer.forward(syncbn::TensorView<float>(x.data(), {n, channels, height, width}),
                                    syncbn::TensorView<float>(y.data(), {n, channels, height, width})));
    return y;
  };

  acme::Workers workers(3);
  Layer on_workers = make_layer(channels, workers);
  syncbn::BatchNorm<2> serial(channels);
  return example::holds("the same bits on 3 threads and on 1", forward(on_workers) == forward(serial)) ? 0 : 1;
}
