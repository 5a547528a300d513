#include <syncbn/backends/staged.hpp>

#include <chrono>
#include <string>
#include <vector>

#include <syncbn/backends/cuda_backend.cuh>
#include <syncbn/backends/detail/cuda_handles.hpp>
#include <syncbn/core.hpp>

#include "conformance/backend_tensor.hpp"
#include "memory.hpp"
#include "options.hpp"
#include "streams.hpp"
#include "support/catch.hpp"
#include "support/thread_ranks.hpp"
#include "support/thrown_by.hpp"

using namespace syncbn_test;
using syncbn::CudaBackend;
using syncbn::Staged;
using syncbn::ThreadCommunicator;
using syncbn::detail::CudaStream;

// A lazy layer on a device compiles whole, alone and with ranks.
template class syncbn::LazyBatchNorm<2, CudaBackend<float>>;
template class syncbn::LazyBatchNorm<2, CudaBackend<float>, Staged<ThreadCommunicator>>;

namespace {

struct SetTo {
  double* words;
  double value;
  SYNCBN_HOST_DEVICE void operator()(syncbn::Index i) const noexcept { words[i] = value; }
};

}  // namespace

TEST_CASE("staged: what kernels have put into a stream is summed, whenever it runs") {
  for (const bool deferred : {false, true}) {
    cuda_emulation::options().deferred = deferred;
    std::vector<double> sums(3);
    syncbn::run_thread_ranks(3, [&](ThreadCommunicator c) {
      CudaStream s;
      CudaBackend<float> backend(s.get());
      Staged<ThreadCommunicator> staged(c);
      auto frame = staged.acquire(4);
      backend.for_each_channel(4, SetTo{frame.data(), 1.0 + c.rank()});
      staged.start(frame, backend.queue());
      staged.finish(frame, backend.queue());
      // And a kernel reads the sums.
      auto words = to_backend(backend, std::vector<double>(4));
      backend.for_each_channel(
          2, syncbn::detail::CopyPairs{frame.data(), frame.data() + 1, words.data(), words.data() + 1, 2, 2});
      sums[static_cast<std::size_t>(c.rank())] = from_backend(backend, static_cast<const double*>(words.data()), 4)[3];
    });
    cuda_emulation::options().deferred = false;
    CHECK(sums == std::vector<double>(3, 6));
  }
}

TEST_CASE("staged: it is the same group") {
  syncbn::run_thread_ranks(2, [&](ThreadCommunicator c) {
    Staged<ThreadCommunicator> staged(c);
    if (staged.rank() != c.rank() || staged.size() != 2 || !staged.usable()) throw std::runtime_error("another group");
    Staged<ThreadCommunicator> alone = staged.split(c.rank(), 0);
    if (alone.size() != 1) throw std::runtime_error("not split");
    staged.host().leave("on purpose");
    if (staged.usable()) throw std::runtime_error("still usable");
  });
  SUCCEED("or it would have thrown");
}

TEST_CASE("staged: a device that fails on one rank is an exception on all") {
  std::vector<std::string> thrown(2);
  syncbn::run_thread_ranks(2, [&](ThreadCommunicator c) {
    c.set_timeout(std::chrono::seconds(20));
    CudaStream s;
    CudaBackend<float> backend(s.get());
    syncbn::BatchNorm<1, CudaBackend<float>, Staged<ThreadCommunicator>> layer(3, {}, Staged<ThreadCommunicator>(c),
                                                                               backend);
    const std::vector<Index> extents{4, 3};
    BackendTensor<CudaBackend<float>, float> x(backend, extents, Placement::rows, law_elements<float>(extents, 1));
    BackendTensor<CudaBackend<float>, float> y(backend, extents, Placement::rows);
    typename decltype(layer)::Saved saved;
    layer.forward(x.read(), y.view(), saved);
    if (c.rank() == 1) cudaStreamBeginCapture(s.get(), cudaStreamCaptureModeRelaxed);  // nobody can wait for it now
    thrown[static_cast<std::size_t>(c.rank())] = thrown_by([&] { layer.forward(x.read(), y.view(), saved); });
    if (c.rank() == 1) {
      cudaGraph_t graph = nullptr;
      cudaStreamEndCapture(s.get(), &graph);
      cudaGraphDestroy(graph);
    }
    c.leave();
  });
  INFO(thrown[0]);
  INFO(thrown[1]);
  CHECK(thrown[0] != "nothing");
  CHECK(thrown[1].find("cudaErrorStreamCapture") != std::string::npos);
}

TEST_CASE("staged: all pinned memory goes back") {
  const std::size_t before = cuda_emulation::live_allocations();
  syncbn::run_thread_ranks(2, [&](ThreadCommunicator c) {
    Staged<ThreadCommunicator> staged(c);
    auto frame = staged.acquire(7);
    auto other = std::move(frame);
    if (frame.size() != 0 || other.size() != 7) throw std::runtime_error("not moved");
    frame = std::move(other);
  });
  CHECK(cuda_emulation::live_allocations() == before);
}

// A kernel that reads the sums of an exchange may run long after the host has gone on to the next one.
TEST_CASE("staged: statistics are right however late kernels run", "[cuda]") {
  struct Case {
    std::vector<Index> extents;
    double mean;
    bool tracks;
  };
  // A second round, whose frame is that of the first; and the next exchange, whose header is.
  for (const Case& some : {Case{{4, 300}, 1e5, true}, Case{{4, 8}, 5, false}}) {
    INFO(some.extents[1] << " channels");
    cuda_emulation::options().deferred = true;
    std::vector<std::vector<double>> means(2);
    syncbn::run_thread_ranks(2, [&](ThreadCommunicator c) {
      CudaStream s;
      CudaBackend<float> backend(s.get());
      syncbn::BatchNormOptions options;
      options.track_running_stats = some.tracks;
      using Layer = syncbn::BatchNorm<1, CudaBackend<float>, Staged<ThreadCommunicator>>;
      Layer layer(some.extents[1], options, Staged<ThreadCommunicator>(c), backend);
      std::vector<float> values(static_cast<std::size_t>(some.extents[0] * some.extents[1]));
      for (std::size_t i = 0; i < values.size(); ++i) {
        const bool odd = i / static_cast<std::size_t>(some.extents[1]) % 2 == 1;
        values[i] = static_cast<float>(some.mean + (odd ? 1 : 0));
      }
      BackendTensor<CudaBackend<float>, float> x(backend, some.extents, Placement::rows, values);
      BackendTensor<CudaBackend<float>, float> y(backend, some.extents, Placement::rows);
      Layer::Saved saved;
      layer.forward(x.read(), y.view(), saved);
      layer.backward(x.read(), x.read(), saved, y.view());
      const syncbn::Statistics<CudaBackend<float>>& statistics = saved.statistics;
      std::vector<double>& mine = means[static_cast<std::size_t>(c.rank())];
      mine = from_backend(backend, statistics.mean(), some.extents[1]);
      const std::vector<double> variance = from_backend(backend, statistics.variance(), some.extents[1]);
      mine.insert(mine.end(), variance.begin(), variance.end());
    });
    cuda_emulation::options().deferred = false;
    std::vector<double> expected(static_cast<std::size_t>(some.extents[1]), some.mean + 0.5);
    expected.insert(expected.end(), static_cast<std::size_t>(some.extents[1]), 0.25);
    CHECK(means[0] == expected);
    CHECK(means[1] == expected);
  }
}
