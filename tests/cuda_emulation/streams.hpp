#pragma once

#include <cuda_runtime.h>
#include <functional>

// Queues of work, and graphs that record it. A stream belongs to the device that was current when it was made; the default
// streams are those of the current device.

namespace cuda_emulation {

using Work = std::function<cudaError_t()>;

// Runs work now; or, if streams are deferred, when somebody waits for the stream; or, if they are asynchronous, soon, on the
// stream's own thread. Recorded only while the stream is being captured. Work finds its stream's device current.
// An error of work that has run stays with the device until it is reset, as after a fault of a kernel.
cudaError_t submit(cudaStream_t stream, Work work);
// Whether a stream is being captured: waiting for it is an error then, which ends the capture.
bool is_captured(cudaStream_t stream);
// Waits for all work of a stream, or of all streams of the current device.
cudaError_t drain(cudaStream_t stream);
cudaError_t drain_all();
// As drain(), but for the emulator's own purposes: no wait of the host, and no error.
void finish(cudaStream_t stream);

// What cudaGetLastError() will say on this thread; returns it.
cudaError_t remember(cudaError_t error);
// Forgets the faults of all devices: for the emulator's own tests.
void reset_faults();
// How often a call waited for the device, on any thread of the host: passes must not.
long waits();
void count_wait();

}  // namespace cuda_emulation
