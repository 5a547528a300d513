#pragma once

#include <cuda_runtime.h>
#include <functional>

// Queues of work, and graphs that record it.

namespace cuda_emulation {

using Work = std::function<cudaError_t()>;

// Runs work now, or, if streams are deferred, when somebody waits for the stream; recorded only while it is being captured.
// An error of work that has run stays with the device until it is reset, as after a fault of a kernel.
cudaError_t submit(cudaStream_t stream, Work work);
// Whether a stream is being captured: waiting for it is an error then, which ends the capture.
bool is_captured(cudaStream_t stream);
// Does all work of a stream, or of all.
cudaError_t drain(cudaStream_t stream);
cudaError_t drain_all();

// What cudaGetLastError() will say on this thread; returns it.
cudaError_t remember(cudaError_t error);
// Forgets a device's fault: for the emulator's own tests.
void reset_faults();
// How often a call waited for the device, on any thread: passes must not.
long waits();
void count_wait();

}  // namespace cuda_emulation
