#include "examples/llama/safetensors.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "kvcodec/core/error.hpp"

namespace llama {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

class Safetensors : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / (std::string("safetensors_") + test->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
  }

  // A file with this header and data.
  static std::string file(const std::string& header, const std::string& data) {
    std::string out;
    for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>((header.size() >> (8 * i)) & 255u));
    return out + header + data;
  }

  void write_model(const json& header, const std::string& data) const {
    write("model.safetensors", file(header.dump(), data));
  }

  // Expects E with every text in its message, from opening or from loading "a" as [2].
  template <class E>
  void expect_error(const std::vector<std::string>& texts) const {
    try {
      TensorStore::open(folder_).load("a", {2});
      FAIL() << "accepted";
    } catch (const kvcodec::error& e) {
      EXPECT_EQ(typeid(e), typeid(E)) << e.what();
      for (const std::string& text : texts) {
        EXPECT_NE(std::string(e.what()).find(text), std::string::npos)
            << "\"" << text << "\" is not in: " << e.what();
      }
    }
  }

  fs::path folder_;
};

json entry(const char* dtype, const json& shape, std::uint64_t begin, std::uint64_t end) {
  return {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {begin, end}}};
}

template <class T>
std::string bytes_of(std::initializer_list<T> values) {
  std::string out;
  for (const T v : values) {
    char raw[sizeof(T)];
    std::memcpy(raw, &v, sizeof(T));
    out.append(raw, sizeof(T));
  }
  return out;
}

TEST_F(Safetensors, ReadsEveryDtype) {
  const std::string data = bytes_of<float>({1.5f, -2.0f}) +
                           bytes_of<std::uint16_t>({0x3c00, 0xc100}) +  // f16 1, -2.5
                           bytes_of<std::uint16_t>({0x3f80, 0xc020});   // bf16 1, -2.5
  write_model({{"a", entry("F32", {2}, 0, 8)},
               {"b", entry("F16", {1, 2}, 8, 12)},
               {"c", entry("BF16", {2, 1}, 12, 16)},
               {"d", entry("F32", {0, 3}, 16, 16)},
               {"__metadata__", {{"format", "pt"}}}},
              data);
  const TensorStore store = TensorStore::open(folder_);
  EXPECT_EQ(store.tensors().size(), 4u);
  EXPECT_EQ(store.load("a", {2}), (std::vector<float>{1.5f, -2.0f}));
  EXPECT_EQ(store.load("b", {1, 2}), (std::vector<float>{1.0f, -2.5f}));
  EXPECT_EQ(store.load("c", {2, 1}), (std::vector<float>{1.0f, -2.5f}));
  EXPECT_TRUE(store.load("d", {0, 3}).empty());
}

TEST_F(Safetensors, ReadsShards) {
  write("x.safetensors", file(json{{"a", entry("F32", {1}, 0, 4)}}.dump(), bytes_of({1.0f})));
  write("y.safetensors", file(json{{"b", entry("F32", {1}, 0, 4)}}.dump(), bytes_of({2.0f})));
  const json map = {{"a", "x.safetensors"}, {"b", "y.safetensors"}};
  write("model.safetensors.index.json", json{{"weight_map", map}}.dump());
  const TensorStore store = TensorStore::open(folder_);
  EXPECT_EQ(store.load("a", {1}), std::vector<float>{1.0f});
  EXPECT_EQ(store.load("b", {1}), std::vector<float>{2.0f});
}

TEST_F(Safetensors, RefusesBadIndex) {
  expect_error<kvcodec::invalid_argument>({"model.safetensors.index.json"});
  write("model.safetensors.index.json", "{");
  expect_error<kvcodec::corrupt_data>({"the index is not a JSON object"});
  write("model.safetensors.index.json", "{}");
  expect_error<kvcodec::corrupt_data>({"no weight_map"});
  write("model.safetensors.index.json", R"({"weight_map": {"a": "../x.safetensors"}})");
  expect_error<kvcodec::corrupt_data>({"../x.safetensors", "a file name"});
  write("model.safetensors.index.json", R"({"weight_map": {"a": "x.safetensors"}})");
  expect_error<kvcodec::corrupt_data>({"x.safetensors", "cannot be read"});
  write("x.safetensors", file(json{{"b", entry("F32", {1}, 0, 4)}}.dump(), bytes_of({1.0f})));
  expect_error<kvcodec::corrupt_data>({"tensor a is not in \"x.safetensors\""});
}

TEST_F(Safetensors, NamesMissingTensorAndWrongShape) {
  write_model({{"a", entry("F32", {1, 2}, 0, 8)}}, std::string(8, '\0'));
  expect_error<kvcodec::corrupt_data>({"tensor a has shape [1, 2], expected [2]"});
  write_model({{"b", entry("F32", {2}, 0, 8)}}, std::string(8, '\0'));
  expect_error<kvcodec::corrupt_data>({"tensor a is missing, expected shape [2]"});
  write_model({{"a", entry("I64", {2}, 0, 16)}}, std::string(16, '\0'));
  expect_error<kvcodec::unsupported>({"tensor a has dtype I64", "F32, F16, BF16"});
}

TEST_F(Safetensors, RefusesEveryTruncation) {
  const std::string whole =
      file(json{{"a", entry("F32", {2}, 0, 8)}}.dump(), bytes_of({1.0f, 2.0f}));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    write("model.safetensors", whole.substr(0, size));
    EXPECT_THROW(TensorStore::open(folder_), kvcodec::corrupt_data) << "cut to " << size;
  }
  write("model.safetensors", whole);
  EXPECT_NO_THROW(TensorStore::open(folder_).load("a", {2}));
  write("model.safetensors", whole + "x");
  expect_error<kvcodec::corrupt_data>({"1 bytes behind the last tensor"});
}

TEST_F(Safetensors, RefusesBadHeaders) {
  using Bad = kvcodec::corrupt_data;
  write("model.safetensors", bytes_of<std::uint64_t>({~0ull}) + "{}");
  expect_error<Bad>({"header length 18446744073709551615", "at most 2"});
  write("model.safetensors", file("[]", ""));
  expect_error<Bad>({"not a JSON object"});
  const std::string data(16, '\0');
  const auto check = [&](const json& header, const std::vector<std::string>& texts) {
    write_model(header, data);
    expect_error<Bad>(texts);
  };
  check({{"a", 1}}, {"tensor a", "not a JSON object"});
  check({{"a", {{"shape", {2}}, {"data_offsets", {0, 8}}}}}, {"tensor a", "dtype"});
  check({{"a", entry("F99", {2}, 0, 8)}}, {"tensor a", "F99"});
  check({{"a", {{"dtype", "F32"}, {"shape", 2}, {"data_offsets", {0, 8}}}}}, {"shape"});
  check({{"a", entry("F32", {-2}, 0, 8)}}, {"tensor a", "bad size"});
  check({{"a", entry("F32", {1ull << 40, 1ull << 40}, 0, 8)}}, {"tensor a", "too large"});
  check({{"a", entry("F32", {2}, 0, 32)}}, {"tensor a", "16 bytes of data", "truncated"});
  check({{"a", entry("F32", {2}, 8, 0)}}, {"tensor a", "data_offsets"});
  check({{"a", entry("F32", {3}, 0, 8)}}, {"tensor a", "hold 8 bytes", "needs 12"});
  check({{"a", entry("F32", {2}, 0, 8)}, {"b", entry("F32", {2}, 4, 12)}}, {"overlap"});
  check({{"a", entry("F32", {1}, 0, 4)}, {"b", entry("F32", {2}, 8, 16)}}, {"gap"});
}

}  // namespace
}  // namespace llama
