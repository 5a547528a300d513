#pragma once

#include <algorithm>
#include <cstddef>
#include <cuda_runtime_api.h>
#include <utility>

#include <syncbn/backends/detail/cuda_check.hpp>
#include <syncbn/tensor_view.hpp>

namespace syncbn::inline v0::detail {

// Words that both the host and the device read and write, at the same address: kernels reach them over the bus.
class PinnedWords {
 public:
  PinnedWords() = default;
  explicit PinnedWords(Index words) : size_(words) {
    if (words == 0) return;
    void* p = nullptr;
    const std::size_t bytes = static_cast<std::size_t>(words) * sizeof(double);
    cuda::check(cudaHostAlloc(&p, bytes, cudaHostAllocPortable | cudaHostAllocMapped), "cudaHostAlloc");
    words_ = static_cast<double*>(p);
    std::fill_n(words_, words, 0.0);
  }
  PinnedWords(PinnedWords&& other) noexcept { swap(other); }
  PinnedWords& operator=(PinnedWords&& other) noexcept {
    PinnedWords(std::move(other)).swap(*this);
    return *this;
  }
  PinnedWords(const PinnedWords&) = delete;
  PinnedWords& operator=(const PinnedWords&) = delete;
  ~PinnedWords() {
    if (words_ == nullptr) return;
    static_cast<void>(cudaDeviceSynchronize());  // a kernel may still be writing
    static_cast<void>(cudaFreeHost(words_));
  }

  double* data() const noexcept { return words_; }
  Index size() const noexcept { return size_; }

 private:
  void swap(PinnedWords& other) noexcept {
    std::swap(words_, other.words_);
    std::swap(size_, other.size_);
  }
  double* words_ = nullptr;
  Index size_ = 0;
};

}  // namespace syncbn::inline v0::detail
