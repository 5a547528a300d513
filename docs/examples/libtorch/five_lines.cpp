// The README's lines on LibTorch: a model whose batches are normalized over two ranks. See residual_network.cpp for more.

#include <cstdio>
#include <vector>

#include <torch/torch.h>

#include <syncbn/backends/thread_communicator.hpp>
#include <syncbn/interop/torch_convert.hpp>

namespace nn = torch::nn;

int main() {
  const torch::Tensor batch = torch::arange(48, torch::kFloat).view({4, 3, 2, 2});
  std::vector<float> means(2);
  syncbn::run_thread_ranks(2, [&](const syncbn::ThreadCommunicator& ranks) {
    const torch::Tensor x = batch.slice(0, 2 * ranks.rank(), 2 * ranks.rank() + 2);  // my half of it
    // [begin]
    nn::Sequential model(nn::Conv2d(3, 8, 1), nn::BatchNorm2d(8), nn::ReLU(), syncbn::torch::BatchNorm2d(8));
    syncbn::torch::convert_sync_batchnorm(model, ranks);  // threads, MpiCommunicator, ProcessGroupCommunicator of gloo
    torch::optim::SGD optimizer(model->parameters(), 0.1);
    model->forward(x).square().sum().backward();
    optimizer.step();
    // [end]
    means[static_cast<std::size_t>(ranks.rank())] = model->named_buffers()["1.running_mean"].sum().item<float>();
  });
  std::printf("sums of the running means: %g on rank 0, %g on rank 1\n", means[0], means[1]);
  return means[0] == means[1] ? 0 : 1;
}
