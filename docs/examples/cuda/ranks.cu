// Layers on CUDA devices whose statistics span processes of MPI: over NCCL with a device for each rank, through host memory, and
// by an MPI that takes device pointers. Run: mpiexec -n 2 example.cuda_ranks [--cuda-aware]

#include <cstdlib>
#include <cstring>
#include <exception>
#include <tuple>

#include <mpi.h>

#include <syncbn/backends/cuda_backend.cuh>
// [begin include_nccl]
#include <syncbn/backends/nccl_communicator.hpp>  // syncbn::nccl (SYNCBN_WITH_NCCL); also for host compilers
// [end include_nccl]
// [begin include_cuda_aware]
#include <syncbn/backends/cuda_aware_mpi_communicator.hpp>  // syncbn::cuda_aware_mpi (SYNCBN_WITH_CUDA, SYNCBN_WITH_MPI)
// [end include_cuda_aware]
#include <syncbn/backends/mpi_communicator.hpp>
#include <syncbn/backends/staged.hpp>
#include <syncbn/core.hpp>

#include "common.hpp"
#include "on_cpu.hpp"

using example::channels;
using Backend = syncbn::CudaBackend<float>;

namespace {

// A rank's tensors, and what a layer on the CPU makes of them.
struct Step {
  example::Activations x_values, dy_values, y_values{0}, dx_values{0}, expected_y{0}, expected_dx{0};
  syncbn::TensorView<float, syncbn::CudaSpace> x = x_values.on_device(), dy = dy_values.on_device(),
                                               y = y_values.on_device(), dx = dx_values.on_device();
  cudaStream_t stream = nullptr;

  explicit Step(const syncbn::MpiCommunicator& world)
      : x_values(static_cast<unsigned>(world.rank()) + 1), dy_values(static_cast<unsigned>(world.rank()) + 100) {
    example::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    example::step_on_cpu_with_all_ranks(x_values.on_host(), dy_values.on_host(), expected_y.on_host(),
                                        expected_dx.on_host());
  }
  ~Step() { cudaStreamDestroy(stream); }
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;

  bool agrees(const char* what) const {
    std::printf("%s\n", what);
    return example::agree("  y", y_values.download(), expected_y.host()) &&
           example::agree("  dx", dx_values.download(), expected_dx.host());
  }
};

bool over_nccl() {
  // [begin nccl]
  using Layer = syncbn::BatchNorm<2, Backend, syncbn::NcclCommunicator>;
  syncbn::MpiCommunicator world;                        // spreads the unique id; threads do as well
  auto nccl = syncbn::NcclCommunicator::create(world);  // or NcclCommunicator(yours), an ncclComm_t
  // [end nccl]
  Step step(world);
  const auto [x, dy, y, dx, stream] = std::tuple(step.x, step.dy, step.y, step.dx, step.stream);
  // [begin nccl_step]
  Layer bn(channels, {}, nccl, Backend(stream));
  Layer::Saved saved;
  nccl.watch();             // a thread that looks at the deadline
  bn.forward(x, y, saved);  // does not wait for the stream
  bn.backward(dy, x, saved, dx);
  bn.synchronize();  // waits for the stream, and throws what has gone wrong
  // [end nccl_step]
  return step.agrees("NCCL");
}

bool through_host_memory() {
  Step step{syncbn::MpiCommunicator()};
  const cudaStream_t stream = step.stream;
  // [begin staged]
  using Layer = syncbn::BatchNorm<2, Backend, syncbn::Staged<syncbn::MpiCommunicator>>;
  Layer bn(channels, {}, syncbn::Staged(syncbn::MpiCommunicator(MPI_COMM_WORLD)), Backend(stream));
  // [end staged]
  const auto saved = bn.forward(step.x, step.y);
  bn.backward(step.dy, step.x, saved, step.dx);
  return step.agrees("MPI, through host memory");
}

bool by_cuda_aware_mpi() {
  Step step{syncbn::MpiCommunicator()};
  const cudaStream_t stream = step.stream;
  // [begin cuda_aware]
  using Layer = syncbn::BatchNorm<2, Backend, syncbn::CudaAwareMpiCommunicator>;
  Layer bn(channels, {}, syncbn::CudaAwareMpiCommunicator(MPI_COMM_WORLD), Backend(stream));
  // [end cuda_aware]
  const auto saved = bn.forward(step.x, step.y);
  bn.backward(step.dy, step.x, saved, step.dx);
  bn.synchronize();
  return step.agrees("CUDA-aware MPI");
}

}  // namespace

int main(int argc, char** argv) {
  const int devices = example::devices();
  if (devices == 0) return 77;
  MPI_Init(&argc, &argv);
  int rank = 0, ranks = 0, status = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  try {
    example::check(cudaSetDevice(rank % devices));
    bool ok = through_host_memory();
    if (ranks <= devices) {
      ok &= over_nccl();
    } else {
      std::printf("NCCL: skipped, it wants a device for each of %d ranks, and there are %d\n", ranks, devices);
    }
    // An MPI that does not take device pointers would end the process.
    if (argc > 1 && std::strcmp(argv[1], "--cuda-aware") == 0) ok &= by_cuda_aware_mpi();
    status = ok ? 0 : 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "rank %d: %s\n", rank, e.what());
    std::quick_exit(1);  // the others may be waiting in MPI
  }
  MPI_Finalize();
  return status;
}
