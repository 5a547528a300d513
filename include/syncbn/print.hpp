#pragma once

#include <ostream>
#include <string>

#include <syncbn/batch_norm.hpp>
#include <syncbn/detail/python_number.hpp>

namespace syncbn::inline v0 {

namespace detail {

template <std::size_t Dims, class Communicator>
std::string class_name() {
  if constexpr (!always_alone<Communicator>) {
    return "SyncBatchNorm";
  } else if constexpr (Dims == any_dims) {
    return "BatchNorm";
  } else {
    return "BatchNorm" + std::to_string(Dims) + "d";
  }
}

inline std::string arguments_text(Index channels, const BatchNormOptions& options, bool tracks) {
  const auto python_bool = [](bool value) { return value ? "True" : "False"; };
  return std::string("(") + std::to_string(channels) + ", eps=" + python_number(options.eps) +
         ", momentum=" + (options.momentum ? python_number(*options.momentum) : "None") +
         ", affine=" + python_bool(options.affine) + ", track_running_stats=" + python_bool(tracks) + ")";
}

}  // namespace detail

/// @brief A layer as Python prints it: `BatchNorm2d(3, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)`.
/// The name is SyncBatchNorm where the communicator can have more than one rank.
/// @param layer  any. @return the text.
template <std::size_t Dims, class Backend, class Communicator>
std::string to_string(const BatchNorm<Dims, Backend, Communicator>& layer) {
  return detail::class_name<Dims, Communicator>() +
         detail::arguments_text(layer.channels(), layer.options(), layer.tracks_running_stats());
}

/// @brief Prints to_string(). @param out  a stream. @param layer  any. @return @p out.
template <std::size_t Dims, class Backend, class Communicator>
std::ostream& operator<<(std::ostream& out, const BatchNorm<Dims, Backend, Communicator>& layer) {
  return out << to_string(layer);
}

}  // namespace syncbn::inline v0
