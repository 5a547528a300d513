#pragma once

#include <memory>
#include <vector>

#include <syncbn/tensor_view.hpp>

// Storage of frames. It belongs to a group and is never freed while the group lives: a fabric may still write into a
// frame whose owner was unwound by an exception.

namespace syncbn::inline v0::detail {

// `Flight` is what a fabric keeps for a frame that is under way; `Flight::landed()` says that nobody will touch the
// words any more.
template <class Flight>
struct FrameStorage {
  std::unique_ptr<double[]> words;
  Index size = 0;
  bool owned = false;  // by a frame object
  Flight flight{};
};

template <class Flight>
class FramePool {
 public:
  using Storage = FrameStorage<Flight>;

  // A storage of exactly `size` words, zeroed; an abandoned one only once it has landed.
  template <class Landed>
  Storage* acquire(Index size, const Landed& landed) {
    for (const auto& storage : storages_) {
      if (!storage->owned && storage->size == size && landed(storage->flight)) return hand_out(*storage);
    }
    auto storage = std::make_unique<Storage>();
    storage->words = std::make_unique<double[]>(static_cast<std::size_t>(size));
    storage->size = size;
    storages_.push_back(std::move(storage));
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
  static Storage* hand_out(Storage& storage) noexcept {
    for (Index i = 0; i < storage.size; ++i) storage.words[static_cast<std::size_t>(i)] = 0;
    storage.owned = true;
    storage.flight = {};
    return &storage;
  }

  std::vector<std::unique_ptr<Storage>> storages_;
};

// A frame: a handle to a storage of a group, which it keeps alive. `Group::release(storage)` takes it back.
template <class Group, class Flight>
class PooledFrame {
 public:
  PooledFrame() noexcept = default;
  PooledFrame(std::shared_ptr<Group> group, FrameStorage<Flight>* storage) noexcept
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
  FrameStorage<Flight>& storage() const noexcept { return *storage_; }

 private:
  std::shared_ptr<Group> group_;
  FrameStorage<Flight>* storage_ = nullptr;
};

}  // namespace syncbn::inline v0::detail
