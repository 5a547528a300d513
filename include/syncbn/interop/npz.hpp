#pragma once

#include <bit>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>
#include <zip.h>

#include <syncbn/errors.hpp>
#include <syncbn/state_entry.hpp>

/// @file
/// State dictionaries for NumPy: `numpy.load("state.npz")["layer1.0.bn1.running_mean"]`. Written by libzip.

namespace syncbn::inline v0 {

namespace detail {

// An entry in the form of a .npy file, version 1.0.
template <class T>
std::string npy(const StateEntry& entry, const std::vector<T>& values) {
  static_assert(std::endian::native == std::endian::little);
  constexpr std::size_t prefix = 10, alignment = 64;  // magic, version and length; where the data begin
  std::string shape;
  for (const Index extent : entry.shape) shape += std::to_string(extent) + ",";
  if (entry.uninitialized) throw Error(entry.name + " has no values yet, and cannot be written");
  check_shape(entry, values.size());
  std::string header = std::string("{'descr': '<") + (std::is_integral_v<T> ? 'i' : 'f') + std::to_string(sizeof(T)) +
                       "', 'fortran_order': False, 'shape': (" + shape + "), }";
  header.resize((prefix + header.size() + alignment) / alignment * alignment - prefix, ' ');
  header.back() = '\n';
  std::string file("\x93NUMPY\x01\x00", 8);
  file += {static_cast<char>(header.size() % 256), static_cast<char>(header.size() / 256)};
  file += header;
  return file.append(static_cast<const char*>(static_cast<const void*>(values.data())), values.size() * sizeof(T));
}

}  // namespace detail

/// @brief Writes a dictionary for NumPy, uncompressed. The file is replaced when all is written, or stays as it was.
/// @param dict  values are written as the types they have. @param file  its path.
/// @throws Error if a tensor has no values yet (a lazy layer's), or others than its shape, if a name occurs twice, if there
/// is no entry, or if writing fails.
inline void write_npz(const StateDict& dict, const std::filesystem::path& file) {
  if (dict.entries.empty()) throw Error("a dictionary without entries; libzip writes no empty archives");
  std::vector<std::string> contents;  // libzip reads them when the archive is closed
  for (const StateEntry& entry : dict.entries) {
    contents.push_back(std::visit([&](const auto& values) { return detail::npy(entry, values); }, entry.values));
  }
  int code = 0;
  std::unique_ptr<zip_t, void (*)(zip_t*)> archive(zip_open(file.c_str(), ZIP_CREATE | ZIP_TRUNCATE, &code),
                                                   zip_discard);
  if (archive == nullptr) {
    zip_error_t error;
    zip_error_init_with_code(&error, code);
    const std::string reason = zip_error_strerror(&error);
    zip_error_fini(&error);
    throw Error(file.string() + " cannot be written: " + reason);
  }
  const auto check = [&](bool good, const std::string& what) {
    if (!good) throw Error(what + " cannot be written: " + zip_strerror(archive.get()));
  };
  for (std::size_t i = 0; i < contents.size(); ++i) {
    const std::string& name = dict.entries[i].name;
    zip_source_t* const source = zip_source_buffer(archive.get(), contents[i].data(), contents[i].size(), 0);
    check(source != nullptr, name);
    const zip_int64_t index = zip_file_add(archive.get(), (name + ".npy").c_str(), source, ZIP_FL_ENC_UTF_8);
    if (index < 0) zip_source_free(source);
    check(index >= 0, name);
    check(zip_set_file_compression(archive.get(), static_cast<zip_uint64_t>(index), ZIP_CM_STORE, 0) == 0, name);
  }
  check(zip_close(archive.get()) == 0, file.string());
  static_cast<void>(archive.release());
}

}  // namespace syncbn::inline v0
