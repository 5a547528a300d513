// What -fassociative-math and -funsafe-math-optimizations define with g++, said here.
// expect: syncbn: -ffast-math reorders sums and denies NaNs
#define __ASSOCIATIVE_MATH__ 1
#ifndef SYNCBN_MISTAKE
#define SYNCBN_ALLOW_FAST_MATH
#endif
#include <syncbn/syncbn.hpp>

syncbn::Index channels(const syncbn::BatchNorm<2>& bn) { return bn.channels(); }
