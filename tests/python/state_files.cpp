// state_files write FOLDER: a model's state, as files for Python. state_files read FILE: what Python has written, as lines
// "name [shape] values...". See state_files.py.

#include <cstdio>
#include <exception>
#include <filesystem>
#include <string_view>

#include <syncbn/interop/npz.hpp>
#include <syncbn/interop/safetensors.hpp>
#include <syncbn/syncbn.hpp>

namespace {

void write(const std::filesystem::path& folder) {
  syncbn::BatchNorm<2> bn1(3);
  syncbn::BatchNorm<1, syncbn::CpuBackend<double>> bn2(2);
  for (int c = 0; c < 3; ++c) bn1.weight()[c] = 1.5F - static_cast<float>(c);
  bn1.set_num_batches_tracked(1LL << 40);
  bn2.running_mean()[1] = 1.0 / 3;
  syncbn::StateDict dict = syncbn::state_dict(bn1, "layer1.0.bn1.");
  syncbn::append_state(bn2, dict, "layer1.0.bn2.");
  syncbn::write_safetensors(dict, folder / "state.safetensors");
  syncbn::write_npz(dict, folder / "state.npz");
}

void read(const std::filesystem::path& file) {
  for (const syncbn::StateEntry& entry : syncbn::read_safetensors(file).entries) {
    std::printf("%s [", entry.name.c_str());
    for (const syncbn::Index extent : entry.shape) std::printf(" %lld", static_cast<long long>(extent));
    std::printf(" ]");
    std::visit(
        [](const auto& values) {
          for (const auto value : values) std::printf(" %.17g", static_cast<double>(value));
        },
        entry.values);
    std::printf("\n");
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) return 2;
  std::string_view(argv[1]) == "write" ? write(argv[2]) : read(argv[2]);
  return 0;
} catch (const std::exception& e) {
  std::printf("error: %s\n", e.what());
  return 1;
}
