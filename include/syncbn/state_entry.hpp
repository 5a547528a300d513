#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <syncbn/errors.hpp>
#include <syncbn/tensor_view.hpp>

namespace syncbn::inline v0 {

/// @brief One named tensor of a state dictionary: a value, on the host.
struct StateEntry {
  std::string name;          ///< with its prefix
  std::vector<Index> shape;  ///< (C), or nothing for the counter
  /// The numbers: parameters as float or double, the counter as one integer.
  std::variant<std::vector<float>, std::vector<double>, std::vector<std::int64_t>> values;
  bool uninitialized = false;  ///< a lazy layer's, which has no shape yet
};

/// @brief Named tensors in order, and the version of their format (PyTorch's module metadata; 2 today).
struct StateDict {
  std::optional<int> version;       ///< empty: a plain dictionary, treated as version 1
  std::vector<StateEntry> entries;  ///< in PyTorch's order

  /// @brief Looks a name up. @param name  with its prefix. @return the entry, or null.
  const StateEntry* find(std::string_view name) const noexcept {
    for (const StateEntry& entry : entries) {
      if (entry.name == name) return &entry;
    }
    return nullptr;
  }
};

/// @brief Whether loading demands that names match exactly. Shapes always have to.
enum class Strictness : std::uint8_t {
  strict,   ///< missing and unexpected names are errors
  tolerant  ///< they are reported only
};

/// @brief What did not match.
struct LoadResult {
  std::vector<std::string> missing;     ///< in the layer, not in the dictionary
  std::vector<std::string> unexpected;  ///< in the dictionary, not in the layer
};

namespace detail {

// For what writes files: whether there are as many values as the shape says.
inline void check_shape(const StateEntry& entry, std::size_t values) {
  const bool empty = std::find(entry.shape.begin(), entry.shape.end(), Index{0}) != entry.shape.end();
  std::size_t count = empty ? 0 : 1;
  for (const Index extent : entry.shape) {
    if (extent < 0) throw Error(entry.name + " has a negative extent");
    if (count > values) break;  // extents of more than there is memory for
    count *= static_cast<std::size_t>(extent);
  }
  if (count != values) throw Error(entry.name + " has other values than its shape");
}

}  // namespace detail

}  // namespace syncbn::inline v0
