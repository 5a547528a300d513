#pragma once

#include <cuda_runtime_api.h>
#include <utility>

#include <syncbn/backends/detail/cuda_check.hpp>

// Events and streams that somebody owns.

namespace syncbn::inline v0::detail {

class CudaEvent {
 public:
  CudaEvent() { cuda::check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreateWithFlags"); }
  CudaEvent(CudaEvent&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  CudaEvent& operator=(CudaEvent&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;
  ~CudaEvent() {
    if (event_ != nullptr) static_cast<void>(cudaEventDestroy(event_));
  }

  void record(cudaStream_t stream) { cuda::check(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  // What is put into this stream from now on waits for it.
  void let_wait(cudaStream_t stream) const {
    cuda::check(cudaStreamWaitEvent(stream, event_, 0), "cudaStreamWaitEvent");
  }
  // Whether the stream has come to it.
  bool reached() const noexcept { return query() == cudaSuccess; }
  // The same of a stream that works no more: whoever waits for it will meet its error.
  bool over() const noexcept { return query() != cudaErrorNotReady; }

 private:
  cudaError_t query() const noexcept {
    const cudaError_t state = cudaEventQuery(event_);
    if (state != cudaSuccess) static_cast<void>(cudaGetLastError());  // "not ready" is nobody's error
    return state;
  }

  cudaEvent_t event_ = nullptr;
};

// While it lives, calls of this thread that ask the device or allocate do not spoil captures, of whatever thread.
class RelaxedCapture {
 public:
  RelaxedCapture() { exchange(); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;
  ~RelaxedCapture() { exchange(); }

 private:
  void exchange() noexcept { static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode_)); }

  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// One that waits for no other stream.
class CudaStream {
 public:
  CudaStream() { cuda::check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); }
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  ~CudaStream() { static_cast<void>(cudaStreamDestroy(stream_)); }

  cudaStream_t get() const noexcept { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

inline bool is_captured(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cuda::check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace syncbn::inline v0::detail
