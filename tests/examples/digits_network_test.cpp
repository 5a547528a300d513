#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <syncbn/syncbn.hpp>

#include "dataset.hpp"
#include "network.hpp"
#include "options.hpp"
#include "parameter_file.hpp"
#include "rounding.hpp"
#include "shards.hpp"
#include "support/catch.hpp"

// The building blocks of docs/examples/digits: gradients against finite differences, and everything that decides which
// sample is where. That training on several ranks equals training on one, the program checks itself (--check).

namespace {

using digits::FeatureMaps;
using digits::Index;
using digits::Matrix;

using Numbers = std::span<double>;

// Numbers between -1 and 1.
std::vector<double> random_numbers(std::size_t count, std::mt19937_64& random) {
  std::vector<double> numbers(count);
  for (double& number : numbers) number = static_cast<double>(random() >> 11) * 0x1p-52 - 1.0;
  return numbers;
}

FeatureMaps<double> random_maps(Index n, Index c, Index h, Index w, std::mt19937_64& random) {
  FeatureMaps<double> maps;
  maps.reshape(n, c, h, w);
  maps.values = random_numbers(maps.values.size(), random);
  return maps;
}

double dot(std::span<const double> a, std::span<const double> b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double central_difference(const std::function<double()>& f, double& x, double h) {
  const double at = x;
  x = at + h;
  const double above = f();
  x = at - h;
  const double below = f();
  x = at;
  return (above - below) / (2.0 * h);
}

// The largest error of a gradient, where f is linear in each x alone: then a central difference is exact but for
// rounding, whatever its step.
double error_where_linear(const std::function<double()>& f, Numbers x, std::span<const double> gradient) {
  double largest = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    largest = std::max(largest, std::abs(central_difference(f, x[i], 1.0) - gradient[i]));
  }
  return largest;
}

// Rounding of a sum of products of numbers up to 1, of which each is at most doubled by the step of a difference.
double rounding_of(std::size_t products) {
  return digits::rounding::apart(static_cast<Index>(products)) * 2.0 * static_cast<double>(products);
}

// Of a smooth function. A central difference with step h has the error c h^2 + O(h^4), so that those with h and h / 2
// differ by three quarters of the error of the first; the second is off by a third of that, here taken whole. Rounding
// of f, which is of size 1 and made of `operations`, is divided by h.
struct Smooth {
  std::function<double()> f;
  Index operations;

  void check(double& x, double gradient) const {
    const double h = 0x1p-14;
    const double coarse = central_difference(f, x, h);
    const double fine = central_difference(f, x, h / 2.0);
    const double rounding = digits::rounding::apart(operations) * (1.0 + std::abs(f())) / h;
    INFO("difference " << fine << ", gradient " << gradient << ", rounding " << rounding);
    CHECK(std::abs(fine - gradient) <= std::abs(coarse - fine) + rounding);
  }
};

}  // namespace

TEST_CASE("the gradients of a convolution are those of its output") {
  const auto [size, stride] =
      GENERATE(std::array<Index, 2>{5, 1}, std::array<Index, 2>{4, 2}, std::array<Index, 2>{5, 2});
  std::mt19937_64 random(1);
  digits::Convolution<double> convolution(2, 3, size, stride, random);
  FeatureMaps<double> x = random_maps(2, 2, size, size, random);  // (2, 2, H, W)
  FeatureMaps<double> y;
  convolution.forward(x, y);
  REQUIRE(y.height == (size + stride - 1) / stride);
  const FeatureMaps<double> dy = random_maps(y.samples, y.channels, y.height, y.width, random);  // (2, 3, H', W')
  FeatureMaps<double> dx;
  dx.reshape_like(x);
  convolution.backward(dy, dx);

  std::vector<digits::Parameter<double>> parameters;
  convolution.list_parameters("c", parameters);
  const auto weighted_output = [&] {
    convolution.forward(x, y);
    return dot(y.values, dy.values);
  };
  const double tolerance = rounding_of(y.values.size() * static_cast<std::size_t>(convolution.taps_per_pixel()));
  CHECK(error_where_linear(weighted_output, x.values, dx.values) <= tolerance);
  CHECK(error_where_linear(weighted_output, parameters[0].value, parameters[0].gradient) <= tolerance);
}

TEST_CASE("a convolution with a unit weight in the middle copies, and in a corner shifts") {
  std::mt19937_64 random(2);
  digits::Convolution<double> convolution(1, 1, 3, 1, random);
  std::vector<digits::Parameter<double>> parameters;
  convolution.list_parameters("c", parameters);
  const FeatureMaps<double> x = random_maps(1, 1, 3, 3, random);
  FeatureMaps<double> y;
  std::ranges::fill(parameters[0].value, 0.0);
  parameters[0].value[4] = 1.0;
  convolution.forward(x, y);
  CHECK(y.values == x.values);
  std::ranges::fill(parameters[0].value, 0.0);
  parameters[0].value[0] = 1.0;  // looks up and to the left
  convolution.infer(x, y);
  CHECK(y.values == std::vector<double>{0, 0, 0, 0, x.values[0], x.values[1], 0, x.values[3], x.values[4]});
}

TEST_CASE("the gradients of a linear layer are those of its output") {
  std::mt19937_64 random(3);
  digits::Linear<double> linear(4, 3, random);
  FeatureMaps<double> x = random_maps(5, 4, 1, 1, random);
  Matrix<double> y;
  linear.forward(x, y);
  Matrix<double> dy(5, 3);
  std::ranges::copy(random_numbers(15, random), dy.data());
  FeatureMaps<double> dx;
  dx.reshape_like(x);
  linear.backward(x, dy, dx);

  std::vector<digits::Parameter<double>> parameters;
  linear.list_parameters("l", parameters);
  const auto weighted_output = [&] {
    linear.forward(x, y);
    return dot({y.data(), 15}, {dy.data(), 15});
  };
  const double tolerance = rounding_of(15 * 5);
  CHECK(error_where_linear(weighted_output, x.values, dx.values) <= tolerance);
  for (const auto& parameter : parameters) {
    CHECK(error_where_linear(weighted_output, parameter.value, parameter.gradient) <= tolerance);
  }
}

TEST_CASE("the gradient of the cross entropy is that of the loss") {
  std::mt19937_64 random(4);
  const std::vector<int> labels{3, 0, 9};
  Matrix<double> logits(3, 10);
  std::ranges::copy(random_numbers(30, random), logits.data());
  Matrix<double> dlogits;
  digits::softmax_cross_entropy<double>(logits, labels, 7, dlogits);
  Matrix<double> unused;
  const Smooth loss{[&] { return digits::softmax_cross_entropy<double>(logits, labels, 7, unused).loss; }, 100};
  for (Index i = 0; i < logits.size(); ++i) loss.check(logits.data()[i], dlogits.data()[i]);
}

TEST_CASE("the cross entropy of sure answers does not overflow") {
  Matrix<double> logits = Matrix<double>::Zero(2, 10);
  logits(0, 1) = 1e4;
  logits(1, 2) = 1e4;
  Matrix<double> dlogits;
  const digits::Score score = digits::softmax_cross_entropy<double>(logits, std::vector<int>{1, 5}, 2, dlogits);
  CHECK(score.loss == 1e4 / 2.0);
  CHECK(score.correct == 1.0);
  CHECK(dlogits.allFinite());
}

TEST_CASE("the gradients of the whole network are those of the loss") {
  digits::Network<double, syncbn::SingleProcessCommunicator> network({}, 5);
  std::mt19937_64 random(5);
  const FeatureMaps<double> images = random_maps(6, 1, 8, 8, random);
  const std::vector<int> labels{0, 3, 9, 1, 1, 7};
  Matrix<double> dlogits;
  const auto parameters = network.parameters();
  digits::zero_gradients<double>(parameters);
  digits::softmax_cross_entropy<double>(network.forward(images), labels, 6, dlogits);
  network.backward(dlogits);

  Matrix<double> unused;
  const Smooth loss{
      [&] { return digits::softmax_cross_entropy<double>(network.forward(images), labels, 6, unused).loss; }, 5000};
  for (const auto& parameter : parameters) {
    INFO(parameter.name);
    for (std::size_t i = 0; i < parameter.value.size(); i += 7) loss.check(parameter.value[i], parameter.gradient[i]);
  }
}

TEST_CASE("every sample of a batch is on one rank, and shards are uneven") {
  const int ranks = GENERATE(1, 2, 3, 4, 7, 16);
  const Index size = GENERATE(32, 28);
  std::vector<Index> batch(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < batch.size(); ++i) batch[i] = static_cast<Index>(100 + 3 * i);
  std::vector<Index> even;
  std::vector<Index> uneven;
  for (int rank = 0; rank < ranks; ++rank) {
    const std::vector<Index> part = digits::even_shard(rank, ranks)(batch);
    CHECK(!part.empty());
    even.insert(even.end(), part.begin(), part.end());
    const std::vector<Index> other = digits::uneven_shard(rank, ranks, 32)(batch);
    uneven.insert(uneven.end(), other.begin(), other.end());
  }
  CHECK(even == batch);
  CHECK(uneven == batch);
  CHECK(digits::uneven_shard(0, 2, 32)(batch).size() == (size == 32 ? 8U : 0U));
}

TEST_CASE("an epoch shows every image once, each epoch in an order of its own") {
  const std::vector<Index> first = digits::shuffled_order(100, 1, 0);
  CHECK(std::ranges::is_permutation(first, digits::shuffled_order(100, 1, 1)));
  CHECK(first != digits::shuffled_order(100, 1, 1));
  CHECK(first == digits::shuffled_order(100, 1, 0));
}

TEST_CASE("the data set is the one described beside it") {
  const digits::Dataset data = digits::read_dataset(SYNCBN_DIGITS_CSV);
  CHECK(data.train.size() == 1500);
  CHECK(data.test.size() == 297);
  CHECK(data.train.pixels.size() == 1500U * 64U);
  CHECK(std::ranges::max(data.train.pixels) == 1.0F);
  CHECK(std::ranges::min(data.train.pixels) == 0.0F);
  CHECK(std::ranges::max(data.test.labels) == 9);
  CHECK_THROWS_AS(digits::read_dataset("no such file"), std::runtime_error);
}

TEST_CASE("a line that is not a digit is named") {
  const std::string path = (std::filesystem::temp_directory_path() / "syncbn_digits_network_test.csv").string();
  std::ofstream(path) << "1,2,3\n";
  CHECK_THROWS_WITH(digits::read_dataset(path), path + ", line 1: not 64 grey values and a digit");
  std::filesystem::remove(path);
}

TEST_CASE("parameters come back from a file bit for bit") {
  const std::string path = (std::filesystem::temp_directory_path() / "syncbn_digits_network_test.txt").string();
  const digits::ParameterFile written{
      .type = "f64", .ranks = 2, .epochs = 3, .allowance = 0.1, .values = {1.0 / 3.0, -0.0, 5e-324, 1e300}};
  digits::write_parameters(path, written);
  const digits::ParameterFile read = digits::read_parameters(path);
  CHECK(read.type == written.type);
  CHECK(read.ranks == written.ranks);
  CHECK(read.epochs == written.epochs);
  CHECK(read.allowance == written.allowance);
  CHECK(digits::same_bits(read.values, written.values));
  CHECK(!digits::same_bits(std::vector<double>{0.0}, std::vector<double>{-0.0}));
  std::filesystem::remove(path);
}

TEST_CASE("the command line is understood or refused") {
  const auto parse = [](std::vector<std::string> words, bool chooses_ranks = true) {
    words.insert(words.begin(), "/some/where/digits_demo");
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    return digits::parse_options(arguments, chooses_ranks);
  };
  CHECK(parse({}).output == "/some/where");
  CHECK(parse({}).ranks == std::vector<int>{1, 2, 4});
  const digits::Options options =
      parse({"--ranks", "3", "--epochs", "5", "--check", "--output", "x", "--compare", "y"});
  CHECK(options.ranks == std::vector<int>{3});
  CHECK(options.epochs == 5);
  CHECK(options.check);
  CHECK(options.output == "x");
  CHECK(options.compare == "y");
  CHECK_THROWS_WITH(parse({"--rank", "3"}), "unknown option --rank");
  CHECK_THROWS_WITH(parse({"--ranks"}), "--ranks needs a value");
  CHECK_THROWS_WITH(parse({"--ranks", "17"}), "--ranks needs a whole number from 1 to 16, not 17");
  CHECK_THROWS_WITH(parse({"--epochs", "2x"}), "--epochs needs a whole number from 1 to 1000, not 2x");
  CHECK_THROWS_AS(parse({"--ranks", "2"}, false), digits::UsageError);
  CHECK_THROWS_AS(parse({"--parameters", "x"}), digits::UsageError);
}
