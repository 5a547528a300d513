// The runtime's calls about streams, events, graphs and memory.

#include <algorithm>
#include <chrono>
#include <memory>
#include <mutex>
#include <utility>

#include "memory.hpp"
#include "options.hpp"
#include "stream.hpp"
#include "streams.hpp"

using namespace cuda_emulation;

namespace {

// One recording of an event.
struct Mark {
  Moment moment{};
  std::chrono::steady_clock::time_point at{};
  std::shared_ptr<CUgraph_st> capture;  // in which nothing is ever reached
  std::map<CUstream_st*, long> seen;
};

thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;

}  // namespace

struct CUevent_st {
  std::shared_ptr<Mark> last() const {
    const std::lock_guard lock(mutex_);
    return mark_;
  }
  void record(std::shared_ptr<Mark> mark) {
    const std::lock_guard lock(mutex_);
    mark_ = std::move(mark);
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<Mark> mark_;  // the last recording
};

namespace {

// A captured stream waits for what is captured with it, and a free one joins the capture.
cudaError_t wait_in_capture(CUstream_st& stream, const Mark& mark) {
  const std::shared_ptr<CUgraph_st> capture = stream.capture();
  if (!mark.capture) return invalidate(*capture, cudaErrorStreamCaptureIsolation);
  if (mark.capture->ended) return remember(cudaErrorCapturedEvent);
  if (capture && capture != mark.capture) {
    invalidate(*mark.capture, cudaErrorStreamCaptureMerge);
    return invalidate(*capture, cudaErrorStreamCaptureMerge);
  }
  if (!capture) {
    stream.seen.clear();
    stream.set_capture(mark.capture);
  }
  for (const auto& [from, nodes] : mark.seen) stream.seen[from] = std::max(stream.seen[from], nodes);
  return cudaSuccess;
}

bool is_joined(CUstream_st& origin, const CUgraph_st& capture) {
  return std::all_of(capture.nodes.begin(), capture.nodes.end(),
                     [&](const auto& of_stream) { return origin.seen[of_stream.first] >= of_stream.second; });
}

cudaError_t allocate_into(void** p, size_t bytes, MemoryKind kind) {
  *p = allocate(bytes, kind);
  return *p == nullptr ? remember(cudaErrorMemoryAllocation) : cudaSuccess;
}

}  // namespace

extern "C" {

// ---- Streams ---------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  *stream = create_stream(flags != cudaStreamNonBlocking);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr) return remember(cudaErrorInvalidResourceHandle);
  return destroy_stream(stream);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return drain(stream); }
cudaError_t cudaDeviceSynchronize() { return drain_all(); }
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  CUstream_st& s = stream_of(stream);
  if (const cudaError_t error = refuse_in_capture(s); error != cudaSuccess) return error;
  if (const cudaError_t error = fault_of(s); error != cudaSuccess) return remember(error);
  return s.queue.has_done(s.queue.last()) ? cudaSuccess : remember(cudaErrorNotReady);
}
cudaError_t cudaStreamGetDevice(cudaStream_t stream, int* device) {
  *device = stream_of(stream).device;
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* argument) {
  return submit(stream, [=] {
    const InHostFunction in;
    function(argument);
    return cudaSuccess;
  });
}

// ---- Events ----------------------------------------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  CUstream_st& s = stream_of(stream);
  const auto mark = std::make_shared<Mark>();
  mark->capture = s.capture();
  if (mark->capture) {
    mark->seen = s.seen;
  } else {
    const auto note_time = [mark] {
      mark->at = std::chrono::steady_clock::now();
      return cudaSuccess;
    };
    if (const cudaError_t error = submit_after(s, {}, note_time, &mark->moment); error != cudaSuccess) return error;
  }
  event->record(mark);
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const std::shared_ptr<Mark> mark = event->last();
  if (!mark) return cudaSuccess;
  CUstream_st& s = stream_of(stream);
  if (mark->capture || s.capture()) return wait_in_capture(s, *mark);
  return submit_after(s, {mark->moment}, [] { return cudaSuccess; }, nullptr);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (const cudaError_t error = refuse_in_host_function(); error != cudaSuccess) return error;
  count_wait();
  const std::shared_ptr<Mark> mark = event->last();
  if (!mark) return cudaSuccess;
  if (mark->capture) return remember(cudaErrorCapturedEvent);
  mark->moment.reach();
  return remember(fault_of(*mark->moment.stream));
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const std::shared_ptr<Mark> mark = event->last();
  if (!mark) return cudaSuccess;
  if (mark->capture) return remember(cudaErrorCapturedEvent);
  if (const cudaError_t error = fault_of(*mark->moment.stream); error != cudaSuccess) return remember(error);
  return mark->moment.is_over() ? cudaSuccess : remember(cudaErrorNotReady);
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  const std::shared_ptr<Mark> first = from->last();
  const std::shared_ptr<Mark> second = to->last();
  if (!first || !second || first->capture || second->capture) return remember(cudaErrorInvalidResourceHandle);
  if (!first->moment.is_over() || !second->moment.is_over()) return remember(cudaErrorNotReady);
  *milliseconds = std::chrono::duration<float, std::milli>(second->at - first->at).count();
  return cudaSuccess;
}

// ---- Graphs ----------------------------------------------------------------------------------------------------------

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, capture_mode);
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr || stream == cudaStreamLegacy) return remember(cudaErrorStreamCaptureUnsupported);
  CUstream_st& s = stream_of(stream);
  if (s.capture()) return remember(cudaErrorIllegalState);
  s.seen.clear();
  s.began_capture = true;
  s.set_capture(std::make_shared<CUgraph_st>());
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const std::shared_ptr<CUgraph_st> capture = stream_of(stream).capture();
  *status = !capture         ? cudaStreamCaptureStatusNone
            : capture->valid ? cudaStreamCaptureStatusActive
                             : cudaStreamCaptureStatusInvalidated;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  CUstream_st& s = stream_of(stream);
  if (!s.began_capture) return remember(cudaErrorIllegalState);
  const std::shared_ptr<CUgraph_st> captured = s.capture();
  s.began_capture = false;
  captured->ended = true;
  for (CUstream_st* other : streams_now()) {
    if (other->capture() == captured) other->set_capture(nullptr);
  }
  *graph = nullptr;
  if (!captured->valid) return remember(cudaErrorStreamCaptureInvalidated);
  if (!is_joined(s, *captured)) return remember(cudaErrorStreamCaptureUnjoined);
  *graph = new CUgraph_st(*captured);
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  for (const Work& work : executable->work) {
    if (const cudaError_t error = submit(stream, work); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

// ---- Memory, in the order of streams ---------------------------------------------------------------------------------

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return submit(stream, [=] { return copy_memory(to, from, bytes); });
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return submit(stream, [=] { return set_memory(to, value, bytes); });
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (const cudaError_t error = drain(nullptr); error != cudaSuccess) return error;
  return remember(copy_memory(to, from, bytes));
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) { return cudaMemsetAsync(to, value, bytes, nullptr); }
cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = refuse_in_capture(stream_of(stream)); error != cudaSuccess) return error;
  return allocate_into(p, bytes, MemoryKind::device);
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t stream) {
  if (const cudaError_t error = refuse_in_capture(stream_of(stream)); error != cudaSuccess) return error;
  return submit(stream, [=] { return release_memory(p, MemoryKind::device); });
}
cudaError_t cudaMalloc(void** p, size_t bytes) { return allocate_into(p, bytes, MemoryKind::device); }
cudaError_t cudaFree(void* p) {
  if (const cudaError_t error = drain_all(); error != cudaSuccess) return error;
  return remember(release_memory(p, MemoryKind::device));
}
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) { return allocate_into(p, bytes, MemoryKind::pinned); }
cudaError_t cudaMallocHost(void** p, size_t bytes) { return cudaHostAlloc(p, bytes, cudaHostAllocDefault); }
cudaError_t cudaFreeHost(void* p) {
  if (const cudaError_t error = drain_all(); error != cudaSuccess) return error;
  return remember(release_memory(p, MemoryKind::pinned));
}

}  // extern "C"
