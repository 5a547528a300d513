#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

#include <syncbn/tensor_view.hpp>

/// @file
/// What a communicator must offer. Each requirement is a named leaf concept, so that a compiler names what is missing; check.hpp says the same in plain
/// English. A concept checks syntax: whether a type does the right thing is for the conformance suite (docs/extending.md).

namespace syncbn::inline v0 {

/// @brief When the host learns of errors.
enum class ErrorModel : std::uint8_t {
  immediate,  ///< from the call itself
  deferred    ///< at a later synchronization, or from the next call
};

/// @brief The queue of host code: work is done when the call returns.
struct HostQueue {};

/// @brief Where the frames lie and in which queue sums are ordered.
template <class C>
concept names_its_spaces = requires {
  typename C::memory_space;
  typename C::queue_type;
};

/// @brief `static constexpr ErrorModel errors`.
template <class C>
concept states_its_error_model = std::same_as<std::remove_cv_t<decltype(C::errors)>, ErrorModel>;

/// @brief `rank()` and `size()`, both noexcept, of type int.
template <class C>
concept knows_its_group = requires(const C& c) {
  { c.rank() } noexcept -> std::same_as<int>;
  { c.size() } noexcept -> std::same_as<int>;
};

/// @brief `usable()`: false after a deadline or an abort; every later call then throws CommunicatorError at once.
template <class C>
concept tells_whether_usable = requires(const C& c) {
  { c.usable() } noexcept -> std::same_as<bool>;
};

/// @brief `acquire(words)` gives a movable `frame` with `data()` and `size()`; its storage belongs to the group. A default
/// constructed frame has size 0.
template <class C>
concept hands_out_frames = std::movable<typename C::frame> && std::default_initializable<typename C::frame> &&
                           requires(C& c, const typename C::frame& f, Index words) {
                             { c.acquire(words) } -> std::same_as<typename C::frame>;
                             { f.data() } noexcept -> std::same_as<double*>;
                             { f.size() } noexcept -> std::same_as<Index>;
                           };

/// @brief `start(frame, queue)`, `poll(frame)`, `finish(frame, queue)`: the frame's words are summed over the group, in
/// place. All ranks start frames of the same sizes in the same order; the sums are the same bits on every rank. Where errors
/// are deferred, finish() makes what is put into the queue later see the sums, and waits for nothing.
template <class C>
concept sums_frames = requires(C& c, typename C::frame& f, typename C::queue_type& q) {
  { c.start(f, q) } -> std::same_as<void>;
  { c.poll(f) } noexcept -> std::same_as<bool>;
  { c.finish(f, q) } -> std::same_as<void>;
};

/// @brief A group of ranks that sum frames of doubles. Copies are handles to the same group.
template <class C>
concept communicator = std::copyable<C> && names_its_spaces<C> && states_its_error_model<C> && knows_its_group<C> &&
                       tells_whether_usable<C> && hands_out_frames<C> && sums_frames<C>;

/// @brief For deferred errors: a movable `mailbox` from `open_mailbox()`, whose `word()` is a double that the host and kernels of
/// the queue both read and write, 0 at first; and `stopped()`, a double that kernels of the queue read: not 0 from before
/// the moment when sums that are under way are given up, and end with whatever they have.
template <class C>
concept has_mailboxes = std::movable<typename C::mailbox> && std::default_initializable<typename C::mailbox> &&
                        requires(C& c, const C& d, const typename C::mailbox& m) {
                          { c.open_mailbox() } -> std::same_as<typename C::mailbox>;
                          { m.word() } noexcept -> std::same_as<double*>;
                          { d.stopped() } noexcept -> std::same_as<const double*>;
                        };

/// @brief For deferred errors: `check(queue)` throws CommunicatorError if the fabric has failed or a deadline has passed, without
/// waiting; `synchronize(queue)` waits for the queue as long as the deadline allows.
template <class C>
concept checks_later = requires(C& c, typename C::queue_type& q) {
  { c.check(q) } -> std::same_as<void>;
  { c.synchronize(q) } -> std::same_as<void>;
};

/// @brief A communicator on which the host waits for nothing: finish() orders the queue alone, and what went wrong is told
/// later.
template <class C>
concept defers_errors = communicator<C> && C::errors == ErrorModel::deferred && has_mailboxes<C> && checks_later<C>;

/// @brief Optional: `next_ordinal()` gives 0, 1, ... on each rank, to number the layers that are made with the group.
template <class C>
concept numbers_layers = requires(C& c) {
  { c.next_ordinal() } -> std::same_as<std::uint64_t>;
};

/// @brief `split(color, key)`: a communicator of the ranks with the same color, ordered by key. Collective.
template <class C>
concept splittable = communicator<C> && requires(C& c, int color, int key) {
  { c.split(color, key) } -> std::same_as<C>;
};

/// @brief Its size is 1 at compile time: nothing is ever exchanged.
template <class C>
concept always_alone = requires { requires std::bool_constant<(C::size() == 1)>::value; };

}  // namespace syncbn::inline v0
