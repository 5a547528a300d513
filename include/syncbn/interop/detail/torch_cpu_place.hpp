#pragma once

#include <cstdint>
#include <string>

// clang-format off: clang reads LibTorch 1.13 only if this comes first
#include <ATen/core/ivalue.h>
#include <ATen/Parallel.h>
// clang-format on

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/backends/executors.hpp>
#include <syncbn/interop/detail/torch_engine.hpp>

// LibTorch's tensors in host memory.

namespace syncbn::inline v0::detail::torch {

// LibTorch's own threads, as many as at::set_num_threads() says.
struct OnTorchThreads {
  template <class Task>
  void operator()(Index tasks, const Task& task) const {
    at::parallel_for(0, tasks, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) task(Index{i});
    });
  }
};

template <class P>
struct CpuPlace {
  using Backend = CpuBackend<P, ParallelFor<OnTorchThreads>>;
  using Communicator = AnyCommunicator;
  using Order = NoOrder;

  static Backend backend() { return Backend(ParallelFor(OnTorchThreads())); }
  static Backend lasting_backend() { return backend(); }
  static void check(const at::Tensor& x) {
    if (!x.is_cuda()) return;
    throw Error(
        "a tensor on " + x.device().str() +
        ": for these, include <syncbn/interop/torch_cuda.cuh> in a source file of the program that nvcc compiles");
  }
};

}  // namespace syncbn::inline v0::detail::torch
