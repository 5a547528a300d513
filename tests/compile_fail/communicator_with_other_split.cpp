// A communicator that splits without a key.
// expect: communicator: split is there, but is not  C split(int color, int key)
#include <syncbn/syncbn.hpp>

struct Fabric : syncbn::ThreadCommunicator {
  using ThreadCommunicator::ThreadCommunicator;
#ifdef SYNCBN_MISTAKE
  Fabric split(int color);
#else
  Fabric split(int color, int key);
#endif
};

static_assert(syncbn::check_communicator<Fabric>());
