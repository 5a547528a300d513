// A residual network in LibTorch's C++ frontend, trained on handwritten digits by 1, 2 and 4 ranks: the same network each
// time, since batch normalization takes its statistics over the ranks.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include <torch/torch.h>

#include <syncbn/backends/thread_communicator.hpp>
#include <syncbn/interop/torch_convert.hpp>

#include "../digits/dataset.hpp"

namespace nn = torch::nn;
using torch::Tensor;

namespace {

// [begin block]
struct BlockImpl : nn::Module {
  nn::Conv2d conv1, conv2;
  syncbn::torch::BatchNorm2d bn1, bn2;  // in place of nn::BatchNorm2d: the same options, parameters and files

  explicit BlockImpl(int channels)
      : conv1(nn::Conv2dOptions(channels, channels, 3).padding(1).bias(false)),
        conv2(nn::Conv2dOptions(channels, channels, 3).padding(1).bias(false)),
        bn1(channels),
        bn2(channels) {
    register_module("conv1", conv1);
    register_module("bn1", bn1);
    register_module("conv2", conv2);
    register_module("bn2", bn2);
  }
  Tensor forward(const Tensor& x) {
    const Tensor y = torch::relu(bn1->forward(conv1->forward(x)));
    return torch::relu(x + bn2->forward(conv2->forward(y)));
  }
};
TORCH_MODULE(Block);
// [end block]

nn::Sequential make_network() {
  torch::manual_seed(1);
  nn::Sequential network(nn::Conv2d(nn::Conv2dOptions(1, 8, 3).padding(1).bias(false)), nn::BatchNorm2d(8), Block(8),
                         nn::MaxPool2d(2), Block(8), nn::Flatten(), nn::Linear(8 * 4 * 4, 10));
  // Sequential holds nn::BatchNorm2d, too: conversion to one rank replaces it. It comes before to(), by which LibTorch makes the
  // counter of its own a double.
  syncbn::torch::convert_sync_batchnorm(network, {});
  network->to(torch::kDouble);
  return network;
}

struct Digits {
  Tensor images, labels;
};

Digits read_digits(const std::string& file) {
  auto [pixels, labels] = digits::read_dataset(file).train;
  const auto samples = static_cast<std::int64_t>(labels.size());
  return {torch::tensor(pixels).view({samples, 1, 8, 8}).to(torch::kDouble), torch::tensor(labels).to(torch::kLong)};
}

constexpr std::int64_t batch = 64, batches = 12;
constexpr double rate = 0.05;

// [begin train]
// Trains a network with the other ranks; this one has a part of each batch. Returns the losses of the batches.
std::vector<double> train(nn::Sequential network, const Digits& data, syncbn::ThreadCommunicator ranks) {
  syncbn::torch::convert_sync_batchnorm(network, ranks);
  torch::optim::SGD optimizer(network->parameters(), rate);
  std::vector<double> losses;
  for (std::int64_t b = 0; b < batches; ++b) {
    // Parts of different sizes: the last rank has what is left.
    const std::int64_t share = batch / ranks.size() + ranks.size() - 2;
    const std::int64_t first = b * batch + std::min(batch, ranks.rank() * share);
    const std::int64_t last =
        ranks.rank() == ranks.size() - 1 ? (b + 1) * batch : std::min((b + 1) * batch, first + share);
    const Tensor scores = network->forward(data.images.slice(0, first, last));
    const Tensor loss = nn::functional::cross_entropy(scores, data.labels.slice(0, first, last),
                                                      nn::functional::CrossEntropyFuncOptions().reduction(torch::kSum));
    optimizer.zero_grad();
    (loss / batch).backward();

    // As data-parallel training does: the gradients of all ranks, added up. The loss travels with them.
    std::vector<double> sums{loss.item<double>() / batch};
    for (const Tensor& p : network->parameters()) {
      sums.insert(sums.end(), p.grad().data_ptr<double>(), p.grad().data_ptr<double>() + p.numel());
    }
    syncbn::all_reduce_sum(ranks, sums);
    const double* from = sums.data() + 1;
    for (const Tensor& p : network->parameters()) {
      std::copy_n(from, p.numel(), p.grad().data_ptr<double>());
      from += p.numel();
    }
    optimizer.step();
    losses.push_back(sums[0]);
  }
  return losses;
}
// [end train]

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const Digits data = read_digits(argv[1]);
  std::vector<std::vector<double>> losses;
  std::vector<nn::Sequential> networks;
  for (const int ranks : {1, 2, 4}) {
    std::vector<nn::Sequential> of_ranks;
    for (int r = 0; r < ranks; ++r) of_ranks.push_back(make_network());
    std::vector<std::vector<double>> of_each(of_ranks.size());
    syncbn::run_thread_ranks(ranks, [&](const syncbn::ThreadCommunicator& communicator) {
      const auto r = static_cast<std::size_t>(communicator.rank());
      of_each[r] = train(of_ranks[r], data, communicator);
    });
    losses.push_back(of_each[0]);
    networks.push_back(of_ranks.back());
    std::printf("%d rank%s: loss %.6f, then %.6f\n", ranks, ranks == 1 ? " " : "s", losses.back().front(),
                losses.back().back());
  }

  // Each step adds the roundings of sums over a batch's pixels and doubles what there was, at worst.
  const double tolerance = 64 * std::ldexp(1.0, -52) * std::ldexp(1.0, static_cast<int>(batches));
  bool ok = losses[0].back() < losses[0].front() / 2;  // it learns
  for (std::size_t i = 1; i < networks.size(); ++i) {
    double difference = 0;
    const auto compare = [&](const auto& a, const auto& b) {
      for (const auto& item : a) {
        const Tensor exact = item.value().to(torch::kDouble);
        difference = std::max(difference, (b[item.key()] - exact).abs().max().template item<double>() /
                                              (1 + exact.abs().max().template item<double>()));
      }
    };
    compare(networks[0]->named_parameters(), networks[i]->named_parameters());
    compare(networks[0]->named_buffers(), networks[i]->named_buffers());
    std::printf("%d ranks: parameters and statistics differ from those of one by %.1e of %.1e\n", 1 << i, difference,
                tolerance);
    ok = ok && difference <= tolerance;
  }
  return ok ? 0 : 1;
}
