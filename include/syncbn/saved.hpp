#pragma once

#include <array>
#include <concepts>
#include <span>

#include <syncbn/statistics.hpp>

namespace syncbn::inline v0 {

/// @brief What a forward pass keeps for its backward pass: a value that owns its O(channels) numbers, may be copied, and
/// may outlive the layer. Later forward passes do not touch it.
/// @tparam Backend  in whose memory the numbers lie.
template <class Backend>
struct SavedForward {
  Statistics<Backend> statistics;                                  ///< what normalized x
  bool batch_statistics = false;                                   ///< of the batch (true) or running (false)
  bool synchronized = false;                                       ///< over the ranks of the communicator
  int rank = 0;                                                    ///< number of dimensions of x
  std::array<Index, static_cast<std::size_t>(max_rank)> extent{};  ///< of x

  /// @brief Extents of x. @return rank of them; none where there are no statistics: before a forward pass, moved away.
  std::span<const Index> extents() const noexcept {
    const bool has_statistics = rank >= 2 && statistics.channels() == extent[1];
    return {extent.data(), has_statistics ? static_cast<std::size_t>(rank) : 0};
  }

  /// @brief Remembers the extents and makes room. @param backend  allocates. @param x  activations.
  template <class T, class Space>
  void prepare(Backend& backend, const TensorView<T, Space>& x) {
    statistics.resize(backend, x.extent(1));
    rank = x.rank();
    for (int d = 0; d < rank; ++d) extent[static_cast<std::size_t>(d)] = x.extent(d);
  }
};

/// @brief In place of `dx`: the input gradient is not wanted. A synchronized backward pass takes part in the exchange all
/// the same.
struct NoGradient {};
/// @brief The NoGradient to pass.
inline constexpr NoGradient no_gradient{};
/// @brief Whether an argument is that. @tparam T  its type, with const and reference.
template <class T>
concept no_gradient_type = std::same_as<std::remove_cvref_t<T>, NoGradient>;

}  // namespace syncbn::inline v0
