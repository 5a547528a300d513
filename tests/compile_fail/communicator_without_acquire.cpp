// A communicator without frames.
// expect: communicator: lacks the member type  frame
// expect: hands_out_frames
#include <syncbn/syncbn.hpp>

struct Fabric {
  using memory_space = syncbn::HostSpace;
  using queue_type = syncbn::HostQueue;
  using frame = syncbn::SingleProcessCommunicator::frame;

  static constexpr syncbn::ErrorModel errors = syncbn::ErrorModel::immediate;
  int rank() const noexcept;
  int size() const noexcept;
  bool usable() const noexcept;
#ifndef SYNCBN_MISTAKE
  frame acquire(syncbn::Index words);
#endif
  void start(frame& f, queue_type& queue);
  bool poll(frame& f) noexcept;
  void finish(frame& f, queue_type& queue);
};

using Layer = syncbn::SyncBatchNorm<syncbn::CpuBackend<float>, Fabric>;

syncbn::Index channels(const Layer& bn) { return bn.channels(); }
