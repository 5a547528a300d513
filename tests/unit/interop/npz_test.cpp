#include <syncbn/interop/npz.hpp>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/batch_norm.hpp>
#include <syncbn/lazy.hpp>
#include <syncbn/state_dict.hpp>

#include "support/catch.hpp"

using Catch::Matchers::Contains;
using syncbn::StateDict;

namespace {

using Floats = std::vector<float>;

struct Folder {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("syncbn_" + std::to_string(std::random_device()()));
  Folder() { std::filesystem::create_directory(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path); }
};

// What an archive has under a name, stored without compression.
std::string content(const std::filesystem::path& file, const std::string& name) {
  const std::unique_ptr<zip_t, decltype(&zip_discard)> archive(zip_open(file.c_str(), ZIP_RDONLY, nullptr),
                                                               zip_discard);
  REQUIRE(archive != nullptr);
  zip_stat_t stat;
  REQUIRE(zip_stat(archive.get(), name.c_str(), 0, &stat) == 0);
  CHECK(stat.comp_method == ZIP_CM_STORE);
  std::string bytes(stat.size, '\0');
  zip_file_t* const in = zip_fopen(archive.get(), name.c_str(), 0);
  REQUIRE(in != nullptr);
  CHECK(zip_fread(in, bytes.data(), stat.size) == static_cast<zip_int64_t>(stat.size));
  zip_fclose(in);
  return bytes;
}

}  // namespace

// NumPy itself reads such a file in the test python.npz.
TEST_CASE("a dictionary becomes arrays for NumPy", "[npz]") {
  syncbn::BatchNorm<2> bn(3);
  syncbn::BatchNorm<1, syncbn::CpuBackend<double>> precise(1);
  bn.weight()[2] = -2.5F;
  bn.set_num_batches_tracked(258);
  StateDict dict = syncbn::state_dict(bn, "layer1.bn1.");
  syncbn::append_state(precise, dict, "layer1.bn2.");
  const Folder folder;
  const auto file = folder.path / "state.npz";
  syncbn::write_npz(dict, file);
  syncbn::write_npz(dict, file);  // again, over the first

  const auto check = [&](const std::string& name, const std::string& header, const std::string& data) {
    const std::string bytes = content(file, name + ".npy");
    const auto begin = static_cast<std::size_t>(static_cast<unsigned char>(bytes.at(8))) + 10;
    CHECK(bytes.substr(0, 8) == std::string("\x93NUMPY\x01\x00", 8));
    CHECK(bytes.at(9) == 0);
    CHECK(begin % 64 == 0);
    CHECK(bytes.substr(10, header.size()) == header);
    CHECK(bytes.substr(10 + header.size(), begin - 10 - header.size()) ==
          std::string(begin - 11 - header.size(), ' ') + "\n");
    CHECK(bytes.substr(begin) == data);
  };
  using namespace std::string_literals;
  check("layer1.bn1.weight", "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }",
        "\0\0\x80\x3f\0\0\x80\x3f\0\0\x20\xc0"s);
  check("layer1.bn1.num_batches_tracked", "{'descr': '<i8', 'fortran_order': False, 'shape': (), }",
        "\2\1\0\0\0\0\0\0"s);
  check("layer1.bn2.running_var", "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", "\0\0\0\0\0\0\xf0\x3f"s);
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path), {}) == 1);
}

TEST_CASE("what cannot be written for NumPy is refused, and the old file stays", "[npz]") {
  const Folder folder;
  const auto file = folder.path / "state.npz";
  syncbn::write_npz({2, {{"a", {1}, Floats{1}}}}, file);
  const auto size = std::filesystem::file_size(file);
  const auto refuses = [&](const StateDict& dict, const std::string& reason) {
    CHECK_THROWS_WITH(syncbn::write_npz(dict, file), Contains(reason));
    CHECK(std::filesystem::file_size(file) == size);
  };
  refuses({}, "without entries");
  refuses({2, {{"a", {2}, Floats{1}}}}, "other values than its shape");
  refuses({2, {{"a", {-1, -1}, Floats{1}}}}, "a negative extent");
  refuses({2, {{"a", {std::int64_t{1} << 32, std::int64_t{1} << 32}, Floats{}}}}, "other values than its shape");
  refuses({2, {{"a", {1}, Floats{1}}, {"a", {1}, Floats{1}}}}, "a cannot be written: File already exists");
  refuses({2, {{"a\xff", {1}, Floats{1}}}}, "cannot be written");
  refuses(syncbn::state_dict(syncbn::LazyBatchNorm<2>()), "no values yet");
  CHECK_THROWS_AS(syncbn::write_npz({2, {{"a", {1}, Floats{1}}}}, folder.path / "no" / "folder.npz"), syncbn::Error);
  CHECK_THROWS_AS(syncbn::write_npz({2, {{"a", {1}, Floats{1}}}}, folder.path), syncbn::Error);
}
