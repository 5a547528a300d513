#pragma once

#include <syncbn/tensor_view.hpp>

/// @file
/// The same step on the CPU, to compare with. nvcc does not compile CpuBackend, whose kernels have vectors: these are functions of
/// other source files.

namespace example {

using HostTensor = syncbn::TensorView<float>;

void step_on_cpu(HostTensor x, HostTensor dy, HostTensor y, HostTensor dx);
void step_on_cpu_with_all_ranks(HostTensor x, HostTensor dy, HostTensor y, HostTensor dx);  // of MPI

}  // namespace example
