#pragma once

#include <stdexcept>
#include <string>

/// @brief The library: batch normalization whose statistics may span many ranks.
namespace syncbn {
/// @brief The ABI version; its names are used as `syncbn::...`.
inline namespace v0 {

/// @brief A value that is wrong in itself or together with others at run time (PyTorch's RuntimeError).
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// @brief A tensor whose shape cannot be used (PyTorch's ValueError).
class ShapeError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// @brief The fabric failed: a deadline passed, a rank is gone, frames do not match.
///
/// After a deadline or an error of the fabric the communicator's `usable()` is false and every call throws at once. After
/// frames that do not match, something else was summed on it out of step, and later sums are not to be relied on. In both
/// cases the layer's state is untouched, and the layer goes on with another communicator.
class CommunicatorError : public Error {
 public:
  using Error::Error;
};

}  // namespace v0
}  // namespace syncbn
