#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <syncbn/communicator_concepts.hpp>
#include <syncbn/moments.hpp>
#include <syncbn/tensor_concepts.hpp>

/// @file
/// What a backend must offer, and the tensors and communicators that go with it. Each requirement is a named leaf concept, so that a compiler names what is missing; check.hpp says the same in plain
/// English. A concept checks syntax: whether a type does the right thing is for the conformance suite (docs/extending.md).

namespace syncbn::inline v0 {

/// @brief Pointers to one tensor's moments in the backend's memory.
struct MomentsPointers {
  double* count;  ///< one word
  double* mean;   ///< one per channel
  double* m2;     ///< one per channel
};

/// @brief Pointers to gradient sums in the backend's memory.
struct GradientSumsPointers {
  double* dy;          ///< sum of dy, one per channel
  double* dy_centred;  ///< sum of dy * (x - mean), one per channel
};

/// @brief Some of a tensor's channels: [first, last).
struct ChannelRange {
  Index first;  ///< the first channel
  Index last;   ///< one past the last

  /// @brief How many. @return last - first.
  Index size() const noexcept { return last - first; }
};

/// @brief Where its memory is, its queue, and the type of parameters and running statistics (float or double).
template <class B>
concept names_its_types = requires(B& b) {
  typename B::memory_space;
  typename B::queue_type;
  requires std::floating_point<typename B::parameter_type>;
  { b.queue() } noexcept -> std::same_as<typename B::queue_type&>;
};

/// @brief `B::buffer<T>`: an owning array with `data()`, `size()` and `resize(n)` that keeps what it has, new entries 0.
template <class B>
concept has_buffers =
    std::copyable<typename B::template buffer<double>> && std::copyable<typename B::template buffer<std::int64_t>> &&
    std::default_initializable<typename B::template buffer<double>> &&
    requires(typename B::template buffer<double>& buffer, const typename B::template buffer<double>& same) {
      buffer.resize(std::size_t{1});
      { buffer.data() } -> std::same_as<double*>;
      { same.data() } -> std::same_as<const double*>;
      { buffer.size() } -> std::convertible_to<std::size_t>;
    };

/// @brief `download(from, n, to)`, const, and `upload(from, n, to)` copy parameters, doubles and integers between its memory and
/// the host's.
template <class B>
concept copies_to_host = requires(B& b, const B& c, typename B::parameter_type* p, double* d, std::int64_t* i) {
  c.download(p, Index{1}, p);
  c.download(i, Index{1}, i);
  c.download(d, Index{1}, d);
  b.upload(p, Index{1}, p);
  b.upload(d, Index{1}, d);
  b.upload(i, Index{1}, i);
};

namespace detail {
// Stands for any functor of a channel in the requirement below.
struct ChannelFunctor {
  SYNCBN_HOST_DEVICE void operator()(Index) const noexcept {}
};
// Stand for the functors that give a channel's coefficients.
template <class P>
struct NormalizeFunctor {
  SYNCBN_HOST_DEVICE NormalizeCoefficients<P> operator()(Index) const noexcept { return {}; }
};
template <class P>
struct PropagateFunctor {
  SYNCBN_HOST_DEVICE PropagateCoefficients<P> operator()(Index) const noexcept { return {}; }
};
}  // namespace detail

/// @brief `for_each_channel(n, f)` calls a host and device functor `f(c)` for c in [0, n).
template <class B>
concept runs_channel_functors = requires(B& b, detail::ChannelFunctor f) { b.for_each_channel(Index{1}, f); };

/// @brief `B::accepts<ScalarKind>`: the element formats it takes.
template <class B>
concept states_its_formats = requires {
  { B::accepts(ScalarKind::f32) } -> std::same_as<bool>;
  typename std::bool_constant<B::accepts(ScalarKind::f32)>;
};

/// @brief `accumulate(x, moments)`: adds the moments of x, per channel.
template <class B, class T>
concept accumulates_moments =
    requires(B& b, TensorView<const T, typename B::memory_space> x, MomentsPointers m) { b.accumulate(x, m); };

/// @brief `accumulate(dy, x, mean, sums)`: adds sum(dy) and sum(dy * (x - mean)), per channel.
template <class B, class T>
concept accumulates_gradients = requires(B& b, TensorView<const T, typename B::memory_space> x, const double* mean,
                                         GradientSumsPointers s) { b.accumulate(x, x, mean, s); };

/// @brief `normalize(x, coefficients, y)`: y = coefficients(channel)(x), elementwise; y may be x. Const: thread-safe.
template <class B, class T>
concept normalizes =
    requires(const B& b, TensorView<const T, typename B::memory_space> x, TensorView<T, typename B::memory_space> y,
             detail::NormalizeFunctor<typename B::parameter_type> f) { b.normalize(x, f, y); };

/// @brief `propagate(dy, x, coefficients, dx)`: dx = coefficients(channel)(dy, x), elementwise; dx may be dy or x.
template <class B, class T>
concept propagates =
    requires(const B& b, TensorView<const T, typename B::memory_space> x, TensorView<T, typename B::memory_space> y,
             detail::PropagateFunctor<typename B::parameter_type> f) { b.propagate(x, x, f, y); };

/// @brief Optional, for host memory: `works_by_channels(x...)` says whether passes over some channels of these tensors cost
/// no more than their share of a pass over all; the four passes take a ChannelRange then. Those that accumulate set the
/// range's results, and leave the count alone. With it, a synchronized layer exchanges one block of channels while it
/// works on the next.
template <class B, class T>
concept passes_over_channels =
    std::same_as<typename B::memory_space, HostSpace> &&
    requires(B& b, const B& c, TensorView<const T> x, TensorView<T> y, ChannelRange r, MomentsPointers m,
             GradientSumsPointers s, const double* mean, detail::NormalizeFunctor<typename B::parameter_type> f,
             detail::PropagateFunctor<typename B::parameter_type> g) {
      { c.works_by_channels(x, y) } -> std::same_as<bool>;
      { c.works_by_channels(x, x, y) } -> std::same_as<bool>;
      b.accumulate(x, r, m);
      c.normalize(x, r, f, y);
      b.accumulate(x, x, mean, r, s);
      c.propagate(x, x, r, g, y);
    };

/// @brief Kernels for one device. Copying a backend copies its queue or executor; working memory is not shared.
template <class B>
concept backend =
    std::copyable<B> && names_its_types<B> && has_buffers<B> && copies_to_host<B> && runs_channel_functors<B> &&
    states_its_formats<B> && accumulates_moments<B, typename B::parameter_type> &&
    accumulates_gradients<B, typename B::parameter_type> && normalizes<B, typename B::parameter_type> &&
    propagates<B, typename B::parameter_type>;

/// @brief The communicator's frames lie where the backend's kernels write, and both use the same kind of queue.
template <class C, class B>
concept has_frames_for = std::same_as<typename C::memory_space, typename B::memory_space> &&
                         std::same_as<typename C::queue_type, typename B::queue_type>;

/// @brief A layer on the backend can have the communicator: its frames are the backend's, or it never has any.
template <class C, class B>
concept reaches_memory_of = always_alone<C> || has_frames_for<C, B>;

// ---- Tensors for a backend -------------------------------------------------------------------------------------------

/// @brief The tensor lies in the backend's memory.
template <class T, class B>
concept in_memory_of = tensor<T> && std::same_as<typename view_t<T>::memory_space, typename B::memory_space>;

/// @brief The backend takes its element format.
template <class T, class B>
concept in_format_of = std::bool_constant<B::accepts(scalar_kind<typename view_t<T>::value_type>::value)>::value;

namespace detail {
// The view of an optional output; Otherwise where it is none.
template <class T, class Otherwise>
struct view_or {
  using type = Otherwise;
};
template <tensor T, class Otherwise>
struct view_or<T, Otherwise> {
  using type = view_t<T>;
};

template <class T>
using format_of = std::integral_constant<ScalarKind, scalar_kind<typename view_t<T>::value_type>::value>;
}  // namespace detail
/// @brief Both tensors have the same element format.
template <class T, class U>
concept same_format_as = std::is_same_v<detail::format_of<T>, detail::format_of<U>>;

/// @brief A tensor that kernels of backend B can read, from a const reference too.
template <class T, class B>
concept readable_by = tensor<T> && tensor<const T> && known_scalar<typename view_t<T>::element_type> &&
                      in_memory_of<T, B> && in_format_of<T, B>;

/// @brief A tensor that kernels of backend B can write.
template <class T, class B>
concept writable_by = readable_by<T, B> && writable_tensor<T>;

}  // namespace syncbn::inline v0
