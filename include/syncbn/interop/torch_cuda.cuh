#pragma once

#include <memory>

// clang-format off: clang reads LibTorch 1.13 only if this comes first
#include <ATen/core/ivalue.h>
#include <c10/core/DeviceGuard.h>
#include <c10/cuda/CUDAStream.h>
// clang-format on

#include <syncbn/backends/cuda_backend.cuh>
#include <syncbn/backends/detail/cuda_handles.hpp>
#include <syncbn/backends/staged.hpp>
#include <syncbn/interop/detail/torch_engine.hpp>

/// @file
/// Lets the modules of torch.hpp take tensors of CUDA devices: a program whose modules shall includes this in one source file
/// that nvcc compiles. That file belongs to the program, or to a shared library: of a static one the linker takes only what is
/// asked for, and nothing asks for it.
///
/// Modules work in LibTorch's current stream. Statistics of several ranks go through pinned host memory over any
/// communicator that modules take, and wait for the stream: such a step cannot be captured in a CUDA graph.
///
/// It has run on an emulator, and never on a GPU.

namespace syncbn::inline v0::detail::torch {

template <class P>
struct CudaPlace {
  using Backend = CudaBackend<P>;
  using Communicator = Staged<AnyCommunicator>;

  // A layer that stays works in a stream that stays.
  static cudaStream_t lasting_stream() { return c10::cuda::getDefaultCUDAStream().stream(); }
  static cudaStream_t stream() { return c10::cuda::getCurrentCUDAStream().stream(); }
  static Backend backend() { return Backend(stream()); }
  static Backend lasting_backend() { return Backend(lasting_stream()); }
  static void check(const at::Tensor&) {}

  // What the layer that stays does comes after what the caller's stream holds, and before what it is given next: until then
  // LibTorch may use memory again that the layer was working on.
  class Order {
   public:
    Order() = default;
    Order(const Order&) = delete;
    Order& operator=(const Order&) = delete;
    ~Order() {
      if (!event_) return;
      try {
        event_->record(layer_);
        event_->let_wait(caller_);
      } catch (const CudaError&) {  // the device is lost, and says so to whoever asks it next
      }
    }
    // Called when the caller's stream has been given all that the tensors need, memory too.
    void follow_caller() {
      if (caller_ == layer_) return;
      if (!event_) event_ = std::make_unique<CudaEvent>();
      event_->record(caller_);
      event_->let_wait(layer_);
    }

   private:
    const cudaStream_t caller_ = stream(), layer_ = lasting_stream();
    std::unique_ptr<CudaEvent> event_;
  };
};

// On the current device, to which it gives its memory back.
inline std::shared_ptr<Engine> make_engine_of_cuda(bool of_double, Index channels, const BatchNormOptions& options,
                                                   const AnyCommunicator& communicator) {
  const auto release = [device = c10::cuda::getDefaultCUDAStream().device()](Engine* engine) {
    const c10::DeviceGuard guard(device);
    delete engine;
  };
  if (of_double) return {new EngineOf<CudaPlace<double>>(channels, options, communicator), release};
  return {new EngineOf<CudaPlace<float>>(channels, options, communicator), release};
}

// Of each source file, so that it happens before main() for certain.
[[maybe_unused]] static const bool cuda_is_there = (make_cuda_engine = &make_engine_of_cuda, true);

}  // namespace syncbn::inline v0::detail::torch
