// nqkv, nqsym and nqfit to the letter: tables, thresholds, ties, scales, limits.
#include "kvcodec/codec/nqkv.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/codecs.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int kDim = 64;

/// A tile of head_dim 64 with g64, filled with `rest`.
struct Tile {
  std::vector<float> x;
  std::vector<std::byte> bytes;
  std::vector<float> decoded;
  bool finite = true;

  explicit Tile(float rest = 0.0f) : x(kTileRows * kDim, rest) {}
  float& at(int row, int channel) { return x[static_cast<std::size_t>(row * kDim + channel)]; }

  template <class C>
  void run(const C& codec, Side side = Side::key) {
    bytes.assign(codec.tile_bytes(kDim), std::byte{0xee});
    decoded.assign(x.size(), kNan);
    finite = codec.encode_tile(side, kDim, x.data(), bytes.data());
    codec.decode_tile(side, kDim, bytes.data(), decoded.data());
  }
  std::uint32_t code(int row, int channel, Side side = Side::key) const {
    return TileLayout{side, 4, kDim}.get(bytes.data(), row, channel);
  }
  std::uint16_t scale(int row) const {
    return get_scale(bytes.data() + TileLayout{Side::key, 4, kDim}.plane_bytes(), row);
  }
  float value(int row, int channel) const {
    return decoded[static_cast<std::size_t>(row * kDim + channel)];
  }
};

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
  if (!TableOf<TypeParam>::type::signed_scale) EXPECT_EQ(table.level[0], -1.0f);
  EXPECT_GE(table.level[0], -1.0f);
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
  for (const float zero : {0.0f, -0.0f, 1e-45f, 0x1p-25f, -0x1p-26f}) {  // f16(max) == 0
    Tile tile(zero);
    tile.run(TypeParam{});
    EXPECT_TRUE(tile.finite);
    for (int row = 0; row < kTileRows; ++row) {
      EXPECT_EQ(tile.scale(row), 0);
      for (int channel = 0; channel < kDim; ++channel) {
        ASSERT_EQ(tile.code(row, channel), std::is_same_v<TypeParam, NqkvFitted> ? 8u : 7u);
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

// ---- What a scale with a sign changes ----

TEST(NqkvFittedRule, TheScaleHasTheSignOfTheLargestValue) {
  Tile tile;
  tile.at(0, 3) = -2.0f;
  tile.at(0, 4) = 1.5f;
  tile.at(1, 3) = 2.0f;
  tile.at(1, 4) = 1.5f;
  tile.run(NqkvFitted{});
  EXPECT_EQ(tile.scale(0), 0xc000);
  EXPECT_EQ(tile.code(0, 3), 15u);
  EXPECT_EQ(tile.value(0, 3), -2.0f);
  EXPECT_EQ(tile.code(0, 4), 1u);  // -0.75
  EXPECT_EQ(tile.value(0, 4), -2.0f * FittedTable::table.level[1]);
  EXPECT_EQ(tile.scale(1), 0x4000);
  EXPECT_EQ(tile.code(1, 4), 14u);  // 0.75
}

TEST(NqkvFittedRule, OfPlusAndMinusTheLargestTheLowerChannelCounts) {
  Tile tile;
  tile.at(0, 5) = -1.0f;
  tile.at(0, 9) = 1.0f;
  tile.at(1, 5) = 1.0f;
  tile.at(1, 9) = -1.0f;
  tile.run(NqkvFitted{});
  EXPECT_EQ(tile.scale(0), 0xbc00);
  EXPECT_EQ(tile.value(0, 5), -1.0f);
  EXPECT_EQ(tile.value(0, 9), -FittedTable::table.level[0]);
  EXPECT_EQ(tile.scale(1), 0x3c00);
  EXPECT_EQ(tile.value(1, 5), 1.0f);
  EXPECT_EQ(tile.value(1, 9), FittedTable::table.level[0]);
}

// Why a table that is not symmetric leaves no mean error.
TEST(NqkvFittedRule, NegatedRowsHaveTheSameCodesAndNegatedScales) {
  for (const test::Input kind : test::kAllInputs) {
    for (const char* options : {"g64", "g64:x0.75", "g64:search"}) {
      Tile plus;
      Tile minus;
      plus.x = test::make_rows(kind, kTileRows, kDim, 31);
      for (std::size_t i = 0; i < plus.x.size(); ++i) minus.x[i] = -plus.x[i];
      plus.run(NqkvFitted::parse(options));
      minus.run(NqkvFitted::parse(options));
      for (int row = 0; row < kTileRows; ++row) {
        const int sign = plus.scale(row) != 0 ? 0x8000 : 0;
        ASSERT_EQ(minus.scale(row), plus.scale(row) ^ sign) << to_string(kind) << " " << options;
        for (int c = 0; c < kDim; ++c) {
          ASSERT_EQ(minus.code(row, c), plus.code(row, c));
          ASSERT_EQ(minus.value(row, c), -plus.value(row, c));
        }
      }
    }
  }
}

TEST(NqkvFittedRule, GroupsWithoutAScaleDecodeToPlusZero) {
  for (const char* options : {"g64", "g64:x0.5", "g64:search"}) {
    for (const float zero : {0.0f, -0.0f, kNan, 0x1p-25f, -0x1p-25f, -0x1p-140f}) {
      Tile tile(zero);
      tile.run(NqkvFitted::parse(options));
      EXPECT_EQ(tile.finite, !std::isnan(zero));
      for (int row = 0; row < kTileRows; ++row) {
        ASSERT_EQ(tile.scale(row), 0) << zero << " " << options;
        for (int c = 0; c < kDim; ++c) ASSERT_EQ(bit_cast<std::uint32_t>(tile.value(row, c)), 0u);
      }
    }
  }
}

// -0 and NaN beside other values count as 0, whatever the sign of the scale.
TEST(NqkvFittedRule, MinusZeroAndNanAreCodedAsZero) {
  for (const float largest : {1.0f, -1.0f}) {
    Tile tile;
    for (int row = 0; row < 4; ++row) tile.at(row, 7) = largest;
    tile.at(1, 8) = -0.0f;
    tile.at(2, 8) = kNan;
    tile.at(3, 6) = -kNan;  // before the largest
    tile.run(NqkvFitted{});
    EXPECT_FALSE(tile.finite);
    for (int row = 0; row < 4; ++row) {
      EXPECT_EQ(tile.scale(row), largest > 0.0f ? 0x3c00 : 0xbc00);
      EXPECT_EQ(tile.code(row, 8), tile.code(0, 8));
      EXPECT_EQ(tile.code(row, 6), tile.code(0, 8));
    }
  }
}

/// Squared error of a group of 64 with a given scale, every value at its nearest level.
double nearest_error(const float* x, double scale) {
  double sum = 0.0;
  for (int c = 0; c < kDim; ++c) {
    double best = std::numeric_limits<double>::infinity();
    for (const float level : FittedTable::table.level) {
      const double e = static_cast<double>(x[c]) - scale * static_cast<double>(level);
      best = std::min(best, e * e);
    }
    sum += best;
  }
  return sum;
}

TEST(NqkvFittedRule, SearchFindsTheBestCandidateOfBothSigns) {
  Tile tile;
  tile.x = test::gauss_rows(kTileRows, kDim, 32);
  tile.run(NqkvFitted::parse("g64:search"));
  int turned = 0;
  for (int row = 0; row < kTileRows; ++row) {
    const float* x = tile.x.data() + row * kDim;
    float largest = 0.0f;
    for (int c = 0; c < kDim; ++c) {
      if (std::fabs(x[c]) > std::fabs(largest)) largest = x[c];
    }
    double best = nearest_error(x, static_cast<double>(to_f32(to_f16(largest))));
    for (int i = 0; i < 36; ++i) {
      const float multiplier = std::fma(0.0125f, static_cast<float>(i), 0.7f);
      const float candidate = to_f32(to_f16((i % 2 == 0 ? multiplier : -multiplier) * largest));
      best = std::min(best, nearest_error(x, static_cast<double>(candidate)));
    }
    const float chosen = to_f32(f16{tile.scale(row)});
    EXPECT_NEAR(nearest_error(x, static_cast<double>(chosen)), best, 1e-6 * best) << row;
    turned += chosen * largest < 0.0f ? 1 : 0;
  }
  // About 3 of 10 groups are better off with the other sign.
  EXPECT_GE(turned, 8);
  EXPECT_LE(turned, 40);
}

}  // namespace
}  // namespace kvcodec
