// A communicator that never gives the sums.
// expect: communicator: lacks  void start(frame&, queue_type&),  bool poll(frame&) noexcept  or  void finish(frame&, queue_type&)
// expect: sums_frames
#include <syncbn/syncbn.hpp>

struct Fabric {
  using memory_space = syncbn::HostSpace;
  using queue_type = syncbn::HostQueue;
  using frame = syncbn::SingleProcessCommunicator::frame;

  static constexpr syncbn::ErrorModel errors = syncbn::ErrorModel::immediate;
  int rank() const noexcept;
  int size() const noexcept;
  bool usable() const noexcept;
  frame acquire(syncbn::Index words);
  void start(frame& f, queue_type& queue);
  bool poll(frame& f) noexcept;
#ifndef SYNCBN_MISTAKE
  void finish(frame& f, queue_type& queue);
#endif
};

using Layer = syncbn::SyncBatchNorm<syncbn::CpuBackend<float>, Fabric>;

syncbn::Index channels(const Layer& bn) { return bn.channels(); }
