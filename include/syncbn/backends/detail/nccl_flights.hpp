#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <syncbn/backends/detail/nccl_frames.hpp>

// The sums of a group that its device has not done yet, in their order. The first of them alone can keep the others waiting.

namespace syncbn::inline v0::detail {

struct NcclFlight {
  CudaEvent reached;  // the stream has come to the sum
  CudaEvent done;
  std::uint64_t number = 0;
  Index words = 0;
  cudaStream_t stream = nullptr;
  std::optional<std::chrono::steady_clock::time_point> since;  // when somebody saw that it was reached
};

class NcclFlights {
 public:
  // Events for a sum that is about to be put into a stream. On every rank sums are done in the order of calls, which other
  // streams have to be told.
  NcclFlight begin(Index words, cudaStream_t stream) {
    if (!flights_.empty() && flights_.back().stream != stream) flights_.back().done.let_wait(stream);
    NcclFlight flight = spare_.empty() ? NcclFlight() : std::move(spare_.back());
    if (!spare_.empty()) spare_.pop_back();
    flight.words = words;
    flight.stream = stream;
    flight.since.reset();
    flight.reached.record(stream);
    return flight;
  }
  // It has been put there. Returns its number: 1, 2, ...
  std::uint64_t add(NcclFlight flight) {
    flight.done.record(flight.stream);
    flight.number = last_ + 1;
    spare_.reserve(spare_.size() + flights_.size() + 1);  // for drop_landed()
    flights_.push_back(std::move(flight));
    return ++last_;
  }

  bool has_landed(std::uint64_t number) noexcept {
    drop_landed();
    return flights_.empty() || number < flights_.front().number;
  }
  bool all_landed() noexcept { return has_landed(last_); }

  // How long the device has been in the first sum, as far as was seen; 0 if it has not come to it.
  std::chrono::nanoseconds waited() noexcept {
    drop_landed();
    if (flights_.empty() || !flights_.front().reached.over()) return std::chrono::nanoseconds(0);
    const auto now = std::chrono::steady_clock::now();
    if (!flights_.front().since) flights_.front().since = now;
    return now - *flights_.front().since;
  }
  std::string first() const {
    if (flights_.empty()) return "a sum in a graph";
    const NcclFlight& flight = flights_.front();
    return "sum " + std::to_string(flight.number) + ", ncclAllReduce of " + std::to_string(flight.words) + " doubles,";
  }

 private:
  void drop_landed() noexcept {
    while (!flights_.empty() && flights_.front().done.over()) {
      spare_.push_back(std::move(flights_.front()));
      flights_.pop_front();
    }
  }

  std::deque<NcclFlight> flights_;
  std::vector<NcclFlight> spare_;
  std::uint64_t last_ = 0;
};

}  // namespace syncbn::inline v0::detail
