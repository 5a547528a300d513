#pragma once

#include <vector>

#include <syncbn/concepts.hpp>

namespace syncbn_test {

/// @brief A group in which every rank sends what this one sends: a batch of any size out of a small one.
///
/// For a layer this is what so many ranks with the same batch are; only that the sum of equal words is rounded once.
class EchoCommunicator {
 public:
  using memory_space = syncbn::HostSpace;
  using queue_type = syncbn::HostQueue;
  static constexpr syncbn::ErrorModel errors = syncbn::ErrorModel::immediate;

  class frame {
   public:
    frame() = default;
    explicit frame(syncbn::Index words) : words_(static_cast<std::size_t>(words)) {}
    double* data() const noexcept { return const_cast<double*>(words_.data()); }
    syncbn::Index size() const noexcept { return static_cast<syncbn::Index>(words_.size()); }

   private:
    std::vector<double> words_;
  };

  /// @param ranks  how many there seem to be.
  explicit EchoCommunicator(int ranks) : ranks_(ranks) {}

  int rank() const noexcept { return 0; }
  int size() const noexcept { return ranks_; }
  bool usable() const noexcept { return true; }
  frame acquire(syncbn::Index words) const { return frame(words); }
  void start(frame& f, syncbn::HostQueue&) const {
    for (syncbn::Index i = 0; i < f.size(); ++i) f.data()[i] *= ranks_;
  }
  bool poll(frame&) const noexcept { return true; }
  void finish(frame&, syncbn::HostQueue&) const {}

 private:
  int ranks_;
};

}  // namespace syncbn_test
