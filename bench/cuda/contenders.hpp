#pragma once

#include <vector>

#include "case.hpp"

/// @file
/// Who competes on a CUDA device. Buffers lie in its memory; everything goes into the default stream.

namespace bench {

std::vector<Contender> contenders_syncbn_cuda();
std::vector<Contender> contenders_cudnn();
std::vector<Contender> limits_cuda();
// Reads so many bytes, a multiple of 16.
void read_cuda(const std::byte* from, std::size_t bytes);

}  // namespace bench
