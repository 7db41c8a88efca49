// fp8 to the letter: the vendors' codes, static and per-row scales, saturation, limits.
#include "kvcodec/codec/fp8.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/codecs.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

constexpr int kDim = 64;
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Tile {
  std::vector<float> x = std::vector<float>(kTileRows * kDim, 0.0f);
  std::vector<std::byte> bytes;
  std::vector<float> y;
  bool finite = true;

  float& at(int row, int channel) { return x[static_cast<std::size_t>(row * kDim + channel)]; }
  void run(const std::string& options, Side side = Side::key) {
    const Fp8 codec = Fp8::parse(options);
    bytes.assign(codec.tile_bytes(kDim), std::byte{0xee});
    y.assign(x.size(), kNan);
    finite = codec.encode_tile(side, kDim, x.data(), bytes.data());
    codec.decode_tile(side, kDim, bytes.data(), y.data());
  }
  std::uint32_t code(int row, int channel, Side side = Side::key) const {
    return TileLayout{side, 8, kDim}.get(bytes.data(), row, channel);
  }
  float scale(int row) const {
    return to_f32(f16{get_scale(bytes.data() + kTileRows * kDim, row)});
  }
  float value(int row, int channel) const {
    return y[static_cast<std::size_t>(row * kDim + channel)];
  }
};

TEST(Fp8, SizeIsOneBytePerValueAndPerhapsOneScalePerRow) {
  for (const int head_dim : test::kHeadDims) {
    EXPECT_TRUE(Fp8{}.supports(head_dim));
    EXPECT_EQ(Fp8{}.tile_bytes(head_dim), static_cast<std::size_t>(64 * head_dim));
    EXPECT_EQ(Fp8::parse("row").tile_bytes(head_dim),
              static_cast<std::size_t>(64 * head_dim + 128));
  }
  EXPECT_FALSE(Fp8{}.supports(72));
  EXPECT_FALSE(Fp8{}.supports(48));
  EXPECT_FALSE(Fp8{}.supports(272));
}

// A row as engines store it, one byte per channel in order, and its values from the published table.
TEST(Fp8, CodesAreTheVendorsBytes) {
  constexpr std::uint8_t linear[12] = {0x00, 0x01, 0x07, 0x08, 0x38, 0x3c,
                                       0x40, 0x7e, 0x80, 0xb8, 0xc4, 0xfe};
  constexpr float values[12] = {0.0f, 0x1p-9f, 0x1.cp-7f, 0x1p-6f, 1.0f,  1.5f,
                                2.0f, 448.0f,  -0.0f,     -1.0f,   -3.0f, -448.0f};
  for (const Side side : test::kSides) {
    for (const auto& [options, s] : {std::pair{"", 1.0f}, {"s0.25", 0.25f}, {"s8", 8.0f}}) {
      Tile tile;
      for (int c = 0; c < 12; ++c) tile.at(33, c) = values[c] * s;
      tile.run(options, side);
      std::vector<std::byte> from_vendor(tile.bytes.size(), std::byte{0});
      std::uint8_t row[kDim] = {};
      for (int c = 0; c < 12; ++c) {
        row[c] = linear[c];
        EXPECT_EQ(tile.code(33, c, side), linear[c]) << options << ", channel " << c;
        EXPECT_EQ(tile.value(33, c), values[c] * s) << options << ", channel " << c;
        EXPECT_EQ(std::signbit(tile.value(33, c)), std::signbit(values[c]));
      }
      TileLayout{side, 8, kDim}.put_row(from_vendor.data(), 33, row);
      EXPECT_EQ(from_vendor, tile.bytes) << "the vendor's bytes in tile order are the tile";
    }
  }
}

TEST(Fp8, StaticCodesAreTheConvertedQuotients) {
  for (const std::string options : {"s1", "s0.0123", "s3e-5", "s100"}) {
    const float s = Fp8::parse(options).scale;
    Tile tile;
    tile.x = test::make_rows(test::Input::lognormal, kTileRows, kDim, 8);
    for (float& x : tile.x) x *= s;
    tile.run(options);
    for (int row = 0; row < kTileRows; ++row) {
      for (int c = 0; c < kDim; ++c) {
        const e4m3 want = to_e4m3(tile.at(row, c) / s);
        ASSERT_EQ(tile.code(row, c), want.bits) << options;
        ASSERT_EQ(tile.value(row, c), to_f32(want) * s) << options;
      }
    }
  }
}

// At the boundaries between codes a multiplication by 1 / s would choose others.
TEST(Fp8, DividesByTheScale) {
  test::Random random(77);
  int disagreements = 0;
  for (int trial = 0; trial < 20; ++trial) {
    const auto s = static_cast<float>(0.001 + random.uniform());
    Tile tile;
    for (int i = 0; i < 3 * 0x7e; ++i) {  // three values at every midpoint of two codes
      const auto code = static_cast<std::uint8_t>(i / 3);
      const float low = to_f32(e4m3{code});
      const float high = to_f32(e4m3{static_cast<std::uint8_t>(code + 1)});
      const float x = 0.5f * (low + high) * s;
      tile.x[static_cast<std::size_t>(i)] = std::nextafter(x, i % 3 == 0   ? 0.0f
                                                              : i % 3 == 1 ? x
                                                                           : kInf);
    }
    tile.run("s" + format_float(s));
    for (int i = 0; i < 3 * 0x7e; ++i) {
      const float x = tile.x[static_cast<std::size_t>(i)];
      ASSERT_EQ(tile.code(i / kDim, i % kDim), to_e4m3(x / s).bits);
      disagreements += to_e4m3(x / s).bits != to_e4m3(x * (1.0f / s)).bits ? 1 : 0;
    }
  }
  EXPECT_GT(disagreements, 0) << "the test would not notice a reciprocal";
}

TEST(Fp8, StaticSaturatesAndUnderflows) {
  Tile tile;
  const float in[] = {448.0f, 465.0f, 1e9f, -3e38f, 0x1p-10f, -0x1p-10f, 0x1.8p-10f, 1e-40f};
  const float out[] = {448.0f, 448.0f, 448.0f, -448.0f, 0.0f, -0.0f, 0x1p-9f, 0.0f};
  for (int c = 0; c < 8; ++c) tile.at(2, c) = in[c];
  tile.run("");
  EXPECT_TRUE(tile.finite);
  for (int c = 0; c < 8; ++c) EXPECT_EQ(tile.value(2, c), out[c]) << in[c];
  tile.run("s1e-30");  // quotients overflow to infinity
  EXPECT_EQ(tile.value(2, 2), 448.0f * 1e-30f);
  EXPECT_EQ(tile.value(2, 3), -448.0f * 1e-30f);
  tile.run("s1e30");
  EXPECT_EQ(tile.value(2, 0), 0.0f);
  EXPECT_EQ(tile.value(2, 3), -448.0f * 1e30f);
}

TEST(Fp8, ARowScaleNeverClipsTheMaximum) {
  test::Random random(4);
  Tile tile;
  for (int trial = 0; trial < 50; ++trial) {
    for (int row = 0; row < kTileRows; ++row) {
      tile.at(row, 3) = static_cast<float>(std::exp(24.0 * random.uniform() - 8.0));
      tile.at(row, 4) = -tile.at(row, 3);
    }
    tile.run("row");
    for (int row = 0; row < kTileRows; ++row) {
      const float largest = tile.at(row, 3);
      const float s = tile.scale(row);
      ASSERT_GE(448.0f * s, largest);
      const float below = to_f32(f16{static_cast<std::uint16_t>(to_f16(s).bits - 1)});
      ASSERT_LT(448.0f * below, largest) << "the scale is larger than needed";
      ASSERT_EQ(tile.code(row, 3), to_e4m3(largest / s).bits);
      ASSERT_LE(std::fabs(tile.value(row, 3) - largest), largest / 16.0f * 1.0001f);
      ASSERT_EQ(tile.value(row, 4), -tile.value(row, 3));
    }
  }
}

TEST(Fp8, RowLimitsAndTinyRows) {
  Tile tile;
  tile.at(0, 0) = 448.0f * 65504.0f;
  tile.at(1, 0) = 3e38f;
  tile.at(1, 1) = 448.0f * 65504.0f;
  tile.at(2, 0) = -3e38f;
  tile.at(3, 0) = 0x1p-25f * 448.0f;  // the scale rounds to zero
  tile.at(3, 1) = -1e-9f;
  tile.at(4, 0) = 0x1p-24f * 448.0f;  // the smallest scale
  tile.run("row");
  EXPECT_TRUE(tile.finite);
  EXPECT_EQ(tile.value(0, 0), 448.0f * 65504.0f);
  EXPECT_EQ(tile.value(1, 0), 448.0f * 65504.0f);
  EXPECT_EQ(tile.value(1, 1), 448.0f * 65504.0f);
  EXPECT_EQ(tile.value(2, 0), -448.0f * 65504.0f);
  EXPECT_EQ(tile.scale(3), 0.0f);
  EXPECT_EQ(tile.code(3, 0), 0u);
  EXPECT_EQ(tile.code(3, 1), 0u);
  EXPECT_EQ(tile.value(4, 0), 0x1p-24f * 448.0f);
  EXPECT_EQ(tile.scale(5), 0.0f);
}

TEST(Fp8, NonFiniteValuesSpoilNobody) {
  for (const auto& [options, limit] : {std::pair{"", 448.0f}, {"row", 448.0f * 65504.0f}}) {
    for (const float bad : {kNan, kInf, -kInf}) {
      Tile with;
      with.x = test::gauss_rows(kTileRows, kDim, 6);
      Tile clean = with;
      with.at(11, 7) = bad;
      with.run(options);
      clean.at(11, 7) = std::isnan(bad) ? 0.0f : bad > 0.0f ? limit : -limit;
      clean.run(options);
      EXPECT_FALSE(with.finite);
      EXPECT_TRUE(clean.finite);
      EXPECT_EQ(with.bytes, clean.bytes);
      EXPECT_EQ(with.value(11, 7), clean.at(11, 7));
    }
  }
}

TEST(Fp8, Options) {
  EXPECT_EQ(Fp8::parse("").name(), "fp8:s1");
  EXPECT_EQ(Fp8::parse("s0.0123").name(), "fp8:s0.0123");
  EXPECT_EQ(Fp8::parse("row").name(), "fp8:row");
  for (const std::string bad :
       {"s", "s0", "s-1", "snan", "sinf", "s1x", "rows", "g64", "s1:row", "row:s1", "1"}) {
    EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([&] { Fp8::parse(bad); }),
                               {"fp8", "\"" + bad + "\"", "1e-30..1e30", "row"}))
        << bad;
  }
}

}  // namespace
}  // namespace kvcodec
