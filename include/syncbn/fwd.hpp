#pragma once

#include <cstddef>

#include <syncbn/detail/config.hpp>
#include <syncbn/tensor_view.hpp>

namespace syncbn::inline v0 {

/// @brief For `BatchNorm<any_dims, ...>`: inputs (N, C, S...) of rank 2 or more.
inline constexpr std::size_t any_dims = static_cast<std::size_t>(-1);

class SerialExecutor;
inline namespace SYNCBN_CPU_ISA {
template <class Parameter, class Executor>
class CpuBackend;
}
class SingleProcessCommunicator;
class ThreadCommunicator;
class MpiCommunicator;
struct BatchNormOptions;

}  // namespace syncbn::inline v0
