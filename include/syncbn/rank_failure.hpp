#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <string>
#include <string_view>

#include <syncbn/errors.hpp>

namespace syncbn::inline v0 {

/// @brief What kind of exception all ranks throw for a failure of one.
enum class FailureKind : std::uint8_t {
  none,   ///< nothing failed
  shape,  ///< ShapeError
  error   ///< Error
};

/// @brief What went wrong on this rank, kept until the ranks throw together: no rank may leave an exchange on its own.
class RankFailure {
 public:
  static constexpr std::size_t longest_message = 1500;  ///< characters that are kept and told to the others

  /// @brief Runs f unless something has failed already, and keeps what it throws. Never throws, never allocates.
  /// @param f  called without arguments.
  template <class F>
  void capture(const F& f) noexcept {
    if (failed()) return;
    try {
      f();
    } catch (const ShapeError& e) {
      keep(FailureKind::shape, e.what());
    } catch (const std::exception& e) {
      keep(FailureKind::error, e.what());
    } catch (...) {
      keep(FailureKind::error, "an exception of unknown type");
    }
  }

  /// @brief Whether something was kept. @return true after a failure.
  bool failed() const noexcept { return kind_ != FailureKind::none; }
  /// @brief Which exception it becomes. @return its kind.
  FailureKind kind() const noexcept { return kind_; }
  /// @brief What the exception said. @return its text, possibly shortened.
  std::string_view message() const noexcept { return {message_, length_}; }

  /// @brief For where no other rank waits. @throws the exception itself, if there is one.
  void rethrow() const {
    if (exception_ != nullptr) std::rethrow_exception(exception_);
  }

 private:
  void keep(FailureKind kind, const char* message) noexcept {
    kind_ = kind;
    exception_ = std::current_exception();
    length_ = std::strlen(message);
    if (length_ > longest_message) length_ = longest_message;
    std::memcpy(message_, message, length_);
  }

  FailureKind kind_ = FailureKind::none;
  std::exception_ptr exception_;
  std::size_t length_ = 0;
  char message_[longest_message];
};

namespace detail {

[[noreturn]] inline void throw_failure(FailureKind kind, const std::string& message) {
  if (kind == FailureKind::shape) throw ShapeError(message);
  throw Error(message);
}

}  // namespace detail
}  // namespace syncbn::inline v0
