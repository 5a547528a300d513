#include "options.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace cuda_emulation {
namespace {

std::mutex mutex;
bool expected = false;
std::string collected;

Options from_environment() {
  Options o;
  if (const char* order = std::getenv("CUDA_EMULATION_ORDER")) {
    if (std::strcmp(order, "descending") == 0) o.order = Order::descending;
    if (std::strcmp(order, "shuffled") == 0) o.order = Order::shuffled;
  }
  const auto number = [](const char* name, unsigned otherwise) {
    const char* text = std::getenv(name);
    return text == nullptr ? otherwise : static_cast<unsigned>(std::strtoul(text, nullptr, 10));
  };
  o.seed = number("CUDA_EMULATION_SEED", o.seed);
  o.deferred = number("CUDA_EMULATION_DEFERRED", 0) != 0;
  o.asynchronous = number("CUDA_EMULATION_ASYNCHRONOUS", 0) != 0;
  o.workers = number("CUDA_EMULATION_WORKERS", o.workers);
  return o;
}

}  // namespace

Options& options() {
  static Options o = from_environment();
  return o;
}

void violate(const std::string& what) {
  const std::lock_guard lock(mutex);
  if (!expected) {
    std::fprintf(stderr, "CUDA emulation: %s\n", what.c_str());
    std::abort();
  }
  collected += what + '\n';
}

ExpectViolations::ExpectViolations() {
  const std::lock_guard lock(mutex);
  expected = true;
  collected.clear();
}
ExpectViolations::~ExpectViolations() {
  const std::lock_guard lock(mutex);
  expected = false;
}
std::string ExpectViolations::texts() const {
  const std::lock_guard lock(mutex);
  return collected;
}

}  // namespace cuda_emulation
