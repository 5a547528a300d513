// A framework that owns its parameters: no layer object, only the passes, with the exchange in the open. Two ranks with
// two micro-batches each (3 and 2 samples, 1 and 2 samples) find what one pass over all 8 samples finds.

#include <array>
#include <cstddef>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "compare.hpp"

namespace {

constexpr syncbn::Index samples = 8, channels = 4, height = 5, width = 3;
constexpr double eps = 1e-5, momentum = 0.1;

using Backend = syncbn::CpuBackend<float>;
using Exchange = syncbn::Exchange<syncbn::ThreadCommunicator>;
using View = syncbn::TensorView<float>;

View vector_view(std::vector<float>& values) { return {values.data(), {static_cast<syncbn::Index>(values.size())}}; }

// What the framework keeps for a normalization.
struct Parameters {
  std::vector<float> weight = example::numbers(channels, 3), bias = example::numbers(channels, 4);
  std::vector<float> running_mean = std::vector<float>(channels, 0), running_var = std::vector<float>(channels, 1);
  std::vector<float> weight_grad = std::vector<float>(channels, 0), bias_grad = std::vector<float>(channels, 0);
};

struct MicroBatch {
  View x, y, dy, dx;  // (N, C, H, W)
};

void do_a_piece_of_other_work() {}

syncbn::Statistics<Backend> forward(Exchange& exchange, const std::array<MicroBatch, 2>& batches, Parameters& p) {
  // [begin forward]
  Backend backend;
  syncbn::Moments<Backend> local(channels), global;
  syncbn::Statistics<Backend> statistics;
  syncbn::RankFailure failure;  // of this rank: told to the others, then thrown by all together

  syncbn::ExchangeCall call;  // the same on all ranks, or all throw
  call.operation = "forward";
  call.channels = channels;
  call.kind = syncbn::ScalarKind::f32;
  call.eps = eps;
  double count = 0;
  for (const MicroBatch& batch : batches) count += static_cast<double>(syncbn::elements_per_channel(batch.x));

  syncbn::begin_exchange(exchange, backend, call, count, failure);
  failure.capture([&] {
    for (const MicroBatch& batch : batches) syncbn::accumulate(backend, batch.x, local);
  });
  syncbn::start_exchange(exchange, backend, local);
  do_a_piece_of_other_work();
  exchange.poll();  // lets the fabric make progress
  do_a_piece_of_other_work();
  syncbn::finish_exchange(exchange, backend, local, global);

  syncbn::finalize(backend, global, eps, statistics);
  for (const MicroBatch& batch : batches) {
    syncbn::normalize(backend, batch.x, statistics, vector_view(p.weight), vector_view(p.bias), batch.y);
  }
  syncbn::update_running(backend, statistics, momentum, vector_view(p.running_mean), vector_view(p.running_var));
  // [end forward]
  return statistics;
}

void backward(Exchange& exchange, const std::array<MicroBatch, 2>& batches,
              const syncbn::Statistics<Backend>& statistics, Parameters& p) {
  // [begin backward]
  Backend backend;
  syncbn::GradientSums<Backend> local(channels), global(channels);
  syncbn::GradientCoefficients<Backend> coefficients;
  syncbn::RankFailure failure;

  syncbn::ExchangeCall call;
  call.operation = "backward";
  call.channels = channels;
  call.kind = syncbn::ScalarKind::f32;
  syncbn::begin_exchange(exchange, backend, call, 0, failure);
  failure.capture([&] {
    for (const MicroBatch& batch : batches) syncbn::accumulate(backend, batch.dy, batch.x, statistics, local);
  });
  syncbn::start_exchange(exchange, backend, local);
  do_a_piece_of_other_work();
  syncbn::finish_exchange(exchange, backend, global);

  syncbn::finalize(backend, global, statistics, coefficients);
  for (const MicroBatch& batch : batches) {
    syncbn::propagate(backend, batch.dy, batch.x, statistics, coefficients, vector_view(p.weight), batch.dx);
  }
  // This rank's part; to be summed with the gradients of the other parameters.
  syncbn::add_parameter_gradients(backend, local, statistics, vector_view(p.weight_grad), vector_view(p.bias_grad));
  // [end backward]
}

}  // namespace

int main() {
  const std::size_t size = samples * channels * height * width;
  std::vector<float> x = example::numbers(size, 1), dy = example::numbers(size, 2);
  std::vector<float> y(size), dx(size), expected_y(size), expected_dx(size);
  const auto view = [](std::vector<float>& values) { return View(values.data(), {samples, channels, height, width}); };

  std::array<Parameters, 2> of_ranks;
  syncbn::run_thread_ranks(2, [&](syncbn::ThreadCommunicator ranks) {
    const std::array<syncbn::Index, 5> first = {0, 3, 5, 6, 8};
    std::array<MicroBatch, 2> batches;
    for (std::size_t i = 0; i < 2; ++i) {
      const std::size_t part = 2 * static_cast<std::size_t>(ranks.rank()) + i;
      const auto mine = [&](std::vector<float>& all) { return view(all).slice(0, first[part], first[part + 1]); };
      batches[i] = {mine(x), mine(y), mine(dy), mine(dx)};
    }
    Exchange exchange(ranks, "the only layer");
    Parameters& p = of_ranks[static_cast<std::size_t>(ranks.rank())];
    const syncbn::Statistics<Backend> statistics = forward(exchange, batches, p);
    backward(exchange, batches, statistics, p);
  });
  std::vector<float> weight_grad = of_ranks[0].weight_grad;
  for (std::size_t c = 0; c < channels; ++c) weight_grad[c] += of_ranks[1].weight_grad[c];

  // The functional form on the whole batch, with parameters of the same values.
  Parameters q;
  const auto saved = syncbn::batch_norm(
      view(x), view(expected_y),
      {vector_view(q.running_mean), vector_view(q.running_var), vector_view(q.weight), vector_view(q.bias)}, true,
      momentum, eps);
  syncbn::batch_norm_backward(view(dy), view(x), saved, vector_view(q.weight), view(expected_dx),
                              vector_view(q.weight_grad), vector_view(q.bias_grad));
  bool ok = example::agree("y", y, expected_y);
  ok &= example::agree("dx", dx, expected_dx);
  ok &= example::agree("running mean", of_ranks[1].running_mean, q.running_mean);
  ok &= example::agree("gradient of weight", weight_grad, q.weight_grad);
  return ok ? 0 : 1;
}
