// The real NCCL where there is no driver, or no device: whatever is called, our exception comes, and nothing crashes or hangs.

#include <chrono>
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <string>
#include <vector>

#include <syncbn/backends/nccl_communicator.hpp>
#include <syncbn/backends/thread_communicator.hpp>

#include "support/catch.hpp"
#include "support/thread_ranks.hpp"
#include "support/thrown_by.hpp"

using namespace syncbn_test;
using syncbn::NcclCommunicator;

TEST_CASE("nccl without a device: the library is one that we know") {
  int version = 0;
  REQUIRE(ncclGetVersion(&version) == ncclSuccess);
  CHECK(version >= NCCL_VERSION(2, 18, 1));
}

TEST_CASE("nccl without a device: a unique id can be had, but no communicator") {
  ncclUniqueId id;
  REQUIRE(ncclGetUniqueId(&id) == ncclSuccess);
  const std::string thrown = thrown_by([&] { NcclCommunicator::create(id, 0, 1, std::chrono::seconds(20)); });
  INFO(thrown);
  CHECK(thrown.find("CommunicatorError: ") == 0);
  CHECK(thrown.find("CUDA") != std::string::npos);
  CHECK(thrown_by([] { NcclCommunicator wrapped(nullptr); }).find("CommunicatorError: ncclCommCuDevice: ") == 0);
}

TEST_CASE("nccl without a device: all ranks learn that there is none") {
  const auto texts = on_thread_ranks(2, [](syncbn::ThreadCommunicator threads) {
    return thrown_by([&] { NcclCommunicator::create(threads, std::chrono::seconds(20)); });
  });
  for (const std::string& text : texts) {
    INFO(text);
    CHECK(text.find("CommunicatorError: ") == 0);
  }
}
