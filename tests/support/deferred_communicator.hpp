/// @file
/// A communicator of host memory whose errors are deferred, as a device's are: the library's own have immediate ones.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include <syncbn/concepts.hpp>
#include <syncbn/errors.hpp>

#include "conformance/launcher.hpp"

namespace syncbn_test {

/// @brief The ranks of another communicator. Copies share what tells kernels that the group was given up.
template <class Host>
class DeferredCommunicator {
 public:
  using memory_space = typename Host::memory_space;
  using queue_type = typename Host::queue_type;
  using frame = typename Host::frame;
  static constexpr syncbn::ErrorModel errors = syncbn::ErrorModel::deferred;

  class mailbox {
   public:
    mailbox() = default;
    double* word() const noexcept { return word_.get(); }

   private:
    friend class DeferredCommunicator;
    std::unique_ptr<double> word_;
  };

  explicit DeferredCommunicator(Host host) : host_(std::move(host)), stopped_(std::make_shared<double>(0)) {}

  int rank() const noexcept { return host_.rank(); }
  int size() const noexcept { return host_.size(); }
  bool usable() const noexcept { return host_.usable() && *stopped_ == 0; }
  frame acquire(syncbn::Index words) { return host_.acquire(words); }
  void start(frame& f, queue_type& queue) { host_.start(f, queue); }
  bool poll(frame& f) noexcept { return host_.poll(f); }
  void finish(frame& f, queue_type& queue) {
    host_.finish(f, queue);
    if (*befalls_) (*befalls_)(f.data(), f.size());
  }
  std::uint64_t next_ordinal() noexcept { return host_.next_ordinal(); }

  mailbox open_mailbox() {
    mailbox result;
    result.word_ = std::make_unique<double>(0);
    return result;
  }
  const double* stopped() const noexcept { return stopped_.get(); }
  void check(queue_type&) {
    if (!usable()) throw syncbn::CommunicatorError("the group was given up");
  }
  void synchronize(queue_type& queue) { check(queue); }

  /// @brief What a communicator does past a deadline, while its sums go on.
  void give_up() noexcept { *stopped_ = 1; }
  /// @brief What happens to sums on this rank from now on. @param befalls  called with the words; may be empty.
  void tamper(std::function<void(double*, syncbn::Index)> befalls) { *befalls_ = std::move(befalls); }

 private:
  Host host_;
  std::shared_ptr<double> stopped_;
  std::shared_ptr<std::function<void(double*, syncbn::Index)>> befalls_ =
      std::make_shared<std::function<void(double*, syncbn::Index)>>();
};

template <class Host>
struct Launcher<DeferredCommunicator<Host>> {
  static Outcomes run(int ranks, const RankBody<DeferredCommunicator<Host>>& body) {
    return Launcher<Host>::run(ranks, [&](Host& host, const Barrier& barrier) -> std::vector<double> {
      DeferredCommunicator<Host> deferred(host);
      return body(deferred, barrier);
    });
  }
};

}  // namespace syncbn_test
