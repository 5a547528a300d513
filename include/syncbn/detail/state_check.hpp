#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <syncbn/state_entry.hpp>
#include <syncbn/validation.hpp>

// What a dictionary and a layer have in common, and the text for what they have not.

namespace syncbn::inline v0::detail {

inline constexpr int state_version = 2;
inline constexpr std::string_view counter_name = "num_batches_tracked";

inline std::vector<std::string_view> state_names(bool affine, bool tracked) {
  std::vector<std::string_view> names;
  if (affine) names = {"weight", "bias"};
  if (tracked) names.insert(names.end(), {"running_mean", "running_var", counter_name});
  return names;
}

inline LoadResult compare_names(const std::vector<std::string_view>& names, const StateDict& dict,
                                const std::string& prefix) {
  LoadResult result;
  for (const std::string_view name : names) {
    const bool may_lack = name == counter_name && dict.version.value_or(1) < 2;
    const std::string full = prefix + std::string(name);
    if (!may_lack && dict.find(full) == nullptr) result.missing.push_back(full);
  }
  for (const StateEntry& entry : dict.entries) {
    if (!entry.name.starts_with(prefix)) continue;
    const std::string_view rest = std::string_view(entry.name).substr(prefix.size());
    if (std::find(names.begin(), names.end(), rest) == names.end()) result.unexpected.push_back(entry.name);
  }
  return result;
}

inline std::string quoted(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "\"" : ", \"") + name + "\"";
  return text;
}

inline std::size_t count_of(const StateEntry& entry) {
  return std::visit([](const auto& values) { return values.size(); }, entry.values);
}

// Everything that forbids loading, a line each; empty if nothing does. No channels: a lazy layer, which takes tensors
// without a shape and gets its channels from any other.
inline std::string problems(const LoadResult& result, const std::vector<std::string_view>& names, const StateDict& dict,
                            const std::string& prefix, std::optional<Index> channels, Strictness strictness) {
  std::string text;
  if (strictness == Strictness::strict && !result.missing.empty()) {
    text += "\n\tMissing key(s) in state_dict: " + quoted(result.missing) + ". ";
  }
  if (strictness == Strictness::strict && !result.unexpected.empty()) {
    text += "\n\tUnexpected key(s) in state_dict: " + quoted(result.unexpected) + ". ";
  }
  for (const std::string_view name : names) {
    const StateEntry* entry = dict.find(prefix + std::string(name));
    if (entry == nullptr) continue;
    std::vector<Index> shape;
    if (name != counter_name) shape.push_back(channels.value_or(0));
    const std::size_t count = name == counter_name ? 1 : static_cast<std::size_t>(channels.value_or(0));
    if (entry->uninitialized) {
      if (!channels) continue;
      text += "\n\tCan't access the shape of an uninitialized parameter or buffer: " + entry->name +
              " comes from a lazy layer that has seen no input.";
    } else if (entry->shape != shape) {
      text += "\n\tsize mismatch for " + entry->name + ": copying a param with shape " + shape_text(entry->shape) +
              " from checkpoint, the shape in current model is " + shape_text(shape) + ".";
    } else if (count_of(*entry) != count) {
      text += "\n\t" + entry->name + " has shape " + shape_text(shape) + " but " + std::to_string(count_of(*entry)) +
              " values.";
    }
  }
  return text;
}

[[noreturn]] inline void throw_loading_error(const std::string& layer, const std::string& problems) {
  throw Error("Error(s) in loading state_dict for " + layer + ":" + problems);
}

template <class P>
std::vector<P> values_as(const StateEntry& entry) {
  return std::visit(
      [](const auto& values) {
        std::vector<P> result;
        result.reserve(values.size());
        for (const auto value : values) result.push_back(static_cast<P>(value));
        return result;
      },
      entry.values);
}

}  // namespace syncbn::inline v0::detail
