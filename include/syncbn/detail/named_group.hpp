#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <utility>

#include <syncbn/concepts.hpp>
#include <syncbn/detail/agreement.hpp>
#include <syncbn/errors.hpp>

namespace syncbn::inline v0::detail {

// A layer's handle on its group, and the name under which it appears in headers and messages: its own, or its number in the
// order in which layers were made with the group.
template <class Communicator>
class NamedGroup {
 public:
  NamedGroup(Communicator handle, std::string name)
      : communicator(std::move(handle)), name_(std::move(name)), has_own_name_(!name_.empty()) {
    if (communicator.size() > most_ranks) {
      throw Error("groups of more than " + std::to_string(most_ranks) + " ranks are not possible");
    }
    if constexpr (numbers_layers<Communicator>) {
      const std::uint64_t ordinal = communicator.next_ordinal();
      if (!has_own_name_) name_ = std::string("#") + std::to_string(ordinal);
    }
  }

  const std::string& name() const noexcept { return name_; }
  // What another group's layer of the same kind is to be called.
  std::string own_name() const { return has_own_name_ ? name_ : std::string(); }
  void set_name(std::string name) {
    name_ = std::move(name);
    has_own_name_ = true;
  }

  // Which call a fault belongs to.
  std::string where(const char* operation, std::uint64_t sequence) const {
    return std::string(operation) + " of layer '" + name_ + "', exchange " + std::to_string(sequence) + ", rank " +
           std::to_string(communicator.rank()) + " of " + std::to_string(communicator.size()) + ": ";
  }
  Communicator communicator;

 private:
  std::string name_;
  bool has_own_name_;
};

}  // namespace syncbn::inline v0::detail
