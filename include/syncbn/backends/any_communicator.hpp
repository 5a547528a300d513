#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <utility>

#include <syncbn/backends/single_process_communicator.hpp>
#include <syncbn/check.hpp>
#include <syncbn/concepts.hpp>

namespace syncbn::inline v0 {

/// @brief Any communicator of host memory, chosen at run time: for frameworks whose layers have one type whatever the
/// fabric is. A call costs one virtual function and a frame one allocation more than with the communicator itself.
///
/// Copies are handles to the same rank of the same group. A default constructed one is a group of this rank alone.
class AnyCommunicator {
  struct AnyFrame {
    virtual ~AnyFrame() = default;
    virtual double* data() const noexcept = 0;
    virtual Index size() const noexcept = 0;
  };
  struct Base {
    virtual ~Base() = default;
    virtual std::unique_ptr<Base> clone() const = 0;
    virtual int rank() const noexcept = 0;
    virtual int size() const noexcept = 0;
    virtual bool usable() const noexcept = 0;
    virtual std::uint64_t next_ordinal() = 0;
    virtual std::unique_ptr<AnyFrame> acquire(Index words) = 0;
    virtual void start(AnyFrame& f, HostQueue& queue) = 0;
    virtual bool poll(AnyFrame& f) noexcept = 0;
    virtual void finish(AnyFrame& f, HostQueue& queue) = 0;
  };
  template <class C>
  struct Holder;

 public:
  using memory_space = HostSpace;                              ///< host memory
  using queue_type = HostQueue;                                ///< none
  static constexpr ErrorModel errors = ErrorModel::immediate;  ///< exceptions come from the call itself

  /// @brief Words of this rank that are summed over the group.
  class frame {
   public:
    frame() = default;
    /// @brief The words. @return the first.
    double* data() const noexcept { return frame_ == nullptr ? nullptr : frame_->data(); }
    /// @brief Their number. @return as acquired.
    Index size() const noexcept { return frame_ == nullptr ? 0 : frame_->size(); }

   private:
    friend class AnyCommunicator;
    explicit frame(std::unique_ptr<AnyFrame> f) : frame_(std::move(f)) {}
    std::unique_ptr<AnyFrame> frame_;
  };

  AnyCommunicator() : AnyCommunicator(SingleProcessCommunicator()) {}
  /// @brief Holds a communicator. @param communicator  of host memory, whose errors are immediate.
  template <class C>
    requires(!std::same_as<C, AnyCommunicator>) && names_its_spaces<C> && states_its_error_model<C>
  AnyCommunicator(C communicator) : held_(std::make_unique<Holder<C>>(std::move(communicator))) {}
  /// @brief The same rank of the same group. @param other  copied from.
  AnyCommunicator(const AnyCommunicator& other) : held_(other.held_->clone()) {}
  AnyCommunicator(AnyCommunicator&&) = default;  ///< The source may only be assigned to or destroyed afterwards.
  /// @brief The same rank of the same group. @param other  copied from. @return *this.
  AnyCommunicator& operator=(const AnyCommunicator& other) {
    AnyCommunicator copy(other);
    return *this = std::move(copy);
  }
  AnyCommunicator& operator=(AnyCommunicator&&) = default;  ///< Likewise. @return *this.
  ~AnyCommunicator() = default;

  /// @brief This rank. @return 0 to size() - 1.
  int rank() const noexcept { return held_->rank(); }
  /// @brief Ranks in the group. @return 1 or more.
  int size() const noexcept { return held_->size(); }
  /// @brief What the communicator says. @return false after a fault.
  bool usable() const noexcept { return held_->usable(); }
  /// @brief Numbers the layers that are made with this group, if the communicator does.
  /// @return 0, 1, ... in order of calls on each rank; 0 always if it does not.
  std::uint64_t next_ordinal() { return held_->next_ordinal(); }
  /// @brief A frame. @param words  how many. @return the frame. @throws what the communicator throws.
  frame acquire(Index words) { return frame(held_->acquire(words)); }
  /// @brief Offers the words to the sum. @param f  not to be touched before finish(). @param queue  of the host.
  void start(frame& f, HostQueue& queue) { held_->start(*f.frame_, queue); }
  /// @brief Whether the sum is there. @param f  a started frame. @return true if finish() will not wait.
  bool poll(frame& f) noexcept { return held_->poll(*f.frame_); }
  /// @brief Waits for the sum. @param f  a started frame. @param queue  of the host. @throws what the communicator throws.
  void finish(frame& f, HostQueue& queue) { held_->finish(*f.frame_, queue); }

 private:
  std::unique_ptr<Base> held_;
};

/// @cond
template <class C>
struct AnyCommunicator::Holder : Base {
  // Not constraints of the constructor: whether C can be copied may depend on whether it becomes an AnyCommunicator.
  static_assert(check_communicator<C>());
  static_assert(std::same_as<typename C::memory_space, HostSpace> && std::same_as<typename C::queue_type, HostQueue> &&
                    C::errors == ErrorModel::immediate,
                "AnyCommunicator holds communicators of host memory whose errors are immediate");

  struct Frame : AnyFrame {
    explicit Frame(typename C::frame f) : held(std::move(f)) {}
    double* data() const noexcept override { return held.data(); }
    Index size() const noexcept override { return held.size(); }
    typename C::frame held;
  };

  explicit Holder(C communicator) : held(std::move(communicator)) {}
  std::unique_ptr<Base> clone() const override { return std::make_unique<Holder>(held); }
  int rank() const noexcept override { return held.rank(); }
  int size() const noexcept override { return held.size(); }
  bool usable() const noexcept override { return held.usable(); }
  std::uint64_t next_ordinal() override {
    if constexpr (requires { held.next_ordinal(); }) {
      return held.next_ordinal();
    } else {
      return 0;
    }
  }
  std::unique_ptr<AnyFrame> acquire(Index words) override { return std::make_unique<Frame>(held.acquire(words)); }
  void start(AnyFrame& f, HostQueue& queue) override { held.start(static_cast<Frame&>(f).held, queue); }
  bool poll(AnyFrame& f) noexcept override { return held.poll(static_cast<Frame&>(f).held); }
  void finish(AnyFrame& f, HostQueue& queue) override { held.finish(static_cast<Frame&>(f).held, queue); }

  C held;
};
/// @endcond

}  // namespace syncbn::inline v0
