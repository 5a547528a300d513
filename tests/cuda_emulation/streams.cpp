#include "streams.hpp"

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "devices.hpp"
#include "options.hpp"
#include "stream.hpp"

namespace cuda_emulation {
namespace {

struct Device {
  explicit Device(int number) : default_stream(number, true, true) {}

  std::atomic<cudaError_t> fault{cudaSuccess};
  CUstream_st default_stream;
  std::vector<CUstream_st*> idle;  // per-thread default streams of threads that have ended
};
// Never destroyed: threads may use it until the program ends.
struct Registry {
  std::mutex mutex;
  std::map<int, std::unique_ptr<Device>> devices;
  std::vector<CUstream_st*> streams;
  std::vector<std::unique_ptr<CUstream_st>> lasting;
};

Registry& registry() {
  static auto* const r = new Registry;
  return *r;
}
Device& device_of(int number) {
  const std::lock_guard lock(registry().mutex);
  std::unique_ptr<Device>& device = registry().devices[number];
  if (!device) {
    device = std::make_unique<Device>(number);
    registry().streams.push_back(&device->default_stream);
  }
  return *device;
}

std::atomic<long> wait_count{0};
thread_local cudaError_t last_error = cudaSuccess;
thread_local bool in_host_function = false;
thread_local bool thread_ends = false;

CUstream_st* take_thread_stream(int number) {
  Device& device = device_of(number);
  const std::lock_guard lock(registry().mutex);
  if (!device.idle.empty()) {
    CUstream_st* const stream = device.idle.back();
    device.idle.pop_back();
    return stream;
  }
  registry().lasting.push_back(std::make_unique<CUstream_st>(number, true, true));
  registry().streams.push_back(registry().lasting.back().get());
  return registry().streams.back();
}

// Other threads go on with those of a thread that ends, whose work is still in them.
class ThreadStreams {
 public:
  ThreadStreams() = default;
  ~ThreadStreams() {
    thread_ends = true;
    for (const auto& [number, stream] : of_devices_) {
      Device& device = device_of(number);
      const std::lock_guard lock(registry().mutex);
      device.idle.push_back(stream);
    }
  }
  ThreadStreams(const ThreadStreams&) = delete;
  ThreadStreams& operator=(const ThreadStreams&) = delete;

  CUstream_st& of_device(int number) {
    CUstream_st*& stream = of_devices_[number];
    if (stream == nullptr) stream = take_thread_stream(number);
    return *stream;
  }

 private:
  std::map<int, CUstream_st*> of_devices_;
};
thread_local ThreadStreams thread_streams;

Moment end_of(CUstream_st& stream) { return {&stream, stream.queue.last()}; }

// The default stream and blocking ones of its device wait for each other.
std::vector<Moment> before_next_of(const CUstream_st& stream) {
  std::vector<Moment> before;
  const auto add = [&](CUstream_st& other) {
    const Moment end = end_of(other);
    if (!end.is_over()) before.push_back(end);
  };
  CUstream_st& default_stream = device_of(stream.device).default_stream;
  if (&stream == &default_stream) {
    for (CUstream_st* other : streams_now()) {
      if (other != &stream && other->blocking && other->device == stream.device) add(*other);
    }
  } else if (stream.blocking) {
    add(default_stream);
  }
  return before;
}

// Who waits for the default stream waits for what it would wait for.
void reach_end(CUstream_st& stream) {
  if (&stream == &device_of(stream.device).default_stream) {
    for (const Moment& moment : before_next_of(stream)) moment.reach();
  }
  end_of(stream).reach();
}

}  // namespace

std::vector<CUstream_st*> streams_now() {
  const std::lock_guard lock(registry().mutex);
  return registry().streams;
}
CUstream_st& stream_of(cudaStream_t stream) {
  if (stream == cudaStreamPerThread && !thread_ends) return thread_streams.of_device(current_device());
  const bool is_default = stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread;
  return is_default ? device_of(current_device()).default_stream : *stream;
}
CUstream_st* create_stream(bool blocking) {
  auto created = std::make_unique<CUstream_st>(current_device(), blocking, false);
  const std::lock_guard lock(registry().mutex);
  registry().streams.push_back(created.get());
  return created.release();
}
cudaError_t destroy_stream(CUstream_st* stream) {
  const auto existed = [&] {
    const std::lock_guard lock(registry().mutex);
    if (std::erase(registry().streams, stream) == 0) return false;
    // Other threads, and work of other streams, may be just about to wait for this one.
    registry().lasting.emplace_back(stream);
    return true;
  };
  if (!existed()) {
    violate("a stream is destroyed that does not exist");
    return remember(cudaErrorInvalidResourceHandle);
  }
  stream->queue.stop();
  return cudaSuccess;
}

cudaError_t invalidate(CUgraph_st& capture, cudaError_t error) {
  capture.valid = false;
  return remember(error);
}
cudaError_t refuse_in_capture(CUstream_st& stream) {
  const std::shared_ptr<CUgraph_st> capture = stream.capture();
  return capture ? invalidate(*capture, cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

InHostFunction::InHostFunction() { in_host_function = true; }
InHostFunction::~InHostFunction() { in_host_function = false; }
cudaError_t refuse_in_host_function() {
  if (!in_host_function) return cudaSuccess;
  violate("a host function in a stream calls the runtime");
  return remember(cudaErrorNotPermitted);
}

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}
cudaError_t fault_of(const CUstream_st& stream) { return device_of(stream.device).fault; }
void reset_faults() {
  const std::lock_guard lock(registry().mutex);
  for (const auto& [number, device] : registry().devices) device->fault = cudaSuccess;
  last_error = cudaSuccess;
}
long waits() { return wait_count; }
void count_wait() { ++wait_count; }

bool is_captured(cudaStream_t stream) { return stream_of(stream).capture() != nullptr; }

cudaError_t submit_after(CUstream_st& stream, std::vector<Moment> before, Work work, Moment* done) {
  Device& device = device_of(stream.device);
  if (device.fault != cudaSuccess) return remember(device.fault);
  for (const Moment& moment : before_next_of(stream)) before.push_back(moment);
  auto task = [&device, before = std::move(before), work = std::move(work)] {
    for (const Moment& moment : before) moment.reach();
    if (device.fault != cudaSuccess) return;
    if (const cudaError_t error = work(); error != cudaSuccess) device.fault = error;
  };
  const Moment end{&stream, stream.queue.put(std::move(task), options().asynchronous)};
  if (done != nullptr) *done = end;
  if (!options().asynchronous && !options().deferred) end.reach();
  return cudaSuccess;
}

cudaError_t submit(cudaStream_t stream, Work work) {
  if (const cudaError_t error = refuse_in_host_function(); error != cudaSuccess) return error;
  CUstream_st& s = stream_of(stream);
  if (const std::shared_ptr<CUgraph_st> capture = s.capture()) {
    capture->work.push_back(std::move(work));
    s.seen[&s] = ++capture->nodes[&s];
    return cudaSuccess;
  }
  return submit_after(s, {}, std::move(work), nullptr);
}

cudaError_t drain(cudaStream_t stream) {
  if (const cudaError_t error = refuse_in_host_function(); error != cudaSuccess) return error;
  count_wait();
  CUstream_st& s = stream_of(stream);
  if (const cudaError_t error = refuse_in_capture(s); error != cudaSuccess) return error;
  reach_end(s);
  return remember(fault_of(s));
}
cudaError_t drain_all() {
  if (const cudaError_t error = refuse_in_host_function(); error != cudaSuccess) return error;
  count_wait();
  std::vector<CUstream_st*> mine = streams_now();
  std::erase_if(mine, [](const CUstream_st* s) { return s->device != current_device(); });
  for (CUstream_st* s : mine) {
    if (const cudaError_t error = refuse_in_capture(*s); error != cudaSuccess) return error;
  }
  for (CUstream_st* s : mine) end_of(*s).reach();
  return remember(device_of(current_device()).fault);
}
void finish(cudaStream_t stream) { reach_end(stream_of(stream)); }

}  // namespace cuda_emulation

using namespace cuda_emulation;

extern "C" {

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

}  // extern "C"
