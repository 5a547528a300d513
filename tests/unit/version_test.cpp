#include <syncbn/version.hpp>

#include "support/catch.hpp"

// Values belong to CMake, which reads the same lines; here only: they are there, and usable by a preprocessor.
#if SYNCBN_VERSION_MAJOR * 10000 + SYNCBN_VERSION_MINOR * 100 + SYNCBN_VERSION_PATCH < 100
#error "older than 0.1.0"
#endif

TEST_CASE("the version is that of the CMake project", "[version]") {
  CHECK(SYNCBN_VERSION_MAJOR == SYNCBN_CMAKE_VERSION_MAJOR);
  CHECK(SYNCBN_VERSION_MINOR == SYNCBN_CMAKE_VERSION_MINOR);
  CHECK(SYNCBN_VERSION_PATCH == SYNCBN_CMAKE_VERSION_PATCH);
}
