#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <istream>
#include <limits>
#include <ostream>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <Eigen/Core>

#include <syncbn/errors.hpp>
#include <syncbn/interop/detail/safetensors_header.hpp>
#include <syncbn/state_entry.hpp>

/// @file
/// State dictionaries in files of the format safetensors, which Python's `safetensors.torch` and others read and write:
/// eight bytes with the length of a header, the header in JSON, and the tensors' bytes.

namespace syncbn::inline v0 {

namespace detail {

template <class From, class To>
std::vector<To> read_values(std::istream& in, std::uint64_t bytes) {
  std::vector<From> raw(static_cast<std::size_t>(bytes / sizeof(From)));
  if (!in.read(static_cast<char*>(static_cast<void*>(raw.data())), static_cast<std::streamsize>(bytes))) {
    throw Error("a safetensors file cannot be read");
  }
  if constexpr (std::is_same_v<From, To>) {
    return raw;
  } else {
    std::vector<To> values;
    values.reserve(raw.size());
    for (const From value : raw) {
      if constexpr (std::is_same_v<From, std::uint64_t>) {
        if (value > static_cast<std::uint64_t>(std::numeric_limits<To>::max())) {
          throw Error("a safetensors file has integers beyond 2^63");
        }
      }
      values.push_back(static_cast<To>(value));
    }
    return values;
  }
}

inline decltype(StateEntry::values) read_values_of(std::istream& in, const SafetensorsEntry& entry) {
  const std::uint64_t bytes = entry.end - entry.begin;
  const std::string& type = entry.dtype;
  if (type == "F64") return read_values<double, double>(in, bytes);
  if (type == "F32") return read_values<float, float>(in, bytes);
  if (type == "F16") return read_values<Eigen::half, float>(in, bytes);
  if (type == "BF16") return read_values<Eigen::bfloat16, float>(in, bytes);
  if (type == "I64") return read_values<std::int64_t, std::int64_t>(in, bytes);
  if (type == "U64") return read_values<std::uint64_t, std::int64_t>(in, bytes);
  if (type == "I32") return read_values<std::int32_t, std::int64_t>(in, bytes);
  if (type == "U32") return read_values<std::uint32_t, std::int64_t>(in, bytes);
  if (type == "I16") return read_values<std::int16_t, std::int64_t>(in, bytes);
  if (type == "U16") return read_values<std::uint16_t, std::int64_t>(in, bytes);
  if (type == "I8") return read_values<std::int8_t, std::int64_t>(in, bytes);
  if (type == "U8" || type == "BOOL") return read_values<std::uint8_t, std::int64_t>(in, bytes);
  throw Error(entry.name + " is of the type " + type + ", which is not read here");
}

}  // namespace detail

/// @brief Reads a dictionary. F16 and BF16 become float, integers std::int64_t; Python's files have no version.
/// @param in      can be sought in, and has nothing else. @param prefix  other names are not read, whatever their type.
/// @return the entries in the order of the header. @throws Error if the file is damaged, in whatever way, or cannot be read.
inline StateDict read_safetensors(std::istream& in, std::string_view prefix = {}) {
  using detail::bad_safetensors;
  std::uint64_t length = 0;
  char first[sizeof(length)];
  in.seekg(0, std::ios::end);
  const std::streamoff end = in.tellg();
  in.seekg(0);
  if (!in || end < 0) throw Error("a safetensors file cannot be read");
  if (!in.read(first, sizeof(first))) bad_safetensors("it has no 8 bytes");
  std::memcpy(&length, first, sizeof(length));
  const auto rest = static_cast<std::uint64_t>(end) - sizeof(length);
  if (length > rest || length > detail::longest_safetensors_header) bad_safetensors("its header has no end");
  std::string text(static_cast<std::size_t>(length), '\0');
  if (!in.read(text.data(), static_cast<std::streamsize>(length))) throw Error("a safetensors file cannot be read");

  detail::HeaderCheck check;
  detail::Json::sax_parse(text, &check);
  const detail::Json header = detail::Json::parse(text);
  if (text.front() != '{') bad_safetensors("its header does not begin with a brace");
  StateDict dict;
  dict.version = detail::state_version_of(header);
  std::vector<detail::SafetensorsEntry> entries;
  for (const std::string& name : check.keys) {
    if (name != "__metadata__") entries.push_back(detail::safetensors_entry(name, header[name]));
  }
  detail::check_offsets(entries, rest - length);
  for (detail::SafetensorsEntry& entry : entries) {
    if (!entry.name.starts_with(prefix)) continue;
    in.seekg(static_cast<std::streamoff>(sizeof(length) + length + entry.begin));
    auto values = detail::read_values_of(in, entry);
    dict.entries.push_back({std::move(entry.name), std::move(entry.shape), std::move(values)});
  }
  return dict;
}

/// @brief The same from a file. @param file  its path. @param prefix  as above. @return as above. @throws as above.
inline StateDict read_safetensors(const std::filesystem::path& file, std::string_view prefix = {}) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw Error(file.string() + " cannot be opened");
  return read_safetensors(in, prefix);
}

namespace detail {

// The bytes of an entry, once it is known that they can be written.
struct SafetensorsBytes {
  const StateEntry* entry;
  std::size_t element_size;
  const char* type;
  std::string_view bytes;

  explicit SafetensorsBytes(const StateEntry& e) : entry(&e) {
    if (e.uninitialized) throw Error(e.name + " has no values yet, and cannot be written");
    std::visit(
        [&]<class T>(const std::vector<T>& values) {
          element_size = sizeof(T);
          type = std::is_integral_v<T> ? "I64" : sizeof(T) == sizeof(double) ? "F64" : "F32";
          bytes = {static_cast<const char*>(static_cast<const void*>(values.data())), values.size() * sizeof(T)};
          check_shape(e, values.size());
        },
        e.values);
  }
};

}  // namespace detail

/// @brief Writes a dictionary, with its version among the metadata. @param dict  values are written as the types they have.
/// @param out  binary. @throws Error  before anything is written, if a tensor has no values yet (a lazy layer's), or others
/// than its shape, or its name occurs twice or is no UTF-8; or if writing fails. A stream that was told to throw throws what it does.
inline void write_safetensors(const StateDict& dict, std::ostream& out) {
  std::vector<detail::SafetensorsBytes> tensors(dict.entries.begin(), dict.entries.end());
  // The larger elements first, so that all lie at multiples of their sizes.
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const auto& a, const auto& b) { return a.element_size > b.element_size; });
  detail::Json metadata = {{"format", "pt"}};
  if (dict.version) metadata[detail::safetensors_version_key] = std::to_string(*dict.version);
  std::string text = "{\"__metadata__\":" + metadata.dump();
  std::set<std::string> names;
  std::uint64_t offset = 0;
  try {
    for (const detail::SafetensorsBytes& tensor : tensors) {
      const std::string& name = tensor.entry->name;
      if (!names.insert(name).second) throw Error("the name " + name + " is there twice");
      const std::uint64_t end = offset + tensor.bytes.size();
      const detail::Json described = {
          {"dtype", tensor.type}, {"shape", tensor.entry->shape}, {"data_offsets", {offset, end}}};
      text += "," + detail::Json(name).dump() + ":" + described.dump();
      offset = end;
    }
  } catch (const nlohmann::json::exception& e) {
    throw Error(std::string("a name that cannot be written: ") + e.what());
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  char first[sizeof(length)];
  std::memcpy(first, &length, sizeof(length));
  const auto write = [&](const char* bytes, std::size_t size) { out.write(bytes, static_cast<std::streamsize>(size)); };
  write(first, sizeof(first));
  write(text.data(), text.size());
  for (const detail::SafetensorsBytes& tensor : tensors) write(tensor.bytes.data(), tensor.bytes.size());
  if (!out.flush()) throw Error("a safetensors file cannot be written");
}

/// @brief The same to a file, which is replaced when all is written, or stays as it was. @param dict  as above.
/// @param file  its path; another file beside it, `<file>.<number>.part`, is written first. @throws as above.
inline void write_safetensors(const StateDict& dict, const std::filesystem::path& file) {
  // Ranks that write the same file do not write into each other's.
  std::filesystem::path part = file;
  part += "." + std::to_string(std::random_device()()) + ".part";
  std::error_code error;
  try {
    std::ofstream out(part, std::ios::binary);
    if (!out) throw Error(part.string() + " cannot be opened");
    write_safetensors(dict, out);
    out.close();
    if (!out) throw Error(part.string() + " cannot be written");
    std::filesystem::rename(part, file, error);
    if (error) throw Error(file.string() + " cannot be replaced: " + error.message());
  } catch (...) {
    std::filesystem::remove(part, error);
    throw;
  }
}

}  // namespace syncbn::inline v0
