#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <numeric>
#include <random>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "feature_maps.hpp"

/// @file
/// 1797 handwritten digits, and in which order an epoch shows them.

namespace digits {

inline constexpr Index image_size = 8;                          ///< pixels along a side
inline constexpr Index image_pixels = image_size * image_size;  ///< pixels in all
inline constexpr Index classes = 10;                            ///< the digits 0 to 9

/// @brief Grey images and what they show.
struct Images {
  std::vector<float> pixels;  // (N, 1, 8, 8), between 0 and 1
  std::vector<int> labels;    // (N)

  /// @brief How many there are.
  [[nodiscard]] Index size() const { return static_cast<Index>(labels.size()); }
};

/// @brief What the network learns from, and what it is examined with.
struct Dataset {
  Images train;
  Images test;
};

/// @brief Reads lines of 64 grey values from 0 to 16 and one label; the first @p train_size lines are for training.
/// @throws std::runtime_error if the file cannot be read or a line is not of that form.
inline Dataset read_dataset(const std::string& path, Index train_size = 1500) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read the digits from " + path);
  Dataset dataset;
  std::string line;
  for (Index number = 0; std::getline(file, line); ++number) {
    Images& images = number < train_size ? dataset.train : dataset.test;
    std::istringstream fields(line);
    char comma = ',';
    int value = 0;
    for (Index pixel = 0; pixel < image_pixels && fields >> value >> comma; ++pixel) {
      images.pixels.push_back(static_cast<float>(value) / 16.0F);
    }
    if (!(fields >> value) || value < 0 || value >= classes) {
      throw std::runtime_error(path + ", line " + std::to_string(number + 1) + ": not 64 grey values and a digit");
    }
    images.labels.push_back(value);
  }
  if (dataset.test.labels.empty()) {
    throw std::runtime_error(path + ": no images are left for the test after " + std::to_string(train_size));
  }
  return dataset;
}

/// @brief Copies the chosen images into the input of a network.
/// @param[in]  images   where they come from.
/// @param[in]  chosen   their numbers; there may be none.
/// @param[out] input    @shape{(chosen.size(), 1, 8, 8)}
/// @param[out] labels   @shape{(chosen.size())}
template <class T>
void gather(const Images& images, std::span<const Index> chosen, FeatureMaps<T>& input, std::vector<int>& labels) {
  input.reshape(static_cast<Index>(chosen.size()), 1, image_size, image_size);
  labels.clear();
  auto to = input.values.begin();
  for (const Index number : chosen) {
    const auto from = images.pixels.begin() + number * image_pixels;
    to = std::copy(from, from + image_pixels, to);
    labels.push_back(images.labels[static_cast<std::size_t>(number)]);
  }
}

/// @brief The numbers 0 to @p size - 1 in an order of their own for every epoch.
///
/// Written out, rather than left to std::shuffle, whose result is another one with every standard library.
inline std::vector<Index> shuffled_order(Index size, std::uint64_t seed, int epoch) {
  std::vector<Index> order(static_cast<std::size_t>(size));
  std::iota(order.begin(), order.end(), Index{0});
  std::mt19937_64 random(seed + static_cast<std::uint64_t>(epoch));
  for (std::size_t last = order.size() - 1; last > 0; --last) std::swap(order[last], order[random() % (last + 1)]);
  return order;
}

}  // namespace digits
