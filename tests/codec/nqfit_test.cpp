// nqfit: what a scale with a sign changes. What it shares with nqkv stands in nqkv_test.cpp.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kvcodec/codec/nqkv.hpp"
#include "tests/support/codecs.hpp"
#include "tests/support/inputs.hpp"
#include "tests/support/nqkv_tile.hpp"

namespace kvcodec {
namespace {

using test::kDim;
using test::kNan;
using Tile = test::NqkvTile;

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
    for (const float zero : {0.0f, -0.0f, kNan, 0x1p-26f, -0x1p-26f, -0x1p-140f}) {
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
