// Groups, scale rules and error statistics of nqkv, nqsym and nqfit.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kvcodec/codec/nqkv.hpp"
#include "kvcodec/transform/hadamard.hpp"
#include "tests/support/codecs.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

template <class C>
std::vector<std::byte> encode(const C& codec, Side side, int head_dim,
                              const std::vector<float>& x) {
  std::vector<std::byte> bytes(codec.tile_bytes(head_dim));
  EXPECT_TRUE(codec.encode_tile(side, head_dim, x.data(), bytes.data()));
  return bytes;
}

template <class C>
std::vector<float> round_trip(const C& codec, Side side, int head_dim,
                              const std::vector<float>& x) {
  const std::vector<std::byte> bytes = encode(codec, side, head_dim, x);
  std::vector<float> y(x.size());
  codec.decode_tile(side, head_dim, bytes.data(), y.data());
  return y;
}

TEST(NqkvGroups, SupportsAndSizes) {
  struct Case {
    int group, head_dim, span;
    std::size_t bytes;
  };
  for (const Case& c : {Case{32, 64, 1, 64 * 32 + 2 * 128}, Case{64, 64, 1, 64 * 32 + 128},
                        Case{128, 64, 2, 2 * 64 * 32 + 128}, Case{256, 64, 4, 4 * 64 * 32 + 128},
                        Case{32, 96, 1, 64 * 48 + 3 * 128}, Case{256, 128, 2, 2 * 64 * 64 + 128},
                        Case{64, 256, 1, 64 * 128 + 4 * 128}, Case{256, 256, 1, 64 * 128 + 128},
                        Case{64, 80, 1, 64 * 40 + 2 * 128}, Case{64, 96, 1, 64 * 48 + 2 * 128}}) {
    const Nqkv codec{c.group};
    ASSERT_TRUE(codec.supports(c.head_dim)) << c.group << " " << c.head_dim;
    EXPECT_EQ(codec.head_span(c.head_dim), c.span) << c.group << " " << c.head_dim;
    EXPECT_EQ(codec.tile_bytes(c.head_dim), c.bytes) << c.group << " " << c.head_dim;
  }
  for (const auto& [group, head_dim] :
       {std::pair{128, 80}, {256, 96}, {64, 48}, {64, 72}, {64, 512}}) {
    EXPECT_FALSE(Nqkv{group}.supports(head_dim)) << group << " " << head_dim;
  }
  EXPECT_FALSE(Nqkv{48}.supports(96));
}

// g256 at head_dim 128: heads 0 and 1 share a scale, tokens do not.
TEST(NqkvGroups, SpanHeads) {
  const Nqkv codec{256};
  std::vector<float> x(kTileRows * 256, 0.25f);
  x[5 * 256 + 200] = 4.0f;  // token 5, head 1
  for (const Side side : test::kSides) {
    const std::vector<float> y = round_trip(codec, side, 128, x);
    EXPECT_EQ(y[4 * 256 + 10], 0.25f);
    EXPECT_EQ(y[5 * 256 + 200], 4.0f);
    EXPECT_NE(y[5 * 256 + 10], 0.25f) << "head 0 of token 5 must use the scale of head 1";
    const std::vector<std::byte> bytes = encode(codec, side, 128, x);
    EXPECT_EQ(get_scale(bytes.data() + 2 * 64 * 64, 5), to_f16(4.0f).bits);
    EXPECT_EQ(get_scale(bytes.data() + 2 * 64 * 64, 4), to_f16(0.25f).bits);
  }
}

TEST(NqkvGroups, PlanesOfScalesInChannelOrder) {
  const Nqkv codec{32};
  std::vector<float> x(kTileRows * 96);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(1 + i % 96 / 32);
  const std::vector<std::byte> bytes = encode(codec, Side::value, 96, x);
  for (int g = 0; g < 3; ++g) {
    for (int row = 0; row < kTileRows; ++row) {
      EXPECT_EQ(get_scale(bytes.data() + 64 * 48 + 128 * g, row),
                to_f16(static_cast<float>(1 + g)).bits);
    }
  }
}

// Groups of 64 at head_dim 80: the second group of a token has 16 values.
TEST(NqkvGroups, TheLastGroupOfAHeadMayBeShort) {
  const Nqkv codec{64};
  std::vector<float> x(kTileRows * 80, 0.5f);
  x[7 * 80 + 63] = 8.0f;   // row 7, last value of the first group
  x[9 * 80 + 64] = -8.0f;  // row 9, first value of the short group
  for (const Side side : test::kSides) {
    const std::vector<float> y = round_trip(codec, side, 80, x);
    EXPECT_NE(y[7 * 80 + 62], 0.5f);
    EXPECT_EQ(y[7 * 80 + 64], 0.5f);
    EXPECT_EQ(y[9 * 80 + 63], 0.5f);
    EXPECT_NE(y[9 * 80 + 79], 0.5f);
    EXPECT_EQ(y[10 * 80], 0.5f);
  }
}

TEST(NqkvGroups, MultiplierScalesTheMaximum) {
  const Nqkv codec = Nqkv::parse("g64:x0.75");
  std::vector<float> x(kTileRows * 64, 0.0f);
  for (std::size_t row = 0; row < kTileRows; ++row) x[row * 64] = -2.0f;
  const std::vector<float> y = round_trip(codec, Side::key, 64, x);
  EXPECT_EQ(y[0], -1.5f);
  EXPECT_EQ(y[1], 0.0f);
}

template <class C>
double group_error(const C& codec, const std::vector<float>& x, std::size_t first) {
  const std::vector<float> y = round_trip(codec, Side::key, 64, x);
  double sum = 0.0;
  for (std::size_t i = first; i < first + static_cast<std::size_t>(codec.group); ++i) {
    const double e = static_cast<double>(x[i]) - static_cast<double>(y[i]);
    sum += e * e;
  }
  return sum;
}

template <class C>
void search_is_never_worse() {
  for (const test::Input kind : test::kAllInputs) {
    const std::vector<float> x = test::make_rows(kind, kTileRows, 64, 3);
    for (const std::string group : {"g32", "g64"}) {
      const C absmax = C::parse(group);
      const C search = C::parse(group + ":search");
      for (std::size_t first = 0; first < x.size();
           first += static_cast<std::size_t>(absmax.group)) {
        // The choice is made on f32 sums.
        ASSERT_LE(group_error(search, x, first), group_error(absmax, x, first) * (1.0 + 1e-5))
            << to_string(kind) << " " << group << " at " << first;
        if (first > 1024) break;
      }
    }
  }
}

TEST(NqkvGroups, SearchIsNeverWorseThanAbsmax) {
  search_is_never_worse<Nqkv>();
  search_is_never_worse<NqkvFitted>();
}

/// One tile after a change of one token differs from the one before in that token alone.
TEST(NqkvGroups, TokensAreIndependent) {
  for (const std::string options : {"g32", "g64", "g256", "g64:x0.96", "g32:search"}) {
    const Nqkv codec = Nqkv::parse(options);
    const int span = codec.head_span(64);
    const int width = 64 * span;
    std::vector<float> x = test::gauss_rows(kTileRows, width, 8);
    for (const Side side : test::kSides) {
      const std::vector<std::byte> before = encode(codec, side, 64, x);
      std::vector<float> changed = x;
      for (int c = 0; c < width; ++c) changed[static_cast<std::size_t>(21 * width + c)] *= -3.0f;
      std::vector<std::byte> after = encode(codec, side, 64, changed);
      EXPECT_NE(before, after);
      codec.copy_rows(side, 64, before.data(), after.data(), 21, 22);
      EXPECT_EQ(before, after) << options;
    }
  }
}

/// Mean of the decoded error over the values' rms, for unit Gaussian values.
template <class C>
double mean_error(const C& codec) {
  double sum = 0.0;
  double n = 0.0;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    const std::vector<float> x = test::gauss_rows(kTileRows, 64, 100 + seed);
    const std::vector<float> y = round_trip(codec, Side::value, 64, x);
    for (std::size_t i = 0; i < x.size(); ++i) {
      sum += static_cast<double>(y[i]) - static_cast<double>(x[i]);
    }
    n += static_cast<double>(x.size());
  }
  return sum / n;
}

// 163840 values: the standard error of the mean is about 0.09 / 400 = 0.0003.
TEST(NqkvBias, TheSymmetricTableHasNone) {
  EXPECT_LT(std::fabs(mean_error(NqkvSymmetric{})), 0.002);
}

struct WithoutSign : FittedTable {
  static constexpr bool signed_scale = false;
};

// The fitted table is not symmetric; the sign of the scale makes it so.
TEST(NqkvBias, TheFittedTableHasNoneBecauseOfTheSign) {
  EXPECT_LT(std::fabs(mean_error(NqkvFitted{})), 0.001);
  EXPECT_LT(std::fabs(mean_error(NqkvFitted::parse("search"))), 0.001);
  EXPECT_GT(std::fabs(mean_error(NormalQuantile<WithoutSign>{})), 0.0015);
}

TEST(NqkvBias, ThePapersTableHasSome) {
  const double bias = std::fabs(mean_error(Nqkv{}));
  EXPECT_GT(bias, 0.001) << "smaller than documented: change the docs";
  EXPECT_LT(bias, 0.03);
}

/// What the table is fitted to.
enum class Fitted { gauss, outliers, turned_outliers };

/// 64 rows of 128 Gaussian values; of outlier rows four channels are ten times larger. Times the root of
/// the weight that errors of the kind have.
std::vector<float> rows_to_fit(Fitted kind, std::uint64_t seed) {
  std::vector<float> x = test::gauss_rows(kTileRows, 128, seed);
  if (kind == Fitted::gauss) return x;
  const float root = std::sqrt(kind == Fitted::outliers ? 0.062f : 2.2f);
  for (std::size_t row = 0; row < x.size(); row += 128) {
    for (const std::size_t c : {5u, 37u, 70u, 111u}) x[row + c] *= 10.0f;
    for (std::size_t c = 0; c < 128; ++c) x[row + c] *= root;
    if (kind == Fitted::turned_outliers) Hadamard{}.forward(128, &x[row]);
  }
  return x;
}

/// Largest distance of a level from the mean of the values that have its code, in units of the scale,
/// every value weighted by the square of its scale.
template <class C>
double distance_from_means(const C& codec, const LevelTable& table) {
  double sum[16] = {};
  double weight[16] = {};
  for (std::uint64_t seed = 0; seed < 96; ++seed) {
    const std::vector<float> x = rows_to_fit(static_cast<Fitted>(seed % 3), 900 + seed);
    const std::vector<std::byte> bytes = encode(codec, Side::key, 128, x);
    const TileLayout codes{Side::key, 4, 128};
    for (int row = 0; row < kTileRows; ++row) {
      for (int c = 0; c < 128; ++c) {
        const std::byte* scales =
            bytes.data() + codec.scale_offset(128) + c / 64 * kScalePlaneBytes;
        const double a = static_cast<double>(to_f32(f16{get_scale(scales, row)}));
        const std::uint32_t code = codes.get(bytes.data(), row, c);
        sum[code] += a * static_cast<double>(x[static_cast<std::size_t>(row * 128 + c)]);
        weight[code] += a * a;
      }
    }
  }
  double worst = 0.0;
  for (int i = 0; i < 16; ++i) {
    worst = std::max(worst, std::fabs(sum[i] / weight[i] - static_cast<double>(table.level[i])));
  }
  return worst;
}

// 12,288 groups: the standard error of a mean is 0.0003 in the middle and 0.0007 at the ends.
TEST(NqkvFit, LevelsAreTheMeansOfTheirValues) {
  EXPECT_LT(distance_from_means(NqkvFitted::parse("search"), FittedTable::table), 0.003);
  // The controls: the other rule's means, and a table that was not fitted.
  EXPECT_GT(distance_from_means(NqkvFitted{}, FittedTable::table), 0.006);
  EXPECT_GT(distance_from_means(NqkvSymmetric::parse("search"), SymmetricTable::table), 0.006);
}

}  // namespace
}  // namespace kvcodec
