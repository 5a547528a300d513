#pragma once

#include <cstddef>
#include <cuda_runtime_api.h>
#include <string>
#include <type_traits>
#include <utility>

#include <syncbn/backends/detail/cuda_check.hpp>

namespace syncbn::inline v0 {

/// @brief Memory in the order of a stream, from the pool that the CUDA runtime has for each device.
///
/// An allocator of your own has the same two functions; it need not order anything if it never hands out again what is in
/// use.
struct CudaStreamOrderedAllocator {
  /// @brief Memory for work that is put into the stream later. @param bytes  more than 0. @param stream  which.
  /// @return aligned to 256 bytes. @throws CudaError where there is none.
  static void* allocate(std::size_t bytes, cudaStream_t stream) {
    void* p = nullptr;
    cuda::check(cudaMallocAsync(&p, bytes, stream), "cudaMallocAsync");
    return p;
  }
  /// @brief Gives it back once the work that is in the stream now is done. @param p  from allocate().
  /// @param stream  as there.
  static void deallocate(void* p, std::size_t, cudaStream_t stream) noexcept {
    static_cast<void>(cudaFreeAsync(p, stream));
  }
};

/// @brief An array in a CUDA device's memory.
/// @tparam T  trivially copyable. @tparam Allocator  where memory comes from: see CudaStreamOrderedAllocator.
template <class T, class Allocator = CudaStreamOrderedAllocator>
class CudaBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  CudaBuffer() = default;  ///< Nothing; allocates nothing.
  /// @brief A copy, made in the order of the other's stream. @param other  copied from.
  CudaBuffer(const CudaBuffer& other) {
    CudaBuffer mine;
    mine.stream_ = other.stream_;
    mine.waits_ = other.waits_;
    mine.allocate(other.size_);
    mine.copy(other.data_, other.size_);
    swap(mine);
  }
  /// @brief Takes the memory. @param other  empty afterwards.
  CudaBuffer(CudaBuffer&& other) noexcept { swap(other); }
  /// @brief A copy. @param other  copied from. @return *this.
  CudaBuffer& operator=(const CudaBuffer& other) {
    CudaBuffer(other).swap(*this);
    return *this;
  }
  /// @brief Takes the memory. @param other  empty afterwards. @return *this.
  CudaBuffer& operator=(CudaBuffer&& other) noexcept {
    CudaBuffer(std::move(other)).swap(*this);
    return *this;
  }
  ~CudaBuffer() { release(); }

  /// @brief The first element. @return a device pointer.
  T* data() noexcept { return data_; }
  /// @copydoc data()
  const T* data() const noexcept { return data_; }
  /// @brief Elements. @return as of resize().
  std::size_t size() const noexcept { return size_; }

  /// @brief Keeps what it has; new elements are 0. For setting things up: it waits for the device where it grows.
  /// @param size  elements. @throws CudaError
  void resize(std::size_t size) {
    if (size > capacity_) {
      CudaBuffer larger;
      larger.waits_ = true;
      larger.allocate(size);
      cuda::check(cudaMemsetAsync(larger.data_, 0, size * sizeof(T), larger.stream_), "cudaMemsetAsync");
      larger.copy(data_, size_);
      swap(larger);
    } else if (size > size_) {
      cuda::check(cudaMemsetAsync(data_ + size_, 0, (size - size_) * sizeof(T), stream_), "cudaMemsetAsync");
      if (waits_) cuda::check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    }
    size_ = size;
  }

  /// @brief Makes room in the order of a stream, without waiting. What it has is lost where it is allocated anew: if it
  /// grows, and for another stream than before.
  /// @param size  elements. @param stream  the one that uses it from now on; outlives it.
  /// @return whether it was allocated anew. @throws CudaError; Error if it would have to be while the stream is captured.
  bool make_room(std::size_t size, cudaStream_t stream) {
    const bool anew = size > capacity_ || (data_ != nullptr && stream != stream_);
    if (anew) {
      CudaBuffer other;
      other.stream_ = stream;
      other.allocate(size);
      swap(other);
    }
    size_ = size;
    return anew;
  }

 private:
  void swap(CudaBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
    std::swap(stream_, other.stream_);
    std::swap(waits_, other.waits_);
  }
  void allocate(std::size_t size) {
    if (size == 0) return;
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cuda::check(cudaStreamIsCapturing(stream_, &status), "cudaStreamIsCapturing");
    if (status != cudaStreamCaptureStatusNone) {
      throw Error(
          "memory cannot be allocated while a stream is captured: run the same step once before, and keep what it has "
          "allocated");
    }
    data_ = static_cast<T*>(Allocator::allocate(size * sizeof(T), stream_));
    size_ = capacity_ = size;
  }
  void copy(const T* from, std::size_t size) {
    if (data_ == nullptr) return;
    if (waits_) cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    if (size > 0) {
      cuda::check(cudaMemcpyAsync(data_, from, size * sizeof(T), cudaMemcpyDeviceToDevice, stream_), "cudaMemcpyAsync");
    }
    if (waits_) cuda::check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  }
  void release() noexcept {
    if (data_ == nullptr) return;
    // Which streams use it is known only where make_room() was told.
    if (waits_) static_cast<void>(cudaDeviceSynchronize());
    Allocator::deallocate(data_, capacity_ * sizeof(T), stream_);
    data_ = nullptr;
  }

  T* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
  cudaStream_t stream_ = cudaStreamPerThread;
  bool waits_ = false;
};

}  // namespace syncbn::inline v0
