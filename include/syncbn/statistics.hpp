#pragma once

#include <cstddef>
#include <utility>

#include <syncbn/concepts.hpp>
#include <syncbn/detail/channel_functors.hpp>
#include <syncbn/detail/make_room.hpp>

/// @file
/// The O(channels) numbers between the passes, in a backend's memory: values that own them.

namespace syncbn::inline v0 {

namespace detail {

// For how many channels there is memory: for none where it was moved away, or could not be had.
class ChannelCount {
 public:
  ChannelCount() = default;
  ChannelCount(const ChannelCount&) = default;
  ChannelCount(ChannelCount&& other) noexcept : value_(std::exchange(other.value_, 0)) {}
  ChannelCount& operator=(const ChannelCount&) = default;
  ChannelCount& operator=(ChannelCount&& other) noexcept {
    value_ = std::exchange(other.value_, 0);
    return *this;
  }
  ~ChannelCount() = default;

  operator Index() const noexcept { return value_; }
  // make_room() may throw.
  template <class MakeRoom>
  void set(Index channels, const MakeRoom& make_room) {
    value_ = 0;
    make_room();
    value_ = channels;
  }

 private:
  Index value_ = 0;
};

}  // namespace detail

/// @brief Per-channel moments of everything accumulated so far: local ones before an exchange, global ones after it.
/// @tparam Backend  in whose memory they lie.
template <class Backend>
class Moments {
 public:
  /// @brief Of nothing. @param channels  how many.
  explicit Moments(Index channels) { resize(channels); }
  Moments() = default;  ///< Room for nothing; allocates nothing.

  /// @brief Makes room. What was accumulated is lost, and what is there is not said. @param channels  how many from now on;
  /// allocates only if there are more.
  void resize(Index channels) {
    channels_.set(channels, [&] { words_.resize(static_cast<std::size_t>(1 + 2 * channels)); });
  }
  /// @brief The same in the order of a backend's queue. @param backend  allocates. @param channels  how many from now on.
  void resize(Backend& backend, Index channels) {
    channels_.set(channels, [&] { detail::make_room(backend, words_, static_cast<std::size_t>(1 + 2 * channels)); });
  }
  /// @brief Forgets what was accumulated. @param backend  clears them in the order of its queue.
  /// @param channels  how many from now on; allocates only if there are more.
  void reset(Backend& backend, Index channels) {
    resize(backend, channels);
    backend.for_each_channel(1 + 2 * channels, detail::Fill<double>{words_.data(), 0});
  }
  /// @brief Channels. @return as of resize().
  Index channels() const noexcept { return channels_; }
  /// @brief Pointers for kernels. @return count (one word), means, sums of squared deviations.
  MomentsPointers pointers() noexcept { return {words_.data(), words_.data() + 1, words_.data() + 1 + channels_}; }
  /// @brief Values per channel. @return in the backend's memory, one word.
  const double* count() const noexcept { return words_.data(); }
  /// @brief Means. @return in the backend's memory, one per channel.
  const double* mean() const noexcept { return words_.data() + 1; }
  /// @brief Sums of squared deviations from the mean. @return in the backend's memory, one per channel.
  const double* m2() const noexcept { return words_.data() + 1 + channels_; }

 private:
  detail::ChannelCount channels_;
  typename Backend::template buffer<double> words_;
};

/// @brief What normalizes a batch, and what its backward pass needs: a value, owns its O(channels) numbers.
/// @tparam Backend  in whose memory they lie.
template <class Backend>
class Statistics {
 public:
  /// @brief Room for channels. @param channels  how many.
  explicit Statistics(Index channels) { resize(channels); }
  Statistics() = default;  ///< Room for nothing; allocates nothing.
  /// @brief Makes room. @param channels  how many; allocates only if there are more than ever before.
  void resize(Index channels) {
    channels_.set(channels, [&] { words_.resize(static_cast<std::size_t>(1 + 3 * channels)); });
  }
  /// @brief The same in the order of a backend's queue. @param backend  allocates. @param channels  how many from now on.
  void resize(Backend& backend, Index channels) {
    channels_.set(channels, [&] { detail::make_room(backend, words_, static_cast<std::size_t>(1 + 3 * channels)); });
  }
  /// @brief Channels. @return as of resize().
  Index channels() const noexcept { return channels_; }
  /// @brief Values per channel, all ranks together; -1 after an exchange that ended badly, where errors are deferred.
  /// @return one word.
  double* count() noexcept { return words_.data(); }
  /// @copydoc count()
  const double* count() const noexcept { return words_.data(); }
  /// @brief Means. @return one per channel.
  double* mean() noexcept { return words_.data() + 1; }
  /// @copydoc mean()
  const double* mean() const noexcept { return words_.data() + 1; }
  /// @brief Biased variances. @return one per channel.
  double* variance() noexcept { return words_.data() + 1 + channels_; }
  /// @copydoc variance()
  const double* variance() const noexcept { return words_.data() + 1 + channels_; }
  /// @brief 1 / sqrt(variance + eps). @return one per channel.
  double* inverse_deviation() noexcept { return words_.data() + 1 + 2 * channels_; }
  /// @copydoc inverse_deviation()
  const double* inverse_deviation() const noexcept { return words_.data() + 1 + 2 * channels_; }

 private:
  detail::ChannelCount channels_;
  typename Backend::template buffer<double> words_;
};

/// @brief Two words for each channel that add up over micro-batches and ranks.
/// @tparam Backend  in whose memory they lie. @tparam Tag  tells the kinds of pairs apart.
template <class Backend, class Tag>
class ChannelPairs {
 public:
  /// @brief Zeros. @param channels  how many.
  explicit ChannelPairs(Index channels = 0) { resize(channels); }
  /// @brief Makes room; what is there is not said. @param channels  how many from now on; allocates only if there are more.
  void resize(Index channels) {
    channels_.set(channels, [&] { words_.resize(static_cast<std::size_t>(2 * channels)); });
  }
  /// @brief The same in the order of a backend's queue. @param backend  allocates. @param channels  how many from now on.
  void resize(Backend& backend, Index channels) {
    channels_.set(channels, [&] { detail::make_room(backend, words_, static_cast<std::size_t>(2 * channels)); });
  }
  /// @brief Zeros again. @param backend  clears them in the order of its queue.
  /// @param channels  how many from now on; allocates only if there are more.
  void reset(Backend& backend, Index channels) {
    resize(backend, channels);
    backend.for_each_channel(2 * channels, detail::Fill<double>{words_.data(), 0});
  }
  /// @brief Channels. @return as of resize().
  Index channels() const noexcept { return channels_; }
  /// @brief The first words: of dy. @return one per channel.
  double* dy() noexcept { return words_.data(); }
  /// @copydoc dy()
  const double* dy() const noexcept { return words_.data(); }
  /// @brief The second words: of dy * (x - mean). @return one per channel.
  double* dy_centred() noexcept { return words_.data() + channels_; }
  /// @copydoc dy_centred()
  const double* dy_centred() const noexcept { return words_.data() + channels_; }

 private:
  detail::ChannelCount channels_;
  typename Backend::template buffer<double> words_;
};

/// @brief sum(dy) and sum(dy * (x - mean)) per channel.
template <class Backend>
using GradientSums = ChannelPairs<Backend, struct SumsTag>;

/// @brief sum(dy) / n and sum(dy * (x - mean)) / n per channel, all ranks together.
template <class Backend>
using GradientCoefficients = ChannelPairs<Backend, struct MeansTag>;

}  // namespace syncbn::inline v0
