#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <functional>
#include <string>

// Where ranks meet that are threads or processes: memory that they share, and that a process may leave, or die in, at any
// time. For nccl_stand_in.cpp.

namespace nccl_stand_in {

inline constexpr int most_ranks = 16;
inline constexpr std::size_t chunk_bytes = std::size_t{64} << 10;

// What a rank wants to do. The same on all ranks, or none ever does it.
struct Call {
  int type = 0;
  int operation = 0;
  std::size_t count = 0;
  std::size_t offset = 0;

  bool operator==(const Call&) const = default;
};

struct Segment;

class Meeting {
 public:
  enum class Channel { collectives, setup };  // each with an order of its own; used by one thread at a time
  enum class Outcome { met, refused, aborted };
  using Chunks = std::array<const std::byte*, most_ranks>;

  // aborted: ends all waiting here within milliseconds. Throws std::system_error.
  Meeting(std::string name, int rank, int ranks, const std::atomic<bool>& aborted);
  ~Meeting();
  Meeting(const Meeting&) = delete;
  Meeting& operator=(const Meeting&) = delete;

  // Waits for all ranks. Refused if they do not agree on how many they are, or two are the same.
  Outcome attach();
  // Brings so many bytes, at most chunk_bytes, and uses what all ranks have brought. False if aborted before that.
  bool exchange(Channel channel, const Call& call, const void* mine, std::size_t bytes,
                const std::function<void(const Chunks&)>& use);

 private:
  template <class Ready>
  bool wait(const Ready& ready);
  void wake();

  const std::string name_;
  const int rank_;
  const int ranks_;
  const std::atomic<bool>& aborted_;
  Segment* segment_ = nullptr;
  std::array<long, 2> steps_{};  // of each channel
};

}  // namespace nccl_stand_in
