#include <syncbn/backends/mpi_communicator.hpp>
#include <syncbn/syncbn.hpp>

#include "on_cpu.hpp"

void example::step_on_cpu_with_all_ranks(HostTensor x, HostTensor dy, HostTensor y, HostTensor dx) {
  syncbn::BatchNorm<2, syncbn::CpuBackend<float>, syncbn::MpiCommunicator> bn(x.extent(1));
  const auto saved = bn.forward(x, y);
  bn.backward(dy, x, saved, dx);
}
