// Modules on CUDA devices: a thread and a device for each rank, all of which together do what one does in host memory. Skipped
// without a device. Its other half is on_devices.cu.

#include <cstdio>
#include <vector>

#include <torch/torch.h>

#include <syncbn/backends/thread_communicator.hpp>
#include <syncbn/interop/torch_convert.hpp>

namespace nn = torch::nn;
using torch::Tensor;

namespace {

nn::Sequential make_model() {
  torch::manual_seed(1);
  return nn::Sequential(nn::Conv2d(3, 8, 3), nn::BatchNorm2d(8), nn::ReLU());
}

}  // namespace

int main() {
  const int devices = static_cast<int>(torch::cuda::device_count());
  if (devices == 0) {
    std::puts("skipped: there is no CUDA device");
    return 77;
  }
  nn::Sequential whole = make_model();
  const Tensor batch = torch::randn({4 * devices, 3, 8, 8});
  const Tensor expected = whole->forward(batch).detach();

  std::vector<nn::Sequential> models;  // not by the threads, which would draw from one source of numbers
  for (int d = 0; d < devices; ++d) models.push_back(make_model());
  std::vector<Tensor> parts(models.size());
  syncbn::run_thread_ranks(devices, [&](const syncbn::ThreadCommunicator& ranks) {
    // [begin]
    const torch::Device device(torch::kCUDA, static_cast<torch::DeviceIndex>(ranks.rank()));
    nn::Sequential model = models[static_cast<std::size_t>(ranks.rank())];
    syncbn::torch::convert_sync_batchnorm(model, ranks);
    model->to(device);
    const Tensor mine = batch.slice(0, 4 * ranks.rank(), 4 * ranks.rank() + 4).to(device);
    const Tensor y = model->forward(mine);  // by the statistics of all devices' samples
    y.square().mean().backward();
    // [end]
    parts[static_cast<std::size_t>(ranks.rank())] = y.detach().cpu();
  });
  // Convolutions of devices round in their own way, TF32 to 10 bits.
  const double difference = (torch::cat(parts) - expected).abs().max().item<double>();
  std::printf("%d devices: the largest difference to host memory is %.1e\n", devices, difference);
  return difference <= 0x1p-8 * (1 + expected.abs().max().item<double>()) ? 0 : 1;
}
