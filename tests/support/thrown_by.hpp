#pragma once

#include <exception>
#include <string>

#include <syncbn/errors.hpp>

namespace syncbn_test {

/// @brief What a call throws, as "ShapeError: text"; "nothing" if it returns.
template <class F>
std::string thrown_by(const F& f) {
  try {
    f();
  } catch (const syncbn::ShapeError& e) {
    return std::string("ShapeError: ") + e.what();
  } catch (const syncbn::CommunicatorError& e) {
    return std::string("CommunicatorError: ") + e.what();
  } catch (const syncbn::Error& e) {
    return std::string("Error: ") + e.what();
  } catch (const std::exception& e) {
    return std::string("another exception: ") + e.what();
  }
  return "nothing";
}

}  // namespace syncbn_test
