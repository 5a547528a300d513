// NCCL's stand-in, with ranks that are threads: faults, deadlines, graphs. That sums are right is for the conformance suite.

#include <syncbn/backends/nccl_communicator.hpp>

#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include <syncbn/backends/cuda_backend.cuh>
#include <syncbn/core.hpp>

#include "conformance/backend_tensor.hpp"
#include "conformance/outcomes.hpp"
#include "memory.hpp"
#include "nccl_stand_in.hpp"
#include "streams.hpp"
#include "support/catch.hpp"
#include "support/emulated_devices.hpp"
#include "support/nccl_launcher.hpp"
#include "support/thread_ranks.hpp"
#include "support/thrown_by.hpp"

using namespace syncbn_test;
using syncbn::CudaBackend;
using syncbn::NcclCommunicator;
using syncbn::ThreadCommunicator;
using syncbn::detail::CudaStream;

namespace {

using Backend = CudaBackend<float>;
using Layer = syncbn::BatchNorm<1, Backend, NcclCommunicator>;
using Tensor = BackendTensor<Backend, float>;
constexpr std::chrono::milliseconds soon{300};

// A rank with a stream, a layer and tensors.
struct Rank {
  explicit Rank(NcclCommunicator communicator, Index samples = 4, Index channels = 3)
      : layer(channels, {}, communicator, Backend(stream.get())),
        x(layer.backend(), {samples, channels}, Placement::rows,
          law_elements<float>({samples, channels}, 5 + static_cast<std::uint64_t>(communicator.rank()))),
        y(layer.backend(), {samples, channels}, Placement::rows),
        dx(layer.backend(), {samples, channels}, Placement::rows) {}

  void forward() { layer.forward(x.read(), y.view(), saved); }
  void backward() { layer.backward(x.read(), x.read(), saved, dx.view()); }
  std::vector<double> state() {
    std::vector<double> all;
    for (const auto& view : {layer.weight_grad(), layer.bias_grad(), layer.running_mean(), layer.running_var()}) {
      const auto values = from_backend(layer.backend(), static_cast<const float*>(view.data()), view.extent(0));
      all.insert(all.end(), values.begin(), values.end());
    }
    all.push_back(static_cast<double>(layer.num_batches_tracked()));
    return all;
  }
  bool all_nan() {
    for (const Number value : y.numbers()) {
      if (!std::isnan(value)) return false;
    }
    return true;
  }

  CudaStream stream;
  Layer layer;
  Layer::Saved saved;
  Tensor x, y, dx;
};

using Texts = std::vector<std::string>;
// What each of two ranks has to say.
std::vector<Texts> on_two_ranks(const std::function<Texts(NcclCommunicator&, const Barrier&)>& body) {
  std::vector<Texts> texts(2);
  const Outcomes outcomes =
      Launcher<NcclCommunicator>::run(2, [&](NcclCommunicator& c, const Barrier& wait_for_all) -> std::vector<double> {
        texts[static_cast<std::size_t>(c.rank())] = body(c, wait_for_all);
        return {};
      });
  for (const Outcome& outcome : outcomes) CHECK(outcome.error == "");
  return texts;
}
const char* said(bool value) { return value ? "yes" : "no"; }

}  // namespace

TEST_CASE("nccl: a rank that does not come is an exception on the others, past the deadline", "[nccl]") {
  const auto texts = on_two_ranks([](NcclCommunicator& c, const Barrier& wait_for_all) {
    Rank rank(c);
    rank.forward();
    rank.layer.synchronize();
    const auto before = rank.state();
    c.set_timeout(soon);
    Texts result;
    if (c.rank() == 0) {
      result.push_back(thrown_by([&] { rank.forward(); }));  // waits for nothing
      result.push_back(thrown_by([&] { rank.layer.synchronize(); }));
      result.push_back(said(c.usable()));
      result.push_back(thrown_by([&] { rank.forward(); }));
      result.push_back(said(rank.state() == before));
      result.push_back(said(rank.all_nan()));
      result.push_back(thrown_by([&] { c.split(0, 0); }));
    }
    wait_for_all();
    return result;
  });
  const std::string why =
      "sum 3, ncclAllReduce of 512 doubles, did not end within 0.300000 s; NCCL cannot tell which ranks are missing; "
      "the "
      "NCCL communicator was aborted";
  const std::string where = "CommunicatorError: forward of layer '#0', rank 0 of 2: ";
  REQUIRE(texts[0].size() == 7);
  CHECK(texts[0][0] == "nothing");
  CHECK(texts[0][1] == where + why);
  CHECK(texts[0][2] == "no");
  CHECK(texts[0][3] == where + "the communicator is not usable any more");
  CHECK(texts[0][4] == "yes");
  CHECK(texts[0][5] == "yes");
  CHECK(texts[0][6] == "CommunicatorError: " + why);
}

TEST_CASE("nccl: a deadline is found by the next call, by check(), or by a watchdog", "[nccl]") {
  for (const bool watched : {false, true}) {
    const auto texts = on_two_ranks([&](NcclCommunicator& c, const Barrier& wait_for_all) {
      Rank rank(c);
      rank.forward();
      rank.layer.synchronize();
      const auto before = rank.state();
      c.set_timeout(soon);
      if (watched) c.watch(std::chrono::milliseconds(10));
      Texts result;
      if (c.rank() == 1) {
        rank.forward();
        const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(60);
        std::string thrown = "nothing";
        while (thrown == "nothing" && std::chrono::steady_clock::now() < patience) {
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
          if (watched ? !c.usable() : true) thrown = thrown_by([&] { rank.layer.check(); });
        }
        result = {thrown, said(rank.state() == before), said(c.usable())};
      }
      wait_for_all();
      return result;
    });
    REQUIRE(texts[1].size() == 3);
    CHECK(texts[1][0].find("did not end within 0.300000 s") != std::string::npos);
    CHECK(texts[1][1] == "yes");
    CHECK(texts[1][2] == "no");
  }
}

TEST_CASE("nccl: layers whose frames differ end by the deadline", "[nccl]") {
  const auto texts = on_two_ranks([](NcclCommunicator& c, const Barrier&) {
    Rank small(c);
    Rank large(c, 4, 300);
    c.set_timeout(soon);
    Rank& mine = c.rank() == 0 ? small : large;
    const auto before = mine.state();
    mine.forward();
    const std::string thrown = thrown_by([&] { mine.layer.synchronize(); });
    return Texts{thrown, said(mine.state() == before)};
  });
  for (const Texts& rank : texts) {
    CHECK(rank[0].find("did not end within") != std::string::npos);
    CHECK(rank[1] == "yes");
  }
}

TEST_CASE("nccl: what it reports, and calls that it refuses, are exceptions", "[nccl]") {
  const auto texts = on_two_ranks([](NcclCommunicator& c, const Barrier& wait_for_all) {
    Rank rank(c);
    Texts result;
    nccl_stand_in::fail_next_all_reduce(ncclInternalError);
    result.push_back(thrown_by([&] { rank.forward(); }));
    result.push_back(said(c.usable()));
    result.push_back(std::to_string(rank.layer.num_batches_tracked()));
    wait_for_all();
    return result;
  });
  for (const Texts& rank : texts) {
    CHECK(rank[0].find("CommunicatorError: forward of layer '#0', rank ") == 0);
    CHECK(rank[0].find("ncclAllReduce: ") != std::string::npos);
    CHECK(rank[1] == "no");  // it says so of every later call
    CHECK(rank[2] == "0");
  }
}

TEST_CASE("nccl: a communicator that was wrapped is its owner's, and errors of it are found", "[nccl]") {
  const long before = nccl_stand_in::live_communicators();
  ncclUniqueId id;
  REQUIRE(ncclGetUniqueId(&id) == ncclSuccess);
  const auto texts = on_thread_ranks(2, [&](ThreadCommunicator threads) {
    cudaSetDevice(threads.rank());
    ncclComm_t mine = nullptr;
    ncclCommInitRank(&mine, 2, id, threads.rank());
    Texts result;
    {
      NcclCommunicator c(mine);
      Rank rank(c);
      rank.forward();
      rank.layer.synchronize();
      result.push_back(std::to_string(c.rank()) + " of " + std::to_string(c.size()));
    }
    {
      NcclCommunicator c(mine);
      Rank rank(c);
      rank.forward();
      rank.layer.synchronize();
      if (threads.rank() == 0) nccl_stand_in::set_asynchronous_error(mine, ncclRemoteError);
      result.push_back(thrown_by([&] { rank.layer.check(); }));
    }
    if (threads.rank() == 1) ncclCommDestroy(mine);  // that of rank 0 was aborted
    return result;
  });
  CHECK(texts[0][0] == "0 of 2");
  CHECK(texts[1][0] == "1 of 2");
  CHECK(texts[0][1].find("ncclCommGetAsyncError: ") != std::string::npos);
  CHECK(texts[1][1] == "nothing");
  CHECK(nccl_stand_in::live_communicators() == before);
}

TEST_CASE("nccl: ranks that are missing when a group is made are an exception", "[nccl]") {
  ncclUniqueId id;
  REQUIRE(ncclGetUniqueId(&id) == ncclSuccess);
  const std::string thrown = thrown_by([&] { NcclCommunicator::create(id, 0, 2, soon); });
  CHECK(thrown == "CommunicatorError: initialisation of an NCCL communicator: not all ranks came within the deadline");
}

TEST_CASE("nccl: everything goes back", "[nccl]") {
  const std::size_t memory = cuda_emulation::live_allocations();
  const long communicators = nccl_stand_in::live_communicators();
  on_two_ranks([](NcclCommunicator& c, const Barrier&) {
    Rank rank(c);
    NcclCommunicator part = c.split(0, c.rank());
    rank.layer.set_communicator(part);
    rank.forward();
    rank.backward();
    rank.layer.synchronize();
    return Texts{};
  });
  CHECK(cuda_emulation::live_allocations() == memory);
  CHECK(nccl_stand_in::live_communicators() == communicators);
}

TEST_CASE("nccl: a negative color is an error on every rank", "[nccl]") {
  const auto texts = on_two_ranks(
      [](NcclCommunicator& c, const Barrier&) { return Texts{thrown_by([&] { c.split(-c.rank(), 0); })}; });
  for (const Texts& rank : texts) CHECK(rank[0] == "Error: split: rank 1 gave a negative color");
}

TEST_CASE("nccl: a step does not wait, and is the same in a graph, empty ranks included", "[nccl]") {
  for (const Index samples_of_last : {Index{4}, Index{0}}) {
    const auto texts = on_two_ranks([&](NcclCommunicator& c, const Barrier& wait_for_all) {
      const Index samples = c.rank() == 1 ? samples_of_last : 4;
      Rank eager(c, samples);
      Rank captured(c, samples);
      captured.layer.set_name(eager.layer.exchange().name());
      const auto step = [](Rank& rank) {
        rank.forward();
        rank.backward();
      };
      // One after the other: nothing orders the sums in a graph and those of another stream.
      step(captured);
      captured.layer.synchronize();
      wait_for_all();
      long waits = cuda_emulation::waits();
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t executable = nullptr;
      cudaStreamBeginCapture(captured.stream.get(), cudaStreamCaptureModeThreadLocal);
      step(captured);
      cudaStreamEndCapture(captured.stream.get(), &graph);
      cudaGraphInstantiate(&executable, graph, 0);
      for (int i = 0; i < 3; ++i) cudaGraphLaunch(executable, captured.stream.get());
      bool waited = cuda_emulation::waits() != waits;
      wait_for_all();
      captured.layer.synchronize();
      for (int i = 0; i < 4; ++i) {
        if (i == 1) {  // the first may make room
          wait_for_all();
          waits = cuda_emulation::waits();
        }
        step(eager);
      }
      waited = waited || cuda_emulation::waits() != waits;
      wait_for_all();
      eager.layer.synchronize();
      Texts result{said(waited), said(same_bits(eager.state(), captured.state())),
                   said(eager.y.numbers() == captured.y.numbers()), said(eager.dx.numbers() == captured.dx.numbers()),
                   std::to_string(captured.layer.num_batches_tracked())};
      cudaGraphExecDestroy(executable);
      cudaGraphDestroy(graph);
      return result;
    });
    for (const Texts& rank : texts) CHECK(rank == Texts{"no", "yes", "yes", "yes", "4"});
  }
}

TEST_CASE("nccl: a replayed graph in which a rank is missing ends by the deadline", "[nccl]") {
  const auto texts = on_two_ranks([](NcclCommunicator& c, const Barrier& wait_for_all) {
    Rank rank(c);
    rank.forward();
    rank.layer.synchronize();
    const auto before = rank.state();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    cudaStreamBeginCapture(rank.stream.get(), cudaStreamCaptureModeThreadLocal);
    rank.forward();
    cudaStreamEndCapture(rank.stream.get(), &graph);
    cudaGraphInstantiate(&executable, graph, 0);
    c.set_timeout(soon);
    Texts result;
    if (c.rank() == 0) {
      cudaGraphLaunch(executable, rank.stream.get());
      result.push_back(thrown_by([&] { rank.layer.synchronize(); }));
      result.push_back(said(rank.state() == before));
    }
    wait_for_all();
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
    return result;
  });
  REQUIRE(texts[0].size() == 2);
  CHECK(texts[0][0].find("a sum in a graph did not end within 0.300000 s") != std::string::npos);
  CHECK(texts[0][1] == "yes");
}

TEST_CASE("nccl: sums in several streams are done in the order of calls", "[nccl]") {
  const auto texts = on_two_ranks([](NcclCommunicator& c, const Barrier& wait_for_all) {
    Rank first(c);
    Rank second(c);
    first.forward();
    second.forward();
    first.layer.synchronize();
    second.layer.synchronize();
    // On one rank the first stream has other work to do before, and on the other the second: until both have put everything
    // into their streams, and for as long after that as a sum could need that does not wait.
    std::atomic<bool> under_way = false;
    const auto late = [](void* flag) {
      while (!*static_cast<std::atomic<bool>*>(flag)) std::this_thread::yield();
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    };
    cudaLaunchHostFunc((c.rank() == 0 ? first : second).stream.get(), late, &under_way);
    first.forward();
    second.forward();
    wait_for_all();
    under_way = true;
    Texts result{thrown_by([&] { first.layer.synchronize(); }), thrown_by([&] { second.layer.synchronize(); })};
    result.push_back(std::to_string(first.layer.num_batches_tracked() + second.layer.num_batches_tracked()));
    return result;
  });
  for (const Texts& rank : texts) CHECK(rank == Texts{"nothing", "nothing", "4"});
}

TEST_CASE("nccl: work that is no sum may take longer than the deadline", "[nccl]") {
  const auto texts = on_two_ranks([](NcclCommunicator& c, const Barrier&) {
    Rank rank(c);
    c.set_timeout(std::chrono::milliseconds(100));
    rank.forward();
    const auto late = [](void*) { std::this_thread::sleep_for(soon); };
    cudaLaunchHostFunc(rank.stream.get(), late, nullptr);
    const std::string checked = thrown_by([&] { rank.layer.check(); });
    const cudaError_t left_behind = cudaGetLastError();  // by questions to which the answer is: not yet
    return Texts{checked, cudaGetErrorName(left_behind), thrown_by([&] { rank.layer.synchronize(); }),
                 said(c.usable())};
  });
  for (const Texts& rank : texts) CHECK(rank == Texts{"nothing", "cudaSuccess", "nothing", "yes"});
}

TEST_CASE("nccl: a sum behind a graph that hangs ends by the deadline", "[nccl]") {
  const auto texts = on_two_ranks([](NcclCommunicator& c, const Barrier& wait_for_all) {
    Rank rank(c);
    rank.forward();
    rank.layer.synchronize();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    cudaStreamBeginCapture(rank.stream.get(), cudaStreamCaptureModeThreadLocal);
    rank.forward();
    cudaStreamEndCapture(rank.stream.get(), &graph);
    cudaGraphInstantiate(&executable, graph, 0);
    c.set_timeout(soon);
    std::string thrown;
    if (c.rank() == 0) {
      cudaGraphLaunch(executable, rank.stream.get());
      rank.forward();
      thrown = thrown_by([&] { rank.layer.synchronize(); });
    }
    wait_for_all();
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
    return Texts{thrown};
  });
  CHECK(texts[0][0].find("did not end within 0.300000 s") != std::string::npos);
}

TEST_CASE("nccl: past a deadline it is told, too, what came before it", "[nccl]") {
  const auto texts = on_two_ranks([](NcclCommunicator& c, const Barrier& wait_for_all) {
    Rank rank(c);
    c.set_timeout(soon);
    Texts result;
    if (c.rank() == 1) {
      Tensor wrong(rank.layer.backend(), {4, 5}, Placement::rows);
      result.push_back(thrown_by([&] { rank.layer.forward(wrong.read(), wrong.view(), rank.saved); }));  // and leaves
    } else {
      result.push_back(thrown_by([&] {
        rank.forward();
        rank.backward();
        rank.layer.synchronize();
      }));
    }
    wait_for_all();
    return result;
  });
  CHECK(texts[1][0] == "Error: running_mean should contain 5 elements not 3 (x has 5 channels)");
  CHECK(texts[0][0].find("because rank 1 failed") != std::string::npos);
}

TEST_CASE("nccl: a communicator of another device is refused", "[nccl]") {
  ncclComm_t raw[2];
  REQUIRE(ncclCommInitAll(raw, 2, nullptr) == ncclSuccess);
  CHECK(thrown_by([&] { NcclCommunicator c(raw[1]); }) ==
        "Error: the NCCL communicator is of device 1, but device 0 is the current one");
  for (ncclComm_t communicator : raw) ncclCommDestroy(communicator);
}

TEST_CASE("nccl: an exception between sums that start together leaves none of them open", "[nccl]") {
  const auto texts = on_two_ranks([](NcclCommunicator& c, const Barrier&) {
    syncbn::CudaQueue queue;
    using Access = FrameAccess<NcclCommunicator>;
    auto a = c.acquire(3);
    Access::write(c, a, queue, std::vector<double>(3, 1.0));
    const std::string thrown = thrown_by([&] {
      syncbn::start_together([&] {
        c.start(a, queue);
        throw syncbn::Error("on purpose");
      });
    });
    const double first = Access::read(c, a, queue)[0];
    c.start(a, queue);
    return Texts{thrown, std::to_string(first), std::to_string(Access::read(c, a, queue)[0]), said(c.poll(a))};
  });
  for (const Texts& rank : texts) CHECK(rank == Texts{"Error: on purpose", "2.000000", "4.000000", "yes"});
}

TEST_CASE("nccl: sums that are started together", "[nccl]") {
  const auto texts = on_two_ranks([](NcclCommunicator& c, const Barrier& wait_for_all) {
    syncbn::CudaQueue queue;
    using Access = FrameAccess<NcclCommunicator>;
    auto a = c.acquire(3);
    auto b = c.acquire(700);
    Access::write(c, a, queue, std::vector<double>(3, 1.0 + c.rank()));
    Access::write(c, b, queue, std::vector<double>(700, 10.0));
    const auto start = [&] {
      syncbn::start_together([&] {
        c.start(a, queue);
        syncbn::start_together([&] { c.start(b, queue); });
      });
    };
    bool too_early = false;
    if (c.rank() == 0) {
      start();
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      too_early = c.poll(a) || c.poll(b);
    }
    wait_for_all();
    if (c.rank() == 1) start();
    return Texts{said(too_early), std::to_string(Access::read(c, a, queue)[2]),
                 std::to_string(Access::read(c, b, queue)[699]), said(c.poll(a) && c.poll(b))};
  });
  for (const Texts& rank : texts) CHECK(rank == Texts{"no", "3.000000", "20.000000", "yes"});
}

TEST_CASE("nccl: several ranks on one thread start together", "[nccl]") {
  ncclComm_t raw[3];
  REQUIRE(ncclCommInitAll(raw, 3, nullptr) == ncclSuccess);
  {
    std::vector<std::unique_ptr<CudaStream>> streams;  // outlive the frames
    std::vector<NcclCommunicator> ranks;
    std::vector<NcclCommunicator::frame> frames;
    using Access = FrameAccess<NcclCommunicator>;
    syncbn::CudaQueue none;
    for (int r = 0; r < 3; ++r) {
      cudaSetDevice(r);
      streams.push_back(std::make_unique<CudaStream>());
      ranks.emplace_back(raw[r]);
      frames.push_back(ranks.back().acquire(5));
      Access::write(ranks.back(), frames.back(), none, std::vector<double>(5, r + 1.0));
    }
    syncbn::start_together([&] {
      for (std::size_t r = 0; r < 3; ++r) {
        cudaSetDevice(static_cast<int>(r));
        syncbn::CudaQueue queue{streams[r]->get()};
        ranks[r].start(frames[r], queue);
      }
    });
    for (std::size_t r = 0; r < 3; ++r) {
      cudaSetDevice(static_cast<int>(r));
      syncbn::CudaQueue queue{streams[r]->get()};
      CHECK(Access::read(ranks[r], frames[r], queue) == std::vector<double>(5, 6));
    }
  }
  for (ncclComm_t communicator : raw) ncclCommDestroy(communicator);
  cudaSetDevice(0);
}
