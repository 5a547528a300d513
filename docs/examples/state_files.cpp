// A model's state in files that Python reads: safetensors, which Python writes too, and .npz, to be looked at with NumPy.

#include <filesystem>
#include <fstream>
#include <vector>

#include <syncbn/interop/npz.hpp>
#include <syncbn/interop/safetensors.hpp>
#include <syncbn/syncbn.hpp>

#include "compare.hpp"

int main() {
  const std::filesystem::path folder = std::filesystem::temp_directory_path();
  std::vector<float> values = example::numbers(8 * 6, 1);
  const syncbn::TensorView<float> x(values.data(), {8, 6});
  syncbn::BatchNorm1d<> bn1(6), bn2(6);
  static_cast<void>(bn1.forward(x, x));
  static_cast<void>(bn2.forward(x, x));

  // [begin write]
  syncbn::StateDict model = syncbn::state_dict(bn1, "layer1.0.bn1.");  // layer1.0.bn1.weight and so on
  syncbn::append_state(bn2, model, "layer1.0.bn2.");
  syncbn::write_safetensors(model, folder / "model.safetensors");  // safetensors.torch.load_file(...)
  syncbn::write_npz(model, folder / "model.npz");                  // numpy.load(...)["layer1.0.bn1.running_mean"]
  // [end write]

  syncbn::BatchNorm1d<> bn(6);
  // [begin read]
  const syncbn::StateDict read = syncbn::read_safetensors(folder / "model.safetensors");
  syncbn::load_state_dict(bn, read,
                          "layer1.0.bn1.");  // what is missing or does not fit: an error, and nothing is loaded
  // [end read]

  const auto numbers = [](const auto& view) { return std::vector(view.data(), view.data() + view.size()); };
  bool ok =
      example::holds("the running mean came through a file", numbers(bn.running_mean()) == numbers(bn1.running_mean()));
  ok &= example::holds("the counter came through a file", bn.num_batches_tracked() == 1);
  ok &= example::holds("both are there", read.entries.size() == model.entries.size() && model.entries.size() == 10);
  ok &= example::holds("NumPy's file is there", std::filesystem::file_size(folder / "model.npz") > 0);
  std::filesystem::remove(folder / "model.safetensors");
  std::filesystem::remove(folder / "model.npz");
  return ok ? 0 : 1;
}
