/// @file
/// For tests in which ranks wait for each other: streams of the emulator work in the background, as those of devices do, and
/// each rank has a device of its own.
#pragma once

#include "options.hpp"

namespace syncbn_test {

inline const bool devices_are_emulated = [] {
  cuda_emulation::options().asynchronous = true;
  cuda_emulation::options().devices = 4;
  return true;
}();

}  // namespace syncbn_test
