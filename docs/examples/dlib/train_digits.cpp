// A convolutional network of dlib, trained on handwritten digits by 1, 2 and 4 ranks: the same network each time, since batch
// normalization takes its statistics over the ranks. Usage: example.dlib_digits digits.csv

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include <dlib/dnn.h>

#include <syncbn/backends/thread_communicator.hpp>
#include <syncbn/interop/dlib.hpp>

#include "../compare.hpp"
#include "../digits/dataset.hpp"

namespace {

using Image = dlib::matrix<float>;

// [begin network]
// In place of dlib::bn_con and dlib::bn_fc: the same arguments, and the same files.
using Network = dlib::loss_multiclass_log<dlib::fc<
    10, dlib::relu<syncbn::dlib::bn_fc<dlib::fc<
            32, dlib::max_pool<2, 2, 2, 2,
                               dlib::relu<syncbn::dlib::bn_con<dlib::con<8, 3, 3, 1, 1, dlib::input<Image>>>>>>>>>>;
// [end network]

struct Digits {
  std::vector<Image> images;
  std::vector<unsigned long> labels;
};

Digits read_digits(const std::string& file) {
  const digits::Images from = digits::read_dataset(file).train;
  Digits result;
  for (std::size_t i = 0; i < from.labels.size(); ++i) {
    Image image(digits::image_size, digits::image_size);
    std::copy_n(from.pixels.data() + i * static_cast<std::size_t>(digits::image_pixels), digits::image_pixels,
                image.begin());
    result.images.push_back(image);
    result.labels.push_back(static_cast<unsigned long>(from.labels[i]));
  }
  return result;
}

constexpr std::ptrdiff_t batch = 64, batches = 10;
constexpr float rate = 0.1F;

// Trains a network with the other ranks, each of which has an equal part of each batch. Returns the losses of the batches.
std::vector<double> train(Network& net, const Digits& data, syncbn::ThreadCommunicator ranks) {
  // [begin synchronize]
  syncbn::dlib::synchronize(net, ranks);  // statistics of all ranks from now on
  // [end synchronize]
  std::vector<double> losses;
  const std::ptrdiff_t share = batch / ranks.size();
  for (std::ptrdiff_t b = 0; b < batches; ++b) {
    const std::ptrdiff_t first = b * batch + ranks.rank() * share;
    dlib::resizable_tensor x;
    net.to_tensor(data.images.begin() + first, data.images.begin() + first + share, x);
    // The loss, and the gradients of all layers' parameters, added up over the ranks.
    std::vector<double> sums = {net.compute_parameter_gradients(x, data.labels.begin() + first)};
    const auto gather = [&](std::size_t, const dlib::tensor& gradient) {
      sums.insert(sums.end(), gradient.begin(), gradient.end());
    };
    dlib::visit_layer_parameter_gradients(net, gather);
    syncbn::all_reduce_sum(ranks, sums);
    const double* from = sums.data() + 1;
    dlib::visit_layer_parameters(net, [&](std::size_t, dlib::tensor& parameters) {
      for (float& value : parameters) value -= rate * static_cast<float>(*from++ / ranks.size());
    });
    losses.push_back(sums[0] / ranks.size());
  }
  return losses;
}

std::vector<double> parameters_of(Network& net) {
  std::vector<double> all;
  dlib::visit_layer_parameters(net, [&](std::size_t, dlib::tensor& t) { all.insert(all.end(), t.begin(), t.end()); });
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const Digits data = read_digits(argv[1]);
  Network initial;
  dlib::resizable_tensor x;
  initial.to_tensor(data.images.begin(), data.images.begin() + 2, x);
  static_cast<void>(initial.forward(x));  // makes the parameters

  std::vector<std::vector<double>> losses, parameters;
  for (const int ranks : {1, 2, 4}) {
    std::vector<Network> nets(static_cast<std::size_t>(ranks), initial);
    std::vector<std::vector<double>> of_each(nets.size());
    syncbn::run_thread_ranks(ranks, [&](const syncbn::ThreadCommunicator& communicator) {
      const auto r = static_cast<std::size_t>(communicator.rank());
      of_each[r] = train(nets[r], data, communicator);
    });
    losses.push_back(of_each.back());
    parameters.push_back(parameters_of(nets.back()));
    std::printf("%d rank%s: loss %.6f, then %.6f\n", ranks, ranks == 1 ? " " : "s", losses.back().front(),
                losses.back().back());
  }
  // Each step adds the roundings of sums over a batch's pixels and doubles what there was, at worst.
  const double rounding = std::ldexp(std::numeric_limits<float>::epsilon(), batches);
  bool ok = example::holds("it learns", losses[0].back() < losses[0].front() / 2);
  for (std::size_t i = 1; i < parameters.size(); ++i) {
    ok &= example::agree("parameters after training", parameters[i], parameters[0], rounding);
    ok &= example::agree("losses", losses[i], losses[0], rounding);
  }
  return ok ? 0 : 1;
}
