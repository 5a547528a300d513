// A communicator that does not say when errors come. (That it lacks what deferred errors need is not said besides.)
// expect: communicator: lacks  static constexpr syncbn::ErrorModel errors
// expect not: its errors are deferred
#include <syncbn/syncbn.hpp>

struct Fabric {
  using memory_space = syncbn::HostSpace;
  using queue_type = syncbn::HostQueue;
  using frame = syncbn::SingleProcessCommunicator::frame;

#ifdef SYNCBN_MISTAKE
  static constexpr int errors = 0;
#else
  static constexpr syncbn::ErrorModel errors = syncbn::ErrorModel::immediate;
#endif
  int rank() const noexcept;
  int size() const noexcept;
  bool usable() const noexcept;
  frame acquire(syncbn::Index words);
  void start(frame& f, queue_type& queue);
  bool poll(frame& f) noexcept;
  void finish(frame& f, queue_type& queue);
};

static_assert(syncbn::check_communicator<Fabric>());
