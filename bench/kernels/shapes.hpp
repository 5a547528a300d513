#pragma once

#include "case.hpp"

/// @file
/// Which cases are timed.

namespace bench {

/// @brief All shapes, or the extremes of each kind.
inline std::vector<std::vector<Index>> shapes(bool all) {
  if (!all) {
    return {{32, 64, 56, 56}, {32, 512, 28, 28}, {32, 2048, 7, 7}, {8, 256, 56, 56},
            {8, 3, 224, 224}, {16, 35, 33, 31},  {4096, 256},      {2, 32, 64, 64, 64}};
  }
  return {// oneDNN's own list
          {8, 64, 112, 112},
          {8, 256, 56, 56},
          {8, 128, 28, 28},
          {8, 512, 28, 28},
          {8, 1024, 14, 14},
          {8, 2048, 7, 7},
          {8, 384, 8, 8},
          // ResNet-50
          {32, 64, 112, 112},
          {32, 64, 56, 56},
          {32, 256, 56, 56},
          {32, 512, 28, 28},
          {32, 1024, 14, 14},
          {32, 2048, 7, 7},
          // volumes
          {1, 64, 16, 56, 56},
          {2, 32, 64, 64, 64},
          // no spatial dimensions
          {256, 1024},
          {4096, 256},
          {65536, 64},
          // odd ones
          {8, 3, 224, 224},
          {16, 35, 33, 31},
          {128, 4, 64, 64},
          {1, 64, 56, 56},
          {32, 1, 128, 128},
          // in a cache
          {2, 16},
          {8, 64},
          {32, 64},
          {4, 16, 8, 8},
          {2, 64, 14, 14},
          {8, 32, 14, 14},
          {4, 64, 28, 28}};
}

/// @brief Adds every pass over every shape in both layouts. @param change  makes of each what it is about.
template <class Change>
void add_cases(std::vector<Case>& cases, const std::vector<std::vector<Index>>& shapes, const Change& change) {
  for (const auto& extents : shapes) {
    for (const Layout layout : {Layout::channels_first, Layout::channels_last}) {
      if (extents.size() == 2 && layout == Layout::channels_last) continue;  // the same memory
      for (const Pass pass : {Pass::forward, Pass::backward, Pass::inference}) {
        Case c;
        c.extents = extents;
        c.layout = layout;
        c.pass = pass;
        change(c);
        cases.push_back(c);
      }
    }
  }
}

/// @brief The cases. @param full  every axis over every shape. @return in the order of the table.
inline std::vector<Case> cases(bool full) {
  std::vector<Case> result;
  add_cases(result, shapes(true), [](Case&) {});
  add_cases(result, shapes(full), [](Case& c) { c.threads = 2; });
  for (const Format format : {Format::bf16, Format::f16, Format::f64}) {
    add_cases(result, shapes(full), [&](Case& c) { c.format = format; });
  }
  add_cases(result, shapes(full), [](Case& c) { c.affine = false; });
  add_cases(result, shapes(full), [](Case& c) { c.in_place = true; });
  add_cases(result, shapes(full), [](Case& c) { c.sliced = true; });
  add_cases(result, shapes(full), [](Case& c) { c.unaligned = true; });
  return result;
}

}  // namespace bench
