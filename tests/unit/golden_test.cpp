// What PyTorch answers, on one rank: the layer and the functional form. Format of the files: tests/golden/README.md.

#include "golden_layer.hpp"

using namespace syncbn_test;

namespace {

void replay(const char* file) { replay_file_on_one_rank<syncbn::CpuBackend<float>, syncbn::CpuBackend<double>>(file); }

}  // namespace

TEST_CASE("golden: the f32 layer and the functional form answer as PyTorch does", "[golden]") {
  replay("layer_f32.txt");
}
TEST_CASE("golden: the f64 layer and the functional form answer as PyTorch does", "[golden]") {
  replay("layer_f64.txt");
}
TEST_CASE("golden: bf16 tensors with f32 parameters answer as PyTorch does", "[golden]") { replay("layer_bf16.txt"); }
TEST_CASE("golden: weight, bias and running statistics are optional one by one", "[golden]") {
  replay("functional.txt");
}
TEST_CASE("golden: empty batches, extreme momenta, zero weight, constant channels, NaN and infinity", "[golden]") {
  replay("edge.txt");
}
