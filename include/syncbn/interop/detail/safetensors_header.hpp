#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <syncbn/errors.hpp>
#include <syncbn/tensor_view.hpp>

// What the header of a safetensors file says, checked in every respect before anything is read by it.

namespace syncbn::inline v0 {

namespace detail {

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian, and so must be the machine");

inline constexpr std::uint64_t longest_safetensors_header = 100'000'000;  // that of the format's other readers
inline constexpr const char* safetensors_version_key = "state_dict_version";
using Json = nlohmann::json;

[[noreturn]] inline void bad_safetensors(const std::string& what) { throw Error("not a safetensors file: " + what); }

// Reads a header before anything is made of it: keys that occur twice mean different things to different readers, and no header
// is deeper than {name: {key: [number]}}. (A callback of parse() would take time with the square of the number of keys.)
class HeaderCheck : public nlohmann::json_sax<Json> {
 public:
  // The header's own keys, in their order.
  std::vector<std::string> keys;

  bool start_object(std::size_t) override {
    open_.emplace_back();
    return deeper();
  }
  bool start_array(std::size_t) override { return deeper(); }
  bool end_object() override {
    open_.pop_back();
    --depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool key(string_t& name) override {
    if (!open_.back().insert(name).second) bad_safetensors("its header has the key " + name + " twice");
    if (open_.size() == 1) keys.push_back(name);
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& e) override {
    bad_safetensors(std::string("its header is no JSON: ") + e.what());
  }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }

 private:
  bool deeper() {
    if (++depth_ > 3) bad_safetensors("its header is nested too deeply");
    return true;
  }

  int depth_ = 0;
  std::vector<std::set<std::string>> open_;  // keys of the objects that are open
};

// A tensor's description in the header.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;
  std::vector<Index> shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;

  // Bytes; 0 for types that came after this was written.
  std::uint64_t element_size() const {
    using Names = std::initializer_list<std::string_view>;
    const auto is_one_of = [&](Names names) { return std::find(names.begin(), names.end(), dtype) != names.end(); };
    if (is_one_of({"F64", "I64", "U64"})) return 8;
    if (is_one_of({"F32", "I32", "U32"})) return 4;
    if (is_one_of({"F16", "BF16", "I16", "U16"})) return 2;
    return is_one_of({"I8", "U8", "BOOL"}) ? 1 : 0;
  }
};

inline std::uint64_t unsigned_of(const Json& value, const std::string& name) {
  if (!value.is_number_unsigned()) bad_safetensors("a number in the description of " + name + " is none");
  return value.get<std::uint64_t>();
}

inline SafetensorsEntry safetensors_entry(const std::string& name, const Json& described) {
  const auto has = [&](const char* key) { return described.is_object() && described.contains(key); };
  if (!has("dtype") || !has("shape") || !has("data_offsets") || !described["dtype"].is_string() ||
      !described["shape"].is_array() || !described["data_offsets"].is_array() ||
      described["data_offsets"].size() != 2) {
    bad_safetensors(name + " is not described by a dtype, a shape and two data_offsets");
  }
  SafetensorsEntry entry{name, described["dtype"].get<std::string>(), {}, 0, 0};
  entry.begin = unsigned_of(described["data_offsets"][0], name);
  entry.end = unsigned_of(described["data_offsets"][1], name);
  const bool known = entry.element_size() > 0;
  std::uint64_t bytes = known ? entry.element_size() : 1;
  for (const Json& extent : described["shape"]) {
    const std::uint64_t n = unsigned_of(extent, name);
    constexpr std::uint64_t most = std::numeric_limits<Index>::max();
    if (n > most || (n != 0 && bytes > most / n)) bad_safetensors(name + " is too large");
    bytes *= n;
    entry.shape.push_back(static_cast<Index>(n));
  }
  if (entry.end < entry.begin || (known && entry.end - entry.begin != bytes)) {
    bad_safetensors("the data_offsets of " + name + " do not fit its shape");
  }
  return entry;
}

// The tensors' bytes follow each other without gaps or overlaps, up to the end.
inline void check_offsets(const std::vector<SafetensorsEntry>& entries, std::uint64_t size) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  for (const SafetensorsEntry& entry : entries) ranges.emplace_back(entry.begin, entry.end);
  std::sort(ranges.begin(), ranges.end());
  std::uint64_t end = 0;
  for (const auto& range : ranges) {
    if (range.first != end) bad_safetensors("its tensors overlap, or leave gaps");
    end = range.second;
  }
  if (end != size)
    bad_safetensors("its tensors are " + std::to_string(end) + " bytes, and it has " + std::to_string(size));
}

inline std::optional<int> state_version_of(const Json& header) {
  if (!header.contains("__metadata__")) return std::nullopt;
  const Json& metadata = header["__metadata__"];
  if (!metadata.is_object()) bad_safetensors("its __metadata__ is no object");
  for (const Json& value : metadata) {
    if (!value.is_string()) bad_safetensors("its __metadata__ has values that are no strings");
  }
  const auto version = metadata.value(safetensors_version_key, std::string());
  return version.size() == 1 && version[0] >= '1' && version[0] <= '9' ? std::optional(version[0] - '0') : std::nullopt;
}

}  // namespace detail

}  // namespace syncbn::inline v0
