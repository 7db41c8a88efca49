// int8 to the letter: scales that never clip, ties to even, limits.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kvcodec/codec/int8_token.hpp"
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
  void run(Side side = Side::key) {
    bytes.assign(Int8Token{}.tile_bytes(kDim), std::byte{0xee});
    y.assign(x.size(), kNan);
    finite = Int8Token{}.encode_tile(side, kDim, x.data(), bytes.data());
    Int8Token{}.decode_tile(side, kDim, bytes.data(), y.data());
  }
  int code(int row, int channel, Side side = Side::key) const {
    return static_cast<std::int8_t>(TileLayout{side, 8, kDim}.get(bytes.data(), row, channel));
  }
  float scale(int row) const {
    return to_f32(f16{get_scale(bytes.data() + kTileRows * kDim, row)});
  }
  float value(int row, int channel) const {
    return y[static_cast<std::size_t>(row * kDim + channel)];
  }
};

TEST(Int8, SizeIsCodesAndOneScalePerRow) {
  for (const int head_dim : test::kHeadDims) {
    EXPECT_TRUE(Int8Token{}.supports(head_dim));
    EXPECT_EQ(Int8Token{}.tile_bytes(head_dim), static_cast<std::size_t>(64 * (head_dim + 2)));
  }
  EXPECT_FALSE(Int8Token{}.supports(72));
  EXPECT_FALSE(Int8Token{}.supports(48));
}

TEST(Int8, CodesRoundToEven) {
  for (const Side side : test::kSides) {
    Tile tile;
    tile.at(0, 0) = 127.0f;  // scale 1
    for (int i = 1; i < 60; ++i) tile.at(0, i) = static_cast<float>(i) - 30.5f;
    tile.at(0, 60) = -127.0f;
    tile.run(side);
    EXPECT_EQ(tile.scale(0), 1.0f);
    for (int i = 0; i < kDim; ++i) {
      EXPECT_EQ(tile.code(0, i, side), static_cast<int>(std::nearbyint(tile.at(0, i)))) << i;
    }
  }
}

TEST(Int8, TheScaleNeverClipsTheMaximum) {
  test::Random random(4);
  Tile tile;
  for (int trial = 0; trial < 50; ++trial) {
    for (int row = 0; row < kTileRows; ++row) {
      tile.at(row, 3) = static_cast<float>(std::exp(16.0 * random.uniform() - 8.0));
      tile.at(row, 4) = -tile.at(row, 3);
    }
    tile.run();
    for (int row = 0; row < kTileRows; ++row) {
      const float largest = tile.at(row, 3);
      const float s = tile.scale(row);
      ASSERT_GE(127.0f * s, largest);
      // The next smaller f16 would either clip or be further from max / 127.
      const float smaller = to_f32(f16{static_cast<std::uint16_t>(to_f16(s).bits - 1)});
      ASSERT_LT(127.0f * smaller, largest) << "the scale is larger than needed";
      ASSERT_LE(std::fabs(tile.value(row, 3) - largest), 0.5f * s * 1.0001f);
      ASSERT_EQ(tile.value(row, 4), -tile.value(row, 3));
    }
  }
}

TEST(Int8, LimitsAndTinyRows) {
  Tile tile;
  tile.at(0, 0) = 127.0f * 512.0f;
  tile.at(1, 0) = 1e5f;
  tile.at(2, 0) = -3e38f;
  tile.at(3, 0) = 0x1p-26f * 127.0f;  // the scale rounds to zero
  tile.at(4, 0) = 0x1p-24f * 127.0f;  // the smallest scale
  tile.run();
  EXPECT_TRUE(tile.finite);
  EXPECT_EQ(tile.value(0, 0), 65024.0f);
  EXPECT_EQ(tile.value(1, 0), 65024.0f);
  EXPECT_EQ(tile.value(2, 0), -65024.0f);
  EXPECT_EQ(tile.value(3, 0), 0.0f);
  EXPECT_EQ(tile.scale(3), 0.0f);
  EXPECT_EQ(tile.value(4, 0), 0x1p-24f * 127.0f);
  EXPECT_EQ(tile.scale(5), 0.0f);
}

TEST(Int8, NonFiniteValuesSpoilNobody) {
  for (const float bad : {kNan, kInf, -kInf}) {
    Tile with;
    with.x = test::gauss_rows(kTileRows, kDim, 6);
    Tile clean = with;
    with.at(11, 7) = bad;
    with.run();
    clean.at(11, 7) = std::isnan(bad) ? 0.0f : bad > 0.0f ? 65024.0f : -65024.0f;
    clean.run();
    EXPECT_FALSE(with.finite);
    EXPECT_TRUE(clean.finite);
    EXPECT_EQ(with.bytes, clean.bytes);
  }
}

TEST(Int8, HasNoOptions) {
  EXPECT_EQ(Int8Token::parse("").name(), "int8");
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([] { Int8Token::parse("g64"); }),
                             {"int8", "g64", "none"}));
}

}  // namespace
}  // namespace kvcodec
