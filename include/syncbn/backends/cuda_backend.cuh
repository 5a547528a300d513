#pragma once

#include <concepts>
#include <cstddef>
#include <utility>

#include <syncbn/backends/cuda_buffer.hpp>
#include <syncbn/backends/cuda_queue.hpp>
#include <syncbn/backends/cuda_space.hpp>
#include <syncbn/backends/detail/cuda_finish.cuh>
#include <syncbn/backends/detail/cuda_launch.cuh>
#include <syncbn/concepts.hpp>
#include <syncbn/detail/channel_functors.hpp>
#include <syncbn/validation.hpp>

namespace syncbn::inline v0 {

/// @brief A CUDA device's kernels. All work is put into one stream of the user's; no pass waits for it, so that a step can be
/// captured in a CUDA graph once it has been run (memory cannot be allocated then).
///
/// Takes f16, bf16 and f32 tensors with float parameters, and f64 too with double ones; any strides, without copies.
/// Working memory is O(channels + multiprocessors) and is reused.
/// @determinism{the same bits from run to run for the same extents, strides, alignment to 16 bytes, and kind of device; passes
/// that do several steps in one may differ in the last bits from the steps}
/// @tparam Parameter  float or double: the type of parameters and running statistics.
/// @tparam Allocator  where memory comes from: see CudaStreamOrderedAllocator.
template <class Parameter = float, class Allocator = CudaStreamOrderedAllocator>
class CudaBackend {
  static_assert(std::same_as<Parameter, float> || std::same_as<Parameter, double>,
                "CudaBackend: parameters and running statistics are float or double");

 public:
  using memory_space = CudaSpace;    ///< a device's memory
  using queue_type = CudaQueue;      ///< a stream
  using parameter_type = Parameter;  ///< of weight, bias, running_mean, running_var and gradients
  template <class T>
  using buffer = CudaBuffer<T, Allocator>;  ///< owning array

  /// @brief Sums have other last bits in other memory layouts: for the conformance suite.
  static constexpr bool same_bits_in_any_layout = false;

  /// @brief On a stream of the current device. @param stream  outlives the backend and everything allocated by it; the
  /// default stream, if none is given, cannot be captured. @throws CudaError if there is no device.
  explicit CudaBackend(cudaStream_t stream = nullptr) : queue_{stream} {
    int device = 0;
    cuda::check(cudaGetDevice(&device), "cudaGetDevice");
    const auto get = [device](cudaDeviceAttr what) {
      int value = 0;
      cuda::check(cudaDeviceGetAttribute(&value, what, device), "cudaDeviceGetAttribute");
      return value;
    };
    device_.multiprocessors = get(cudaDevAttrMultiProcessorCount);
    device_.shared_bytes = static_cast<std::size_t>(get(cudaDevAttrMaxSharedMemoryPerBlockOptin));
    device_.cache_bytes = static_cast<std::size_t>(get(cudaDevAttrL2CacheSize));
  }
  /// @brief The same stream, fresh working memory. @param other  copied from.
  CudaBackend(const CudaBackend& other) : queue_(other.queue_), device_(other.device_) {}
  CudaBackend(CudaBackend&&) = default;  ///< Moves the working memory too.
  /// @brief The same stream, fresh working memory. @param other  copied from. @return *this.
  CudaBackend& operator=(const CudaBackend& other) { return *this = CudaBackend(other); }
  CudaBackend& operator=(CudaBackend&&) = default;  ///< Moves the working memory too. @return *this.
  ~CudaBackend() = default;

  /// @brief Whether elements of this format can be read and written. @param kind  the format. @return true if so.
  static constexpr bool accepts(ScalarKind kind) noexcept {
    return std::same_as<Parameter, double> || kind != ScalarKind::f64;
  }

  /// @brief The stream. @return as given.
  queue_type& queue() noexcept { return queue_; }

  /// @brief Copies from the device, and waits for it. @param from  source. @param n  elements. @param to  on the host.
  /// @throws CudaError
  template <class T>
  void download(const T* from, Index n, T* to) const {
    copy(from, n, to, cudaMemcpyDeviceToHost);
  }
  /// @brief Copies to the device, and waits for it. @param from  on the host. @param n  elements. @param to  target.
  /// @throws CudaError
  template <class T>
  void upload(const T* from, Index n, T* to) const {
    copy(from, n, to, cudaMemcpyHostToDevice);
  }
  /// @brief Room in a buffer, in the order of the stream; see CudaBuffer::make_room(). @param memory  of this backend.
  /// @param size  elements. @throws CudaError; Error if it grows while the stream is captured.
  template <class T>
  void make_room(buffer<T>& memory, std::size_t size) const {
    memory.make_room(size, queue_.stream);
  }

  /// @brief Calls f(c) for c in [0, channels), on the device. @param channels  how many. @param f  a functor of the channel
  /// for host and device. @throws CudaError
  template <class F>
  void for_each_channel(Index channels, const F& f) const {
    cuda::launch_each(channels, f, queue_.stream);
  }

  // ---- Passes over a tensor ------------------------------------------------------------------------------------------

  /// @brief Adds the moments of x. @param x  activations, rank >= 2. @shape{(N, C, S...)}
  /// @param moments  merged with those of x; unchanged if x has no values in a channel. @throws CudaError
  template <class T>
  void accumulate(TensorView<const T, CudaSpace> x, MomentsPointers moments) {
    const auto input = syncbn::detail::storage_view(x);
    sum(cuda::MomentsPass<Storage<T>>{{input.data()}}, cuda::AddMoments{moments}, input);
    if (elements_per_channel(x) == 0) return;
    for_each_channel(1, cuda::AddTo{moments.count, static_cast<double>(elements_per_channel(x))});
  }

  /// @brief Adds the sums of the gradient. @param dy  gradient of the output. @param x  activations, as shaped.
  /// @param mean  of x, one per channel. @param sums  sum(dy) and sum(dy * (x - mean)) are added. @throws CudaError
  template <class D, class T>
  void accumulate(TensorView<const D, CudaSpace> dy, TensorView<const T, CudaSpace> x, const double* mean,
                  GradientSumsPointers sums) {
    const auto gradient = syncbn::detail::storage_view(dy);
    const auto input = syncbn::detail::storage_view(x);
    sum(cuda::GradientPass<Storage<T>>{{gradient.data(), input.data()}, mean}, cuda::AddSums{sums}, gradient, input);
  }

  /// @brief y = coefficients_of(c)(x), elementwise. @param x  activations. @shape{(N, C, S...)}
  /// @param coefficients_of  gives a channel's NormalizeCoefficients. @param y  may be x. @shape{same as x}
  /// @throws CudaError
  template <class T, class U, class CoefficientsOf>
  void normalize(TensorView<const T, CudaSpace> x, const CoefficientsOf& coefficients_of,
                 TensorView<U, CudaSpace> y) const {
    map(coefficients_of, syncbn::detail::storage_view(y), syncbn::detail::storage_view(x));
  }

  /// @brief dx = coefficients_of(c)(dy, x), elementwise. @param dy  gradient of the output. @param x  activations.
  /// @param coefficients_of  gives a channel's PropagateCoefficients. @param dx  may be dy or x. @shape{same as x}
  /// @throws CudaError
  template <class D, class T, class U, class CoefficientsOf>
  void propagate(TensorView<const D, CudaSpace> dy, TensorView<const T, CudaSpace> x,
                 const CoefficientsOf& coefficients_of, TensorView<U, CudaSpace> dx) const {
    map(coefficients_of, syncbn::detail::storage_view(dx), syncbn::detail::storage_view(dy),
        syncbn::detail::storage_view(x));
  }

  // ---- Two passes in one ---------------------------------------------------------------------------------------------

  /// @brief The three steps of a batch that is normalized by its own statistics: by one kernel that reads x once, where
  /// channels are small enough to stay on the chip, else by two. @param x  activations, rank >= 2. @shape{(N, C, S...)}
  /// @param moments  become those of x. @param finish  called with each channel and its moments.
  /// @param coefficients_of  as for normalize(), called after that. @param y  may be x. @shape{same as x}
  /// @throws CudaError
  template <class T, class U, class Finish, class CoefficientsOf>
  void accumulate_and_normalize(TensorView<const T, CudaSpace> x, MomentsPointers moments, const Finish& finish,
                                const CoefficientsOf& coefficients_of, TensorView<U, CudaSpace> y) {
    const auto input = syncbn::detail::storage_view(x);
    if (x.extent(1) == 0) {
      return for_each_channel(
          1, syncbn::detail::Fill<double>{moments.count, static_cast<double>(elements_per_channel(x))});
    }
    sum_and_map(cuda::MomentsPass<Storage<T>>{{input.data()}}, cuda::SetMoments<Finish>{moments, finish},
                coefficients_of, syncbn::detail::storage_view(y), input);
  }

  /// @brief The three steps backward, likewise. @param dy  gradient of the output. @param x  activations.
  /// @param mean  of x, one per channel. @param sums  become those of dy and x. @param finish  called with each channel
  /// once its sums are there. @param coefficients_of  as for propagate(), called after that.
  /// @param dx  may be dy or x. @shape{same as x} @throws CudaError
  template <class D, class T, class U, class Finish, class CoefficientsOf>
  void accumulate_and_propagate(TensorView<const D, CudaSpace> dy, TensorView<const T, CudaSpace> x, const double* mean,
                                GradientSumsPointers sums, const Finish& finish, const CoefficientsOf& coefficients_of,
                                TensorView<U, CudaSpace> dx) {
    const auto gradient = syncbn::detail::storage_view(dy);
    const auto input = syncbn::detail::storage_view(x);
    sum_and_map(cuda::GradientPass<Storage<T>>{{gradient.data(), input.data()}, mean},
                cuda::SetSums<Finish>{sums, finish}, coefficients_of, syncbn::detail::storage_view(dx), gradient,
                input);
  }

 private:
  template <class T>
  using Storage = syncbn::detail::storage_t<T>;
  template <class T>
  static constexpr int widest = cuda::widest_unit<T, Parameter>;

  template <class T>
  void copy(const T* from, Index n, T* to, cudaMemcpyKind kind) const {
    if (n == 0) return;
    cuda::check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(n) * sizeof(T), kind, queue_.stream),
                "cudaMemcpyAsync");
    cuda::check(cudaStreamSynchronize(queue_.stream), "cudaStreamSynchronize");
  }

  // Memory for the sums of parts.
  cuda::Parts parts_for(const cuda::Shape& shape, Index channels) {
    if (shape.parts == 1) return {};
    make_room(parts_, static_cast<std::size_t>(3 * cuda::room_for_parts(channels, device_)));
    const auto tickets = static_cast<std::size_t>(channels);
    if (tickets_.make_room(tickets, queue_.stream)) {
      cuda::check(cudaMemsetAsync(tickets_.data(), 0, tickets * sizeof(unsigned), queue_.stream), "cudaMemsetAsync");
    }
    return {parts_.data(), tickets_.data()};
  }

  template <class Pass, class Finish, class... Inputs>
  void sum(const Pass& pass, const Finish& finish, const Inputs&... inputs) {
    constexpr int w = widest<typename Pass::Storage>;
    auto field = cuda::field_of(w, inputs...);
    if (field.elements == 0 || field.channels == 0) return;
    const cuda::Shape shape = cuda::shape_of_sums(field, static_cast<int>(sizeof(typename Pass::Storage)), device_);
    cuda::launch_sums<w>(cuda::SumArguments<Pass, Finish>{field, shape, pass, parts_for(shape, field.channels), finish},
                         queue_.stream);
  }

  template <class CoefficientsOf, class T, class... Inputs>
  void map(const CoefficientsOf& coefficients_of, const TensorView<T, CudaSpace>& output,
           const Inputs&... inputs) const {
    constexpr int w = widest<T>;
    auto field = cuda::field_of(w, inputs..., output);
    if (field.elements == 0 || field.channels == 0) return;
    const cuda::Shape shape = cuda::shape_of_map(field, static_cast<int>(sizeof(T)), device_);
    using Arguments = cuda::MapArguments<T, static_cast<int>(sizeof...(Inputs)), CoefficientsOf>;
    cuda::launch_map<w>(Arguments{field, shape, {{inputs.data()...}, output.data()}, coefficients_of}, queue_.stream);
  }

  template <class Pass, class Finish, class CoefficientsOf, class T, class... Inputs>
  void sum_and_map(const Pass& pass, const Finish& finish, const CoefficientsOf& coefficients_of,
                   const TensorView<T, CudaSpace>& output, const Inputs&... inputs) {
    constexpr int w = widest<T>;
    auto field = cuda::field_of(w, inputs..., output);
    cuda::Shape shape;
    if (cuda::shape_on_chip<cuda::coefficients_t<CoefficientsOf>>(field, static_cast<int>(sizeof(T)), device_, shape)) {
      cuda::OnChipArguments<Pass, Finish, CoefficientsOf> a{field,  shape,           pass, output.data(),
                                                            finish, coefficients_of, 0};
      return cuda::launch_on_chip<w>(a, device_, queue_.stream);
    }
    sum(pass, finish, inputs...);
    map(coefficients_of, output, inputs...);
  }

  queue_type queue_;
  cuda::Device device_;
  // Reused by every pass.
  buffer<double> parts_;
  buffer<unsigned> tickets_;
};

}  // namespace syncbn::inline v0
