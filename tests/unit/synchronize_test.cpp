#include <syncbn/synchronize.hpp>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/backends/single_process_communicator.hpp>
#include <syncbn/backends/thread_communicator.hpp>

#include "support/activations.hpp"
#include "support/catch.hpp"
#include "support/layer_bounds.hpp"
#include "support/oracle.hpp"
#include "support/recording_communicator.hpp"
#include "support/thread_ranks.hpp"
#include "support/thrown_by.hpp"
#include "support/values.hpp"

// That micro-batches are one batch, for all backends and communicators, is a law of the conformance suite (layer_laws.hpp).

namespace {

using namespace syncbn_test;
using syncbn::Exchange;
using syncbn::ExchangeCall;
using syncbn::RankFailure;
using syncbn::ThreadCommunicator;
using Backend = syncbn::CpuBackend<double>;
using Moments = syncbn::Moments<Backend>;
using GradientSums = syncbn::GradientSums<Backend>;
using Recording = RecordingCommunicator<ThreadCommunicator>;

constexpr Index small = 5;    // payload in the first frame
constexpr Index large = 300;  // payload in a frame of its own

ExchangeCall call_of(const char* operation, Index channels) {
  ExchangeCall call;
  call.operation = operation;
  call.channels = channels;
  call.kind = syncbn::ScalarKind::f64;
  return call;
}

// Samples 0, 1, 2, ... of a stream that all ranks know.
Activations<double> samples(Index first, Index last, Index channels) {
  const Numbers all = values(static_cast<std::size_t>(100 * channels), 17, 0.25L);
  return {{last - first, channels}, Numbers(all.begin() + first * channels, all.begin() + last * channels)};
}

template <class Communicator>
std::pair<double, Numbers> means_over(Communicator c, const std::vector<Activations<double>>& micro_batches,
                                      Index channels) {
  Backend backend;
  Exchange<Communicator> exchange(c);
  Moments local(channels), global(channels);
  RankFailure failure;
  double count = 0;
  for (const auto& batch : micro_batches) count += static_cast<double>(batch.extents()[0]);
  begin_exchange(exchange, backend, call_of("forward", channels), count, failure);
  for (const auto& batch : micro_batches) accumulate(backend, batch, local);
  start_exchange(exchange, backend, local);
  const double total = finish_exchange(exchange, backend, local, global);
  return {total, Numbers(global.mean(), global.mean() + channels)};
}

void check_means(const Numbers& mean, Index last, Index channels, int parts) {
  const Numbers x = samples(0, last, channels).numbers();
  const oracle::Shape shape{static_cast<std::size_t>(last), static_cast<std::size_t>(channels), 1};
  const oracle::Statistics exact = oracle::statistics(x, shape);
  const LayerBounds bounds = LayerBounds::of_batch<double, double>(x, shape, {}, {}, 1e-5L, parts);
  Comparison comparison;
  comparison.add("mean", mean, exact.mean, [&](std::size_t c) { return bounds.facts(c).mean_error; });
  INFO(comparison.place());
  CHECK(comparison.worst() <= 1);
}

}  // namespace

TEST_CASE("ranks with different numbers of micro-batches, none among them", "[synchronize]") {
  for (const Index channels : {small, large}) {
    INFO(channels << " channels");
    const auto results = on_thread_ranks(4, [&](ThreadCommunicator c) {
      // Ranks 0 to 3: 3 + 1 + 2 samples, none, one batch of none, 5 samples.
      std::vector<Activations<double>> batches;
      if (c.rank() == 0) batches = {samples(0, 3, channels), samples(3, 4, channels), samples(4, 6, channels)};
      if (c.rank() == 2) batches = {samples(6, 6, channels)};
      if (c.rank() == 3) batches = {samples(6, 11, channels)};
      return means_over(c, batches, channels);
    });
    for (const auto& [total, mean] : results) {
      CHECK(total == 11);
      CHECK(mean == results[0].second);
    }
    check_means(results[0].second, 11, channels, 6);
  }
}

TEST_CASE("one rank, and a process without a group, exchange with themselves", "[synchronize]") {
  for (const Index channels : {small, large}) {
    const auto alone = means_over(syncbn::SingleProcessCommunicator(), {samples(0, 7, channels)}, channels);
    const auto one = means_over(ThreadCommunicator::create(1)[0], {samples(0, 7, channels)}, channels);
    CHECK(alone.first == 7);
    CHECK(one == alone);
    check_means(alone.second, 7, channels, 1);
  }
}

TEST_CASE("with many channels the header is on its way before accumulation, with few it waits for the payload",
          "[synchronize]") {
  for (const Index channels : {small, large}) {
    for (const bool waits : {true, false}) {
      INFO(channels << " channels" << (waits ? "" : ", without waiting"));
      const auto sent = on_thread_ranks(2, [&](ThreadCommunicator group) {
        Recording c(group);
        Backend backend;
        Exchange<Recording> exchange(c);
        exchange.set_waits_for_header(waits);
        Moments local(channels), global(channels);
        RankFailure failure;
        std::vector<std::size_t> frames;
        begin_exchange(exchange, backend, call_of("forward", channels), 3, failure);
        frames.push_back(c.record().started.size());
        accumulate(backend, samples(group.rank() * 3, group.rank() * 3 + 3, channels), local);
        frames.push_back(c.record().started.size());
        start_exchange(exchange, backend, local);
        frames.push_back(c.record().started.size());
        finish_exchange(exchange, backend, local, global);
        return frames;
      });
      const std::size_t early = channels == large ? 1 : 0;
      for (const auto& frames : sent) CHECK(frames == std::vector<std::size_t>{early, early, early + 1});
    }
  }
}

TEST_CASE("what fails during accumulation, on any rank, is thrown by all and leaves the exchange usable",
          "[synchronize]") {
  for (const Index channels : {small, large}) {
    for (const bool waits : {true, false}) {
      const auto thrown = on_thread_ranks(3, [&](ThreadCommunicator c) {
        Backend backend;
        Exchange<ThreadCommunicator> exchange(c, "mine");
        exchange.set_waits_for_header(waits);
        std::vector<std::string> texts;
        for (const bool fails : {true, false}) {
          Moments local(channels), global(channels);
          RankFailure failure;
          texts.push_back(thrown_by([&] {
            begin_exchange(exchange, backend, call_of("forward", channels), 3, failure);
            failure.capture([&] {
              accumulate(backend, samples(c.rank() * 3, c.rank() * 3 + 3, channels), local);
              if (fails && c.rank() == 2) throw std::runtime_error("the data loader is gone");
            });
            start_exchange(exchange, backend, local);
            finish_exchange(exchange, backend, local, global);
          }));
        }
        return texts;
      });
      for (const auto& texts : thrown) {
        CHECK(texts ==
              std::vector<std::string>{"Error: the data loader is gone [rank 2 of 3] [layer 'mine']", "nothing"});
      }
    }
  }
}

TEST_CASE("what failed before begin_exchange, in the very first exchange of many channels, is thrown by all",
          "[synchronize]") {
  for (const bool waits : {true, false}) {
    INFO((waits ? "waiting" : "not waiting") << " for the header");
    const auto thrown = on_thread_ranks(2, [&](ThreadCommunicator c) {
      Backend backend;
      Exchange<ThreadCommunicator> exchange(c, "mine");
      exchange.set_waits_for_header(waits);
      GradientSums local(large), global(large);
      RankFailure failure;
      if (c.rank() == 1) failure.capture([] { throw syncbn::ShapeError("wrong from the start"); });
      return thrown_by([&] {
        begin_exchange(exchange, backend, call_of("backward", large), 3, failure);
        start_exchange(exchange, backend, local);
        finish_exchange(exchange, backend, global);
      });
    });
    CHECK(thrown == std::vector<std::string>(2, "ShapeError: wrong from the start [rank 1 of 2] [layer 'mine']"));
  }
}

TEST_CASE("exchanges of several layers may be under way together", "[synchronize]") {
  const auto results = on_thread_ranks(3, [](ThreadCommunicator c) {
    Backend backend;
    std::vector<Exchange<ThreadCommunicator>> layers;
    std::vector<GradientSums> local, global;
    const std::vector<Index> channels{small, large, small, 1};
    for (const Index n : channels) {
      layers.emplace_back(c);
      local.emplace_back(n);
      global.emplace_back(n);
      for (Index i = 0; i < n; ++i) {
        local.back().dy()[i] = c.rank() + static_cast<double>(i);
        local.back().dy_centred()[i] = 10.0 * static_cast<double>(n);
      }
    }
    RankFailure failure;
    for (std::size_t k = 0; k < layers.size(); ++k) {
      begin_exchange(layers[k], backend, call_of("backward", channels[k]), 0, failure);
    }
    for (std::size_t k = 0; k < layers.size(); ++k) start_exchange(layers[k], backend, local[k]);
    bool right = true;
    for (std::size_t k = layers.size(); k-- > 0;) {
      finish_exchange(layers[k], backend, global[k]);
      for (Index i = 0; i < channels[k]; ++i) {
        right = right && global[k].dy()[i] == 3 + 3.0 * static_cast<double>(i);
        right = right && global[k].dy_centred()[i] == 30.0 * static_cast<double>(channels[k]);
      }
    }
    return right;
  });
  CHECK(results == std::vector<bool>(3, true));
}

TEST_CASE("the target of finish_exchange is made to fit", "[synchronize]") {
  const auto channels = on_thread_ranks(2, [](ThreadCommunicator c) {
    Backend backend;
    Exchange<ThreadCommunicator> exchange(c);
    Moments local(small), global;
    RankFailure failure;
    begin_exchange(exchange, backend, call_of("forward", small), 0, failure);
    start_exchange(exchange, backend, local);
    finish_exchange(exchange, backend, local, global);
    return global.channels();
  });
  CHECK(channels == std::vector<Index>(2, small));
}
