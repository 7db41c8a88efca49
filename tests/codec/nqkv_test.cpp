// nqkv, nqsym and nqfit to the letter: tables, thresholds, ties, scales, limits.
#include "kvcodec/codec/nqkv.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/support/codecs.hpp"
#include "tests/support/inputs.hpp"
#include "tests/support/nqkv_tile.hpp"

namespace kvcodec {
namespace {

using test::kDim;
using test::kInf;
using test::kNan;
using Tile = test::NqkvTile;

template <class Codec>
class NqkvTest : public ::testing::Test {};
using Codecs = ::testing::Types<Nqkv, NqkvSymmetric, NqkvFitted>;
struct Names {
  template <class C>
  static std::string GetName(int) {
    return C::family;
  }
};
TYPED_TEST_SUITE(NqkvTest, Codecs, Names);

template <class C>
struct TableOf;
template <class T>
struct TableOf<NormalQuantile<T>> {
  using type = T;
};

template <class C>
const LevelTable& table_of() {
  return TableOf<C>::type::table;
}

/// The level of a value as far below zero as the group's largest is above, and of the scale itself.
template <class C>
float lowest() {
  return table_of<C>().level[0];
}

// Ratios are exact in f32 here, because the group's largest value, 1, is the scale.
TYPED_TEST(NqkvTest, LevelsThresholdsAndTheirNeighbours) {
  const LevelTable& table = table_of<TypeParam>();
  for (const Side side : test::kSides) {
    Tile tile;
    for (int row = 0; row < kTileRows; ++row) tile.at(row, 63) = 1.0f;
    for (int i = 0; i < 16; ++i) tile.at(0, i) = table.level[i];
    for (int i = 0; i < 15; ++i) {
      tile.at(1, i) = table.threshold[i];
      tile.at(2, i) = std::nextafter(table.threshold[i], 2.0f);
      tile.at(3, i) = std::nextafter(table.threshold[i], -2.0f);
    }
    tile.run(TypeParam{}, side);
    for (int i = 0; i < 16; ++i) {
      EXPECT_EQ(tile.code(0, i, side), static_cast<std::uint32_t>(i));
      EXPECT_EQ(tile.value(0, i), table.level[i]);
    }
    for (int i = 0; i < 15; ++i) {
      const auto code = static_cast<std::uint32_t>(i);
      EXPECT_EQ(tile.code(1, i, side), code) << "a tie goes down, threshold " << i;
      EXPECT_EQ(tile.code(2, i, side), code + 1) << "threshold " << i;
      EXPECT_EQ(tile.code(3, i, side), code) << "threshold " << i;
    }
  }
}

TYPED_TEST(NqkvTest, ThresholdsAreMidpointsOfAscendingLevels) {
  const LevelTable& table = table_of<TypeParam>();
  const bool signed_scale = TableOf<TypeParam>::type::signed_scale;
  EXPECT_TRUE(signed_scale ? table.level[0] > -1.0f : table.level[0] == -1.0f);
  EXPECT_EQ(table.level[15], 1.0f);
  for (int i = 0; i < 15; ++i) {
    EXPECT_LT(table.level[i], table.level[i + 1]);
    EXPECT_NEAR(table.threshold[i], 0.5 * (table.level[i] + table.level[i + 1]), 1e-7);
  }
  // No level is nearer to zero on the other side of the code that zero groups have.
  const int zero_code = TableOf<TypeParam>::type::zero_code;
  EXPECT_LE(table.level[zero_code - 1], 0.0f);
  EXPECT_GE(table.level[zero_code + 1], 0.0f);
}

TEST(NqkvTables, PublishedEnds) {
  EXPECT_EQ(Nf4Table::table.level[7], 0.0f);
  EXPECT_EQ(Nf4Table::table.level[1], -0.6961928009986877f);
  EXPECT_EQ(Nf4Table::table.level[14], 0.7229568362236023f);
  EXPECT_EQ(Nf4Table::table.threshold[14], 0.8614784178118011f);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(SymmetricTable::table.level[i], -SymmetricTable::table.level[15 - i]);
  }
}

TYPED_TEST(NqkvTest, ZeroGroupsHaveScaleZeroAndOneCode) {
  const std::uint32_t code = TableOf<TypeParam>::type::signed_scale ? 8 : 7;
  for (const float zero : {0.0f, -0.0f, 1e-45f, 0x1p-25f, -0x1p-26f}) {  // f16(max) == 0
    Tile tile(zero);
    tile.run(TypeParam{});
    EXPECT_TRUE(tile.finite);
    for (int row = 0; row < kTileRows; ++row) {
      EXPECT_EQ(tile.scale(row), 0);
      for (int channel = 0; channel < kDim; ++channel) {
        ASSERT_EQ(tile.code(row, channel), code);
        ASSERT_EQ(tile.value(row, channel), 0.0f);
      }
    }
  }
}

TYPED_TEST(NqkvTest, SubnormalScales) {
  Tile tile;
  tile.at(0, 0) = 0x1p-24f;  // the smallest f16
  tile.at(0, 1) = -0x1p-24f;
  tile.at(1, 0) = 0x1.8p-24f;  // rounds to 2 units: the ratio is 0.75
  tile.run(TypeParam{});
  EXPECT_EQ(tile.scale(0), 1);
  EXPECT_EQ(tile.value(0, 0), 0x1p-24f);
  EXPECT_EQ(tile.value(0, 1), lowest<TypeParam>() * 0x1p-24f);
  EXPECT_EQ(tile.scale(1), 2);
  EXPECT_EQ(tile.code(1, 0), 14u);
}

TYPED_TEST(NqkvTest, LargeValuesAreClamped) {
  Tile tile;
  tile.at(0, 0) = 65504.0f;
  tile.at(1, 0) = 1e5f;
  tile.at(1, 1) = -1e5f;
  tile.at(1, 2) = 65504.0f;
  tile.at(2, 0) = -3e38f;
  tile.run(TypeParam{});
  EXPECT_TRUE(tile.finite);  // finite input, though beyond f16
  EXPECT_EQ(tile.value(0, 0), 65504.0f);
  EXPECT_EQ(tile.value(1, 0), 65504.0f);
  EXPECT_EQ(tile.value(1, 1), lowest<TypeParam>() * 65504.0f);
  EXPECT_EQ(tile.value(1, 2), 65504.0f);
  EXPECT_EQ(tile.value(2, 0), -65504.0f);
  EXPECT_EQ(tile.scale(1), 0x7bff);
}

TYPED_TEST(NqkvTest, NonFiniteValuesCountAsZeroOrTheLargestAndSpoilNobody) {
  const std::vector<float> rows = test::gauss_rows(kTileRows, kDim, 5);
  for (const float bad : {kNan, kInf, -kInf}) {
    Tile with;
    Tile without;
    with.x = without.x = rows;
    with.at(9, 20) = bad;
    without.at(9, 20) = std::isnan(bad) ? 0.0f : bad > 0 ? 65504.0f : -65504.0f;
    with.run(TypeParam{});
    without.run(TypeParam{});
    EXPECT_FALSE(with.finite);
    EXPECT_TRUE(without.finite);
    EXPECT_EQ(with.bytes, without.bytes);
    Tile clean;
    clean.x = rows;
    clean.run(TypeParam{});
    for (int row = 0; row < kTileRows; ++row) {
      if (row == 9) continue;
      for (int c = 0; c < kDim; ++c) ASSERT_EQ(with.value(row, c), clean.value(row, c));
    }
    if (std::isnan(bad)) {  // neighbours of a NaN keep their values, unless it was the maximum
      for (int c = 0; c < kDim; ++c) {
        const float want = c == 20 ? with.value(9, c) : clean.value(9, c);
        EXPECT_EQ(with.value(9, c), want);
      }
    }
  }
}

TYPED_TEST(NqkvTest, AScaleThatRoundsDownClipsByAtMostAHalfUnit) {
  Tile tile;
  tile.at(0, 0) = 1.0f + 0x1p-11f;  // a tie: the scale becomes 1
  tile.at(0, 1) = -tile.at(0, 0);
  tile.run(TypeParam{});
  EXPECT_EQ(tile.scale(0), 0x3c00);
  EXPECT_EQ(tile.code(0, 0), 15u);
  EXPECT_EQ(tile.code(0, 1), 0u);
  EXPECT_EQ(tile.value(0, 0), 1.0f);
}

// A threshold that does not round like a quotient would betray multiplication by a reciprocal.
TYPED_TEST(NqkvTest, DividesByTheScale) {
  const LevelTable& table = table_of<TypeParam>();
  test::Random random(77);
  int disagreements = 0;
  for (int trial = 0; trial < 400; ++trial) {
    const float scale = to_f32(to_f16(static_cast<float>(0.5 + random.uniform())));
    Tile tile;
    for (int row = 0; row < kTileRows; ++row) tile.at(row, 63) = scale;
    for (int i = 0; i < 15; ++i) {
      float x = table.threshold[i] * scale;
      tile.at(0, i) = x;
      tile.at(1, i) = std::nextafter(x, 2.0f);
      tile.at(2, i) = std::nextafter(x, -2.0f);
    }
    tile.run(TypeParam{});
    for (int row = 0; row < 3; ++row) {
      for (int i = 0; i < 15; ++i) {
        const float ratio = tile.at(row, i) / scale;
        std::uint32_t want = 0;
        for (const float t : table.threshold) want += ratio > t ? 1u : 0u;
        ASSERT_EQ(tile.code(row, i), want);
        const float other = tile.at(row, i) * (1.0f / scale);
        if ((other > table.threshold[i]) != (ratio > table.threshold[i])) ++disagreements;
      }
    }
  }
  EXPECT_GT(disagreements, 0) << "the inputs do not tell quotient and reciprocal apart";
}

TYPED_TEST(NqkvTest, NamesAndParameters) {
  EXPECT_EQ(TypeParam::parse("").group, 64);
  EXPECT_EQ(TypeParam::parse("").name(), std::string(TypeParam::family) + ":g64");
  EXPECT_EQ(TypeParam::parse("x0.96:g128").name(), std::string(TypeParam::family) + ":g128:x0.96");
  EXPECT_EQ(TypeParam::parse("search").rule, ScaleRule::search);
  EXPECT_EQ(TypeParam::parse("g32:x1").name(), std::string(TypeParam::family) + ":g32");
  for (const std::string bad : {"g63", "g0", "g-64", "g", "x0.49", "x1.01", "xnan", "x", "Search",
                                ":", "g64:", "64", "x0.9:search", "g64 "}) {
    EXPECT_THROW(TypeParam::parse(bad), invalid_argument) << bad;
  }
}

}  // namespace
}  // namespace kvcodec
