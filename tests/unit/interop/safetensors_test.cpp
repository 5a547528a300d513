#include <syncbn/interop/safetensors.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <variant>
#include <vector>

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/batch_norm.hpp>
#include <syncbn/lazy.hpp>
#include <syncbn/state_dict.hpp>

#include "support/catch.hpp"

using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;
using syncbn::Index;
using syncbn::StateDict;

namespace {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;
using Integers = std::vector<std::int64_t>;

bool operator==(const syncbn::StateEntry& a, const syncbn::StateEntry& b) {
  return a.name == b.name && a.shape == b.shape && a.values == b.values && a.uninitialized == b.uninitialized;
}

std::string written(const StateDict& dict) {
  std::ostringstream out;
  syncbn::write_safetensors(dict, out);
  return out.str();
}
StateDict read(const std::string& bytes, std::string_view prefix = {}) {
  std::istringstream in(bytes);
  return syncbn::read_safetensors(in, prefix);
}

// A file with any header.
std::string file(const std::string& header, const std::string& data = {}) {
  const std::uint64_t length = header.size();
  std::string first(sizeof(length), '\0');
  std::memcpy(first.data(), &length, sizeof(length));
  return first + header + data;
}
std::string tensor(const std::string& type, const std::string& shape, int begin, int end) {
  return R"({"dtype":")" + type + R"(","shape":)" + shape + R"(,"data_offsets":[)" + std::to_string(begin) + "," +
         std::to_string(end) + "]}";
}
std::string only(const std::string& description) { return R"({"a":)" + description + "}"; }

// Of several layers and types.
StateDict model() {
  syncbn::BatchNorm<2> bn1(3);
  syncbn::BatchNorm<1, syncbn::CpuBackend<double>> bn2(2);
  bn1.weight()[1] = 0.25F;
  bn1.set_num_batches_tracked(7);
  bn2.running_mean()[0] = 1e-300;
  StateDict dict = syncbn::state_dict(bn1, "layer1.0.bn1.");
  syncbn::append_state(bn2, dict, "layer1.0.bn2.");
  return dict;
}

}  // namespace

TEST_CASE("a dictionary is written and read", "[safetensors]") {
  const StateDict dict = model();
  const std::string bytes = written(dict);
  const StateDict same = read(bytes);
  CHECK(same.version == 2);
  REQUIRE(same.entries.size() == dict.entries.size());
  for (const auto& entry : dict.entries) CHECK((same.find(entry.name) != nullptr && *same.find(entry.name) == entry));

  const StateDict part = read(bytes, "layer1.0.bn2.");
  CHECK(part.entries.size() == 5);
  CHECK(std::get<Doubles>(part.find("layer1.0.bn2.running_mean")->values) == Doubles{1e-300, 0});
  CHECK(part.find("layer1.0.bn2.num_batches_tracked")->shape.empty());

  syncbn::BatchNorm<2> bn(3);
  syncbn::load_state_dict(bn, same, "layer1.0.bn1.");
  CHECK(bn.weight()[1] == 0.25F);
  CHECK(bn.num_batches_tracked() == 7);
  CHECK(written({}) == file(R"({"__metadata__":{"format":"pt"}})"));
  CHECK(read(written({})).entries.empty());
}

TEST_CASE("elements lie at multiples of their size", "[safetensors]") {
  const StateDict dict{2, {{"a", {3}, Floats{1, 2, 3}}, {"b", {}, Integers{4}}, {"c", {1}, Doubles{5}}}};
  const std::string bytes = written(dict);
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  CHECK(length % 8 == 0);
  const std::string data = bytes.substr(8 + length);
  REQUIRE(data.size() == 28);
  CHECK(data[0] == 4);  // the integer and the double come first
  CHECK(read(bytes).find("a")->values == dict.entries[0].values);
}

TEST_CASE("every type that a model's file may have", "[safetensors]") {
  const auto first = [](const std::string& type, const std::string& element) {
    const StateDict dict = read(file(only(tensor(type, "[1]", 0, static_cast<int>(element.size()))), element));
    return std::visit([](const auto& values) { return static_cast<double>(values.at(0)); }, dict.find("a")->values);
  };
  using namespace std::string_literals;
  CHECK(first("F16", "\x00\xc1"s) == -2.5);
  CHECK(first("BF16", "\x20\xc0"s) == -2.5);
  CHECK(first("F32", "\x00\x00\x20\xc0"s) == -2.5);
  CHECK(first("F64", "\x00\x00\x00\x00\x00\x00\x04\xc0"s) == -2.5);
  CHECK(first("I8", "\xff"s) == -1);
  CHECK(first("U8", "\xff"s) == 255);
  CHECK(first("BOOL", "\x01"s) == 1);
  CHECK(first("I16", "\xfe\xff"s) == -2);
  CHECK(first("U16", "\xfe\xff"s) == 65534);
  CHECK(first("I32", "\xfe\xff\xff\xff"s) == -2);
  CHECK(first("U32", "\xfe\xff\xff\xff"s) == 4294967294.0);
  CHECK(first("I64", "\xfe\xff\xff\xff\xff\xff\xff\xff"s) == -2);
  CHECK(first("U64", "\x07\x00\x00\x00\x00\x00\x00\x00"s) == 7);
  CHECK_THROWS_WITH(first("U64", "\x07\x00\x00\x00\x00\x00\x00\x80"s), Contains("2^63"));
  CHECK_THROWS_WITH(first("F8_E4M3", "\x07"s), "a is of the type F8_E4M3, which is not read here");

  // Where nobody wants it, a type of the future does no harm.
  const std::string later = R"({"a":)" + tensor("F4", "[3]", 0, 2) + R"(,"b":)" + tensor("F32", "[]", 2, 6) + "}";
  CHECK(read(file(later, std::string(6, '\0')), "b").entries.size() == 1);
  CHECK_FALSE(read(file(later, std::string(6, '\0')), "b").version.has_value());
}

TEST_CASE("damaged files are refused, with the reason", "[safetensors]") {
  const auto refuses = [](const std::string& bytes, const std::string& reason) {
    CHECK_THROWS_WITH(read(bytes), StartsWith("not a safetensors file: ") && Contains(reason));
  };
  const std::string f32 = tensor("F32", "[2]", 0, 8);
  const std::string data(8, '\1');
  CHECK(read(file(only(f32), data)).entries.size() == 1);

  refuses("", "no 8 bytes");
  refuses("1234567", "no 8 bytes");
  refuses(std::string(8, '\xff'), "header has no end");
  refuses(file(only(f32)).substr(0, 20), "header has no end");
  refuses(file(""), "no JSON");
  refuses(file("[]"), "begin with a brace");
  refuses(file(" {}"), "begin with a brace");
  refuses(file("{} {}"), "no JSON");
  refuses(file("{\"a\xff\":" + f32 + "}", data), "no JSON");
  refuses(file(std::string(1 << 20, '[')), "nested too deeply");
  refuses(file(R"({"a":{"dtype":"F32","shape":[[2]],"data_offsets":[0,8]}})", data), "nested too deeply");
  refuses(file(R"({"a":)" + f32 + R"(,"a":)" + f32 + "}", data), "the key a twice");
  refuses(file(R"({"a":{"dtype":"F32","dtype":"F64","shape":[2],"data_offsets":[0,8]}})", data), "the key dtype twice");
  refuses(file(only("3"), data), "not described by");
  refuses(file(only(R"({"dtype":"F32","shape":[2]})"), data), "not described by");
  refuses(file(only(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4,8]})"), data), "not described by");
  refuses(file(only(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"), data), "a number");
  refuses(file(only(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})"), data), "a number");
  refuses(file(only(R"({"dtype":"F32","shape":["2"],"data_offsets":[0,8]})"), data), "a number");
  refuses(file(only(tensor("F32", "[4294967296,4294967296]", 0, 8)), data), "too large");
  refuses(file(only(tensor("F32", "[0,18446744073709551615]", 0, 0))), "too large");
  refuses(file(only(tensor("F32", "[3]", 0, 8)), data), "do not fit its shape");
  refuses(file(only(tensor("F32", "[2]", 8, 0)), data), "do not fit its shape");
  refuses(file(only(f32), data + "x"), "8 bytes, and it has 9");
  refuses(file(only(f32), data.substr(1)), "8 bytes, and it has 7");
  refuses(file(only(tensor("F32", "[1]", 4, 8)), data), "overlap, or leave gaps");
  refuses(file(R"({"a":)" + f32 + R"(,"b":)" + tensor("F32", "[1]", 4, 8) + "}", data), "overlap, or leave gaps");
  refuses(file(R"({"__metadata__":3})"), "__metadata__");
  refuses(file(R"({"__metadata__":{"a":3}})"), "__metadata__");
  CHECK_THROWS_AS(syncbn::read_safetensors(std::filesystem::path("no/such/file")), syncbn::Error);
}

// Time must not grow with the square of the number of tensors: this would take hours.
TEST_CASE("files of very many tensors", "[safetensors]") {
  StateDict dict;
  for (int i = 100'000; i > 0; --i) dict.entries.push_back({std::to_string(i), {}, Integers{i}});
  const StateDict again = read(written(dict));
  const auto same = [](const auto& a, const auto& b) { return a == b; };
  CHECK(std::equal(again.entries.begin(), again.entries.end(), dict.entries.begin(), dict.entries.end(), same));
}

// Whatever is in the file: an error of ours or a dictionary, and nothing else; sanitizers look on.
TEST_CASE("no damage does harm", "[safetensors]") {
  const std::string whole = written(model());
  std::minstd_rand random(1);
  int refused = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = whole;
    for (auto changes = random() % 4; changes-- > 0;)
      bytes[random() % bytes.size()] = static_cast<char>(random() % 256);
    if (random() % 8 == 0) bytes.resize(random() % bytes.size());
    try {
      read(bytes);
    } catch (const syncbn::Error&) {
      ++refused;
    }
  }
  CHECK(refused > 500);
}

TEST_CASE("what cannot be written is refused before anything is", "[safetensors]") {
  const auto refuses = [](const StateDict& dict, const std::string& reason) {
    std::ostringstream out;
    CHECK_THROWS_WITH(syncbn::write_safetensors(dict, out), Contains(reason));
    CHECK(out.str().empty());
  };
  refuses(syncbn::state_dict(syncbn::LazyBatchNorm<2>()), "no values yet");
  refuses({2, {{"a", {1}, Floats{1}}, {"a", {1}, Floats{1}}}}, "there twice");
  refuses({2, {{"a", {2}, Floats{1}}}}, "other values than its shape");
  refuses({2, {{"a", {-1, -1}, Floats{1}}}}, "a negative extent");
  refuses({2, {{"a", {Index{1} << 32, Index{1} << 32}, Floats{}}}}, "other values than its shape");
  refuses({2, {{"a", {}, Floats{}}}}, "other values than its shape");
  refuses({2, {{"a\xff", {1}, Floats{1}}}}, "cannot be written");
}

TEST_CASE("a file is replaced whole or not at all", "[safetensors]") {
  const auto folder = std::filesystem::temp_directory_path() / ("syncbn_" + std::to_string(std::random_device()()));
  std::filesystem::create_directory(folder);
  const auto path = folder / "state.safetensors";
  syncbn::write_safetensors(model(), path);
  CHECK(syncbn::read_safetensors(path).entries.size() == 10);
  CHECK_THROWS_AS(syncbn::write_safetensors({2, {{"a", {2}, Floats{1}}}}, path), syncbn::Error);
  CHECK(syncbn::read_safetensors(path).entries.size() == 10);
  CHECK_THROWS_AS(syncbn::write_safetensors(model(), folder / "no" / "folder"), syncbn::Error);
  std::filesystem::create_directory(folder / "is_a_folder");
  CHECK_THROWS_AS(syncbn::write_safetensors(model(), folder / "is_a_folder"), syncbn::Error);
  CHECK(std::distance(std::filesystem::directory_iterator(folder), {}) == 2);  // nothing is left behind
  std::filesystem::remove_all(folder);
}
