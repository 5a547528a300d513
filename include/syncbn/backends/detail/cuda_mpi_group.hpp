#pragma once

#include <cstddef>
#include <cuda_runtime_api.h>
#include <exception>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include <syncbn/backends/detail/cuda_check.hpp>
#include <syncbn/backends/detail/cuda_handles.hpp>
#include <syncbn/backends/detail/frame_pool.hpp>
#include <syncbn/backends/detail/mpi_group.hpp>
#include <syncbn/backends/detail/pinned_words.hpp>

// What the copies of one CudaAwareMpiCommunicator share: frames in a device's memory, and the group that sums them.

namespace syncbn::inline v0::detail {

class DeviceWords {
 public:
  explicit DeviceWords(Index size) : size_(size) {
    const RelaxedCapture relaxed;
    void* p = nullptr;
    cuda::check(cudaMalloc(&p, bytes()), "cudaMalloc");
    words_ = static_cast<double*>(p);
  }
  DeviceWords(const DeviceWords&) = delete;
  DeviceWords& operator=(const DeviceWords&) = delete;
  ~DeviceWords() { static_cast<void>(cudaFree(words_)); }

  double* get() const noexcept { return words_; }
  // Kernels of an earlier owner, in whatever stream, may still be using them.
  void clear() {
    const RelaxedCapture relaxed;
    cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    cuda::check(cudaMemset(words_, 0, bytes()), "cudaMemset");
    cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }
  // Whether the device could do that. A double of nothing but ones is a NaN.
  bool fill_with_nan(cudaStream_t stream) noexcept {
    const RelaxedCapture relaxed;
    const bool done =
        cudaMemsetAsync(words_, 0xff, bytes(), stream) == cudaSuccess && cudaStreamSynchronize(stream) == cudaSuccess;
    if (!done) static_cast<void>(cudaGetLastError());
    return done;
  }

 private:
  std::size_t bytes() const noexcept { return static_cast<std::size_t>(size_) * sizeof(double); }

  double* words_ = nullptr;
  Index size_;
};

struct CudaMpiFlight : MpiFlight {
  std::vector<double> instead;  // of the words, where the device has failed
};

class CudaMpiGroup {
 public:
  using Storage = FrameStorage<CudaMpiFlight, DeviceWords>;

  explicit CudaMpiGroup(std::shared_ptr<MpiGroup> mpi) : mpi_(std::move(mpi)), stopped_(1) {}
  CudaMpiGroup(const CudaMpiGroup&) = delete;
  CudaMpiGroup& operator=(const CudaMpiGroup&) = delete;
  // MPI may still write to frames that are under way: they are left to the process.
  ~CudaMpiGroup() {
    if (pool_->all_landed([this](MpiFlight& flight) { return mpi_->landed(flight); })) return;
    static_cast<void>(pool_.release());
  }

  MpiGroup& mpi() const noexcept { return *mpi_; }
  const double* stopped() const noexcept { return stopped_.data(); }

  Storage* acquire(Index words) {
    MpiGroup::check_length(words);
    return pool_->acquire(words, [this](MpiFlight& flight) { return mpi_->landed(flight); });
  }
  void release(Storage& storage) noexcept { storage.owned = false; }

  // MPI knows no streams: the words have to be there. Where the device cannot say so, this rank sends what is no frame (from host
  // memory, if that is all there is), and tell_failure() has the reason.
  void start(Storage& storage, cudaStream_t stream) {
    failure_ = await(stream);  // of this sum; what became of earlier ones has been judged
    double* words = storage.words.get();
    if (failure_ != nullptr && !storage.words.fill_with_nan(setup_.get())) {
      storage.flight.instead.assign(static_cast<std::size_t>(storage.size), std::numeric_limits<double>::quiet_NaN());
      words = storage.flight.instead.data();
    }
    mpi_->start(words, storage.size, storage.flight);
  }
  // Throws what has failed on this rank in the last sum.
  void tell_failure() {
    if (failure_ != nullptr) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  // Returns what is thrown.
  static std::exception_ptr await(cudaStream_t stream) noexcept {
    try {
      if (is_captured(stream)) throw Error("sums over MPI cannot be captured in a CUDA graph");
      cuda::check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
      return nullptr;
    } catch (...) {
      return std::current_exception();
    }
  }

  std::shared_ptr<MpiGroup> mpi_;
  std::unique_ptr<FramePool<CudaMpiFlight, DeviceWords>> pool_ =
      std::make_unique<FramePool<CudaMpiFlight, DeviceWords>>();
  PinnedWords stopped_;
  CudaStream setup_;
  std::exception_ptr failure_;
};

}  // namespace syncbn::inline v0::detail
