#include <syncbn/backends/cuda_aware_mpi_communicator.hpp>

#include <chrono>
#include <cmath>
#include <string>
#include <vector>

#include <syncbn/backends/cuda_backend.cuh>
#include <syncbn/backends/detail/cuda_handles.hpp>
#include <syncbn/core.hpp>

#include "conformance/backend_tensor.hpp"
#include "support/catch.hpp"
#include "support/emulated_devices.hpp"
#include "support/thrown_by.hpp"

using namespace syncbn_test;
using syncbn::CudaAwareMpiCommunicator;
using Backend = syncbn::CudaBackend<float>;

TEST_CASE("cuda-aware MPI: a device that cannot take part on one rank is an exception on all", "[cuda]") {
  syncbn::detail::CudaStream s;
  Backend backend(s.get());
  CudaAwareMpiCommunicator c;
  c.set_timeout(std::chrono::seconds(20));
  using Layer = syncbn::BatchNorm<1, Backend, CudaAwareMpiCommunicator>;
  Layer layer(3, {}, c, backend);
  const std::vector<Index> extents{4, 3};
  BackendTensor<Backend, float> x(backend, extents, Placement::rows, law_elements<float>(extents, 1));
  BackendTensor<Backend, float> y(backend, extents, Placement::rows);
  Layer::Saved saved;
  const auto step = [&] {
    layer.forward(x.read(), y.view(), saved);
    layer.synchronize();
  };
  step();
  const auto mean = from_backend(backend, std::as_const(layer).running_mean().data(), 3);
  REQUIRE(layer.num_batches_tracked() == 1);

  if (c.rank() == 1) {
    REQUIRE(cudaStreamBeginCapture(s.get(), cudaStreamCaptureModeRelaxed) == cudaSuccess);
    CHECK(thrown_by(step) == "Error: sums over MPI cannot be captured in a CUDA graph");
    cudaGraph_t graph = nullptr;
    REQUIRE(cudaStreamEndCapture(s.get(), &graph) == cudaSuccess);
    cudaGraphDestroy(graph);
  } else {
    CHECK(thrown_by(step).find("frames of different exchanges met in one sum") != std::string::npos);
    for (const Number value : y.numbers()) CHECK(std::isnan(value));
  }
  CHECK(c.usable());
  CHECK(layer.num_batches_tracked() == 1);
  CHECK(from_backend(backend, std::as_const(layer).running_mean().data(), 3) == mean);
  step();  // and all go on
  CHECK(layer.num_batches_tracked() == 2);
}

TEST_CASE("cuda-aware MPI: a frame that has landed has another owner, and one at a time", "[cuda]") {
  CudaAwareMpiCommunicator c;
  syncbn::CudaQueue queue{nullptr};
  double* first = nullptr;
  {
    auto frame = c.acquire(4);
    first = frame.data();
    c.start(frame, queue);
    c.finish(frame, queue);
  }
  auto again = c.acquire(4);
  CHECK(again.data() == first);  // it has landed
  const auto other = c.acquire(4);
  CHECK(other.data() != first);
}
