#pragma once

#include <nccl.h>

// A library of NCCL's name and calls, for streams of the emulator: ranks are threads or processes of one machine, and sums
// are made by their processors. As with NCCL, a collective waits for the other ranks without limit, and ranks whose calls
// differ wait for ever: only ncclCommAbort() ends that.
//
// After it, what ran or was still queued on that rank returns with a result that is as misleading as it can be: as if every
// rank had sent what this one has. The other ranks go on waiting.
//
// Groups of several communicators are performed at the end of the group where streams are deferred, too: the one thread that
// waits for them could otherwise not be in all of them at once.

namespace nccl_stand_in {

// What ncclCommGetAsyncError() says from now on.
void set_asynchronous_error(ncclComm_t communicator, ncclResult_t error);
// The next ncclAllReduce() of this thread does nothing but return that.
void fail_next_all_reduce(ncclResult_t result);

// Collectives begun by ranks of this process, once for each rank and each replay of a graph; and their words.
long all_reduces();
long words_reduced();

// Made, but neither destroyed nor aborted.
long live_communicators();

}  // namespace nccl_stand_in
