#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>
#include <limits>
#include <utility>

#include <syncbn/backends/cuda_queue.hpp>
#include <syncbn/backends/cuda_space.hpp>
#include <syncbn/backends/detail/cuda_check.hpp>
#include <syncbn/backends/detail/pinned_words.hpp>
#include <syncbn/concepts.hpp>

namespace syncbn::inline v0 {

/// @brief A communicator of host memory (MPI, threads) for CudaBackend: kernels write frames in pinned host memory, which is
/// handed over once the stream has come so far.
///
/// An exchange waits for the stream. So errors are immediate, and a step cannot be captured in a CUDA graph.
/// @tparam Host  the communicator. @determinism{that of Host}
template <communicator Host>
  requires std::same_as<typename Host::memory_space, HostSpace>
class Staged {
 public:
  using memory_space = CudaSpace;                     ///< which the host can reach, too
  using queue_type = CudaQueue;                       ///< a stream
  static constexpr ErrorModel errors = Host::errors;  ///< the host's

  /// @brief Words of this rank that are summed over the group, in pinned memory.
  class frame {
   public:
    frame() = default;
    /// @brief For both sides. @param host  the fabric's. @param words  how many.
    frame(typename Host::frame host, Index words) : words_(words), host_(std::move(host)) {}
    /// @brief The words, for host and device. @return the first.
    double* data() const noexcept { return words_.data(); }
    /// @brief Their number. @return as acquired.
    Index size() const noexcept { return words_.size(); }

   private:
    friend class Staged;
    detail::PinnedWords words_;
    typename Host::frame host_;
  };

  /// @brief The same group. @param host  a handle.
  explicit Staged(Host host) : host_(std::move(host)) {}

  /// @brief This rank. @return 0 to size() - 1.
  int rank() const noexcept { return host_.rank(); }
  /// @brief Ranks in the group. @return as the host's.
  int size() const noexcept { return host_.size(); }
  /// @brief Whether sums are still possible. @return as the host's.
  bool usable() const noexcept { return host_.usable(); }
  /// @brief The communicator of host memory. @return it: to set its deadline, for example.
  Host& host() noexcept { return host_; }

  /// @brief A frame of zeros. @param words  how many. @return the frame. @throws CudaError
  frame acquire(Index words) { return frame(host_.acquire(words), words); }
  /// @brief Waits for the stream, and offers the words to the sum. @param f  not to be touched before finish().
  /// @param queue  whose kernels have written them. @throws CudaError if one of them failed; the other ranks are then told
  /// that the frame is no good. @throws as the host's.
  void start(frame& f, CudaQueue& queue) {
    const cudaError_t error = cudaStreamSynchronize(queue.stream);
    if (error == cudaSuccess) {
      std::copy_n(f.data(), f.size(), f.host_.data());
    } else {
      std::fill_n(f.host_.data(), f.size(), std::numeric_limits<double>::quiet_NaN());
    }
    host_.start(f.host_, host_queue_);
    cuda::check(error, "cudaStreamSynchronize");
  }
  /// @brief Makes progress. @param f  a started frame. @return true if finish() will not wait.
  bool poll(frame& f) noexcept { return host_.poll(f.host_); }
  /// @brief Waits for the sum. @param f  a started frame; holds the sums afterwards, for host and device.
  /// @throws as the host's.
  void finish(frame& f, CudaQueue&) {
    host_.finish(f.host_, host_queue_);
    std::copy_n(f.host_.data(), f.size(), f.data());
  }

  /// @brief The ranks that gave the same color. @collective{as the host's} @param color  0 or more.
  /// @param key  orders the ranks of the new group. @return the new communicator. @throws as the host's.
  Staged split(int color, int key)
    requires splittable<Host>
  {
    return Staged(host_.split(color, key));
  }

  /// @brief Numbers the layers that are made with this group. @return 0, 1, ... in order of calls, on each rank.
  std::uint64_t next_ordinal() noexcept
    requires requires(Host& host) { host.next_ordinal(); }
  {
    return host_.next_ordinal();
  }

 private:
  Host host_;
  [[no_unique_address]] typename Host::queue_type host_queue_{};
};

}  // namespace syncbn::inline v0
