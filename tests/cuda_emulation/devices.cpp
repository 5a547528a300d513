// Devices and their properties, as far as the library asks for them.

#include "devices.hpp"

#include <algorithm>
#include <cuda_runtime.h>
#include <iterator>
#include <utility>

#include "launch.hpp"
#include "memory.hpp"
#include "options.hpp"
#include "streams.hpp"

using namespace cuda_emulation;

namespace {

thread_local int current = 0;

constexpr int multiprocessors = 8;
constexpr int cache_bytes = 4 << 20;
constexpr int threads_of_multiprocessor = 2048;

struct Name {
  cudaError_t error;
  const char* text;
};
constexpr Name names[] = {
    {cudaSuccess, "cudaSuccess"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle"},
    {cudaErrorIllegalState, "cudaErrorIllegalState"},
    {cudaErrorNotPermitted, "cudaErrorNotPermitted"},
    {cudaErrorNotReady, "cudaErrorNotReady"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation"},
    {cudaErrorStreamCaptureMerge, "cudaErrorStreamCaptureMerge"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported"},
};

}  // namespace

int cuda_emulation::current_device() { return current; }
OnDevice::OnDevice(int device) : before_(std::exchange(current, device)) {}
OnDevice::~OnDevice() { current = before_; }

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = options().devices;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= options().devices) return remember(cudaErrorInvalidDevice);
  current = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device < 0 || device >= options().devices) return remember(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = multiprocessors;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(most_shared_bytes);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(most_default_shared_bytes);
      break;
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = threads_of_multiprocessor;
      break;
    case cudaDevAttrL2CacheSize:
      *value = cache_bytes;
      break;
    case cudaDevAttrMemoryPoolsSupported:
      *value = 1;
      break;
    case cudaDevAttrWarpSize:
      *value = 32;
      break;
    default:
      return remember(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int threads, size_t) {
  if (threads <= 0) return remember(cudaErrorInvalidValue);
  *blocks = threads_of_multiprocessor / threads;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<size_t>(value) > most_shared_bytes) return remember(cudaErrorInvalidValue);
  if (!allow_shared_bytes(kernel, static_cast<size_t>(value))) {
    violate("a kernel is allowed less shared memory than before, with which another thread may be about to launch it");
  }
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
  MemoryKind kind{};
  *attributes = {};
  attributes->type = cudaMemoryTypeUnregistered;
  if (!find_memory(p, kind)) return cudaSuccess;
  attributes->type = kind == MemoryKind::device ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
  attributes->devicePointer = const_cast<void*>(p);
  if (kind == MemoryKind::pinned) attributes->hostPointer = const_cast<void*>(p);
  return cudaSuccess;
}

const char* cudaGetErrorName(cudaError_t error) {
  const auto named = [error](const Name& name) { return name.error == error; };
  const auto* const found = std::find_if(std::begin(names), std::end(names), named);
  return found == std::end(names) ? "cudaErrorUnknown" : found->text;
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

}  // extern "C"
