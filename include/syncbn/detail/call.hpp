#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <syncbn/detail/config.hpp>
#include <syncbn/detail/python_number.hpp>
#include <syncbn/scalar_kind.hpp>

// What all ranks must agree about before their words may be added.

namespace syncbn::inline v0 {

/// @brief One exchange as a rank understands it. Ranks whose calls differ in any member throw, all of them.
struct ExchangeCall {
  const char* operation = "call";  ///< "forward", "backward"; a text that outlives the call
  Index channels = 0;              ///< of the tensors
  std::int64_t dims = 0;           ///< the layer's Dims; -1 for any
  ScalarKind kind{};               ///< element format of the tensors
  std::int64_t words = 0;          ///< summed for each channel
  double eps = 0;                  ///< of the layer
  double momentum = 0;             ///< of the layer; NaN for a cumulative average
  std::uint64_t flags = 0;         ///< affine, tracking and the like, as bits
  std::int64_t batches = -1;       ///< num_batches_tracked before the call; -1 where there is none
  /// @brief Where the counter lies, in the queue's memory, for a host that does not wait to learn it; null otherwise.
  const std::int64_t* batches_at = nullptr;
  /// @brief Whether one value per channel on all ranks is an error, which such a host does not learn in time either.
  bool needs_several_values = false;
};

namespace detail {

inline constexpr std::uint64_t protocol_version = 1;
inline constexpr Index words_per_channel = 2;  // of plain sums, forward and backward

// FNV-1a, 64 bits: the same on every machine, unlike std::hash.
class Fingerprint {
 public:
  Fingerprint() = default;
  // Goes on from another one.
  SYNCBN_HOST_DEVICE explicit Fingerprint(std::uint64_t value) noexcept : value_(value) {}

  void add(const void* data, std::size_t bytes) noexcept {
    const auto* p = static_cast<const unsigned char*>(data);
    for (std::size_t i = 0; i < bytes; ++i) add_byte(p[i]);
  }
  SYNCBN_HOST_DEVICE void add(std::uint64_t number) noexcept {
    for (unsigned i = 0; i < 8; ++i) add_byte(static_cast<unsigned char>(number >> (8 * i)));
  }
  void add(double number) noexcept {
    std::uint64_t bits;
    static_assert(sizeof bits == sizeof number);
    __builtin_memcpy(&bits, &number, sizeof bits);
    add(number == number ? bits : ~std::uint64_t{0});
  }
  void add(std::string_view text) noexcept { add(text.data(), text.size()); }
  SYNCBN_HOST_DEVICE std::uint64_t value() const noexcept { return value_; }

 private:
  SYNCBN_HOST_DEVICE void add_byte(unsigned char byte) noexcept { value_ = (value_ ^ byte) * 1099511628211ULL; }

  std::uint64_t value_ = 14695981039346656037ULL;
};

inline std::uint64_t fingerprint(const ExchangeCall& call, Index blocks, std::string_view layer,
                                 std::uint64_t sequence) noexcept {
  Fingerprint f;
  f.add(protocol_version);
  f.add(layer);
  f.add(sequence);
  f.add(std::string_view(call.operation));
  f.add(static_cast<std::uint64_t>(call.channels));
  f.add(static_cast<std::uint64_t>(call.dims));
  f.add(static_cast<std::uint64_t>(call.kind));
  f.add(static_cast<std::uint64_t>(call.words));
  f.add(call.eps);
  f.add(call.momentum);
  f.add(call.flags);
  f.add(static_cast<std::uint64_t>(call.batches));
  f.add(static_cast<std::uint64_t>(blocks));
  return f.value();
}

inline std::string describe(const ExchangeCall& call, Index blocks, std::string_view layer, std::uint64_t sequence) {
  std::string text = std::string(call.operation) + " of layer '" + std::string(layer) + "', exchange " +
                     std::to_string(sequence) + ", " + std::to_string(call.channels) + " channels, " +
                     (call.dims < 0 ? "any" : std::to_string(call.dims)) + " dims, " + std::string(name(call.kind)) +
                     ", eps " + python_number(call.eps) + ", momentum " + python_number(call.momentum) + ", flags " +
                     std::to_string(call.flags);
  if (blocks > 1) text += ", " + std::to_string(blocks) + " blocks";
  if (call.batches >= 0) text += ", num_batches_tracked " + std::to_string(call.batches);
  return text;
}

}  // namespace detail
}  // namespace syncbn::inline v0
