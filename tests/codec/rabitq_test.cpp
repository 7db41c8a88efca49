// rabitq to the letter: the search, factors, limits, and its errors of products with their bound.
#include "kvcodec/codec/rabitq.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

#include "tests/support/codecs.hpp"
#include "tests/support/inputs.hpp"
#include "tests/support/logit_error.hpp"

namespace kvcodec {
namespace {

using Rule = RaBitQ::Rule;
using Codes = std::vector<std::uint8_t>;

Codes codes_of(const RaBitQ& codec, const std::vector<float>& x) {
  Codes codes(x.size());
  codec.put_codes(static_cast<int>(x.size()), x.data(), codes.data());
  return codes;
}

/// <u,x> / |u| in float64: |x| times the cosine.
double projection(int bits, const std::vector<float>& x, const Codes& codes) {
  double xu = 0.0;
  double uu = 0.0;
  for (std::size_t c = 0; c < x.size(); ++c) {
    const auto u = static_cast<double>(RaBitQ::grid(bits, codes[c]));
    xu += static_cast<double>(x[c]) * u;
    uu += u * u;
  }
  return xu / std::sqrt(uu);
}

/// Rows with every kind of trouble for a search: outliers, equal magnitudes, zeros, subnormals.
std::vector<std::vector<float>> search_rows() {
  std::vector<std::vector<float>> rows;
  for (const test::Input kind : test::kAllInputs) {
    for (std::uint64_t seed = 1; seed <= 3; ++seed) rows.push_back(make_rows(kind, 1, 64, seed));
  }
  test::Random random(8);
  for (int i = 0; i < 4; ++i) {  // small integers: many code changes at one t
    std::vector<float> row(64);
    for (float& value : row) value = static_cast<float>(random.below(9) - 4);
    rows.push_back(row);
  }
  std::vector<float> lone(64);
  lone[17] = -3.0f;
  rows.push_back(lone);
  std::vector<float> tiny = test::gauss_rows(1, 64, 9);
  for (float& value : tiny) value *= 1e-42f;
  rows.push_back(tiny);
  return rows;
}

/// The best projection over every t at which a code changes, with codes limited to the grid.
double best_by_sweep(int bits, const std::vector<float>& x) {
  const int half = 1 << (bits - 1);
  double best = 0.0;
  for (std::size_t at = 0; at < x.size(); ++at) {
    for (int m = 0; m < half; ++m) {
      const auto a = std::fabs(static_cast<double>(x[at]));
      const double t = a > 0.0 ? m / a : 0.0;
      Codes codes;
      for (const float value : x) {
        // A whisker above t, so that the value that changes there has changed.
        const double level = std::floor(t * std::fabs(static_cast<double>(value)) * (1.0 + 1e-12));
        const int magnitude = level < half ? static_cast<int>(level) : half - 1;
        codes.push_back(
            static_cast<std::uint8_t>(value > 0.0f ? half + magnitude : half - 1 - magnitude));
      }
      best = std::fmax(best, projection(bits, x, codes));
    }
  }
  return best;
}

TEST(RaBitQ, SearchFindsTheBestOfAllScales) {
  for (const std::vector<float>& x : search_rows()) {
    for (int bits = 1; bits <= 4; ++bits) {
      const double own = projection(bits, x, codes_of({bits, Rule::search}, x));
      const double best = best_by_sweep(bits, x);
      EXPECT_NEAR(own, best, 1e-12 * best) << bits;
    }
  }
}

TEST(RaBitQ, NoSingleCodeCanBeImproved) {
  for (const std::vector<float>& x : search_rows()) {
    for (int bits = 1; bits <= 4; ++bits) {
      const Codes codes = codes_of({bits, Rule::search}, x);
      const double own = projection(bits, x, codes);
      for (std::size_t c = 0; c < x.size(); ++c) {
        for (const int change : {-1, 1}) {
          const int code = codes[c] + change;
          if (code < 0 || code >= 1 << bits) continue;
          Codes other = codes;
          other[c] = static_cast<std::uint8_t>(code);
          ASSERT_LE(projection(bits, x, other), own * (1.0 + 1e-12)) << bits;
        }
      }
    }
  }
}

TEST(RaBitQ, SignsFollowTheValues) {
  std::vector<float> x = test::gauss_rows(1, 64, 3);
  x[0] = 0.0f;
  x[1] = -0.0f;
  for (int bits = 1; bits <= 4; ++bits) {
    for (const Rule rule : {Rule::search, Rule::fast}) {
      const Codes codes = codes_of({bits, rule}, x);
      for (std::size_t c = 0; c < x.size(); ++c) {
        EXPECT_EQ(codes[c] >> (bits - 1), x[c] > 0.0f ? 1 : 0);
        if (bits > 1) continue;
        EXPECT_EQ(RaBitQ::grid(1, codes[c]), x[c] > 0.0f ? 0.5f : -0.5f);
      }
      EXPECT_EQ(codes[0], (1 << (bits - 1)) - 1) << "0 counts as negative";
    }
  }
}

TEST(RaBitQ, FastIsTheUniformQuantizerOfTheSmallestError) {
  const std::vector<float> x = test::gauss_rows(1, 256, 4);
  double square = 0.0;
  for (const float value : x) square += static_cast<double>(value) * static_cast<double>(value);
  const double rms = std::sqrt(square / 256.0);
  const double steps[] = {0.0, 0.0, 0.9957, 0.5860, 0.3352};  // of N(0, 1), J. Max 1960
  for (int bits = 2; bits <= 4; ++bits) {
    const Codes codes = codes_of({bits, Rule::fast}, x);
    int n_compared = 0;
    for (std::size_t c = 0; c < x.size(); ++c) {
      const double level = std::fabs(static_cast<double>(x[c])) / rms / steps[bits];
      if (std::fabs(level - std::round(level)) < 1e-3) continue;
      const int half = 1 << (bits - 1);
      const int magnitude = std::min(static_cast<int>(level), half - 1);
      EXPECT_EQ(codes[c], x[c] > 0.0f ? half + magnitude : half - 1 - magnitude);
      ++n_compared;
    }
    EXPECT_GT(n_compared, 240);
  }
}

/// A tile and everything it holds.
struct Tile {
  RaBitQ codec;
  Side side;
  int head_dim;
  std::vector<float> x;
  std::vector<std::byte> bytes;
  std::vector<float> decoded;
  bool finite = true;

  Tile(RaBitQ c, Side s, int d, std::vector<float> rows)
      : codec(c), side(s), head_dim(d), x(std::move(rows)) {
    bytes.assign(codec.tile_bytes(d), std::byte{0xee});
    decoded.assign(x.size(), std::numeric_limits<float>::quiet_NaN());
    finite = codec.encode_tile(side, d, x.data(), bytes.data());
    codec.decode_tile(side, d, bytes.data(), decoded.data());
  }
  Codes codes(int row) const {
    Codes codes(static_cast<std::size_t>(head_dim));
    codec.planes(side, head_dim).get_row(bytes.data(), row, codes.data());
    return codes;
  }
  f16 factor(int row) const {
    return {get_scale(bytes.data() + codec.scale_offset(head_dim), row)};
  }
  const float* decoded_row(int row) const {
    return &decoded[static_cast<std::size_t>(row * head_dim)];
  }
};

TEST(RaBitQ, TilesHoldTheCodesAndFactorsOfTheirRows) {
  for (int bits = 1; bits <= 4; ++bits) {
    for (const Side side : test::kSides) {
      for (const int d : {64, 80}) {
        const Tile tile({bits, Rule::search}, side, d,
                        test::make_rows(test::Input::outlier, kTileRows, d, 6));
        for (int row = 0; row < kTileRows; ++row) {
          const auto first = tile.x.begin() + row * d;
          const std::vector<float> x(first, first + d);
          const Codes codes = codes_of(tile.codec, x);
          ASSERT_EQ(tile.codes(row), codes);
          double xx = 0.0;
          double xu = 0.0;
          for (int c = 0; c < d; ++c) {
            const auto at = static_cast<std::size_t>(c);
            xx += static_cast<double>(x[at]) * static_cast<double>(x[at]);
            xu += static_cast<double>(x[at]) * static_cast<double>(RaBitQ::grid(bits, codes[at]));
          }
          const float factor = to_f32(tile.factor(row));
          ASSERT_NEAR(factor, xx / xu, xx / xu * 0x1.01p-11);
          for (int c = 0; c < d; ++c) {
            ASSERT_EQ(tile.decoded_row(row)[c],
                      factor * RaBitQ::grid(bits, codes[static_cast<std::size_t>(c)]));
          }
        }
      }
    }
  }
}

// q . k ~ |k|^2 <q, sign k> / |k|_1: the published 1-bit rule, with k not normalised.
TEST(RaBitQ, OneBitIsThePublishedRule) {
  const Tile tile({1, Rule::search}, Side::key, 64, test::gauss_rows(kTileRows, 64, 12));
  const std::vector<float> q = test::gauss_rows(1, 64, 13);
  for (int row = 0; row < kTileRows; ++row) {
    const float* k = &tile.x[static_cast<std::size_t>(row * 64)];
    double l1 = 0.0;
    double signs = 0.0;
    for (std::size_t c = 0; c < 64; ++c) {
      l1 += std::fabs(static_cast<double>(k[c]));
      signs += k[c] > 0.0f ? static_cast<double>(q[c]) : -static_cast<double>(q[c]);
    }
    const double want = test::dot(64, k, k) * signs / l1;
    EXPECT_NEAR(test::dot(64, q.data(), tile.decoded_row(row)), want,
                std::fabs(want) * 0x1.1p-11 + 1e-6);
  }
}

TEST(RaBitQ, ZeroRows) {
  for (const float zero : {0.0f, -0.0f, 1e-45f, 0x1p-29f, -0x1p-30f}) {
    for (int bits = 1; bits <= 4; ++bits) {
      for (const Rule rule : {Rule::search, Rule::fast}) {
        const Tile tile({bits, rule}, Side::key, 64,
                        std::vector<float>(static_cast<std::size_t>(kTileRows * 64), zero));
        EXPECT_TRUE(tile.finite);
        for (int row = 0; row < kTileRows; ++row) {
          ASSERT_EQ(tile.factor(row).bits, 0) << zero;
          ASSERT_EQ(tile.codes(row), Codes(64, static_cast<std::uint8_t>(1 << (bits - 1))));
          ASSERT_EQ(bit_cast<std::uint32_t>(tile.decoded_row(row)[7]), 0u);
        }
      }
    }
  }
}

TEST(RaBitQ, LimitsAndNonFiniteValues) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> rows = test::gauss_rows(kTileRows, 64, 5);
  for (const float bad : {kNan, kInf, -kInf, 3e38f}) {
    std::vector<float> with = rows;
    std::vector<float> without = rows;
    with[9 * 64 + 20] = bad;
    without[9 * 64 + 20] = std::isnan(bad) ? 0.0f : bad > 0.0f ? 65504.0f : -65504.0f;
    const Tile a({3, Rule::search}, Side::key, 64, with);
    const Tile b({3, Rule::search}, Side::key, 64, without);
    EXPECT_EQ(a.finite, std::isfinite(bad));
    EXPECT_EQ(a.bytes, b.bytes);
  }
  const Tile full({1, Rule::search}, Side::key, 64,
                  std::vector<float>(static_cast<std::size_t>(kTileRows * 64), 65504.0f));
  EXPECT_EQ(full.factor(3).bits, 0x7bff);  // 131008 is no f16: the factor saturates
  std::vector<float> lone(static_cast<std::size_t>(kTileRows * 64));
  lone[5] = 65504.0f;
  EXPECT_EQ(Tile({3, Rule::search}, Side::key, 64, lone).factor(0).bits,
            to_f16(65504.0f / 3.5f).bits);
  EXPECT_EQ(full.decoded_row(3)[3], 32752.0f);
}

TEST(RaBitQProducts, ErrorsByBits) {
  // 1 bit has a published value and shares it with lm:b1:unbiased, whose codes are the same.
  const double published = 0.420;
  const test::LogitError one = test::logit_error(RaBitQ{1, Rule::search}, 128, 0.5, 32, 40);
  EXPECT_NEAR(one.scaled_square / published, 1.0, 0.05);
  // At q . k = 0 the error is tan^2 of the angle between row and codes: the loss of the decoded row.
  for (int bits = 1; bits <= 4; ++bits) {
    for (const Rule rule : {Rule::search, Rule::fast}) {
      const RaBitQ codec{bits, rule};
      const LossBounds bounds = codec.loss(128);
      const double want = 0.5 * (bounds.low + bounds.high) * 128.0 / 127.0;
      const double right = test::logit_error(codec, 128, 0.0, 24, 61).scaled_square;
      EXPECT_NEAR(right / want, 1.0, 0.05) << codec.name();
      std::printf("%-16s %.4f\n", codec.name().c_str(), right);
      const double wrong = test::logit_error(codec, 128, 0.0, 8, 61, 1.1).scaled_square;
      EXPECT_GT(std::fabs(wrong / want - 1.0), 0.05) << "the control, " << codec.name();
    }
  }
}

TEST(RaBitQ, SearchIsNeverWorseThanFastAndMostlyBetter) {
  for (int bits = 2; bits <= 4; ++bits) {
    int n_better = 0;
    for (std::uint64_t seed = 0; seed < 100; ++seed) {
      const std::vector<float> x = test::gauss_rows(1, 128, 900 + seed);
      const double search = projection(bits, x, codes_of({bits, Rule::search}, x));
      const double fast = projection(bits, x, codes_of({bits, Rule::fast}, x));
      EXPECT_GE(search, fast * (1.0 - 1e-12)) << bits;
      n_better += search > fast * (1.0 + 1e-9) ? 1 : 0;
    }
    EXPECT_GT(n_better, 60) << bits;
  }
}

TEST(RaBitQProducts, AreUnbiased) {
  for (int bits = 1; bits <= 4; ++bits) {
    const RaBitQ codec{bits, Rule::search};
    const test::LogitError error = test::logit_error(codec, 128, 0.5, 12, 50);
    EXPECT_LT(std::fabs(error.bias), 4.0 * error.bias_sigma + 2e-5) << bits;
    const test::LogitError wrong = test::logit_error(codec, 128, 0.5, 12, 50, 0.98);
    EXPECT_GT(std::fabs(wrong.bias), 4.0 * wrong.bias_sigma + 2e-5) << "the control, " << bits;
  }
}

/// Share of products whose error is within epsilon * |q| |k| tan(angle) / sqrt(d - 1).
double share_inside(int bits, double epsilon) {
  constexpr std::size_t kDim = 128;
  constexpr double kProduct = 0.0;
  double inside = 0.0;
  double n = 0.0;
  test::for_each_pair(
      RaBitQ{bits, Rule::search}, kDim, kProduct, 16, 80,
      [&](const float* k, const float* decoded, const std::vector<double>& q, test::Random&) {
        const double kk = test::dot(kDim, k, k);
        const double yy = test::dot(kDim, decoded, decoded);
        const double ky = test::dot(kDim, k, decoded);
        const double tan = std::sqrt(kk * yy / (ky * ky) - 1.0);
        double error = -kProduct * std::sqrt(kk);
        for (std::size_t c = 0; c < kDim; ++c) error += q[c] * static_cast<double>(decoded[c]);
        const double bound = epsilon * std::sqrt(kk) * tan / std::sqrt(kDim - 1.0);
        inside += std::fabs(error) <= bound ? 1.0 : 0.0;
        n += 1.0;
      });
  return inside / n;
}

// epsilon = 1.9 is 1.9 standard deviations and no guarantee: nothing may be skipped by it.
TEST(RaBitQProducts, TheErrorBoundHoldsForMostAndNotForAll) {
  for (int bits = 1; bits <= 4; ++bits) {
    const double share = share_inside(bits, 1.9);
    EXPECT_GT(share, 0.91) << bits;
    EXPECT_LT(share, 0.96) << bits;
    std::printf("%d bits: %.1f %% inside\n", bits, 100.0 * share);
  }
  EXPECT_GT(share_inside(2, 2.5), 0.96) << "the control";
  EXPECT_LT(share_inside(2, 1.5), 0.91) << "the control";
}

TEST(RaBitQ, NamesAndParameters) {
  EXPECT_EQ(RaBitQ::parse("").name(), "rabitq:b4");
  EXPECT_EQ(RaBitQ::parse("search:b2").name(), "rabitq:b2");
  EXPECT_EQ(RaBitQ::parse("fast:b1").name(), "rabitq:b1:fast");
  for (const std::string bad :
       {"b0", "b5", "b", "4", "fast:search", "b4:b4", "fast:", ":", "quick", "fast "}) {
    EXPECT_THROW(RaBitQ::parse(bad), invalid_argument) << bad;
  }
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([] { RaBitQ::parse("b5"); }),
                             {"rabitq", "b5", "b1, b2"}));
}

}  // namespace
}  // namespace kvcodec
