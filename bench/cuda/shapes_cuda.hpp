#pragma once

#include "shapes.hpp"

/// @file
/// Which cases are timed on a device: those of processors, and those that others have published figures of.

namespace bench {

inline std::vector<std::vector<Index>> published_shapes() {
  return {{8, 64, 32, 32},     {4, 128, 32, 32},    {4, 256, 28, 28},    {64, 256, 56, 56},  {128, 64, 112, 112},
          {16, 64, 224, 224},  {32, 2048, 32, 32},  {16, 16, 224, 224},  {128, 4, 224, 224}, {8, 128, 56, 56},
          {8, 64, 32, 32, 32}, {8, 64, 64, 64, 64}, {16, 64, 64, 64, 64}};
}
/// @brief Up to 3 GB a tensor, of 16-bit formats.
inline std::vector<std::vector<Index>> largest_shapes() { return {{4, 128, 1024, 1024}, {16, 64, 112, 112, 112}}; }

/// @brief The cases. @param full  every format over every shape. @return in the order of the table.
inline std::vector<Case> cases_cuda(bool full) {
  std::vector<Case> result;
  for (const Format format : {Format::f32, Format::f16, Format::bf16, Format::f64}) {
    const auto set_format = [&](Case& c) { c.format = format; };
    const bool all = full || format == Format::f32 || format == Format::f16;
    add_cases(result, shapes(all), set_format);
    if (all) add_cases(result, published_shapes(), set_format);
    if (format == Format::f16 || (full && format == Format::bf16)) add_cases(result, largest_shapes(), set_format);
  }
  return result;
}

}  // namespace bench
