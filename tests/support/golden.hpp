/// @file
/// @brief Reader of the golden files in tests/golden. It includes nothing of the library.
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace syncbn_test {

/// @brief A golden file that cannot be read, or a key that a case does not have; says the file and the line.
class GoldenError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// @brief A place in a golden file.
struct GoldenPlace {
  std::string file;
  std::size_t line = 0;

  [[noreturn]] void fail(std::string_view complaint) const {
    throw GoldenError(file + ":" + std::to_string(line) + ": " + std::string(complaint));
  }
};

/// @brief A tensor of a golden case: its shape, and its values in logical (row-major) order.
///
/// A double holds every f32 and bf16 value exactly.
struct GoldenTensor {
  std::vector<std::size_t> shape;
  std::vector<double> values;
};

namespace detail {

inline std::vector<std::string> words(const std::string& line) {
  std::istringstream stream(line);
  std::vector<std::string> result;
  for (std::string word; stream >> word;) result.push_back(std::move(word));
  return result;
}

inline double to_double(const std::string& word, const GoldenPlace& place) {
  char* end = nullptr;
  const double value = std::strtod(word.c_str(), &end);
  if (word.empty() || end != word.c_str() + word.size()) place.fail("not a number: '" + word + "'");
  return value;
}

inline long long to_integer(const std::string& word, const GoldenPlace& place) {
  long long value = 0;
  const char* const end = word.data() + word.size();
  const auto [stopped, error] = std::from_chars(word.data(), end, value);
  if (error != std::errc() || stopped != end) place.fail("not an integer: '" + word + "'");
  return value;
}

inline std::size_t to_size(const std::string& word, const GoldenPlace& place) {
  const long long value = to_integer(word, place);
  if (value < 0) place.fail("negative size: '" + word + "'");
  return static_cast<std::size_t>(value);
}

}  // namespace detail

/// @brief One case: scalars and tensors by name. A missing key throws GoldenError naming the case and where it starts.
class GoldenCase {
 public:
  GoldenCase(std::string case_name, GoldenPlace start) : name(std::move(case_name)), place_(std::move(start)) {}

  /// @brief Whether there is a scalar or a tensor of this name.
  bool has(const std::string& key) const { return scalars_.count(key) != 0 || tensors_.count(key) != 0; }

  /// @brief The rest of the scalar's line, as it stands.
  const std::string& text(const std::string& key) const { return scalar_at(key).text; }

  /// @brief The scalar as a number.
  double scalar(const std::string& key) const {
    const Scalar& found = scalar_at(key);
    return detail::to_double(found.text, found.place);
  }

  /// @brief The scalar as an integer; flags are 0 and 1.
  long long integer(const std::string& key) const {
    const Scalar& found = scalar_at(key);
    return detail::to_integer(found.text, found.place);
  }

  /// @brief The scalar as a list of integers, such as `samples.0 3 0 1 7`.
  std::vector<long long> integers(const std::string& key) const {
    const Scalar& found = scalar_at(key);
    std::vector<long long> result;
    for (const std::string& word : detail::words(found.text)) {
      result.push_back(detail::to_integer(word, found.place));
    }
    return result;
  }

  const GoldenTensor& tensor(const std::string& key) const {
    const auto found = tensors_.find(key);
    if (found == tensors_.end()) place_.fail("case " + name + " has no tensor '" + key + "'");
    return found->second;
  }

  /// @brief The file and the line of the word `case`, for messages.
  const GoldenPlace& place() const { return place_; }

  void add_scalar(const std::string& key, std::string value, const GoldenPlace& where) {
    if (has(key)) where.fail("second '" + key + "' in case " + name);
    scalars_.emplace(key, Scalar{std::move(value), where});
  }

  void add_tensor(const std::string& key, GoldenTensor value, const GoldenPlace& where) {
    if (has(key)) where.fail("second '" + key + "' in case " + name);
    tensors_.emplace(key, std::move(value));
  }

  std::string name;

 private:
  struct Scalar {
    std::string text;
    GoldenPlace place;
  };

  const Scalar& scalar_at(const std::string& key) const {
    const auto found = scalars_.find(key);
    if (found == scalars_.end()) place_.fail("case " + name + " has no key '" + key + "'");
    return found->second;
  }

  GoldenPlace place_;
  std::map<std::string, Scalar> scalars_;
  std::map<std::string, GoldenTensor> tensors_;
};

namespace detail {

// Reads a golden file line by line; comments and empty lines never reach the parsing functions.
class GoldenReader {
 public:
  explicit GoldenReader(const std::filesystem::path& path) : stream_(path), place_{path.string(), 0} {
    if (!stream_) place_.fail("cannot be opened");
  }

  std::vector<GoldenCase> read() {
    const std::size_t announced = read_head();
    std::vector<GoldenCase> cases;
    std::set<std::string> names;
    while (next_line()) {
      const std::string name = value_of("case");
      if (!names.insert(name).second) place_.fail("second case of the name " + name);
      cases.push_back(read_case(name));
    }
    if (cases.size() != announced) {
      place_.fail(std::to_string(cases.size()) + " cases, the head says " + std::to_string(announced));
    }
    return cases;
  }

 private:
  std::size_t read_head() {
    require_line("'format'");
    if (value_of("format") != "syncbn-golden 1") place_.fail("expected 'format syncbn-golden 1'");
    require_line("'torch'");
    value_of("torch");
    require_line("'cases'");
    return to_size(value_of("cases"), place_);
  }

  GoldenCase read_case(const std::string& name) {
    GoldenCase result(name, place_);
    for (;;) {
      require_line("'end' of case " + name);
      if (line_ == "end") return result;
      const std::size_t space = line_.find(' ');
      if (space == std::string::npos || space == 0) place_.fail("expected 'key value', got '" + line_ + "'");
      const std::string key = line_.substr(0, space);
      if (key == "case") place_.fail("case " + name + " has no 'end'");
      if (key == "tensor") {
        read_tensor(result);
      } else {
        result.add_scalar(key, line_.substr(space + 1), place_);
      }
    }
  }

  void read_tensor(GoldenCase& into) {
    const GoldenPlace start = place_;
    const std::vector<std::string> head = words(line_);
    if (head.size() < 3) place_.fail("expected 'tensor name shape...'");
    GoldenTensor tensor;
    std::size_t elements = 1;
    for (std::size_t axis = 2; axis < head.size(); ++axis) {
      tensor.shape.push_back(to_size(head[axis], place_));
      elements *= tensor.shape.back();
    }
    while (tensor.values.size() < elements) {
      require_line("values of tensor " + head[1]);
      for (const std::string& word : words(line_)) tensor.values.push_back(to_double(word, place_));
    }
    if (tensor.values.size() != elements) {
      place_.fail("tensor " + head[1] + " has more than " + std::to_string(elements) + " values");
    }
    into.add_tensor(head[1], std::move(tensor), start);
  }

  bool next_line() {
    while (std::getline(stream_, line_)) {
      ++place_.line;
      if (!line_.empty() && line_.back() == '\r') line_.pop_back();
      if (!line_.empty() && line_.front() != '#') return true;
    }
    return false;
  }

  void require_line(const std::string& wanted) {
    if (!next_line()) place_.fail("the file ends; expected " + wanted);
  }

  std::string value_of(std::string_view key) const {
    if (line_.size() < key.size() + 2 || line_.compare(0, key.size(), key) != 0 || line_[key.size()] != ' ') {
      place_.fail("expected '" + std::string(key) + " ...', got '" + line_ + "'");
    }
    return line_.substr(key.size() + 1);
  }

  std::ifstream stream_;
  GoldenPlace place_;
  std::string line_;
};

}  // namespace detail

/// @brief All cases of a golden file, in file order.
/// @throws GoldenError if the file cannot be opened, is malformed, or lacks cases that its head announces.
inline std::vector<GoldenCase> read_golden(const std::filesystem::path& path) {
  return detail::GoldenReader(path).read();
}

}  // namespace syncbn_test
