// Frames in one memory, kernels in another.
// expect: communicator and backend: memory_space and queue_type must be the same
// expect: reaches_memory_of
#include <syncbn/syncbn.hpp>

struct Fabric : syncbn::SingleProcessCommunicator {
  int size() const noexcept { return 1; }  // at run time only: it may need frames
#ifdef SYNCBN_MISTAKE
  struct DeviceSpace {};
  using memory_space = DeviceSpace;
#endif
};

using Layer = syncbn::SyncBatchNorm<syncbn::CpuBackend<float>, Fabric>;

syncbn::Index channels(const Layer& bn) { return bn.channels(); }
