#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <syncbn/detail/state_check.hpp>
#include <syncbn/lazy.hpp>
#include <syncbn/state_entry.hpp>

namespace syncbn::inline v0 {

/// @brief Appends a layer's state: weight, bias, running_mean, running_var, num_batches_tracked; absent ones are omitted.
/// @param layer  copied from. @param dict  appended to; gets version 2. @param prefix  before each name: "layer1.0.bn1.".
template <std::size_t Dims, class Backend, class Communicator>
void append_state(const BatchNorm<Dims, Backend, Communicator>& layer, StateDict& dict,
                  const std::string& prefix = {}) {
  const auto add = [&](const char* name, const auto& values) {
    std::vector<typename Backend::parameter_type> copy(static_cast<std::size_t>(values.extent(0)));
    layer.backend().download(values.data(), values.extent(0), copy.data());
    dict.entries.push_back({prefix + name, {values.extent(0)}, std::move(copy)});
  };
  dict.version = detail::state_version;
  if (layer.options().affine) {
    add("weight", layer.weight());
    add("bias", layer.bias());
  }
  if (!layer.has_running_stats()) return;
  add("running_mean", layer.running_mean());
  add("running_var", layer.running_var());
  dict.entries.push_back({prefix + "num_batches_tracked", {}, std::vector<std::int64_t>{layer.num_batches_tracked()}});
}

/// @brief A layer's state. @param layer  copied from. @param prefix  before each name. @return PyTorch's names and order.
template <std::size_t Dims, class Backend, class Communicator>
StateDict state_dict(const BatchNorm<Dims, Backend, Communicator>& layer, const std::string& prefix = {}) {
  StateDict dict;
  append_state(layer, dict, prefix);
  return dict;
}

/// @brief A lazy layer's state: before its first input, tensors without a shape. @param layer  copied from.
/// @param prefix  before each name. @return PyTorch's names and order.
template <std::size_t Dims, class Backend, class Communicator>
StateDict state_dict(const LazyBatchNorm<Dims, Backend, Communicator>& layer, const std::string& prefix = {}) {
  if (layer.is_materialized()) return state_dict(layer.layer(), prefix);
  StateDict dict;
  dict.version = detail::state_version;
  for (const std::string_view name : detail::state_names(layer.options().affine, layer.options().track_running_stats)) {
    dict.entries.push_back(
        {prefix + std::string(name), {}, std::vector<std::int64_t>{0}, name != detail::counter_name});
  }
  return dict;
}

/// @brief Copies a dictionary's values into a layer, converted to its types. A dictionary without version, or of a version
/// below 2, may lack num_batches_tracked: the layer's counter then stays.
/// @param layer   every rank loads the same. @param dict  names that do not begin with @p prefix are not looked at.
/// @param prefix  before each name. @param strictness  of names. @return what did not match.
/// @throws Error  listing everything that does not match, before anything is changed.
template <std::size_t Dims, class Backend, class Communicator>
LoadResult load_state_dict(BatchNorm<Dims, Backend, Communicator>& layer, const StateDict& dict,
                           const std::string& prefix = {}, Strictness strictness = Strictness::strict) {
  using P = typename Backend::parameter_type;
  const std::vector<std::string_view> names = detail::state_names(layer.options().affine, layer.has_running_stats());
  LoadResult result = detail::compare_names(names, dict, prefix);
  const std::string problems = detail::problems(result, names, dict, prefix, layer.channels(), strictness);
  if (!problems.empty()) detail::throw_loading_error(detail::class_name<Dims, Communicator>(), problems);
  // Converted first: from the first write on, nothing may fail.
  const auto values = [&](const char* name) {
    const StateEntry* entry = dict.find(prefix + name);
    return entry == nullptr ? std::vector<P>() : detail::values_as<P>(*entry);
  };
  const std::vector<P> sources[] = {values("weight"), values("bias"), values("running_mean"), values("running_var")};
  const auto targets = {layer.weight(), layer.bias(), layer.running_mean(), layer.running_var()};
  const StateEntry* counter = dict.find(prefix + std::string(detail::counter_name));
  const std::vector<std::int64_t> batches =
      counter == nullptr ? std::vector<std::int64_t>() : detail::values_as<std::int64_t>(*counter);
  const std::vector<P>* source = sources;
  for (const auto& target : targets) {
    // An unexpected tensor, tolerated, has no target.
    if (target.data() != nullptr)
      layer.backend().upload(source->data(), static_cast<Index>(source->size()), target.data());
    ++source;
  }
  if (!batches.empty()) layer.set_num_batches_tracked(batches.front());
  return result;
}

/// @brief As above; a lazy layer takes its number of channels from the dictionary, and stays lazy if it comes from one
/// that was. @param layer  lazy. @param dict  state. @param prefix  before each name. @param strictness  of names.
/// @return what did not match. @throws Error  as above.
template <std::size_t Dims, class Backend, class Communicator>
LoadResult load_state_dict(LazyBatchNorm<Dims, Backend, Communicator>& layer, const StateDict& dict,
                           const std::string& prefix = {}, Strictness strictness = Strictness::strict) {
  if (layer.is_materialized()) return load_state_dict(layer.layer(), dict, prefix, strictness);
  LazyBatchNorm<Dims, Backend, Communicator> candidate = layer;
  const std::vector<std::string_view> names =
      detail::state_names(layer.options().affine, layer.options().track_running_stats);
  for (const std::string_view name : names) {
    const StateEntry* entry = dict.find(prefix + std::string(name));
    if (entry != nullptr && entry->shape.size() == 1) candidate.materialize(entry->shape.front());
  }
  if (!candidate.is_materialized()) {
    LoadResult result = detail::compare_names(names, dict, prefix);
    const std::string problems = detail::problems(result, names, dict, prefix, std::nullopt, strictness);
    if (!problems.empty()) detail::throw_loading_error("Lazy" + detail::class_name<Dims, Communicator>(), problems);
    return result;
  }
  LoadResult result = load_state_dict(candidate.layer(), dict, prefix, strictness);
  layer = std::move(candidate);
  return result;
}

}  // namespace syncbn::inline v0
