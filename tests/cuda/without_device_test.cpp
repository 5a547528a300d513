// The real runtime where there is no driver, or no device: whatever is called, our exception comes, and nothing crashes.

#include <string>

#include <syncbn/backends/cuda_buffer.hpp>
#include <syncbn/backends/staged.hpp>
#include <syncbn/backends/thread_communicator.hpp>

#include "cuda/host_of_kernels.hpp"
#include "support/catch.hpp"

TEST_CASE("without a device, every entry is an exception of ours") {
  CHECK_THROWS_AS(syncbn_test::make_backend(), syncbn::CudaError);
  CHECK_THROWS_AS(syncbn_test::make_layer(), syncbn::CudaError);
  syncbn::CudaBuffer<double> buffer;
  CHECK_THROWS_AS(buffer.resize(3), syncbn::CudaError);
  CHECK_THROWS_AS(buffer.make_room(3, nullptr), syncbn::CudaError);
  CHECK(buffer.size() == 0);
  syncbn::run_thread_ranks(1, [](syncbn::ThreadCommunicator c) {
    syncbn::Staged<syncbn::ThreadCommunicator> staged(c);
    CHECK(staged.size() == 1);
    CHECK_THROWS_AS(staged.acquire(3), syncbn::CudaError);
  });
  // An empty buffer needs no device.
  syncbn::CudaBuffer<double> copy(buffer);
  copy = buffer;
  CHECK(copy.data() == nullptr);
  CHECK_THROWS_WITH(buffer.resize(3), Catch::Matchers::Contains("cuda"));
}
