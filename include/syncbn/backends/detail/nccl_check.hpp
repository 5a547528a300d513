#pragma once

#include <nccl.h>
#include <string>

#include <syncbn/errors.hpp>

namespace syncbn::inline v0::detail {

static_assert(NCCL_VERSION_CODE >= NCCL_VERSION(2, 18, 1), "syncbn: NCCL 2.18 or newer is needed");

inline std::string nccl_failure(ncclResult_t result, const char* call) {
  return std::string(call) + ": " + ncclGetErrorString(result) + " (" + ncclGetLastError(nullptr) + ")";
}
// Of calls that wait for nothing.
inline void nccl_check(ncclResult_t result, const char* call) {
  if (result != ncclSuccess) throw CommunicatorError(nccl_failure(result, call));
}

}  // namespace syncbn::inline v0::detail
