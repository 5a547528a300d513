#pragma once

#include <cuda_runtime.h>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "streams.hpp"
#include "work_queue.hpp"

// What the handles of the runtime point to, for the emulator's own files.

struct CUgraph_st {
  std::vector<cuda_emulation::Work> work;  // in the order of capture, which is one that its dependencies allow
  std::map<CUstream_st*, long> nodes;      // how much of it came from which stream
  bool valid = true;
  bool ended = false;
};
struct CUgraphExec_st {
  std::vector<cuda_emulation::Work> work;
};
struct CUstream_st {
  CUstream_st(int device_number, bool is_blocking, bool is_lasting)
      : device(device_number), blocking(is_blocking), queue(device_number, is_lasting) {}

  // What records its work now, or null.
  std::shared_ptr<CUgraph_st> capture() const {
    const std::lock_guard lock(mutex);
    return capture_;
  }
  void set_capture(std::shared_ptr<CUgraph_st> graph) {
    const std::lock_guard lock(mutex);
    capture_ = std::move(graph);
  }

  const int device;
  const bool blocking;  // with regard to the default stream
  cuda_emulation::WorkQueue queue;
  bool began_capture = false;
  std::map<CUstream_st*, long> seen;  // of the capture's nodes: which of them come before the next one here

 private:
  mutable std::mutex mutex;
  std::shared_ptr<CUgraph_st> capture_;
};

namespace cuda_emulation {

// Also for the handles of default streams, which are the current device's.
CUstream_st& stream_of(cudaStream_t stream);
CUstream_st* create_stream(bool blocking);
// Finishes its work.
cudaError_t destroy_stream(CUstream_st* stream);
std::vector<CUstream_st*> streams_now();

// An error that ends a capture.
cudaError_t refuse_in_capture(CUstream_st& stream);
cudaError_t invalidate(CUgraph_st& capture, cudaError_t error);

// Work that has to be done first.
struct Moment {
  CUstream_st* stream;
  long number;

  bool is_over() const { return stream->queue.has_done(number); }
  void reach() const { stream->queue.reach(number); }
};
// As submit(), for a stream that is not captured; says when it is done.
cudaError_t submit_after(CUstream_st& stream, std::vector<Moment> before, Work work, Moment* done);

// A fault of the device that the stream is on.
cudaError_t fault_of(const CUstream_st& stream);

// While a function of the host runs in the order of a stream: it must not call the runtime.
class InHostFunction {
 public:
  InHostFunction();
  ~InHostFunction();
  InHostFunction(const InHostFunction&) = delete;
  InHostFunction& operator=(const InHostFunction&) = delete;
};
cudaError_t refuse_in_host_function();

}  // namespace cuda_emulation
