#pragma once

#include <charconv>
#include <cstdio>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "shards.hpp"

/// @file
/// The command line.

namespace digits {

/// @brief What the user asks for.
struct Options {
  int epochs = 8;
  std::vector<int> ranks{1, 2, 4};  ///< one comparison each
  bool check = false;               ///< compute in f64, and fail if (c) is not (a)
  bool nccl = false;                ///< sums between CUDA devices, not through the host
  bool help = false;
  std::string data = SYNCBN_DIGITS_CSV;
  std::string output;      ///< folder of the picture
  std::string parameters;  ///< file to write the final parameters of (c) to; empty: none
  std::string compare;     ///< file to compare them with; empty: none
};

/// @brief A mistake on the command line.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// @brief How to call the program.
inline void print_usage(std::FILE* stream, bool chooses_ranks, bool has_devices = false) {
  std::fprintf(
      stream,
      "usage: digits_demo [options]\n"
      "Trains a small network on handwritten digits: (a) on one rank, (b) on several ranks that normalize their\n"
      "own samples, (c) on several ranks with synchronized batch normalization.\n"
      "  --epochs N         passes over the 1500 training images (default 8)\n"
      "%s%s"
      "  --check            compute in f64; fail unless (c) equals (a) but for rounding\n"
      "  --output DIR       where to write the picture of the loss (default: the folder of this program)\n"
      "  --data FILE        the digits (default: %s)\n"
      "  --parameters FILE  write the final parameters of (c), in hexadecimal; needs a single number of ranks\n"
      "  --compare FILE     fail unless they are those in FILE: the same bits on up to 2 ranks, else nearly so\n"
      "  --help             this text\n",
      chooses_ranks ? "  --ranks R          that many threads as ranks (default: 1, then 2, then 4)\n" : "",
      has_devices ? "  --nccl             sum between the devices, with one for each rank\n" : "", SYNCBN_DIGITS_CSV);
}

/// @brief A whole number between two limits. @throws UsageError if @p text is anything else.
inline int parse_number(const std::string& option, std::string_view text, int smallest, int largest) {
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < smallest || number > largest) {
    throw UsageError(option + " needs a whole number from " + std::to_string(smallest) + " to " +
                     std::to_string(largest) + ", not " + std::string(text));
  }
  return number;
}

/// @brief Reads the command line.
/// @param arguments      of main(). @param chooses_ranks  false where someone else has started the ranks.
/// @param has_devices    whether there is a choice about them.
/// @throws UsageError    if an option is unknown, or a value is missing or wrong.
inline Options parse_options(std::span<char*> arguments, bool chooses_ranks, bool has_devices = false) {
  Options options;
  options.output = std::filesystem::path(arguments[0]).parent_path().string();
  if (options.output.empty()) options.output = ".";
  for (std::size_t i = 1; i < arguments.size(); ++i) {
    const std::string option = arguments[i];
    const auto value = [&]() -> std::string {
      if (++i == arguments.size()) throw UsageError(option + " needs a value");
      return arguments[i];
    };
    if (option == "--epochs") {
      options.epochs = parse_number(option, value(), 1, 1000);
    } else if (option == "--ranks" && chooses_ranks) {
      options.ranks = {parse_number(option, value(), 1, max_ranks)};
    } else if (option == "--nccl" && has_devices) {
      options.nccl = true;
    } else if (option == "--check") {
      options.check = true;
    } else if (option == "--output") {
      options.output = value();
    } else if (option == "--data") {
      options.data = value();
    } else if (option == "--parameters") {
      options.parameters = value();
    } else if (option == "--compare") {
      options.compare = value();
    } else if (option == "--help") {
      options.help = true;
    } else {
      throw UsageError("unknown option " + option);
    }
  }
  if (chooses_ranks && options.ranks.size() > 1 && !(options.parameters + options.compare).empty()) {
    throw UsageError("--parameters and --compare need a single number of ranks: add --ranks R");
  }
  return options;
}

}  // namespace digits
