#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <utility>

#include <syncbn/tensor_view.hpp>

// Where the elements of tensors lie, as kernels are told: values, which are arguments of a kernel.
//
// What a thread loads at once is a unit.
//   rows:    `width` values of a channel that are neighbours in memory, 16 bytes. A line is a run of them; its first and last
//            unit may have fewer, so that all others begin at whole words.
//   columns: one value of each of `width` channels that are neighbours. A line is a run of such units at one stride. With a
//            width of 1 this is the way through any strides.

namespace syncbn::inline v0::cuda {

// Division of numbers below 2^63 by one that many threads divide by: a product and shifts instead of a division.
// The multiplier is 2^64 (2^bits - d) / d + 1, rounded down, where 2^bits is not less than d (Granlund and Montgomery 1994).
struct Divider {
  std::uint64_t multiplier = 1;
  int first_shift = 0, second_shift = 0;

  Divider() = default;
  explicit Divider(Index divisor) noexcept {
    int bits = 0;
    while (bits < 63 && (std::uint64_t{1} << bits) < static_cast<std::uint64_t>(divisor)) ++bits;
    __extension__ using Wide = unsigned __int128;
    const std::uint64_t excess = (std::uint64_t{1} << bits) - static_cast<std::uint64_t>(divisor);
    multiplier = static_cast<std::uint64_t>((Wide{excess} << 64) / static_cast<std::uint64_t>(divisor)) + 1;
    first_shift = bits > 0 ? 1 : 0;
    second_shift = bits > 0 ? bits - 1 : 0;
  }
};

template <int operands>
struct Field {
  static constexpr int most_dims = max_rank - 2;

  Index channels = 0;
  Index elements = 0;  // of a channel
  Index lines = 0;
  Index run = 1;            // elements of a line
  Index units_of_line = 1;  // for rows, as many as it can have
  Divider by_units_of_line;
  int dims = 0;  // of lines, the outermost first; more than one only for columns of width 1
  Index extent[most_dims] = {};
  Divider by_extent[most_dims];
  Index stride[operands][most_dims] = {};
  Index unit_stride[operands] = {};
  Index step[operands] = {};  // between the elements of a unit
  Index channel_stride[operands] = {};
  bool is_columns = false;
  bool channels_are_near = false;  // lanes of a warp should take them, not values
  int width = 1;
  bool has_words[operands] = {};  // whole units are words
  int beyond = 0;                 // rows: elements from a boundary of words to the first one
  bool shifts = false;            // rows: lines do not all begin at such boundaries
  // From a thread's unit to its next one, and what is added beside where that is in another line: see Shape.
  Index advance[operands] = {};
  Index wrap[operands] = {};

  Index units() const noexcept { return lines * units_of_line; }
};

namespace detail_of_field {

// An operand's address and strides.
struct Operand {
  std::uintptr_t address;
  Index bytes;
  const Index* strides;
  // Elements from a boundary of words; -1 where elements themselves lie across.
  Index beyond(Index width) const noexcept {
    return address % static_cast<std::uintptr_t>(bytes) != 0
               ? -1
               : static_cast<Index>(address / static_cast<std::uintptr_t>(bytes)) % width;
  }
};

// Dimensions without the channels, from the smallest stride on, merged where all operands can walk two as one. Any order
// will do: elements of a channel are summed, or mapped one by one.
template <int operands>
struct Merged {
  int count = 0;
  Index extent[max_rank];
  Index stride[max_rank][operands];

  Merged(std::span<const Index> extents, const Operand (&operand)[operands]) noexcept {
    int dims[max_rank];
    int size = 0;
    for (int d = static_cast<int>(extents.size()) - 1; d >= 0; --d) {
      if (d != 1 && extents[static_cast<std::size_t>(d)] != 1) dims[size++] = d;
    }
    const auto reach = [&](int d) {
      Index most = 0;
      for (const Operand& o : operand) most = std::max(most, std::abs(o.strides[d]));
      return most;
    };
    for (int i = 1; i < size; ++i) {  // by insertion: few, and mostly in order
      for (int k = i; k > 0 && reach(dims[k]) < reach(dims[k - 1]); --k) std::swap(dims[k], dims[k - 1]);
    }
    for (int i = 0; i < size; ++i) add(extents[static_cast<std::size_t>(dims[i])], dims[i], operand);
  }

 private:
  void add(Index size, int d, const Operand (&operand)[operands]) noexcept {
    bool merges = count > 0;
    for (int k = 0; k < operands; ++k) {
      merges = merges && operand[k].strides[d] == extent[count - 1] * stride[count - 1][k];
    }
    if (merges) {
      extent[count - 1] *= size;
      return;
    }
    extent[count] = size;
    for (int k = 0; k < operands; ++k) stride[count][k] = operand[k].strides[d];
    ++count;
  }
};

// A field in the making.
template <int operands>
class FieldMaker {
 public:
  FieldMaker(std::span<const Index> extents, const Operand (&operand)[operands]) noexcept : operand_(operand) {
    const Merged<operands> merged(extents, operand);
    field_.channels = extents[1];
    field_.elements = 1;
    for (int i = 0; i < merged.count; ++i) field_.elements *= merged.extent[i];
    for (int k = 0; k < operands; ++k) {
      field_.channel_stride[k] = operand[k].strides[1];
      line_stride_[k] = merged.count > 0 ? merged.stride[0][k] : 1;
    }
    field_.run = merged.count > 0 ? merged.extent[0] : 1;
    field_.lines = field_.elements == 0 ? 0 : field_.elements / field_.run;
    field_.dims = merged.count > 1 ? merged.count - 1 : 0;
    for (int d = 0; d < field_.dims; ++d) {
      field_.extent[d] = merged.extent[merged.count - 1 - d];
      field_.by_extent[d] = Divider(std::max(field_.extent[d], Index{1}));
      for (int k = 0; k < operands; ++k) field_.stride[k][d] = merged.stride[merged.count - 1 - d][k];
    }
    field_.channels_are_near =
        field_.channels > 1 && (field_.elements <= 1 || std::abs(field_.channel_stride[0]) < std::abs(line_stride_[0]));
  }

  Field<operands> make(int widest) noexcept {
    const bool near = field_.channels_are_near;
    // Shorter lines would leave most of a unit empty.
    const bool has_wide_units = field_.dims <= 1 && (near || field_.run >= widest) && fits(0, widest);
    field_.width = has_wide_units ? widest : 1;
    field_.is_columns = near || !has_wide_units;
    for (int k = 0; k < operands; ++k) {
      field_.has_words[k] = has_wide_units && fits(k, widest);
      field_.step[k] = near ? field_.channel_stride[k] : line_stride_[k];
      field_.unit_stride[k] = field_.is_columns ? line_stride_[k] : line_stride_[k] * field_.width;
    }
    field_.units_of_line = std::max(field_.run, Index{1});
    if (!field_.is_columns) cut_lines();
    field_.by_units_of_line = Divider(field_.units_of_line);
    return field_;
  }

 private:
  // Whether units of operand k are words wherever those of the first one are cut: columns only where channels begin.
  bool fits(int k, Index width) const noexcept {
    const bool near = field_.channels_are_near;
    const Index* const across = near ? line_stride_ : field_.channel_stride;
    const Index* const along = near ? field_.channel_stride : line_stride_;
    const bool goes_across = near ? field_.run > 1 : field_.channels > 1;
    const Index beyond = operand_[k].beyond(width);
    if (along[k] != 1 || beyond < 0 || beyond != (near ? 0 : operand_[0].beyond(width))) return false;
    const auto apart = [&](Index mine, Index its) { return (mine - (near ? 0 : its)) % width != 0; };
    bool good = !(goes_across && apart(across[k], across[0]));
    for (int d = 0; d < field_.dims; ++d) good = good && !apart(field_.stride[k][d], field_.stride[0][d]);
    return good;
  }
  void cut_lines() noexcept {
    const Index width = field_.width;
    field_.beyond = static_cast<int>(operand_[0].beyond(width));
    field_.shifts = field_.beyond != 0 || (field_.channels > 1 && field_.channel_stride[0] % width != 0) ||
                    (field_.dims > 0 && field_.stride[0][0] % width != 0);
    const Index room = field_.shifts ? width - 1 : 0;
    field_.units_of_line = std::max((field_.run + room + width - 1) / width, Index{1});
  }

  const Operand (&operand_)[operands];
  Field<operands> field_;
  Index line_stride_[operands];
};

}  // namespace detail_of_field

// `widest`: elements of a unit at most, a power of two. The first operand decides what units are.
template <class First, class... Others>
Field<1 + sizeof...(Others)> field_of(int widest, const First& first, const Others&... others) noexcept {
  using detail_of_field::Operand;
  const auto operand_of = [](const auto& v) {
    return Operand{reinterpret_cast<std::uintptr_t>(v.data()), static_cast<Index>(sizeof(*v.data())),
                   v.strides().data()};
  };
  const Operand operand[] = {operand_of(first), operand_of(others)...};
  return detail_of_field::FieldMaker<1 + sizeof...(Others)>(first.extents(), operand).make(widest);
}

}  // namespace syncbn::inline v0::cuda
