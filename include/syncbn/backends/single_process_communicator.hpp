#pragma once

#include <vector>

#include <syncbn/concepts.hpp>

namespace syncbn::inline v0 {

/// @brief A group of one rank: nothing is exchanged, and code that would exchange is not even compiled in.
class SingleProcessCommunicator {
 public:
  using memory_space = HostSpace;                              ///< host memory
  using queue_type = HostQueue;                                ///< none
  static constexpr ErrorModel errors = ErrorModel::immediate;  ///< there are none

  /// @brief Words whose sum over one rank is themselves.
  class frame {
   public:
    frame() = default;
    /// @brief With words. @param words  how many.
    explicit frame(Index words) : words_(static_cast<std::size_t>(words)) {}
    /// @brief The words. @return the first.
    double* data() const noexcept { return const_cast<double*>(words_.data()); }
    /// @brief Their number. @return as acquired.
    Index size() const noexcept { return static_cast<Index>(words_.size()); }

   private:
    std::vector<double> words_;
  };

  /// @brief This rank. @return 0.
  static constexpr int rank() noexcept { return 0; }
  /// @brief Ranks in the group. @return 1.
  static constexpr int size() noexcept { return 1; }
  /// @brief Always. @return true.
  static constexpr bool usable() noexcept { return true; }
  /// @brief A frame. @param words  how many. @return the frame.
  frame acquire(Index words) const { return frame(words); }
  /// @brief Nothing to sum.
  void start(frame&, HostQueue&) const noexcept {}
  /// @brief Always done. @return true.
  bool poll(frame&) const noexcept { return true; }
  /// @brief Nothing to wait for.
  void finish(frame&, HostQueue&) const noexcept {}
  /// @brief The same group. @return *this.
  SingleProcessCommunicator split(int, int) const noexcept { return *this; }
};

}  // namespace syncbn::inline v0
