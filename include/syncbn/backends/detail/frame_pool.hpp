#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

#include <syncbn/tensor_view.hpp>

// Storage of frames. It belongs to a group and is never freed while the group lives: a fabric may still write into a
// frame whose owner was unwound by an exception.

namespace syncbn::inline v0::detail {

// Words in host memory.
class HostWords {
 public:
  explicit HostWords(Index size) : words_(std::make_unique<double[]>(static_cast<std::size_t>(size))), size_(size) {}

  double* get() const noexcept { return words_.get(); }
  void clear() noexcept { std::fill_n(words_.get(), size_, 0.0); }

 private:
  std::unique_ptr<double[]> words_;
  Index size_;
};

// `Flight` is what a fabric keeps for a frame that is under way.
template <class Flight, class Words = HostWords>
struct FrameStorage {
  explicit FrameStorage(Index size_of_words) : words(size_of_words), size(size_of_words) {}

  Words words;
  Index size;
  bool owned = false;  // by a frame object
  Flight flight{};
};

template <class Flight, class Words = HostWords>
class FramePool {
 public:
  using Storage = FrameStorage<Flight, Words>;

  // A storage of exactly `size` words, zeroed; an abandoned one only once it has landed: landed(flight) says that nobody will
  // touch the words any more.
  template <class Landed>
  Storage* acquire(Index size, const Landed& landed) {
    for (const auto& storage : storages_) {
      if (!storage->owned && storage->size == size && landed(storage->flight)) return hand_out(*storage);
    }
    storages_.push_back(std::make_unique<Storage>(size));
    return hand_out(*storages_.back());
  }

  template <class Landed>
  bool all_landed(const Landed& landed) const {
    for (const auto& storage : storages_) {
      if (!landed(storage->flight)) return false;
    }
    return true;
  }

 private:
  static Storage* hand_out(Storage& storage) {
    storage.words.clear();
    storage.owned = true;
    storage.flight = {};
    return &storage;
  }

  std::vector<std::unique_ptr<Storage>> storages_;
};

// A frame: a handle to a storage of a group, which it keeps alive. `Group::release(storage)` takes it back.
template <class Group, class Flight, class Words = HostWords>
class PooledFrame {
 public:
  PooledFrame() noexcept = default;
  PooledFrame(std::shared_ptr<Group> group, FrameStorage<Flight, Words>* storage) noexcept
      : group_(std::move(group)), storage_(storage) {}
  PooledFrame(PooledFrame&& other) noexcept : group_(std::move(other.group_)), storage_(other.storage_) {
    other.storage_ = nullptr;
  }
  PooledFrame& operator=(PooledFrame&& other) noexcept {
    std::swap(group_, other.group_);
    std::swap(storage_, other.storage_);
    return *this;
  }
  ~PooledFrame() {
    if (storage_ != nullptr) group_->release(*storage_);
  }

  double* data() const noexcept { return storage_ == nullptr ? nullptr : storage_->words.get(); }
  Index size() const noexcept { return storage_ == nullptr ? 0 : storage_->size; }
  FrameStorage<Flight, Words>& storage() const noexcept { return *storage_; }

 private:
  std::shared_ptr<Group> group_;
  FrameStorage<Flight, Words>* storage_ = nullptr;
};

}  // namespace syncbn::inline v0::detail
