#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <ios>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

/// @file
/// Final parameters as a file, for comparison with those of another program, and as one number.

namespace digits {

/// @brief Parameters, and what must be known to compare them with others.
struct ParameterFile {
  std::string type;        ///< f32 or f64
  int ranks = 0;           ///< how many found them
  int epochs = 0;          ///< in how many passes
  double allowance = 0.0;  ///< how far they may lie from those of one rank
  std::vector<double> values;
};

/// @brief Writes one line of description, and one hexadecimal number a line: no bit is lost.
/// @throws std::runtime_error if that fails.
inline void write_parameters(const std::string& path, const ParameterFile& content) {
  std::ofstream file(path);
  file << std::hexfloat << "digits " << content.type << ' ' << content.ranks << ' ' << content.epochs << ' '
       << content.allowance << '\n';
  for (const double value : content.values) file << value << '\n';
  if (!file.flush()) throw std::runtime_error("cannot write the parameters to " + path);
}

/// @brief The reverse of write_parameters(). @throws std::runtime_error if that fails.
inline ParameterFile read_parameters(const std::string& path) {
  std::ifstream file(path);
  ParameterFile content;
  std::string word;
  file >> word >> content.type >> content.ranks >> content.epochs;
  if (!file || word != "digits") throw std::runtime_error("cannot read parameters from " + path);
  const auto number = [](const std::string& text) { return std::strtod(text.c_str(), nullptr); };  // >> reads no 0x...
  if (file >> word) content.allowance = number(word);
  while (file >> word) content.values.push_back(number(word));
  return content;
}

/// @brief A 64-bit hash of all bits (FNV-1a): two lists with the same one are, as good as certainly, the same.
template <class T>
std::uint64_t fingerprint(std::span<const T> values) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const std::byte byte : std::as_bytes(values)) {
    hash = (hash ^ std::to_integer<std::uint64_t>(byte)) * 0x100000001b3U;
  }
  return hash;
}

/// @brief Whether two lists hold the same bits.
inline bool same_bits(std::span<const double> a, std::span<const double> b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<std::uint64_t>(a[i]) != std::bit_cast<std::uint64_t>(b[i])) return false;
  }
  return true;
}

}  // namespace digits
