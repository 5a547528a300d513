#pragma once

#include <cstddef>

#include <syncbn/detail/config.hpp>
#include <syncbn/tensor_view.hpp>

namespace syncbn::inline v0 {

/// @brief For `BatchNorm<any_dims, ...>`: inputs (N, C, S...) of rank 2 or more.
inline constexpr std::size_t any_dims = static_cast<std::size_t>(-1);

class SerialExecutor;
inline namespace SYNCBN_CPU_ISA {
template <class Parameter = float, class Executor = SerialExecutor>
class CpuBackend;
}
class SingleProcessCommunicator;
class ThreadCommunicator;
class MpiCommunicator;
struct BatchNormOptions;
namespace detail {
template <class Backend>
struct StateStorage;
template <class Backend>
struct BorrowedStorage;
}  // namespace detail
template <std::size_t Dims, class Backend = CpuBackend<>, class Communicator = SingleProcessCommunicator,
          class Storage = detail::StateStorage<Backend>>
class BatchNorm;
template <class Backend>
struct BorrowedTensors;
/// @brief A layer on parameters and running statistics that somebody else owns: see borrowed.hpp.
template <std::size_t Dims, class Backend = CpuBackend<>, class Communicator = SingleProcessCommunicator>
using BorrowingBatchNorm = BatchNorm<Dims, Backend, Communicator, detail::BorrowedStorage<Backend>>;
template <std::size_t Dims, class Backend = CpuBackend<>, class Communicator = SingleProcessCommunicator>
class LazyBatchNorm;

/// @brief Inputs (N, C) or (N, C, L).
template <class Backend = CpuBackend<>, class Communicator = SingleProcessCommunicator>
using BatchNorm1d = BatchNorm<1, Backend, Communicator>;
/// @brief Inputs (N, C, H, W).
template <class Backend = CpuBackend<>, class Communicator = SingleProcessCommunicator>
using BatchNorm2d = BatchNorm<2, Backend, Communicator>;
/// @brief Inputs (N, C, D, H, W).
template <class Backend = CpuBackend<>, class Communicator = SingleProcessCommunicator>
using BatchNorm3d = BatchNorm<3, Backend, Communicator>;
/// @brief Inputs (N, C, S...), statistics over all ranks of the communicator.
template <class Backend, class Communicator>
using SyncBatchNorm = BatchNorm<any_dims, Backend, Communicator>;

/// @brief Lazy, inputs (N, C) or (N, C, L).
template <class Backend = CpuBackend<>, class Communicator = SingleProcessCommunicator>
using LazyBatchNorm1d = LazyBatchNorm<1, Backend, Communicator>;
/// @brief Lazy, inputs (N, C, H, W).
template <class Backend = CpuBackend<>, class Communicator = SingleProcessCommunicator>
using LazyBatchNorm2d = LazyBatchNorm<2, Backend, Communicator>;
/// @brief Lazy, inputs (N, C, D, H, W).
template <class Backend = CpuBackend<>, class Communicator = SingleProcessCommunicator>
using LazyBatchNorm3d = LazyBatchNorm<3, Backend, Communicator>;
/// @brief Lazy, inputs (N, C, S...), statistics over all ranks of the communicator.
template <class Backend, class Communicator>
using LazySyncBatchNorm = LazyBatchNorm<any_dims, Backend, Communicator>;

}  // namespace syncbn::inline v0
