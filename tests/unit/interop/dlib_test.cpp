#include <syncbn/interop/dlib.hpp>

#include <cmath>
#include <cstddef>
#include <limits>
#include <mutex>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include <syncbn/backends/thread_communicator.hpp>
#include <syncbn/check.hpp>

#include "support/catch.hpp"

namespace {

using Image = dlib::matrix<float>;

template <template <class> class Convolutional, template <class> class Connected>
using Network = dlib::loss_multiclass_log<dlib::fc<
    3, dlib::relu<Connected<dlib::fc<7, dlib::relu<Convolutional<dlib::con<4, 3, 3, 1, 1, dlib::input<Image>>>>>>>>>;
using Theirs = Network<dlib::bn_con, dlib::bn_fc>;
using Ours = Network<syncbn::dlib::bn_con, syncbn::dlib::bn_fc>;

struct Batch {
  std::vector<Image> images;
  std::vector<unsigned long> labels;
};
Batch make_batch(long samples, unsigned seed) {
  std::minstd_rand random(seed);
  Batch batch;
  for (long n = 0; n < samples; ++n) {
    Image image(6, 5);
    for (float& pixel : image) pixel = static_cast<float>(random() % 1024) / 256 - 1;
    batch.images.push_back(image);
    batch.labels.push_back(random() % 3);
  }
  return batch;
}

template <class To, class From>
To through_a_file(const From& net) {
  std::stringstream file;
  serialize(net, file);
  To result;
  deserialize(result, file);
  return result;
}

// The gradients of all layers' parameters after one step with a batch.
template <class Net>
std::vector<float> gradients(Net& net, const Batch& batch, double* loss = nullptr) {
  dlib::resizable_tensor x;
  net.to_tensor(batch.images.begin(), batch.images.end(), x);
  const double value = net.compute_parameter_gradients(x, batch.labels.begin());
  if (loss != nullptr) *loss = value;
  std::vector<float> all;
  dlib::visit_layer_parameter_gradients(
      net, [&](std::size_t, const dlib::tensor& t) { all.insert(all.end(), t.begin(), t.end()); });
  return all;
}
template <class Net>
void step(Net& net, const std::vector<float>& gradient) {
  std::size_t i = 0;
  // In the order of the gradients.
  dlib::visit_layer_parameters(net, [&](std::size_t, dlib::tensor& t) {
    for (float& value : t) value -= 0.05F * gradient[i++];
  });
}

// Roundings of sums over a batch's pixels, through five layers, by either library.
bool agree(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  double largest = 1;
  for (const float value : b) largest = std::max(largest, std::abs(static_cast<double>(value)));
  const double tolerance = 5 * 4 * std::sqrt(8 * 30.0) * std::numeric_limits<float>::epsilon() * largest;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!(std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])) <= tolerance)) return false;
  }
  return true;
}

template <class Net>
std::vector<float> scores(Net& net, const Batch& batch) {
  std::vector<float> all;
  // One at a time: dlib normalizes a single sample by running statistics.
  for (const Image& image : batch.images) {
    dlib::resizable_tensor x;
    net.to_tensor(&image, &image + 1, x);
    const dlib::tensor& y = net.subnet().forward(x);
    all.insert(all.end(), y.begin(), y.end());
  }
  return all;
}

}  // namespace

TEST_CASE("dlib's tensors", "[dlib]") {
  STATIC_REQUIRE(syncbn::check_tensor<dlib::resizable_tensor>());
  STATIC_REQUIRE(syncbn::check_tensor<dlib::tensor>());
  dlib::resizable_tensor t(2, 3, 4, 5);
  CHECK(&syncbn::view(t)(1, 2, 3, 4) == t.host() + 119);
}

TEST_CASE("layers for dlib do what dlib's do, and have the same files", "[dlib]") {
  const unsigned long window = GENERATE(100UL, 3UL);
  Theirs theirs;
  dlib::set_all_bn_running_stats_window_sizes(theirs, window);
  static_cast<void>(gradients(theirs, make_batch(2, 1)));  // makes parameters
  Ours ours = through_a_file<Ours>(theirs);
  CHECK(dlib::layer<3>(ours).layer_details().get_running_stats_window_size() == window);
  for (unsigned i = 0; i < 6; ++i) {
    const Batch batch = make_batch(8, 10 + i);
    const std::vector<float> expected = gradients(theirs, batch);
    CHECK(agree(gradients(ours, batch), expected));
    step(theirs, expected);
    step(ours, expected);
  }
  const Batch batch = make_batch(4, 30);
  const std::vector<float> expected = scores(theirs, batch);
  CHECK(agree(scores(ours, batch), expected));
  Theirs back = through_a_file<Theirs>(ours);
  CHECK(agree(scores(back, batch), expected));
  Ours converted(theirs);
  CHECK(agree(scores(converted, batch), expected));
  std::ostringstream out;
  out << ours;
  CHECK_THAT(out.str(), Catch::Matchers::Contains("syncbn::bn_con  eps=0.0001"));

  syncbn::dlib::bn_<dlib::CONV_MODE> convolutional;
  std::stringstream other;
  serialize(syncbn::dlib::bn_<dlib::FC_MODE>(), other);
  CHECK_THROWS_AS(deserialize(convolutional, other), dlib::serialization_error);
  CHECK_THROWS_AS(syncbn::dlib::bn_<dlib::CONV_MODE>(0), syncbn::Error);
}

TEST_CASE("ranks train a network of dlib as one does with the whole batch", "[dlib]") {
  const int ranks = GENERATE(2, 4);
  constexpr long samples = 8;
  Ours whole;
  static_cast<void>(gradients(whole, make_batch(2, 1)));
  std::vector<Ours> nets(static_cast<std::size_t>(ranks), whole);
  std::vector<double> losses;
  for (unsigned i = 0; i < 4; ++i) {
    losses.push_back(0);
    step(whole, gradients(whole, make_batch(samples, 20 + i), &losses.back()));
  }

  std::vector<double> sums(losses.size());
  std::mutex mutex;
  syncbn::run_thread_ranks(ranks, [&](syncbn::ThreadCommunicator group) {
    Ours& net = nets[static_cast<std::size_t>(group.rank())];
    syncbn::dlib::synchronize(net, group);
    for (unsigned i = 0; i < losses.size(); ++i) {
      const Batch all = make_batch(samples, 20 + i);
      const long share = samples / ranks, first = group.rank() * share;
      const Batch mine{{all.images.begin() + first, all.images.begin() + first + share},
                       {all.labels.begin() + first, all.labels.begin() + first + share}};
      double loss = 0;
      const std::vector<float> local = gradients(net, mine, &loss);
      std::vector<double> sum(local.begin(), local.end());
      syncbn::all_reduce_sum(group, sum);
      std::vector<float> mean;
      for (const double value : sum) mean.push_back(static_cast<float>(value / ranks));
      step(net, mean);
      const std::lock_guard lock(mutex);
      sums[i] += loss / ranks;
    }
    syncbn::dlib::synchronize(net, {});
  });
  for (std::size_t i = 0; i < losses.size(); ++i) {
    CHECK(std::abs(sums[i] - losses[i]) < 5 * 4 * std::sqrt(8 * 30.0) * std::numeric_limits<float>::epsilon() * 4);
  }
  const Batch batch = make_batch(4, 40);
  for (Ours& net : nets) CHECK(agree(scores(net, batch), scores(whole, batch)));
}

TEST_CASE("files whose tensors do not fit together are refused, and the layer stays", "[dlib]") {
  using Layer = syncbn::dlib::bn_<dlib::CONV_MODE>;
  using Net = syncbn::dlib::bn_con<dlib::input<Image>>;
  const Batch batch = make_batch(4, 6);
  Net net;
  dlib::resizable_tensor x;
  net.to_tensor(batch.images.begin(), batch.images.end(), x);
  const float before = *net.forward(x).begin();
  const auto file_with = [](long parameters, long channels, long running, unsigned long window) {
    std::ostringstream file;
    using dlib::serialize;
    dlib::resizable_tensor params(parameters), statistics(1, running);
    params = 1;
    statistics = 1;
    serialize(std::string("bn_con2"), file);
    serialize(params, file);
    for (int i = 0; i < 2; ++i) serialize(dlib::alias_tensor(1, channels), file);
    for (int i = 0; i < 2; ++i) serialize(dlib::resizable_tensor(), file);
    for (int i = 0; i < 2; ++i) serialize(statistics, file);
    serialize(1UL, file);
    serialize(window, file);
    for (int i = 0; i < 5; ++i) serialize(0.5, file);
    return file.str();
  };
  const auto reads = [&](const std::string& contents) {
    std::istringstream file(contents);
    deserialize(net.layer_details(), file);
  };
  CHECK_THROWS_AS(reads(file_with(4, 100'000, 2, 100)), dlib::serialization_error);
  CHECK_THROWS_AS(reads(file_with(4, 2, 3, 100)), dlib::serialization_error);
  CHECK_THROWS_AS(reads(file_with(3, 2, 2, 100)), dlib::serialization_error);
  CHECK_THROWS_AS(reads(file_with(4, 2, 2, 0)), dlib::serialization_error);
  const std::string good = file_with(4, 2, 2, 100);
  CHECK_THROWS_AS(reads(good.substr(0, good.size() - 3)), dlib::serialization_error);
  CHECK(*net.forward(x).begin() == before);
  Layer layer;
  std::istringstream file(good);
  deserialize(layer, file);
  CHECK(layer.get_layer_params().size() == 4);
}

TEST_CASE("all layers of a network for dlib are told at once", "[dlib]") {
  const Batch batch = make_batch(6, 7);
  Ours net;
  static_cast<void>(gradients(net, batch));
  syncbn::dlib::set_all_bn_running_stats_window_sizes(net, 7);
  CHECK(dlib::layer<3>(net).layer_details().get_running_stats_window_size() == 7);
  CHECK_THROWS_AS(syncbn::dlib::set_all_bn_running_stats_window_sizes(net, 0), syncbn::Error);

  // One rank evaluates while nobody else does anything.
  const auto ranks = syncbn::ThreadCommunicator::create(2);
  syncbn::dlib::synchronize(net, ranks[0]);
  const std::vector<float> one_by_one = [&] {
    syncbn::dlib::eval(net);
    return scores(net, batch);
  }();
  dlib::resizable_tensor x;
  net.to_tensor(batch.images.begin(), batch.images.end(), x);
  const dlib::tensor& together = net.subnet().forward(x);
  CHECK(agree(std::vector<float>(together.begin(), together.end()), one_by_one));
  syncbn::dlib::synchronize(net, {});
  syncbn::dlib::train(net);
  const dlib::tensor& by_batch = net.subnet().forward(x);
  CHECK_FALSE(agree(std::vector<float>(by_batch.begin(), by_batch.end()), one_by_one));
}

TEST_CASE("a layer for dlib is told whether it learns", "[dlib]") {
  using Net = syncbn::dlib::bn_fc<dlib::input<Image>>;
  const Batch batch = make_batch(4, 5);
  Net net;
  dlib::resizable_tensor x;
  net.to_tensor(batch.images.begin(), batch.images.end(), x);
  const auto first = [&] { return *net.forward(x).begin(); };
  const float learned = first();
  net.layer_details().eval();
  const float by_running = first();
  CHECK(by_running != learned);
  CHECK(first() == by_running);  // nothing was updated
  net.layer_details().train();
  CHECK(first() == learned);
}
