// A communicator that numbers layers by a type that nobody looks for.
// expect: communicator: next_ordinal is there, but is not  std::uint64_t next_ordinal()
#include <cstdint>

#include <syncbn/syncbn.hpp>

struct Fabric : syncbn::ThreadCommunicator {
  using ThreadCommunicator::ThreadCommunicator;
#ifdef SYNCBN_MISTAKE
  int next_ordinal();
#else
  std::uint64_t next_ordinal();
#endif
};

static_assert(syncbn::check_communicator<Fabric>());
