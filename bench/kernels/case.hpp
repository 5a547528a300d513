#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

/// @file
/// What is timed: one pass over one tensor, by one contender after the other, on the same memory.

namespace bench {

using Index = std::int64_t;

enum class Pass { forward, backward, inference };
enum class Layout { channels_first, channels_last };
enum class Format { f32, f64, bf16, f16 };

const char* name(Pass pass);
const char* name(Layout layout);
const char* name(Format format);
std::size_t bytes_of(Format format);

/// @brief One line of the table.
struct Case {
  std::vector<Index> extents;  ///< (N, C, S...)
  Layout layout = Layout::channels_first;
  Format format = Format::f32;
  Pass pass = Pass::forward;
  int threads = 1;
  bool affine = true;
  bool in_place = false;
  bool sliced = false;     ///< the inputs are parts of larger tensors: of rows that are 8 longer
  bool unaligned = false;  ///< tensors begin 16 bytes after a line, as large memory of malloc does

  Index elements() const;
  Index channels() const { return extents[1]; }
  std::size_t bytes() const { return static_cast<std::size_t>(elements()) * bytes_of(format); }
  /// @brief Strides in elements, of the layout.
  std::vector<Index> strides() const;
  /// @brief The same of the inputs.
  std::vector<Index> input_strides() const;
  /// @brief What the inputs are parts of.
  std::vector<Index> input_extents() const;
  Index input_elements() const;
  /// @brief For example "forward/f32/NCHW/32x64x56x56/t1".
  std::string text() const;
};

/// @brief The memory of a case, the same for all contenders: of the machine that it runs on, 64-byte aligned or as the case says.
struct Buffers {
  std::byte* x = nullptr;
  std::byte* dy = nullptr;
  std::byte* y = nullptr;  ///< or dx; x (or dy) in place
  std::vector<float> weight, bias;
  std::vector<double> weight_f64, bias_f64;
};

/// @brief A contender's way to do a case.
struct Run {
  std::function<void()> call;  ///< the pass; empty if the contender does not do such a case
  /// What call() writes, for all elements as y has them in memory; empty if it is not a result.
  std::function<const std::byte*()> result;
};

/// @brief Somebody who does the job. Everything that a user would do once is done by make().
struct Contender {
  std::string name;
  std::function<Run(const Case&, const Buffers&)> make;
};

// Ours, built for an instruction set each; or, of slices, a copy and then ours. With -O2 too, from libraries that hide all
// else: their kernels have the names of those that are built with -O3.
Contender syncbn_sse2(bool copies_first = false);
Contender syncbn_avx2(bool copies_first = false);
Contender syncbn_avx512(bool copies_first = false);
[[gnu::visibility("default")]] Contender syncbn_avx2_O2(bool copies_first = false);
[[gnu::visibility("default")]] Contender syncbn_avx512_O2(bool copies_first = false);
std::vector<Contender> contenders_onednn();
std::vector<Contender> contenders_torch();
std::vector<Contender> limits_avx2();
std::vector<Contender> limits_avx512();

}  // namespace bench
