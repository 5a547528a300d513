// A communicator that does not know how many ranks it has.
// expect: communicator: lacks  int rank() const noexcept  or  int size() const noexcept
// expect: knows_its_group
#include <syncbn/syncbn.hpp>

struct Fabric {
  using memory_space = syncbn::HostSpace;
  using queue_type = syncbn::HostQueue;
  using frame = syncbn::SingleProcessCommunicator::frame;

  static constexpr syncbn::ErrorModel errors = syncbn::ErrorModel::immediate;
  int rank() const noexcept;
#ifndef SYNCBN_MISTAKE
  int size() const noexcept;
#endif
  bool usable() const noexcept;
  frame acquire(syncbn::Index words);
  void start(frame& f, queue_type& queue);
  bool poll(frame& f) noexcept;
  void finish(frame& f, queue_type& queue);
};

using Layer = syncbn::SyncBatchNorm<syncbn::CpuBackend<float>, Fabric>;

syncbn::Index channels(const Layer& bn) { return bn.channels(); }
