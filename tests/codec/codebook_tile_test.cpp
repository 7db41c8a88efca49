// Codec "codebook": tiles of indices, magnitudes and positions that refer to a table.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kvcodec/codec/any_codec.hpp"
#include "kvcodec/codec/codebook.hpp"
#include "tests/support/codebook_rows.hpp"
#include "tests/support/compare.hpp"
#include "tests/support/guard.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

using test::clustered_rows, test::cosine, test::Covered, test::dot, test::norm;

constexpr int kDim = test::kCodebookDim;
constexpr std::uint32_t kNone = CodebookTable::kNone;

/// A tile of rows of a table, one row of it without entry.
struct Tile {
  explicit Tile(const std::string& options, const RopeTable* rope = nullptr)
      : covered(clustered_rows(kTileRows, 9, 101), 0.9f) {
    codec = Codebook::parse(options).bind(covered.table, rope);
    test::Random random(102);
    covered.index[13] = kNone;
    covered.magnitude[13] = 0.0f;
    for (int row = 0; row < kTileRows; ++row) {
      positions.push_back(static_cast<std::int32_t>(random.below(4000)));
    }
    bytes.resize(codec.tile_bytes(kDim), std::byte{0xee});
    codec.put_rows(0, kTileRows, covered.index.data(), covered.magnitude.data(), positions.data(),
                   bytes.data());
  }
  std::vector<float> decode(Side side) const {
    std::vector<float> x(kTileRows * kDim);
    codec.decode_tile(side, kDim, bytes.data(), x.data());
    return x;
  }

  Covered covered;
  Codebook codec;
  std::vector<std::int32_t> positions;
  std::vector<std::byte> bytes;
};

RopeTable rope_table() {
  std::vector<double> frequencies;
  for (int i = 0; i < kDim / 2; ++i) frequencies.push_back(std::pow(10000.0, -2.0 * i / kDim));
  return {frequencies, 4096};
}

TEST(CodebookTile, SizesAndFields) {
  const Tile k("");
  EXPECT_EQ(k.bytes.size(), 10u * kTileRows);
  const Tile v("norope");
  EXPECT_EQ(v.bytes.size(), 6u * kTileRows);
  for (const Tile* t : {&k, &v}) {
    for (int row = 0; row < kTileRows; ++row) {
      const auto at = static_cast<std::size_t>(row);
      EXPECT_EQ(t->codec.index_of(t->bytes.data(), row), t->covered.index[at]);
      EXPECT_EQ(t->codec.magnitude_of(t->bytes.data(), row),
                to_f32(to_f16(t->covered.magnitude[at])));
      EXPECT_EQ(t->codec.position_of(t->bytes.data(), row), t == &k ? t->positions[at] : 0);
    }
  }
}

TEST(CodebookTile, WritesItsBytesAndNoOthers) {
  for (const char* options : {"", "norope"}) {
    const Tile tile(options);
    test::Guarded<> bytes(tile.bytes.size());
    tile.codec.clear_tile(bytes.data());
    EXPECT_TRUE(bytes.intact());
    std::vector<float> zero(kTileRows * kDim, 1.0f);
    tile.codec.decode_tile(Side::key, kDim, bytes.data(), zero.data());
    EXPECT_EQ(zero, std::vector<float>(zero.size()));
    // Rows 20..39 of another tile, then the rest around them.
    tile.codec.copy_rows(Side::key, kDim, tile.bytes.data(), bytes.data(), 20, 40);
    EXPECT_TRUE(bytes.intact());
    for (int row = 0; row < kTileRows; ++row) {
      const bool copied = row >= 20 && row < 40;
      EXPECT_EQ(tile.codec.index_of(bytes.data(), row),
                copied ? tile.covered.index[static_cast<std::size_t>(row)] : kNone);
    }
    tile.codec.copy_rows(Side::key, kDim, tile.bytes.data(), bytes.data(), 0, 20);
    tile.codec.put_rows(40, kTileRows, tile.covered.index.data() + 40,
                        tile.covered.magnitude.data() + 40, tile.positions.data() + 40,
                        bytes.data());
    EXPECT_TRUE(test::same_bits(bytes.copy(), tile.bytes, options));
  }
}

TEST(CodebookTile, ValuesAreMagnitudeTimesEntry) {
  const RopeTable rope = rope_table();
  for (const char* options : {"", "norope"}) {
    const Tile tile(options, &rope);
    const std::vector<float> x = tile.decode(Side::value);
    for (std::size_t row = 0; row < kTileRows; ++row) {
      for (std::size_t c = 0; c < kDim; ++c) {
        const float want = row == 13 ? 0.0f
                                     : to_f32(to_f16(tile.covered.magnitude[row])) *
                                           tile.covered.entry(tile.covered.index[row])[c];
        ASSERT_EQ(x[row * kDim + c], want);
      }
    }
  }
}

TEST(CodebookTile, KeysAreTurnedToTheirPosition) {
  const RopeTable rope = rope_table();
  const Tile tile("", &rope);
  const std::vector<float> plain = tile.decode(Side::value);
  const std::vector<float> turned = tile.decode(Side::key);
  double worst = 0.0;
  double unturned = 0.0;
  for (std::size_t row = 0; row < kTileRows; ++row) {
    for (std::size_t i = 0; i < kDim / 2; ++i) {
      const double angle =
          tile.positions[row] * std::pow(10000.0, -2.0 * static_cast<double>(i) / kDim);
      const double a = static_cast<double>(plain[row * kDim + i]);
      const double b = static_cast<double>(plain[row * kDim + kDim / 2 + i]);
      const double scale = 1.0 + static_cast<double>(tile.covered.magnitude[row]);
      const double first = a * std::cos(angle) - b * std::sin(angle);
      const double second = a * std::sin(angle) + b * std::cos(angle);
      worst =
          std::max(worst, std::abs(first - static_cast<double>(turned[row * kDim + i])) / scale);
      worst = std::max(
          worst, std::abs(second - static_cast<double>(turned[row * kDim + kDim / 2 + i])) / scale);
      unturned = std::max(unturned, std::abs(first - a) / scale);
    }
  }
  EXPECT_LT(worst, 1e-6);
  EXPECT_GT(unturned, 1e-2);
  // Without a RopeTable, or without positions, keys are not turned.
  EXPECT_EQ(Tile("").decode(Side::key), plain);
  EXPECT_EQ(Tile("norope", &rope).decode(Side::key), plain);
}

TEST(CodebookTile, ScoresAreProductsWithDecodedKeys) {
  const RopeTable rope = rope_table();
  for (const RopeTable* table : {&rope, static_cast<const RopeTable*>(nullptr)}) {
    const Tile tile("", table);
    const std::vector<float> x = tile.decode(Side::key);
    for (const int n_q : {1, 4, 19}) {
      const std::vector<float> q = test::gauss_rows(n_q, kDim, 111);
      std::vector<float> got(static_cast<std::size_t>(n_q * kTileRows), -1.0f);
      std::vector<double> want;
      tile.codec.score_tile(kDim, tile.bytes.data(), 0, q.data(), n_q, got.data());
      for (int i = 0; i < n_q; ++i) {
        for (int row = 0; row < kTileRows; ++row)
          want.push_back(dot(&q[static_cast<std::size_t>(i * kDim)],
                             &x[static_cast<std::size_t>(row * kDim)]));
      }
      EXPECT_TRUE(test::close(got, want, kTileRows, {1e-5, 1e-5}, "scores"));
    }
  }
}

TEST(CodebookTile, SumsAreSumsOfDecodedValues) {
  const Tile tile("norope");
  const std::vector<float> x = tile.decode(Side::value);
  std::vector<std::uint32_t> distinct = tile.covered.index;
  std::sort(distinct.begin(), distinct.end());
  const auto n_distinct = std::unique(distinct.begin(), distinct.end()) - distinct.begin();
  EXPECT_LT(n_distinct, kTileRows / 2) << "nothing is shared";
  for (const int n_q : {1, 4, 19}) {
    const std::vector<float> w = test::gauss_rows(n_q, kTileRows, 112);
    std::vector<float> got = test::gauss_rows(n_q, kDim, 113);
    std::vector<double> want(got.begin(), got.end());
    tile.codec.add_tile(kDim, tile.bytes.data(), 0, w.data(), n_q, got.data());
    for (std::size_t i = 0; i < want.size(); ++i) {
      for (std::size_t row = 0; row < kTileRows; ++row) {
        want[i] += static_cast<double>(w[i / kDim * kTileRows + row]) *
                   static_cast<double>(x[row * kDim + i % kDim]);
      }
    }
    EXPECT_TRUE(test::close(got, want, kDim, {2e-5, 1e-5}, "sums"));
  }
}

TEST(CodebookTile, UnknownIndicesAndPositionsAreHarmless) {
  const RopeTable rope = rope_table();
  Tile tile("", &rope);
  const std::uint32_t beyond = tile.covered.table.n_entries();
  const float one = 1.0f;
  const std::int32_t far = std::numeric_limits<std::int32_t>::max();
  tile.codec.put_rows(0, 1, &beyond, &one, &far, tile.bytes.data());
  const std::uint32_t last = beyond - 1;
  tile.codec.put_rows(1, 2, &last, &one, &far, tile.bytes.data());
  const std::vector<float> x = tile.decode(Side::key);
  for (std::size_t c = 0; c < kDim; ++c) EXPECT_EQ(x[c], 0.0f);
  EXPECT_NEAR(norm(&x[kDim]), 1.0, 1e-3);
  std::vector<float> scores(kTileRows);
  const std::vector<float> q = test::gauss_rows(1, kDim, 114);
  tile.codec.score_tile(kDim, tile.bytes.data(), 0, q.data(), 1, scores.data());
  EXPECT_EQ(scores[0], 0.0f);
  std::vector<float> acc(kDim);
  std::vector<float> w(kTileRows);
  w[0] = 1.0f;
  tile.codec.add_tile(kDim, tile.bytes.data(), 0, w.data(), 1, acc.data());
  EXPECT_EQ(acc, std::vector<float>(kDim));
}

TEST(CodebookTile, MagnitudesStayFiniteF16) {
  Tile tile("");
  const std::uint32_t entry = 0;
  const std::int32_t pos = 0;
  const float values[] = {1e30f, std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN(), 65519.0f};
  const float want[] = {kF16Max, kF16Max, 0.0f, kF16Max};
  for (int i = 0; i < 4; ++i) {
    tile.codec.put_rows(i, i + 1, &entry, &values[i], &pos, tile.bytes.data());
    EXPECT_EQ(tile.codec.magnitude_of(tile.bytes.data(), i), want[i]);
  }
}

TEST(CodebookTile, EncodeLooksRowsUp) {
  const Tile tile("");
  std::vector<std::byte> bytes(tile.bytes.size());
  std::vector<float> x = tile.covered.x;
  EXPECT_TRUE(tile.codec.encode_tile(Side::key, kDim, x.data(), bytes.data()));
  for (int row = 0; row < kTileRows; ++row) {
    double best = -2.0;
    std::uint32_t nearest = 0;
    for (std::uint32_t e = 0; e < tile.covered.table.n_entries(); ++e) {
      const double similar =
          cosine(&x[static_cast<std::size_t>(row * kDim)], tile.covered.entry(e).data());
      if (similar > best) best = similar, nearest = e;
    }
    EXPECT_EQ(tile.codec.index_of(bytes.data(), row), nearest);
    EXPECT_EQ(tile.codec.position_of(bytes.data(), row), 0);
    EXPECT_NEAR(static_cast<double>(tile.codec.magnitude_of(bytes.data(), row)),
                norm(&x[static_cast<std::size_t>(row * kDim)]),
                1e-3 * norm(&x[static_cast<std::size_t>(row * kDim)]));
  }
  x[3 * kDim] = std::numeric_limits<float>::quiet_NaN();
  std::fill_n(x.begin() + 5 * kDim, kDim, 0.0f);
  EXPECT_FALSE(tile.codec.encode_tile(Side::value, kDim, x.data(), bytes.data()));
  EXPECT_EQ(tile.codec.index_of(bytes.data(), 5), kNone);
  // No table: everything is zero.
  const Codebook unbound;
  EXPECT_TRUE(unbound.encode_tile(Side::key, kDim, tile.covered.x.data(), bytes.data()));
  std::vector<float> y(x.size(), 1.0f);
  unbound.decode_tile(Side::key, kDim, bytes.data(), y.data());
  EXPECT_EQ(y, std::vector<float>(y.size()));
}

TEST(CodebookTile, EncodeIsNotMisledByTheRoundingOfEntries) {
  // Entries 0.0175 apart on a circle: the two nearest cosines often differ by less than lengths do.
  test::Random random(131);
  const auto circle = [&](int n) {
    std::vector<float> x(static_cast<std::size_t>(n * kDim));
    for (std::size_t row = 0; row < static_cast<std::size_t>(n); ++row) {
      const double angle = 6.283185307179586 * random.uniform();
      x[row * kDim] = static_cast<float>(std::cos(angle));
      x[row * kDim + 1] = static_cast<float>(std::sin(angle));
    }
    return x;
  };
  const Covered c(circle(3000), CodebookTable::kMaxTheta);
  const Codebook codec = Codebook{}.bind(c.table, nullptr);
  const std::vector<float> x = circle(kTileRows);
  std::vector<std::byte> bytes(codec.tile_bytes(kDim));
  codec.encode_tile(Side::key, kDim, x.data(), bytes.data());
  int misled = 0;
  for (std::size_t row = 0; row < kTileRows; ++row) {
    double best = -2.0;
    double longest = -2.0;
    std::uint32_t nearest = 0;
    std::uint32_t wrong = 0;
    for (std::uint32_t e = 0; e < c.table.n_entries(); ++e) {
      const std::vector<float> entry = c.entry(e);
      const double product = dot(&x[row * kDim], entry.data());
      if (product > longest) longest = product, wrong = e;
      if (product / norm(entry.data()) > best) best = product / norm(entry.data()), nearest = e;
    }
    EXPECT_EQ(codec.index_of(bytes.data(), static_cast<int>(row)), nearest) << row;
    misled += wrong != nearest;
  }
  EXPECT_GT(misled, 0);
}

TEST(CodebookTile, LossIsBounded) {
  for (const char* options : {"t0.98", "t0.95", "t0.6"}) {
    const Codebook codec = Codebook::parse(options);
    const Covered c(clustered_rows(kTileRows, 9, 121), codec.theta);
    const Codebook bound = codec.bind(c.table, nullptr);
    const std::vector<std::int32_t> positions(kTileRows);
    std::vector<std::byte> bytes(bound.tile_bytes(kDim));
    bound.put_rows(0, kTileRows, c.index.data(), c.magnitude.data(), positions.data(),
                   bytes.data());
    std::vector<float> y(c.x.size());
    bound.decode_tile(Side::key, kDim, bytes.data(), y.data());
    for (std::size_t i = 0; i < y.size(); ++i) y[i] -= c.x[i];
    const double loss = std::pow(
        norm(y.data(), static_cast<int>(y.size())) / norm(c.x.data(), static_cast<int>(y.size())),
        2.0);
    EXPECT_LE(loss, codec.loss(kDim).high);
    EXPECT_GE(loss, codec.loss(kDim).low);
  }
}

TEST(CodebookTile, OptionsNamesAndType) {
  EXPECT_EQ(Codebook::parse("").name(), "codebook:t0.98");
  for (const std::string name : {"codebook:t0.95:head:first:norope", "codebook:t0.98:norope"}) {
    EXPECT_EQ(Codebook::parse(name.substr(9)).name(), name);
  }
  EXPECT_EQ(Codebook::parse("t0.95:layer").scope, CodebookScope::layer);
  for (const std::string bad :
       {"t1", "t-0.1", "t", "0.98", "tnan", "heads", ":", "t0.98:", "T0.9"}) {
    EXPECT_THROW(Codebook::parse(bad), invalid_argument) << bad;
  }
  const AnyCodec any = Codebook::parse("t0.9");
  ASSERT_NE(any.as<Codebook>(), nullptr);
  EXPECT_EQ(any.as<Codebook>()->theta, 0.9f);
  EXPECT_TRUE(any.row_independent());
  EXPECT_FALSE(any.key_only());
  EXPECT_EQ(any.as<Codebook>()->make_table(128).theta(), 0.9f);
}

}  // namespace
}  // namespace kvcodec
