#include "traffic.hpp"

#include <map>
#include <mutex>
#include <set>
#include <tuple>

#include "device_variables.hpp"
#include "options.hpp"
#include "thread_block.hpp"

namespace cuda_emulation {

bool counting = false;

namespace {

constexpr std::uintptr_t sector_bytes = 32;

// A warp's request: which call of which block and warp, for which time.
using Request = std::tuple<const void*, unsigned, unsigned, unsigned, unsigned, unsigned>;
using Lane = std::tuple<const void*, unsigned, unsigned, unsigned, unsigned>;

struct Sectors {
  std::set<std::uintptr_t> touched;
  bool is_store = false;
};

std::mutex mutex;
std::uintptr_t first_address = 0, last_address = 0;
Traffic counted;
std::map<Request, Sectors> requests;
std::map<Lane, unsigned> times;  // that a thread has passed a call

void close_requests() {
  for (const auto& [request, sectors] : requests) {
    (sectors.is_store ? counted.store_requests : counted.load_requests) += 1;
    (sectors.is_store ? counted.store_sectors : counted.load_sectors) += sectors.touched.size();
  }
  requests.clear();
  times.clear();
}

}  // namespace

void count_access(const void* call, const void* address, std::size_t bytes, bool is_store) {
  const Unseen unseen;
  const std::lock_guard lock(mutex);
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  if (last_address != 0 && (at < first_address || at >= last_address)) return;
  (is_store ? counted.stored_bytes : counted.loaded_bytes) += bytes;
  const unsigned thread = ThreadBlock::current().thread();
  const unsigned time = times[{call, blockIdx.x, blockIdx.y, blockIdx.z, thread}]++;
  Sectors& sectors = requests[{call, blockIdx.x, blockIdx.y, blockIdx.z, thread / lanes_of_warp, time}];
  sectors.is_store = is_store;
  for (std::uintptr_t s = at / sector_bytes; s <= (at + bytes - 1) / sector_bytes; ++s) sectors.touched.insert(s);
}

void check_alignment(const void* address, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(address) % bytes == 0) return;
  ThreadBlock::current().misaligned(bytes);
}

CountTraffic::CountTraffic(const void* first, std::size_t bytes) {
  first_address = reinterpret_cast<std::uintptr_t>(first);
  last_address = first == nullptr ? 0 : first_address + bytes;
  counted = {};
  requests.clear();
  times.clear();
  counting = true;
}
CountTraffic::~CountTraffic() { counting = false; }

Traffic CountTraffic::traffic() const {
  const std::lock_guard lock(mutex);
  close_requests();
  return counted;
}

}  // namespace cuda_emulation
