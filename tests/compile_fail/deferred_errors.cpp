// A communicator that tells of errors later: layers on the host want to know at once.
// expect: Exchange: deferred errors are not available here
#include <syncbn/syncbn.hpp>

struct Fabric : syncbn::SingleProcessCommunicator {
#ifdef SYNCBN_MISTAKE
  static constexpr syncbn::ErrorModel errors = syncbn::ErrorModel::deferred;
#endif
};

using Layer = syncbn::SyncBatchNorm<syncbn::CpuBackend<float>, Fabric>;

syncbn::Index channels(const Layer& bn) { return bn.channels(); }
