#pragma once

#include <syncbn/syncbn.hpp>

/// @file
/// Where batch normalization is computed. All else of the network stays on the host.

namespace digits {

/// @brief The layer for a communicator; specialised where it is another device's: device_norm.hpp.
template <class T, class Communicator>
struct NormChoice {
  using type = syncbn::BatchNorm<2, syncbn::CpuBackend<T>, Communicator>;
};
template <class T, class Communicator>
using NormOf = typename NormChoice<T, Communicator>::type;

/// @brief On the host, over the ranks of the world.
struct OnHost {
  /// @brief What local statistics are taken over. @return this rank.
  [[nodiscard]] syncbn::SingleProcessCommunicator alone() const { return {}; }
  /// @brief What synchronized statistics are taken over. @param world  all ranks. @return the same.
  template <class World>
  [[nodiscard]] World together(const World& world) const {
    return world;
  }
};

}  // namespace digits
