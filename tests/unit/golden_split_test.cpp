// What PyTorch answers on a whole batch, from ranks that share it. Format of the files: tests/golden/README.md.

#include "golden_split.hpp"

using namespace syncbn_test;

TEST_CASE("golden: batches split over ranks give what PyTorch gives on the whole batch", "[golden]") {
  replay_split_files<syncbn::CpuBackend<float>, syncbn::CpuBackend<double>, ThreadFabric>();
}
