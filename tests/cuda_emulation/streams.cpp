#include "streams.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "memory.hpp"
#include "options.hpp"

using cuda_emulation::Work;

struct CUgraph_st {
  std::vector<Work> work;  // in the order of capture, which is one that its dependencies allow
  bool valid = true;
};
struct CUgraphExec_st {
  std::vector<Work> work;
};
struct CUstream_st {
  std::recursive_mutex mutex;
  std::deque<Work> queue;
  bool blocking = true;  // with regard to the default stream
  std::shared_ptr<CUgraph_st> capture;
  bool began_capture = false;
};

namespace cuda_emulation {
namespace {

// One recording of an event.
struct Mark {
  CUstream_st* stream = nullptr;
  std::atomic<bool> reached{false};
  std::chrono::steady_clock::time_point at{};
  std::shared_ptr<CUgraph_st> capture;
};

std::mutex mutex;
std::atomic<cudaError_t> fault{cudaSuccess};
std::atomic<long> wait_count{0};
thread_local cudaError_t last_error = cudaSuccess;

CUstream_st& default_stream() {
  static CUstream_st stream;
  return stream;
}
std::vector<CUstream_st*>& streams() {
  static std::vector<CUstream_st*> all{&default_stream()};
  return all;
}
std::vector<CUstream_st*> streams_now() {
  const std::lock_guard lock(mutex);
  return streams();
}
CUstream_st& stream_of(cudaStream_t stream) {
  const bool is_default = stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread;
  return is_default ? default_stream() : *stream;
}

void perform(const Work& work) {
  if (fault != cudaSuccess) return;
  const cudaError_t error = work();
  if (error != cudaSuccess) fault = error;
}

// Until nothing is left, or done() holds.
template <class Done>
void drain_until(CUstream_st& stream, const Done& done) {
  const std::lock_guard lock(stream.mutex);
  while (!stream.queue.empty() && !done()) {
    const Work work = std::move(stream.queue.front());
    stream.queue.pop_front();
    perform(work);
  }
}
void drain_stream(CUstream_st& stream) {
  drain_until(stream, [] { return false; });
}

// The default stream and blocking ones wait for each other.
void order_with_default(const CUstream_st& stream) {
  if (&stream == &default_stream()) {
    for (CUstream_st* other : streams_now()) {
      if (other != &stream && other->blocking) drain_stream(*other);
    }
  } else if (stream.blocking) {
    drain_stream(default_stream());
  }
}

// An error that ends a capture.
cudaError_t refuse_in_capture(CUstream_st& stream) {
  if (!stream.capture) return cudaSuccess;
  stream.capture->valid = false;
  return remember(cudaErrorStreamCaptureUnsupported);
}

}  // namespace

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}
void reset_faults() {
  fault = cudaSuccess;
  last_error = cudaSuccess;
}
long waits() { return wait_count; }
void count_wait() { ++wait_count; }

bool is_captured(cudaStream_t stream) { return stream_of(stream).capture != nullptr; }

cudaError_t submit(cudaStream_t stream, Work work) {
  CUstream_st& s = stream_of(stream);
  if (s.capture) {
    s.capture->work.push_back(std::move(work));
    return cudaSuccess;
  }
  if (fault != cudaSuccess) return remember(fault);
  if (options().deferred) {
    order_with_default(s);
    const std::lock_guard lock(s.mutex);
    s.queue.push_back(std::move(work));
  } else {
    const std::lock_guard lock(s.mutex);
    perform(work);
  }
  return cudaSuccess;
}

cudaError_t drain(cudaStream_t stream) {
  count_wait();
  CUstream_st& s = stream_of(stream);
  if (const cudaError_t error = refuse_in_capture(s); error != cudaSuccess) return error;
  if (&s == &default_stream()) order_with_default(s);
  drain_stream(s);
  return remember(fault);
}
cudaError_t drain_all() {
  count_wait();
  for (CUstream_st* s : streams_now()) {
    if (const cudaError_t error = refuse_in_capture(*s); error != cudaSuccess) return error;
  }
  for (CUstream_st* s : streams_now()) drain_stream(*s);
  return remember(fault);
}

}  // namespace cuda_emulation

struct CUevent_st {
  std::shared_ptr<cuda_emulation::Mark> mark;  // the last recording
};

using namespace cuda_emulation;

extern "C" {

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return last_error; }

// ---- Streams ---------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  auto* created = new CUstream_st;
  created->blocking = flags != cudaStreamNonBlocking;
  const std::lock_guard lock(mutex);
  streams().push_back(created);
  *stream = created;
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr) return remember(cudaErrorInvalidResourceHandle);
  drain_stream(*stream);
  // Other threads, which wait for all streams, may be just about to wait for this one.
  static std::vector<std::unique_ptr<CUstream_st>> kept;
  const std::lock_guard lock(mutex);
  std::erase(streams(), stream);
  kept.emplace_back(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return drain(stream); }
cudaError_t cudaDeviceSynchronize() { return drain_all(); }
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  CUstream_st& s = stream_of(stream);
  if (const cudaError_t error = refuse_in_capture(s); error != cudaSuccess) return error;
  if (fault != cudaSuccess) return remember(fault);
  const std::lock_guard lock(s.mutex);
  return s.queue.empty() ? cudaSuccess : cudaErrorNotReady;
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
  event->mark = std::make_shared<Mark>();
  event->mark->stream = &s;
  event->mark->capture = s.capture;
  return submit(stream, [mark = event->mark] {
    mark->at = std::chrono::steady_clock::now();
    mark->reached = true;
    return cudaSuccess;
  });
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const std::shared_ptr<Mark> mark = event->mark;
  if (!mark) return cudaSuccess;
  CUstream_st& s = stream_of(stream);
  if (mark->capture) {
    s.capture = mark->capture;  // the stream joins the capture
    return cudaSuccess;
  }
  return submit(stream, [mark] {
    if (!mark->reached) drain_until(*mark->stream, [&] { return mark->reached.load(); });
    return cudaSuccess;
  });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  count_wait();
  const std::shared_ptr<Mark> mark = event->mark;
  if (mark && mark->capture) return remember(cudaErrorCapturedEvent);
  if (mark && !mark->reached) drain_until(*mark->stream, [&] { return mark->reached.load(); });
  return remember(fault);
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (fault != cudaSuccess) return remember(fault);
  if (event->mark && event->mark->capture) return remember(cudaErrorCapturedEvent);
  return !event->mark || event->mark->reached ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  if (!from->mark || !to->mark) return remember(cudaErrorInvalidResourceHandle);
  if (!from->mark->reached || !to->mark->reached) return cudaErrorNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(to->mark->at - from->mark->at).count();
  return cudaSuccess;
}

// ---- Graphs ----------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr || stream->capture) return remember(cudaErrorIllegalState);
  stream->capture = std::make_shared<CUgraph_st>();
  stream->began_capture = true;
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const CUstream_st& s = stream_of(stream);
  *status = !s.capture         ? cudaStreamCaptureStatusNone
            : s.capture->valid ? cudaStreamCaptureStatusActive
                               : cudaStreamCaptureStatusInvalidated;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (stream == nullptr || !stream->began_capture) return remember(cudaErrorIllegalState);
  const std::shared_ptr<CUgraph_st> captured = stream->capture;
  stream->began_capture = false;
  for (CUstream_st* s : streams_now()) {
    if (s->capture == captured) s->capture = nullptr;
  }
  *graph = nullptr;
  if (!captured->valid) return remember(cudaErrorStreamCaptureInvalidated);
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
static cudaError_t allocate_into(void** p, size_t bytes, MemoryKind kind) {
  *p = allocate(bytes, kind);
  return *p == nullptr ? remember(cudaErrorMemoryAllocation) : cudaSuccess;
}
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
