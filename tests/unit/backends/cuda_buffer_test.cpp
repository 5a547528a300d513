#include <syncbn/backends/cuda_buffer.hpp>

#include <cstdint>
#include <utility>
#include <vector>

#include <syncbn/backends/detail/cuda_handles.hpp>

#include "memory.hpp"
#include "options.hpp"
#include "streams.hpp"
#include "support/catch.hpp"
#include "support/thrown_by.hpp"

using syncbn::CudaBuffer;
using syncbn::detail::CudaStream;

namespace {

std::vector<double> on_host(const CudaBuffer<double>& buffer) {
  std::vector<double> host(buffer.size());
  cudaDeviceSynchronize();
  cudaMemcpy(host.data(), buffer.data(), host.size() * sizeof(double), cudaMemcpyDeviceToHost);
  return host;
}
void fill(CudaBuffer<double>& buffer, const std::vector<double>& host) {
  cudaMemcpy(buffer.data(), host.data(), host.size() * sizeof(double), cudaMemcpyHostToDevice);
}

// Counts, and hands out what the runtime has.
struct CountingAllocator {
  static inline int live = 0;
  static void* allocate(std::size_t bytes, cudaStream_t stream) {
    ++live;
    return syncbn::CudaStreamOrderedAllocator::allocate(bytes, stream);
  }
  static void deallocate(void* p, std::size_t bytes, cudaStream_t stream) noexcept {
    --live;
    syncbn::CudaStreamOrderedAllocator::deallocate(p, bytes, stream);
  }
};

}  // namespace

TEST_CASE("buffer: resize keeps what is there and adds zeros") {
  CudaBuffer<double> buffer;
  CHECK(buffer.data() == nullptr);
  buffer.resize(2);
  CHECK(on_host(buffer) == std::vector<double>{0, 0});
  fill(buffer, {1, 2});
  buffer.resize(4);
  CHECK(on_host(buffer) == std::vector<double>{1, 2, 0, 0});
  buffer.resize(1);
  buffer.resize(3);
  CHECK(on_host(buffer) == std::vector<double>{1, 0, 0});
}

TEST_CASE("buffer: copies are deep, moves are not") {
  CudaBuffer<double> buffer;
  buffer.resize(2);
  fill(buffer, {1, 2});
  CudaBuffer<double> copy(buffer);
  fill(buffer, {3, 4});
  CHECK(on_host(copy) == std::vector<double>{1, 2});
  copy = buffer;
  CHECK(on_host(copy) == std::vector<double>{3, 4});
  const double* const where = copy.data();
  CudaBuffer<double> moved(std::move(copy));
  CHECK(moved.data() == where);
  buffer = std::move(moved);
  CHECK(buffer.data() == where);
  CudaBuffer<double> nothing;
  buffer = nothing;
  CHECK(buffer.size() == 0);
}

TEST_CASE("buffer: room in the order of a stream waits for nothing, and all memory goes back") {
  const std::size_t before = cuda_emulation::live_allocations();
  {
    CudaStream s;
    CudaBuffer<double> buffer;
    const long waits = cuda_emulation::waits();
    CHECK(buffer.make_room(3, s.get()));
    CHECK_FALSE(buffer.make_room(2, s.get()));
    CHECK(buffer.size() == 2);
    CHECK_FALSE(buffer.make_room(3, s.get()));
    CHECK(buffer.make_room(30, s.get()));
    {
      CudaBuffer<double> copy(buffer);
      CHECK(copy.size() == 30);
    }
    CHECK(cuda_emulation::waits() == waits);
  }
  cudaDeviceSynchronize();
  CHECK(cuda_emulation::live_allocations() == before);
}

TEST_CASE("buffer: on another stream it has other memory, and the old is freed in the order of the old one") {
  cuda_emulation::options().deferred = true;
  const std::size_t before = cuda_emulation::live_allocations();
  {
    CudaStream one, two;
    CudaBuffer<double> buffer;
    buffer.make_room(3, one.get());
    const double* const there = buffer.data();
    CHECK(buffer.make_room(3, two.get()));
    CHECK(buffer.data() != there);
    cudaStreamSynchronize(two.get());
    CHECK(cuda_emulation::live_allocations() == before + 2);  // `one` may still use it
    cudaStreamSynchronize(one.get());
    CHECK(cuda_emulation::live_allocations() == before + 1);
  }
  cudaDeviceSynchronize();
  CHECK(cuda_emulation::live_allocations() == before);
  cuda_emulation::options().deferred = false;
}

TEST_CASE("buffer: it does not grow while its stream is captured") {
  CudaStream s;
  CudaBuffer<double> buffer;
  buffer.make_room(3, s.get());
  cudaStreamBeginCapture(s.get(), cudaStreamCaptureModeGlobal);
  CHECK_FALSE(buffer.make_room(2, s.get()));
  const std::string thrown = syncbn_test::thrown_by([&] { buffer.make_room(4, s.get()); });
  CHECK(syncbn_test::thrown_by([&] { const CudaBuffer<double> copy(buffer); }) == thrown);
  cudaGraph_t graph = nullptr;
  CHECK(cudaStreamEndCapture(s.get(), &graph) == cudaSuccess);
  cudaGraphDestroy(graph);
  CHECK(thrown.find("Error: memory cannot be allocated while a stream is captured") == 0);
  CHECK(buffer.size() == 2);
}

TEST_CASE("buffer: memory comes from the allocator that it is given") {
  {
    CudaBuffer<float, CountingAllocator> buffer;
    buffer.resize(10);
    CHECK(CountingAllocator::live == 1);
    const auto copy = buffer;
    CHECK(CountingAllocator::live == 2);
    buffer.make_room(20, nullptr);
    CHECK(CountingAllocator::live == 2);
  }
  CHECK(CountingAllocator::live == 0);
}

TEST_CASE("buffer: what the runtime refuses is an exception with its words") {
  CudaBuffer<double> buffer;
  CHECK_THROWS_AS(buffer.resize(std::size_t{1} << 55), syncbn::CudaError);
  CHECK(buffer.size() == 0);
  try {
    syncbn::cuda::check(cudaErrorInvalidValue, "cudaSomething");
    FAIL("nothing was thrown");
  } catch (const syncbn::CudaError& e) {
    CHECK(std::string(e.what()).find("cudaSomething: cudaErrorInvalidValue") == 0);
    CHECK(e.code() == cudaErrorInvalidValue);
  }
}
