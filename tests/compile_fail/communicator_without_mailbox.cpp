// A communicator that tells of errors later, and has no words to tell them by.
// expect: communicator: its errors are deferred, but it lacks the member type  mailbox
#include <syncbn/syncbn.hpp>

struct Fabric : syncbn::SingleProcessCommunicator {
#ifdef SYNCBN_MISTAKE
  static constexpr syncbn::ErrorModel errors = syncbn::ErrorModel::deferred;
#endif
};

using Layer = syncbn::SyncBatchNorm<syncbn::CpuBackend<float>, Fabric>;

syncbn::Index channels(const Layer& bn) { return bn.channels(); }
