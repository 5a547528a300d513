#include <mpi.h>

#include <syncbn/backends/mpi_communicator.hpp>
#include <syncbn/interop/torch_convert.hpp>

#include "support/torch.hpp"

using at::Tensor;
using syncbn_test::agree;
namespace nn = ::torch::nn;

TEST_CASE("modules of LibTorch take their statistics over processes of MPI", "[torch][mpi]") {
  const syncbn::MpiCommunicator world(MPI_COMM_WORLD);
  const std::int64_t rank = world.rank(), size = world.size();
  ::torch::manual_seed(1);  // the same batch everywhere
  const std::int64_t samples = 3 * size * (size - 1) / 2;
  const Tensor batch = at::randn({samples, 6, 5, 3}) * 3 + 5, gradient = at::randn_like(batch);
  // Rank r has 3 r samples of it, and so the first has none.
  const std::int64_t first = 3 * rank * (rank - 1) / 2, last = first + 3 * rank;

  nn::Sequential whole{nn::BatchNorm2d(6)}, ours{nn::BatchNorm2d(6)};
  syncbn::torch::convert_sync_batchnorm(*ours, world);
  const Tensor x = batch.clone().requires_grad_(), part = batch.slice(0, first, last).clone().requires_grad_();
  const Tensor expected = whole->forward(x), y = ours->forward(part);
  expected.backward(gradient);
  y.backward(gradient.slice(0, first, last));

  const std::int64_t terms = samples * 5 * 3;
  CHECK(agree(y, expected.slice(0, first, last), terms));
  CHECK(agree(part.grad(), x.grad().slice(0, first, last), terms));
  for (const auto& buffer : whole->named_buffers()) {
    INFO(buffer.key());
    CHECK(agree(ours->named_buffers()[buffer.key()], buffer.value(), terms));
  }
  // Gradients of parameters are this rank's part.
  for (const auto& parameter : whole->named_parameters()) {
    INFO(parameter.key());
    Tensor sum = ours->named_parameters()[parameter.key()].grad().clone();
    MPI_Allreduce(MPI_IN_PLACE, sum.data_ptr(), static_cast<int>(sum.numel()), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    CHECK(agree(sum, parameter.value().grad(), 4 * terms));
  }
}
