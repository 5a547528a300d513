#pragma once

#include <syncbn/concepts.hpp>

/// @file
/// The concepts once more, as one static_assert for each requirement: put `static_assert(check_communicator<Mine>())`
/// under your type, and the compiler prints a list of what to do.

namespace syncbn::inline v0 {

/// @brief Whether tensor_traits<T> makes a view of T whose elements have a scalar_kind.
/// @tparam T  a container. @return true; what is missing is a compile error.
template <class T>
consteval bool check_tensor() {
  static_assert(tensor<T>,
                "tensor: no specialisation  template <> struct syncbn::tensor_traits<T>  with  static auto "
                "view(T&)  and  static auto view(const T&)  that return a syncbn::TensorView");
  if constexpr (tensor<T>) {
    static_assert(tensor<const T>,
                  "tensor: the specialisation of tensor_traits lacks  static auto view(const T&):  layers take their "
                  "inputs so");
    static_assert(
        known_scalar<typename view_t<T>::element_type>,
        "tensor: no specialisation  template <> struct syncbn::scalar_kind<Element>  with  static constexpr "
        "syncbn::ScalarKind value, or Element has not the size of that format (of foreign types, only 16-bit ones are "
        "taken)");
  }
  return true;
}

/// @brief Whether C models the communicator concept. @tparam C  a class. @return true; what is missing is an error.
template <class C>
consteval bool check_communicator() {
  static_assert(std::copyable<C>, "communicator: must be copyable; copies are handles to the same group");
  static_assert(names_its_spaces<C>,
                "communicator: lacks the member types  memory_space  (HostSpace for host memory) and  queue_type  "
                "(HostQueue for host code)");
  static_assert(states_its_error_model<C>, "communicator: lacks  static constexpr syncbn::ErrorModel errors");
  static_assert(knows_its_group<C>, "communicator: lacks  int rank() const noexcept  or  int size() const noexcept");
  static_assert(tells_whether_usable<C>, "communicator: lacks  bool usable() const noexcept");
  static_assert(
      hands_out_frames<C>,
      "communicator: lacks the member type  frame  (default constructible, movable, with  double* data() const "
      "noexcept  and  Index size() const noexcept) or  frame acquire(Index words)");
  // What follows stands on what is above: a mistake there is told once.
  if constexpr (names_its_spaces<C> && hands_out_frames<C>) {
    static_assert(sums_frames<C>,
                  "communicator: lacks  void start(frame&, queue_type&),  bool poll(frame&) noexcept  or  void "
                  "finish(frame&, queue_type&):  the sum of doubles over the group, in place");
  }
  // Optional members that are there and cannot be used would be missed silently.
  if constexpr (requires { &C::next_ordinal; }) {
    static_assert(numbers_layers<C>, "communicator: next_ordinal is there, but is not  std::uint64_t next_ordinal()");
  }
  // What is inherited may return the base.
  if constexpr (requires { &C::split; }) {
    static_assert(
        requires(C& c) { c.split(0, 0); }, "communicator: split is there, but is not  C split(int color, int key)");
  }
  if constexpr (communicator<C>) {
    if constexpr (C::errors == ErrorModel::deferred) {
      static_assert(has_mailboxes<C>,
                    "communicator: its errors are deferred, but it lacks the member type  mailbox  (default "
                    "constructible, movable, with  double* word() const noexcept),  mailbox open_mailbox()  or  const "
                    "double* stopped() const noexcept");
      static_assert(checks_later<C>,
                    "communicator: its errors are deferred, but it lacks  void check(queue_type&)  or  void "
                    "synchronize(queue_type&)");
    }
  }
  return true;
}

/// @brief Whether B models the backend concept. @tparam B  a class. @return true; what is missing is an error.
template <class B>
consteval bool check_backend() {
  static_assert(std::copyable<B>, "backend: must be copyable; copies share no working memory");
  static_assert(names_its_types<B>,
                "backend: lacks the member types  memory_space, queue_type, parameter_type  (float or double) or  "
                "queue_type& queue() noexcept");
  static_assert(
      has_buffers<B>,
      "backend: lacks  template <class T> using buffer  (default constructible, copies are deep) with data(), "
      "also const, size() and resize(n)");
  static_assert(copies_to_host<B>,
                "backend: lacks  void download(const T* from, Index n, T* to) const  or  void upload(const T*, Index, "
                "T*)  for parameter_type, double and std::int64_t");
  static_assert(runs_channel_functors<B>, "backend: lacks  void for_each_channel(Index channels, F f)");
  static_assert(states_its_formats<B>, "backend: lacks  static constexpr bool accepts(syncbn::ScalarKind)");
  // What follows stands on the types: a mistake there is told once.
  if constexpr (names_its_types<B>) {
    using P = typename B::parameter_type;
    static_assert(accumulates_moments<B, P>,
                  "backend: lacks  void accumulate(TensorView<const T, memory_space> x, MomentsPointers)");
    static_assert(accumulates_gradients<B, P>,
                  "backend: lacks  void accumulate(TensorView<const D, memory_space> dy, TensorView<const T, "
                  "memory_space> x, const double* mean, GradientSumsPointers)");
    static_assert(normalizes<B, P>,
                  "backend: lacks  void normalize(TensorView<const T, memory_space> x, F coefficients_of, "
                  "TensorView<T, memory_space> y) const");
    static_assert(propagates<B, P>,
                  "backend: lacks  void propagate(TensorView<const D, memory_space> dy, TensorView<const T, "
                  "memory_space> x, F coefficients_of, TensorView<T, memory_space> dx) const");
  }
  return true;
}

/// @brief Whether frames of C lie where kernels of B write. @tparam C  a communicator. @tparam B  a backend.
/// @return true; otherwise a compile error.
template <class C, class B>
consteval bool check_reaches_memory_of() {
  static_assert(
      reaches_memory_of<C, B>,
      "communicator and backend: memory_space and queue_type must be the same; a host communicator needs an "
      "adapter to serve a device backend: Staged<Communicator> for CudaBackend; for others see docs/extending.md");
  return true;
}

}  // namespace syncbn::inline v0
