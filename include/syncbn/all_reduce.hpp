#pragma once

#include <algorithm>
#include <span>

#include <syncbn/concepts.hpp>

namespace syncbn::inline v0 {

/// @brief Sums doubles over a group of host ranks, in place; for an example's gradients, not for the layer's own words.
/// @param communicator  the group. @param values  as many on every rank; the sums afterwards, the same bits everywhere.
/// @collective{one frame of values.size() words}
/// @throws CommunicatorError if the fabric fails.
template <communicator Communicator>
  requires std::same_as<typename Communicator::memory_space, HostSpace>
void all_reduce_sum(Communicator& communicator, std::span<double> values) {
  auto frame = communicator.acquire(static_cast<Index>(values.size()));
  typename Communicator::queue_type queue{};
  std::copy(values.begin(), values.end(), frame.data());
  communicator.start(frame, queue);
  communicator.finish(frame, queue);
  std::copy_n(frame.data(), values.size(), values.begin());
}

}  // namespace syncbn::inline v0
