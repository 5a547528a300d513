#include "libtorch/device.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include <ATen/core/ivalue.h>
// The former has to come first for clang.
#include <ATen/ATen.h>
#include <ATen/NativeFunctions.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "options.hpp"

namespace {

using at::Tensor;
using c10::Device;
using c10::Stream;
using MaybeType = c10::optional<at::ScalarType>;
using MaybeDevice = c10::optional<Device>;

// The current streams of a thread, one for each device; null is the device's default stream.
constexpr std::size_t most_devices = 8;
thread_local std::array<cudaStream_t, most_devices> current_streams{};

void check(cudaError_t error) { TORCH_CHECK(error == cudaSuccess, cudaGetErrorString(error)); }

// LibTorch numbers streams; here their handles are their numbers.
Stream as_number(Device device, cudaStream_t stream) {
  return Stream(Stream::UNSAFE, device, reinterpret_cast<c10::StreamId>(stream));
}
cudaStream_t as_handle(const Stream& stream) { return reinterpret_cast<cudaStream_t>(stream.id()); }

c10::DeviceIndex device_now() noexcept {
  int device = 0;
  static_cast<void>(cudaGetDevice(&device));
  return static_cast<c10::DeviceIndex>(device);
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return at::kCUDA; }
  Device exchangeDevice(Device device) const override {
    const Device before = getDevice();
    setDevice(device);
    return before;
  }
  Device getDevice() const override { return {at::kCUDA, device_now()}; }
  void setDevice(Device device) const override { uncheckedSetDevice(device); }
  void uncheckedSetDevice(Device device) const noexcept override { static_cast<void>(cudaSetDevice(device.index())); }
  Stream getStream(Device device) const noexcept override {
    return as_number(device, current_streams[static_cast<std::size_t>(device.index())]);
  }
  Stream getDefaultStream(Device device) const override { return as_number(device, nullptr); }
  Stream exchangeStream(Stream stream) const noexcept override {
    const Stream before = getStream(stream.device());
    current_streams[static_cast<std::size_t>(stream.device_index())] = as_handle(stream);
    return before;
  }
  void record(void** event, const Stream& stream, c10::DeviceIndex, c10::EventFlag) const override {
    const c10::DeviceGuard guard(stream.device());
    if (*event == nullptr)
      check(cudaEventCreateWithFlags(reinterpret_cast<cudaEvent_t*>(event), cudaEventDisableTiming));
    check(cudaEventRecord(static_cast<cudaEvent_t>(*event), as_handle(stream)));
  }
  void block(void* event, const Stream& stream) const override {
    const c10::DeviceGuard guard(stream.device());
    check(cudaStreamWaitEvent(as_handle(stream), static_cast<cudaEvent_t>(event), 0));
  }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override {
    if (event != nullptr) static_cast<void>(cudaEventDestroy(static_cast<cudaEvent_t>(event)));
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return static_cast<c10::DeviceIndex>(cuda_emulation::options().devices);
  }
};

const c10::impl::DeviceGuardImplRegistrar registered(at::kCUDA, new Guard);

// Autograd lets the streams of those who called it wait for its own, of as many devices as this says. LibTorch looks for the
// class by its name.
struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void initCUDA() const override {}
  bool hasCUDA() const override { return true; }
  int getNumGPUs() const override { return cuda_emulation::options().devices; }
  bool hasPrimaryContext(std::int64_t) const override { return true; }
};

// In the order of the current stream, as LibTorch's own allocator gives and takes.
Tensor make(at::IntArrayRef sizes, at::IntArrayRef strides, MaybeType type, MaybeDevice wanted) {
  Device device = wanted.value_or(Device(at::kCUDA));
  if (!device.has_index()) device.set_index(device_now());
  const c10::DeviceGuard guard(device);
  const auto options = at::TensorOptions(device).dtype(type.value_or(at::kFloat));
  std::size_t bytes = c10::elementSize(type.value_or(at::kFloat));
  for (const std::int64_t size : sizes) bytes *= static_cast<std::size_t>(size);
  cudaStream_t stream = current_streams[static_cast<std::size_t>(device.index())];
  void* memory = nullptr;
  check(cudaMallocAsync(&memory, std::max<std::size_t>(bytes, 1), stream));
  const auto release = [stream, device](void* p) {
    const c10::DeviceGuard its(device);
    static_cast<void>(cudaFreeAsync(p, stream));
  };
  return at::from_blob(memory, sizes, strides, release, options, device);
}

// The same memory for LibTorch's kernels for CPUs.
Tensor on_host(const Tensor& t) {
  if (!t.is_cuda()) return t;
  const c10::DeviceGuard guard(t.device());
  check(cudaDeviceSynchronize());
  return at::from_blob(t.data_ptr(), t.sizes(), t.strides(), t.options().device(at::kCPU));
}

Tensor empty(at::IntArrayRef sizes, MaybeType type, c10::optional<at::Layout>, MaybeDevice device, c10::optional<bool>,
             c10::optional<at::MemoryFormat> format) {
  // LibTorch for CPUs knows the strides of each format.
  const Tensor like = at::empty(sizes, at::TensorOptions(at::kMeta), format);
  return make(sizes, like.strides(), type, device);
}

Tensor empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides, MaybeType type, c10::optional<at::Layout>,
                     MaybeDevice device, c10::optional<bool>) {
  return make(sizes, strides, type, device);
}

Tensor& copy_(Tensor& to, const Tensor& from, bool) {
  on_host(to).copy_(on_host(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  on_host(to).copy_(on_host(from));
  return to;
}

void on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) { at::native::cpu_fallback(op, stack); }

}  // namespace

namespace at {
REGISTER_CUDA_HOOKS(CUDAHooks)
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", TORCH_FN(empty));
  library.impl("empty_strided", TORCH_FN(empty_strided));
  library.impl("copy_", TORCH_FN(copy_));
  library.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
  library.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  library.impl("view", TORCH_FN(at::native::view));
}
TORCH_LIBRARY_IMPL(_, CUDA, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&on_cpu>()); }

// What LibTorch for CUDA has of these.
namespace c10::cuda {
CUDAStream getDefaultCUDAStream(DeviceIndex device) {
  return CUDAStream(as_number({at::kCUDA, device < 0 ? device_now() : device}, nullptr));
}
CUDAStream getCurrentCUDAStream(DeviceIndex device) {
  const DeviceIndex which = device < 0 ? device_now() : device;
  return CUDAStream(as_number({at::kCUDA, which}, current_streams[static_cast<std::size_t>(which)]));
}
cudaStream_t CUDAStream::stream() const { return as_handle(stream_); }
}  // namespace c10::cuda

namespace syncbn_test {

CurrentStream::CurrentStream(cudaStream_t stream)
    : before_(std::exchange(current_streams[static_cast<std::size_t>(device_now())], stream)) {}
CurrentStream::~CurrentStream() { current_streams[static_cast<std::size_t>(device_now())] = before_; }

}  // namespace syncbn_test
