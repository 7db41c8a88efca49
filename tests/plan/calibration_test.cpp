// Calibration files: round trips, and a message for every field that is wrong.
#include "kvcodec/plan/calibration.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/support/codecs.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::contains;
using test::message_of;

constexpr std::size_t kValues = 3 * 2 * 64;

SideCalibration make_side(std::uint64_t seed) {
  test::Random random(seed);
  SideCalibration side;
  side.bits = 2;
  side.group = 64;
  for (std::size_t i = 0; i < kValues; ++i) {
    side.shift.push_back(static_cast<float>(random.gauss() * std::exp(9.0 * random.gauss())));
    side.scale.push_back(static_cast<float>(std::exp(9.0 * random.gauss())));
  }
  side.clip = {1.0f, 0.92f, 0.1f};
  return side;
}

Calibration make_calibration() {
  Calibration c;
  c.model = "a \"model\"\n";
  c.made_by = "by hand";
  c.n_layers = 3;
  c.n_kv_heads = 2;
  c.head_dim = 64;
  c.k = make_side(1);
  c.v = make_side(2);
  c.v.bits = 4;
  c.weights = "w4:g128";
  c.weight_clip = {1.0f, 0.95f, 0.9f};
  return c;
}

void expect_equal(const SideCalibration& a, const SideCalibration& b) {
  EXPECT_EQ(a.bits, b.bits);
  EXPECT_EQ(a.group, b.group);
  EXPECT_EQ(a.shift, b.shift);
  EXPECT_EQ(a.scale, b.scale);
  EXPECT_EQ(a.clip, b.clip);
}

class CalibrationFile : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) / ("calibration-" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path file() const { return folder_ / "c.json"; }
  std::string text() const {
    std::ifstream in(file());
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::string refusal_of_text(const std::string& content) const {
    std::ofstream(file()) << content;
    return message_of<corrupt_data>([&] { read_calibration(file()); });
  }
  // The message when a good file is changed by `change`.
  std::string refusal(const std::function<void(json&)>& change) const {
    write_calibration(make_calibration(), file());
    json root = json::parse(text());
    change(root);
    return refusal_of_text(root.dump());
  }

  fs::path folder_;
};

TEST_F(CalibrationFile, BringsBackEveryBit) {
  const Calibration c = make_calibration();
  write_calibration(c, file());
  const Calibration read = read_calibration(file());
  EXPECT_EQ(read.model, c.model);
  EXPECT_EQ(read.made_by, c.made_by);
  EXPECT_EQ(read.n_layers, 3);
  EXPECT_EQ(read.n_kv_heads, 2);
  EXPECT_EQ(read.head_dim, 64);
  EXPECT_EQ(read.weights, c.weights);
  EXPECT_EQ(read.weight_clip, c.weight_clip);
  expect_equal(read.k, c.k);
  expect_equal(read.v, c.v);
}

TEST_F(CalibrationFile, AccessorsCutOutOneLayer) {
  const Calibration c = make_calibration();
  const ChannelScales scales = c.scales(Side::value, 2);
  EXPECT_EQ(scales.scale, c.v.scale.data() + 2 * 2 * 64);
  EXPECT_EQ(scales.n_kv_heads, 2);
  EXPECT_EQ(scales.head_dim, 64);
  EXPECT_EQ(c.shift(Side::key, 1).data(), c.k.shift.data() + 2 * 64);
  EXPECT_EQ(c.shift(Side::key, 1).size(), 2u * 64u);
  EXPECT_EQ(c.clip(Side::key, 1), 0.92f);
}

TEST_F(CalibrationFile, IsWrittenWholeOrNotAtAll) {
  write_calibration(make_calibration(), file());
  const std::string before = text();
  Calibration bad = make_calibration();
  bad.v.scale[0] = 0.0f;
  EXPECT_THROW(write_calibration(bad, file()), invalid_argument);
  EXPECT_EQ(text(), before);
  EXPECT_THROW(write_calibration(make_calibration(), folder_ / "gone" / "c.json"), error);
  EXPECT_THROW(write_calibration(make_calibration(), folder_), error) << "a folder is no file";
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator{}), 1)
      << "a temporary file was left behind";
}

TEST_F(CalibrationFile, ValuesOutOfRangeAreNamed) {
  const auto refusal_of = [](const std::function<void(Calibration&)>& change) {
    Calibration c = make_calibration();
    change(c);
    return message_of<invalid_argument>([&] { check(c); });
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(contains(refusal_of([](auto& c) { c.k.scale[64 + 3] = -1.0f; }),
                       {"k.scale[0][1][3]", "-1", "above 0"}));
  EXPECT_TRUE(contains(refusal_of([&](auto& c) { c.v.scale[2 * 128] = nan; }),
                       {"v.scale[2][0][0]", "above 0"}));
  EXPECT_TRUE(
      contains(refusal_of([&](auto& c) { c.k.shift[0] = nan; }), {"k.shift[0][0][0]", "finite"}));
  EXPECT_TRUE(contains(refusal_of([](auto& c) { c.k.clip[1] = 0.0f; }), {"k.clip[1]", "above 0"}));
  EXPECT_TRUE(contains(refusal_of([](auto& c) { c.v.clip[2] = 1.01f; }), {"v.clip[2]", "1.01"}));
  EXPECT_TRUE(contains(refusal_of([](auto& c) { c.v.clip.pop_back(); }), {"v.clip", "2 numbers"}));
  EXPECT_TRUE(contains(refusal_of([](auto& c) { c.v.shift.pop_back(); }), {"v.shift", "384"}));
  EXPECT_TRUE(contains(refusal_of([](auto& c) { c.k.bits = 9; }), {"k.bits", "9", "1..8"}));
  EXPECT_TRUE(contains(refusal_of([](auto& c) { c.k.group = 0; }), {"k.group", "1..256"}));
  EXPECT_TRUE(contains(refusal_of([](auto& c) { c.head_dim = 32; }), {"head_dim", "64..256"}));
  EXPECT_TRUE(contains(refusal_of([](auto& c) { c.weights = ""; }), {"weights.clip", "3 numbers"}));
  EXPECT_TRUE(contains(refusal_of([](auto& c) { c.weight_clip[0] = 0.0f; }), {"weights.clip[0]"}));
}

TEST_F(CalibrationFile, DamagedFilesAreRefusedByField) {
  EXPECT_TRUE(contains(refusal_of_text("{\"format\": "), {file().string()}));
  EXPECT_TRUE(contains(refusal_of_text("[]"), {"format"}));
  EXPECT_TRUE(contains(refusal([](json& j) { j["format"] = "other"; }), {"format", "other"}));
  EXPECT_TRUE(contains(refusal([](json& j) { j["version"] = 2; }), {"version", "2", "1..1"}));
  EXPECT_TRUE(contains(refusal([](json& j) { j["version"] = "1"; }), {"version", "whole number"}));
  for (const char* name :
       {"format", "version", "model", "made_by", "n_layers", "n_kv_heads", "head_dim", "k", "v"}) {
    EXPECT_TRUE(contains(refusal([&](json& j) { j.erase(name); }), {name, "nothing"})) << name;
  }
  for (const char* name : {"bits", "group", "clip", "shift", "scale"}) {
    EXPECT_TRUE(contains(refusal([&](json& j) { j["v"].erase(name); }),
                         {std::string("v.") + name, "nothing"}));
  }
  EXPECT_TRUE(contains(refusal([](json& j) { j["k"]["scale"][1][0].erase(0); }),
                       {"k.scale[1][0]", "63", "64"}));
  EXPECT_TRUE(contains(refusal([](json& j) { j["k"]["shift"].erase(0); }), {"k.shift", "2 lists"}));
  EXPECT_TRUE(
      contains(refusal([](json& j) { j["k"]["shift"][0] = 3; }), {"k.shift[0]", "2 lists"}));
  EXPECT_TRUE(contains(refusal([](json& j) { j["k"]["scale"][0][0][5] = "x"; }),
                       {"k.scale[0][0]", "numbers"}));
  EXPECT_TRUE(contains(refusal([](json& j) { j["k"]["scale"][0][0][5] = 1e300; }),
                       {"k.scale[0][0][5]", "finite"}));
  EXPECT_TRUE(contains(refusal([](json& j) { j["n_layers"] = 4; }), {"k.clip", "4"}));
  EXPECT_TRUE(contains(refusal([](json& j) { j["weights"] = 1; }), {"weights.format"}));
  EXPECT_TRUE(contains(message_of<invalid_argument>([&] { read_calibration(folder_ / "gone"); }),
                       {"gone", "readable"}));
  EXPECT_THROW(read_calibration(folder_), invalid_argument);
}

TEST_F(CalibrationFile, UnknownFieldsAreIgnored) {
  write_calibration(make_calibration(), file());
  json root = json::parse(text());
  root["later"] = {1, 2};
  root.erase("weights");
  std::ofstream(file()) << root.dump();
  EXPECT_EQ(read_calibration(file()).weights, "");
}

TEST_F(CalibrationFile, OtherModelsAreRefused) {
  const Calibration c = make_calibration();
  EXPECT_NO_THROW(check_fits(c, {8, 2, 64}, 3));
  const auto refusal_for = [&](HeadShape shape, int n_layers) {
    return message_of<invalid_argument>([&] { check_fits(c, shape, n_layers); });
  };
  EXPECT_TRUE(contains(refusal_for({8, 2, 64}, 4), {"n_layers", "3", "4"}));
  EXPECT_TRUE(contains(refusal_for({8, 4, 64}, 3), {"n_kv_heads", "2", "4"}));
  EXPECT_TRUE(contains(refusal_for({8, 2, 128}, 3), {"head_dim", "64", "128"}));
}

}  // namespace
}  // namespace kvcodec
