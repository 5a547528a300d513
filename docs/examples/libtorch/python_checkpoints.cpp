// Checkpoints between Python and C++. Usage: example.python_checkpoints IN OUT. IN has the state of Python's model, from
// torch.save(dict(model.state_dict()), IN), or from safetensors.torch.save_model; OUT is for torch.jit.load(OUT).state_dict().
// See python_checkpoints.py.

#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include <torch/torch.h>

#include <syncbn/interop/safetensors.hpp>
#include <syncbn/interop/torch.hpp>

namespace nn = torch::nn;
using State = std::map<std::string, at::Tensor>;

namespace {

// [begin model]
struct ModelImpl : nn::Module {
  nn::Conv2d conv{nn::Conv2dOptions(3, 4, 1)};
  syncbn::torch::BatchNorm2d bn{4};
  nn::Sequential last{syncbn::torch::BatchNorm2d(4)};
  ModelImpl() {
    register_module("conv", conv);
    register_module("bn", bn);
    register_module("last", last);
  }
};
TORCH_MODULE(Model);
// [end model]

// [begin pickle]
State read_pickle(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  State state;
  for (const auto& item : torch::pickle_load(bytes).toGenericDict()) {
    state[item.key().toStringRef()] = item.value().toTensor();
  }
  return state;
}
// [end pickle]

// [begin safetensors]
State read_safetensors(const std::string& path) {
  State state;
  for (const syncbn::StateEntry& entry : syncbn::read_safetensors(path).entries) {
    const std::vector<std::int64_t> shape(entry.shape.begin(), entry.shape.end());
    state[entry.name] =
        std::visit([&](const auto& values) { return torch::tensor(values).reshape(shape); }, entry.values);
  }
  return state;
}
// [end safetensors]

// [begin load]
void load(nn::Module& model, const State& state) {
  const torch::NoGradGuard no_gradients;
  auto tensors = model.named_parameters();
  for (const auto& buffer : model.named_buffers()) tensors.insert(buffer.key(), buffer.value());
  for (auto& item : tensors) item.value().copy_(state.at(item.key()));  // of another shape: throws
}
// [end load]

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) return 2;
  Model model;
  load(*model,
       std::filesystem::path(argv[1]).extension() == ".safetensors" ? read_safetensors(argv[1]) : read_pickle(argv[1]));
  torch::save(model, argv[2]);
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
