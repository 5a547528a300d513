// What PyTorch answers, from CUDA kernels: on one rank, and on ranks that share a batch.

#include <syncbn/backends/cuda_backend.cuh>
#include <syncbn/backends/nccl_communicator.hpp>

#include "support/emulated_devices.hpp"
#include "support/staged_launcher.hpp"
#include "unit/golden_layer.hpp"
#include "unit/golden_split.hpp"

using namespace syncbn_test;

namespace {

using Single = syncbn::CudaBackend<float>;
using Double = syncbn::CudaBackend<double>;

// Ranks that are threads of this process, and sum in its memory.
class StagedFabric {
 public:
  using Communicator = syncbn::Staged<syncbn::ThreadCommunicator>;

  explicit StagedFabric(int ranks) : threads_(ranks) {}
  Communicator communicator(std::size_t rank) { return Communicator(threads_.communicator(rank)); }
  void enter(std::size_t) {}
  void leave(std::size_t rank, const char* why) { threads_.leave(rank, why); }

 private:
  ThreadFabric threads_;
};

// Ranks with a device each.
class NcclFabric {
 public:
  using Communicator = syncbn::NcclCommunicator;

  explicit NcclFabric(int ranks) : threads_(ranks), communicators_(static_cast<std::size_t>(ranks)) {
    std::vector<std::jthread> creating;
    for (std::size_t r = 0; r < communicators_.size(); ++r) {
      creating.emplace_back([&, r] {
        enter(r);
        syncbn::ThreadCommunicator spread = threads_.communicator(r);
        communicators_[r] = Communicator::create(spread, rank_timeout);
      });
    }
  }
  Communicator communicator(std::size_t rank) { return *communicators_[rank]; }
  void enter(std::size_t rank) { syncbn::cuda::check(cudaSetDevice(static_cast<int>(rank)), "cudaSetDevice"); }
  void leave(std::size_t, const char*) {}  // the deadline tells the others

 private:
  ThreadFabric threads_;
  std::vector<std::optional<Communicator>> communicators_;
};

}  // namespace

TEST_CASE("golden, CUDA: the layer and the functional form answer as PyTorch does", "[golden][cuda]") {
  const char* const file = GENERATE("layer_f32.txt", "layer_f64.txt", "layer_bf16.txt", "functional.txt", "edge.txt");
  INFO(file);
  replay_file_on_one_rank<Single, Double>(file);
}

TEST_CASE("golden, CUDA: batches split over staged ranks give what PyTorch gives on the whole batch",
          "[golden][cuda]") {
  replay_split_files<Single, Double, StagedFabric>();
}

TEST_CASE("golden, CUDA: batches split over devices give what PyTorch gives on the whole batch", "[golden][cuda]") {
  replay_split_files<Single, Double, NcclFabric>();
}
