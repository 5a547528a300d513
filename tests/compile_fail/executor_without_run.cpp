// An executor that cannot run tasks.
// expect: CpuBackend: the executor lacks  void run(Index tasks, const Task& task) const
#include <syncbn/syncbn.hpp>

struct Workers {
#ifndef SYNCBN_MISTAKE
  template <class Task>
  void run(syncbn::Index tasks, const Task& task) const;
#endif
};

using Backend = syncbn::CpuBackend<float, Workers>;

bool accepts_halves() { return Backend::accepts(syncbn::ScalarKind::f16); }
