#pragma once

// LibTorch and Catch2 both have a macro CHECK.
#include <torch/torch.h>
#undef CHECK

#include <syncbn/interop/torch.hpp>

#include "support/catch.hpp"

namespace syncbn_test {

/// @brief Largest difference of two tensors of one shape, as a multiple of the unit roundoff of T times the largest element.
inline double difference(const at::Tensor& a, const at::Tensor& b, double epsilon) {
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return 1 / epsilon;
  if (a.numel() == 0) return 0;
  const at::Tensor exact = b.to(at::kDouble);
  return ((a.to(at::kDouble) - exact).abs().max() / (epsilon * (1 + exact.abs().max()))).item<double>();
}

/// @brief Whether two results agree but for the roundings of sums of @p terms numbers, by either library.
inline bool agree(const at::Tensor& a, const at::Tensor& b, std::int64_t terms) {
  const double epsilon = a.scalar_type() == at::kDouble  ? 0x1p-52
                         : a.scalar_type() == at::kFloat ? 0x1p-23
                         : a.scalar_type() == at::kHalf  ? 0x1p-10
                                                         : 0x1p-7;
  return difference(a, b, epsilon) <= 4 * std::sqrt(static_cast<double>(terms)) + 4;
}

}  // namespace syncbn_test
