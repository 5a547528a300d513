#pragma once

namespace syncbn::inline v0 {

/// @brief Memory of a CUDA device. A tag without any CUDA header, so that host code can name tensors that lie there.
struct CudaSpace {};

}  // namespace syncbn::inline v0
