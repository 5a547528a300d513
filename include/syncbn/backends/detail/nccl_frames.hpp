#pragma once

#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>
#include <memory>
#include <utility>
#include <vector>

#include <syncbn/backends/detail/cuda_check.hpp>
#include <syncbn/backends/detail/cuda_handles.hpp>
#include <syncbn/backends/detail/pinned_words.hpp>
#include <syncbn/tensor_view.hpp>

// Memory of a group's frames, and words that host and device share. It belongs to the group: kernels and sums that are under
// way may use it when its owner is gone.

namespace syncbn::inline v0::detail {

struct NcclFrame {
  NcclFrame() = default;
  NcclFrame(const NcclFrame&) = delete;
  NcclFrame& operator=(const NcclFrame&) = delete;
  ~NcclFrame() { static_cast<void>(cudaFree(words)); }

  double* words = nullptr;
  Index size = 0;
  bool owned = false;     // by a frame object
  bool started = false;   // by that one
  bool in_graph = false;  // ever
  cudaStream_t stream = nullptr;
  std::uint64_t flight = 0;  // the last; 0: none
  CudaEvent released;        // by its last owner's stream

  // Nobody knows which streams use what was never started.
  bool may_have_another_owner() const noexcept { return !owned && started && !in_graph && released.reached(); }
};

class NcclFrames {
 public:
  NcclFrame& acquire(Index size) {
    const RelaxedCapture relaxed;
    for (const auto& frame : frames_) {
      if (frame->size == size && frame->may_have_another_owner()) return hand_out(*frame);
    }
    auto frame = std::make_unique<NcclFrame>();
    void* p = nullptr;
    cuda::check(cudaMalloc(&p, static_cast<std::size_t>(size) * sizeof(double)), "cudaMalloc");
    frame->words = static_cast<double*>(p);
    frame->size = size;
    frames_.push_back(std::move(frame));
    return hand_out(*frames_.back());
  }

  void release(NcclFrame& frame) noexcept {
    frame.owned = false;
    if (!frame.started || frame.in_graph) return;
    try {
      frame.in_graph = is_captured(frame.stream);
      if (!frame.in_graph) frame.released.record(frame.stream);
    } catch (const CudaError&) {
      frame.started = false;  // nobody gets it
    }
  }

  // A word for host and device; 0.
  double* pinned_word() {
    const RelaxedCapture relaxed;
    constexpr Index words = 512;  // a page
    if (used_ == words * static_cast<Index>(pages_.size())) pages_.emplace_back(words);
    return pages_.back().data() + used_++ % words;
  }

  // Gives nothing back: somebody may use it as long as the process lives.
  void leak() {
    static_cast<void>(new std::vector<std::unique_ptr<NcclFrame>>(std::move(frames_)));
    static_cast<void>(new std::vector<PinnedWords>(std::move(pages_)));
  }

 private:
  NcclFrame& hand_out(NcclFrame& frame) {
    const std::size_t bytes = static_cast<std::size_t>(frame.size) * sizeof(double);
    cuda::check(cudaMemsetAsync(frame.words, 0, bytes, setup_.get()), "cudaMemsetAsync");
    cuda::check(cudaStreamSynchronize(setup_.get()), "cudaStreamSynchronize");
    frame.owned = true;
    frame.started = false;
    frame.flight = 0;
    return frame;
  }

  CudaStream setup_;
  std::vector<std::unique_ptr<NcclFrame>> frames_;
  std::vector<PinnedWords> pages_;
  Index used_ = 0;
};

}  // namespace syncbn::inline v0::detail
