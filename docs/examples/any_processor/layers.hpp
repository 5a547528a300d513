#pragma once

#include <cstddef>
#include <memory>

/// @file
/// A library of layers that is built for several processors. Its interface names nothing that depends on one, so that the
/// program that uses it is built once.

namespace layers {

/// @brief Images, (N, C, H, W), without gaps.
struct Extents {
  std::ptrdiff_t samples, channels, height, width;
};

class BatchNorm {
 public:
  explicit BatchNorm(std::ptrdiff_t channels);
  BatchNorm(BatchNorm&&) noexcept;
  BatchNorm& operator=(BatchNorm&&) noexcept;
  ~BatchNorm();

  void forward(const float* x, const Extents& extents, float* y);
  void backward(const float* dy, const float* x, const Extents& extents, float* dx);
  void train(bool training);

 private:
  struct Body;
  std::unique_ptr<Body> body_;
};

/// @brief What the library that was loaded is built for: "x86-64", "x86-64-v3" (AVX2), "x86-64-v4" (AVX-512).
const char* built_for();

}  // namespace layers
