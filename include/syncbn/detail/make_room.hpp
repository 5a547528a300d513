#pragma once

#include <cstddef>

// Memory for what is computed anew each time. A backend whose memory is allocated in the order of its queue has
// make_room(buffer, size), which need not wait; for others, an array is an array.

namespace syncbn::inline v0::detail {

template <class Backend, class Buffer>
void make_room(Backend& backend, Buffer& buffer, std::size_t size) {
  if constexpr (requires { backend.make_room(buffer, size); }) {
    backend.make_room(buffer, size);
  } else {
    buffer.resize(size);
  }
}

}  // namespace syncbn::inline v0::detail
