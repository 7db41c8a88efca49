// The .npy reader: what it reads, and that it refuses what it must not read.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <unistd.h>

#include "src/verify/npy.hpp"

namespace kvcodec::golden {
namespace {

namespace fs = std::filesystem;

class Npy : public ::testing::Test {
 protected:
  void SetUp() override {
    file_ = fs::temp_directory_path() /
            ("kvcodec-npy-" + std::to_string(::getpid()) + "-" +
             ::testing::UnitTest::GetInstance()->current_test_info()->name() + ".npy");
  }
  void TearDown() override { fs::remove(file_); }

  // Writes a file of any version from its header's text and data.
  void write(int major, const std::string& header, const std::string& data) const {
    std::string bytes = "\x93NUMPY";
    bytes += static_cast<char>(major);
    bytes += '\0';
    for (int i = 0; i < (major == 1 ? 2 : 4); ++i) {
      bytes += static_cast<char>((header.size() >> (8 * i)) & 0xff);
    }
    write(bytes + header + data);
  }
  void write(const std::string& bytes) const { std::ofstream(file_, std::ios::binary) << bytes; }
  static std::string header(const std::string& descr, const std::string& shape,
                            const std::string& order = "False") {
    return "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }\n";
  }
  std::string refusal() const {
    try {
      read_npy(file_);
    } catch (const corrupt_data& e) {
      const std::string text = e.what();
      EXPECT_EQ(text.find(file_.string()), 0u) << "does not start with the file: " << text;
      return text;
    }
    return "read without complaint";
  }
  void expect_refused(const std::string& words) const {
    EXPECT_NE(refusal().find(words), std::string::npos) << refusal();
  }

  fs::path file_;
};

TEST_F(Npy, ReadsWhatItWrites) {
  write_npy(file_, make_array<float>("f4", {2, 3}, {0.0f, 1.5f, -2.0f, 1e-40f, 3e38f, 7.0f}));
  const Array array = read_npy(file_);
  EXPECT_EQ(array.dtype, "f4");
  EXPECT_EQ(array.shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(array.floats(), (std::vector<float>{0.0f, 1.5f, -2.0f, 1e-40f, 3e38f, 7.0f}));
  EXPECT_EQ(array.doubles()[1], 1.5);
  EXPECT_THROW(array.integers(), corrupt_data);
  EXPECT_EQ(fs::file_size(file_) % 64, 24u) << "data does not start at a multiple of 64";
}

TEST_F(Npy, ReadsEveryType) {
  write_npy(file_, make_array<std::uint16_t>("f2", {3}, {0x3c00, 0xc000, 0x0001}));
  EXPECT_EQ(read_npy(file_).floats(), (std::vector<float>{1.0f, -2.0f, 0x1p-24f}));
  write_npy(file_, make_array<double>("f8", {1}, {0.1}));
  EXPECT_EQ(read_npy(file_).doubles()[0], 0.1);
  write_npy(file_, make_array<std::int8_t>("i1", {2}, {-128, 127}));
  EXPECT_EQ(read_npy(file_).integers(), (std::vector<std::int64_t>{-128, 127}));
  write_npy(file_, make_array<std::uint8_t>("u1", {1}, {255}));
  EXPECT_EQ(read_npy(file_).integers()[0], 255);
  write_npy(file_, make_array<std::int16_t>("i2", {1}, {-30000}));
  EXPECT_EQ(read_npy(file_).integers()[0], -30000);
  write_npy(file_, make_array<std::uint16_t>("u2", {1}, {60000}));
  EXPECT_EQ(read_npy(file_).integers()[0], 60000);
  write_npy(file_, make_array<std::uint32_t>("u4", {1}, {4000000000u}));
  EXPECT_EQ(read_npy(file_).integers()[0], 4000000000);
  write_npy(file_, make_array<std::int64_t>("i8", {}, {-5}));
  EXPECT_EQ(read_npy(file_).integers()[0], -5);
  EXPECT_TRUE(read_npy(file_).shape.empty());
  write_npy(file_, make_array<std::uint64_t>("u8", {1}, {~std::uint64_t{0}}));
  EXPECT_THROW(read_npy(file_).integers(), corrupt_data);
  EXPECT_THROW(read_npy(file_).floats(), corrupt_data);
}

TEST_F(Npy, ReadsFormat2AndEmptyArrays) {
  write(2, header("<f4", "(1,)"), std::string("\0\0\x80\x3f", 4));
  EXPECT_EQ(read_npy(file_).floats(), std::vector<float>{1.0f});
  write(1, header("<f4", "(3, 0, 99999999999)"), "");
  EXPECT_EQ(read_npy(file_).size(), 0);
}

TEST_F(Npy, RefusesOtherFormats) {
  expect_refused("cannot be opened");
  write("");
  expect_refused("start = not");
  write("PK\x03\x04 a zip file");
  expect_refused("start = not");
  write(3, header("<f4", "(1,)"), "1234");
  expect_refused("format = 3.0, allowed: 1.0 or 2.0");
}

TEST_F(Npy, RefusesOrdersAndTypesItCannotRead) {
  write(1, header("<f4", "(1,)", "True"), "1234");
  expect_refused("fortran_order = True, allowed: False");
  write(1, header(">f4", "(1,)"), "1234");
  expect_refused("descr = '>f4', allowed: ");
  write(1, header("|O", "(1,)"), "12345678");
  expect_refused("descr = '|O', allowed: ");
  write(1, header("<c8", "(1,)"), "12345678");
  expect_refused("descr = '<c8', allowed: ");
  write(1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }\n", "1234");
  expect_refused("descr = ");
  write(1, "{'fortran_order': False, 'shape': (1,), }\n", "1234");
  expect_refused("header = ");
}

TEST_F(Npy, RefusesSizesThatDoNotFit) {
  write(1, header("<f4", "(2,)"), "1234567");
  expect_refused("data bytes = 7, allowed: 8 for shape [2] of f4");
  write(1, header("<f4", "(1,)"), "12345");
  expect_refused("data bytes = 5, allowed: 4");
  write(1, header("<f4", "(4294967296, 4294967296)"), "1234");
  expect_refused("allowed: up to 2^40 bytes");
  write(1, header("<f4", "(99999999999999999999999999,)"), "1234");
  expect_refused("allowed: up to 2^40 bytes");
  write(1, header("<f4", "(-1,)"), "1234");
  expect_refused("allowed: a tuple of sizes >= 0");
  write(1, header("<f4", "1"), "1234");
  expect_refused("allowed: a tuple of sizes >= 0");
}

TEST_F(Npy, RefusesTruncationAnywhereInTheHeader) {
  write(1, header("<f4", "(1,)"), "1234");
  const std::uintmax_t size = fs::file_size(file_);
  for (std::uintmax_t n = size - 1;; --n) {
    fs::resize_file(file_, n);
    EXPECT_NE(refusal(), "read without complaint") << n << " bytes";
    if (n == 0) break;
  }
}

}  // namespace
}  // namespace kvcodec::golden
