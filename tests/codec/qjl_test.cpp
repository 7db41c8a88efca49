// qjl to the letter: signs, norms, outliers, sizes, names, numerics, and what it loses against a
// rotation followed by signs with one corrected scale.
#include "kvcodec/codec/qjl.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/codecs.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

/// A codec with its tables, and tiles of it.
struct Sketch {
  Qjl codec;
  int d;

  Sketch(const std::string& options, int head_dim) : codec(Qjl::parse(options)), d(head_dim) {
    codec.load_tables(d);
  }
  std::vector<std::byte> encode(const std::vector<float>& x, bool finite = true) const {
    std::vector<std::byte> tile(codec.tile_bytes(d));
    EXPECT_EQ(codec.encode_tile(Side::key, d, x.data(), tile.data()), finite);
    return tile;
  }
  bool sign(const std::vector<std::byte>& tile, int row, int i) const {
    return codec.signs().get(tile.data(), row, i) != 0;
  }
  double norm(const std::vector<std::byte>& tile, int row) const {
    return static_cast<double>(to_f32(f16{get_scale(tile.data() + codec.norm_offset(), row)}));
  }
  std::vector<int> channels(const std::vector<std::byte>& tile, int set) const {
    std::vector<int> list;
    for (int j = 0; j < codec.outlier_channels; ++j) {
      list.push_back(static_cast<int>(codec.channels_of(tile.data(), set)[j]));
    }
    return list;
  }
  /// Scores [n_q, 64] of queries q [n_q, d].
  std::vector<float> score(const std::vector<std::byte>& tile, const std::vector<float>& q) const {
    const std::size_t n_q = q.size() / static_cast<std::size_t>(d);
    const auto width = static_cast<std::size_t>(codec.query_width(d));
    std::vector<float> prepared(n_q * width);
    for (std::size_t i = 0; i < n_q; ++i) {
      codec.prepare_query(d, q.data() + i * static_cast<std::size_t>(d),
                          prepared.data() + i * width);
    }
    std::vector<float> scores(n_q * kTileRows);
    codec.score_tile(d, tile.data(), 0, prepared.data(), static_cast<int>(n_q), scores.data());
    return scores;
  }
};

double dot(const float* a, const float* b, int n) {
  double sum = 0.0;
  for (int c = 0; c < n; ++c) sum += static_cast<double>(a[c]) * static_cast<double>(b[c]);
  return sum;
}

double square(const std::vector<float>& x, int row, int d) {
  const float* values = x.data() + static_cast<std::ptrdiff_t>(row) * d;
  return dot(values, values, d);
}

// U7: sign i of a row is s_i . k > 0; in the plane it is element i % 32 of word i / 32.
TEST(Qjl, SignsAreTheProjections) {
  for (const int d : {64, 80, 128}) {
    const Sketch s("m160", d);
    const std::vector<float> x = test::gauss_rows(kTileRows, d, 1);
    const std::vector<std::byte> tile = s.encode(x);
    for (int row = 0; row < kTileRows; ++row) {
      EXPECT_NEAR(s.norm(tile, row) / std::sqrt(square(x, row, d)), 1.0, 0x1p-11);
      for (int i = 0; i < 160; ++i) {
        const double p = dot(s.codec.table.rows + i * d, x.data() + row * d, d);
        ASSERT_EQ(s.sign(tile, row, i), p > 0.0) << row << " " << i;
        const std::size_t word = static_cast<std::size_t>((row / 16 * 5 + i / 32) * 16 + row % 16);
        const int bit = i % 4 * 8 + i % 32 / 4;
        ASSERT_EQ((static_cast<unsigned>(tile[4 * word + static_cast<std::size_t>(bit / 8)]) >>
                   (bit % 8)) &
                      1u,
                  p > 0.0 ? 1u : 0u);
      }
    }
  }
}

TEST(Qjl, AZeroProjectionIsAZeroBit) {
  const Sketch s("m64:o2", 64);
  std::vector<float> x(kTileRows * 64, 0.0f);
  x[64 * 3 + 7] = -0.0f;
  const std::vector<std::byte> tile = s.encode(x);
  EXPECT_EQ(std::count(tile.begin(), tile.begin() + 2 * 8 * 64 + 2 * 128, std::byte{0}),
            2 * 8 * 64 + 2 * 128);
  for (const float score : s.score(tile, test::gauss_rows(1, 64, 1))) EXPECT_EQ(score, 0.0f);
  EXPECT_EQ(s.channels(tile, 0), (std::vector<int>{0, 1})) << "ties go to the lower channel";
}

// U5: positive factors change norms only; scores are linear in q.
TEST(Qjl, IsEquivariantInScaleAndLinearInTheQuery) {
  for (const char* options :
       {"m96", "m96:o4", "m96:o4:mo64:tile:gauss", "m96:o4:fixed", "m96:o4:exact"}) {
    const Sketch s(options, 64);
    const std::vector<float> x = test::gauss_rows(kTileRows, 64, 2);
    std::vector<float> four = x;
    for (float& value : four) value *= 4.0f;
    const std::vector<std::byte> tile = s.encode(x);
    const std::vector<std::byte> larger = s.encode(four);
    EXPECT_TRUE(std::equal(tile.begin(),
                           tile.begin() + static_cast<std::ptrdiff_t>(s.codec.norm_offset()),
                           larger.begin()));
    std::vector<float> q = test::gauss_rows(2, 64, 3);
    for (int c = 0; c < 64; ++c)
      q.push_back(2.0f * q[static_cast<std::size_t>(c)] - q[static_cast<std::size_t>(64 + c)]);
    const std::vector<float> a = s.score(tile, q);
    const std::vector<float> b = s.score(larger, q);
    for (std::size_t row = 0; row < kTileRows; ++row) {
      ASSERT_EQ(4.0f * a[row], b[row]);
      ASSERT_NEAR(a[128 + row], 2.0f * a[row] - a[64 + row], 1e-3f) << options;
    }
  }
}

// U8: a term with a wrong constant vanishes or drowns; this correlation would fall or not depend on d.
TEST(Qjl, TheTermIsAlive) {
  for (const char* kind : {"gauss", "s1"}) {
    for (const int d : {64, 128, 256}) {
      double xy = 0.0;
      double xx = 0.0;
      double yy = 0.0;
      for (std::uint32_t seed = 1; seed <= 12; ++seed) {
        const Sketch s("m" + std::to_string(d) + ":" + kind, d);
        const std::vector<float> x = test::gauss_rows(kTileRows, d, seed);
        const std::vector<float> q = test::gauss_rows(4, d, 100 + seed);
        std::vector<std::byte> tile = s.encode(x);
        const std::vector<float> scores = s.score(tile, q);
        for (int i = 0; i < 4 * kTileRows; ++i) {
          const double truth = dot(q.data() + i / kTileRows * d, x.data() + i % kTileRows * d, d);
          const auto score = static_cast<double>(scores[static_cast<std::size_t>(i)]);
          xy += truth * score;
          xx += truth * truth;
          yy += score * score;
        }
        for (std::size_t i = 0; i < s.codec.norm_offset(); ++i) tile[i] = ~tile[i];
        const std::vector<float> negated = s.score(tile, q);
        for (std::size_t i = 0; i < scores.size(); ++i) ASSERT_EQ(negated[i], -scores[i]);
      }
      const double want = std::string(kind) == "gauss" ? 1.0 / std::sqrt(1.0 + std::acos(0.0))
                                                       : 1.0 / std::sqrt(std::acos(0.0));
      EXPECT_NEAR(xy / std::sqrt(xx * yy), want, 0.03) << kind << " " << d;
      EXPECT_NEAR(xy / xx, 1.0, 0.06) << "slope, " << kind << " " << d;
    }
  }
}

/// Mean of (score - c * q.k) / (|q| |k|) in standard errors. A draw is the mean over the rows of a tile:
/// they share S.
double bias_in_errors(const std::string& options, double c) {
  constexpr int kD = 64;
  constexpr int kDraws = 60;
  double sum = 0.0;
  double sum2 = 0.0;
  for (std::uint32_t seed = 1; seed <= kDraws; ++seed) {
    const Sketch s(options + ":s" + std::to_string(seed), kD);
    const std::vector<float> x = test::make_rows(test::Input::outlier, kTileRows, kD, seed);
    const std::vector<std::byte> tile = s.encode(x);
    // A query near each row, so that a bias shows.
    std::vector<float> q = x;
    const std::vector<float> noise = test::gauss_rows(kTileRows, kD, 999 + seed);
    for (std::size_t i = 0; i < q.size(); ++i) q[i] += noise[i];
    const std::vector<float> scores = s.score(tile, q);
    double mean = 0.0;
    for (int row = 0; row < kTileRows; ++row) {
      const double truth = dot(q.data() + row * kD, x.data() + row * kD, kD);
      const double size = std::sqrt(square(q, row, kD) * square(x, row, kD));
      const auto score =
          static_cast<double>(scores[static_cast<std::size_t>(row * kTileRows + row)]);
      mean += (score - c * truth) / size / kTileRows;
    }
    sum += mean;
    sum2 += mean * mean;
  }
  const double mean = sum / kDraws;
  return mean / std::sqrt((sum2 / kDraws - mean * mean) / kDraws);
}

// U6, with channels that really stand out. 60 S of 64 rows each.
TEST(Qjl, OutliersKeepTheMean) {
  for (const char* options :
       {"m128:gauss", "m128:o4:gauss", "m128:o4:mo64:tile:gauss", "m128:o4:exact:gauss", "m128:cd",
        "m128:o4:cd", "m128:o4:mo32:cd", "m128:o4:exact:cd"}) {
    EXPECT_LT(std::abs(bias_in_errors(options, 1.0)), 4.0) << options;
  }
  // Controls: the bias of orthogonal rows, present unless "cd" divides it out.
  EXPECT_GT(std::abs(bias_in_errors("m512", 1.0)), 5.0);
  EXPECT_LT(std::abs(bias_in_errors("m512", qjl_bias(64))), 4.0);
  EXPECT_LT(std::abs(bias_in_errors("m512:cd", 1.0)), 4.0);
}

TEST(Qjl, NoOutliersIsPlainQjl) {
  const std::vector<float> x = test::gauss_rows(kTileRows, 64, 4);
  EXPECT_EQ(Sketch("m128:o0", 64).encode(x), Sketch("m128", 64).encode(x));
  EXPECT_EQ(Sketch("m128", 64).encode(x).size(), 64u * (128 / 8 + 2));
  Qjl unused = Qjl::parse("m128");
  unused.outlier_sketch_dim = 0;  // never divided by
  unused.load_tables(64);
  std::vector<std::byte> tile(unused.tile_bytes(64));
  unused.encode_tile(Side::key, 64, x.data(), tile.data());
  std::vector<float> y(x.size());
  unused.decode_tile(Side::key, 64, tile.data(), y.data());
  for (const float value : y) ASSERT_TRUE(std::isfinite(value));
}

TEST(Qjl, OutlierChannelsPerRule) {
  std::vector<float> x = test::gauss_rows(kTileRows, 64, 5);
  for (int row = 0; row < kTileRows; ++row) {
    float* key = x.data() + row * 64;
    key[row < 32 ? 50 : 3] *= 20.0f;
    key[60] += 9.0f;
    key[0] += row < 32 ? 8.5f : -8.5f;
  }
  const auto lists = [&](const char* options) {
    const Sketch s(options, 64);
    const std::vector<std::byte> tile = s.encode(x);
    return std::vector<std::vector<int>>{s.channels(tile, 0),
                                         s.channels(tile, s.codec.n_sets() - 1)};
  };
  const std::vector<std::vector<int>> groups = {{0, 50, 60}, {0, 3, 60}};
  EXPECT_EQ(lists("m64:o3"), groups);
  EXPECT_EQ(lists("m64:o3:exact"), groups);
  EXPECT_EQ(lists("m64:o4:tile"), (std::vector<std::vector<int>>{{0, 3, 50, 60}, {0, 3, 50, 60}}));
}

TEST(Qjl, ExactOutliersAreStoredAsF16) {
  const Sketch s("m1024:o4:exact", 64);
  std::vector<float> x = test::gauss_rows(kTileRows, 64, 6);
  for (int row = 0; row < kTileRows; ++row)
    x[static_cast<std::size_t>(row * 64 + 9)] = 300.0f + 0.25f * static_cast<float>(row);
  const std::vector<std::byte> tile = s.encode(x);
  std::vector<float> q(64, 0.0f);
  q[9] = 1.0f;
  const std::vector<float> scores = s.score(tile, q);
  for (int row = 0; row < kTileRows; ++row) {
    // The sketch of the other channels adds its noise; the outlier itself has none.
    EXPECT_NEAR(scores[static_cast<std::size_t>(row)], 300.0f + 0.25f * static_cast<float>(row),
                1.5f);
    EXPECT_LT(s.norm(tile, row), 12.0) << "the norm is that of the rest";
  }
}

TEST(Qjl, SizesAreThoseOfTheTable) {
  const auto per_key = [](const char* options) {
    return static_cast<double>(Qjl::parse(options).tile_bytes(128)) / kTileRows;
  };
  EXPECT_EQ(per_key("m128"), 18.0);
  EXPECT_EQ(per_key(""), 34.0);
  EXPECT_EQ(per_key("m512"), 66.0);
  EXPECT_EQ(per_key("m256:o8"), 68.25);
  EXPECT_EQ(per_key("m512:o8:mo128"), 84.25);
  EXPECT_EQ(per_key("m256:o8:exact"), 50.25);
  EXPECT_EQ(per_key("m256:o16:tile"), 68.25);
  EXPECT_EQ(per_key("m256:o16:fixed"), 68.25);
  EXPECT_EQ(per_key("m256:o1"), 68.25) << "lists are padded to 16 bytes";
}

TEST(Qjl, ClampsAndSpoilsNobody) {
  for (const char* options : {"m64", "m64:o2:exact", "m64:o2:mo32"}) {
    const Sketch s(options, 64);
    const std::vector<float> rows = test::gauss_rows(kTileRows, 64, 7);
    for (const float bad : {kNan, kInf, -kInf, 1e30f}) {
      std::vector<float> with = rows;
      std::vector<float> without = rows;
      with[9 * 64 + 20] = bad;
      without[9 * 64 + 20] = std::isnan(bad) ? 0.0f : std::copysign(65504.0f, bad);
      EXPECT_EQ(s.encode(with, std::isfinite(bad)), s.encode(without)) << options << " " << bad;
    }
    std::vector<float> huge(rows.size(), -60000.0f);  // a norm of 480000
    const std::vector<std::byte> tile = s.encode(huge);
    EXPECT_EQ(s.norm(tile, 0), 65504.0);
  }
}

TEST(Qjl, NamesAndParameters) {
  EXPECT_EQ(Qjl::parse("").name(), "qjl:m256");
  EXPECT_EQ(Qjl::parse("o8").name(), "qjl:m256:o8:mo256");
  EXPECT_EQ(Qjl::parse("mo128:o8:m512:s7:tile").name(), "qjl:m512:o8:mo128:tile:s7");
  EXPECT_EQ(Qjl::parse("o4:exact:cd").name(), "qjl:m256:o4:exact:cd");
  EXPECT_EQ(Qjl::parse("fixed:mo32:o8").name(), "qjl:m256:o8:mo32:fixed");
  EXPECT_EQ(Qjl::parse("gauss:m64").name(), "qjl:m64:gauss");
  for (const char* bad :
       {"m63",   "m32",   "m100",  "m1056",    "m",        "m-64",   "o33",
        "o-1",   "o",     "mo16",  "mo48:o8",  "mo288:o8", "mo64",   "o4:exact:mo64",
        "tile",  "fixed", "exact", "gauss:cd", "s0",       "s65536", "s",
        "given", ":",     "m64:",  "M64"}) {
    EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([&] { Qjl::parse(bad); }),
                               {"qjl", "allowed"}))
        << bad;
  }
  for (const int d : {48, 72, 272}) EXPECT_FALSE(Qjl{}.supports(d));
}

TEST(Qjl, AGivenProjectionStays) {
  const QjlProjection s = QjlProjection::generate(77, 128, 64);
  Qjl codec = Qjl::parse("m96").with_projection(s);
  EXPECT_EQ(codec.name(), "qjl:m96:given");
  codec.load_tables(64);
  EXPECT_EQ(codec.table.rows, s.tables().rows);
  EXPECT_TRUE(codec.supports(64));
  EXPECT_FALSE(codec.supports(128));
  EXPECT_TRUE(test::contains(
      test::message_of<invalid_argument>([&] { Qjl::parse("m160").with_projection(s); }),
      {"128", "m = 160"}));
  // Rows beyond m are not looked at: the same bytes as with its first 96 rows.
  const QjlProjection first = QjlProjection::from_rows(s.tables().rows, 96, 64);
  const Qjl narrow = Qjl::parse("m96").with_projection(first);
  const std::vector<float> x = test::gauss_rows(kTileRows, 64, 8);
  std::vector<std::byte> a(codec.tile_bytes(64));
  std::vector<std::byte> b(a.size());
  codec.encode_tile(Side::key, 64, x.data(), a.data());
  narrow.encode_tile(Side::key, 64, x.data(), b.data());
  EXPECT_EQ(a, b);
}

/// Rounds to a type of fewer bits; TF32 keeps ten bits of the mantissa.
float rounded(float x, int type) {
  if (type == 0) return to_f32(to_f16(x));
  if (type == 1) return to_f32(to_bf16(x));
  return bit_cast<float>((bit_cast<std::uint32_t>(x) + 0x1000u) & 0xffffe000u);
}

// U10: what a projection by tensor cores may change: signs with |s.k| below its rounding error.
TEST(Qjl, LowPrecisionProjectionsFlipOnlyUndecidedSigns) {
  constexpr int kD = 128;
  constexpr int kM = 256;
  constexpr int kTiles = 8;
  const Sketch s("m256", kD);
  const double unit[] = {0x1p-11, 0x1p-8, 0x1p-11};  // f16, bf16, TF32: relative rounding error
  for (int type = 0; type < 3; ++type) {
    std::vector<float> rows(s.codec.table.rows, s.codec.table.rows + kM * kD);
    for (float& value : rows) value = rounded(value, type);
    int n_flips = 0;
    for (std::uint64_t seed = 0; seed < kTiles; ++seed) {
      const std::vector<float> x = test::gauss_rows(kTileRows, kD, 900 + seed);
      const std::vector<std::byte> tile = s.encode(x);
      for (int row = 0; row < kTileRows; ++row) {
        const float* key = x.data() + row * kD;
        float low[kD];
        for (int c = 0; c < kD; ++c) low[c] = rounded(key[c], type);
        for (int i = 0; i < kM; ++i) {
          float sum = 0.0f;
          for (int c = 0; c < kD; ++c) sum += rows[static_cast<std::size_t>(i * kD + c)] * low[c];
          if ((sum > 0.0f) == s.sign(tile, row, i)) continue;
          ++n_flips;
          // Errors of 2 d roundings add up like a random walk of steps |s| |k| / d.
          const double exact = dot(s.codec.table.rows + i * kD, key, kD);
          ASSERT_LT(std::abs(exact), 4.0 * unit[type] * std::sqrt(square(x, row, kD)));
        }
      }
    }
    const double rate = static_cast<double>(n_flips) / (kM * kTileRows * kTiles);
    EXPECT_LT(rate, 0.4 * unit[type]) << type;
    EXPECT_GT(rate, 0.05 * unit[type]) << "the inputs tell nothing";
    std::printf("projection type %d: %.3g of the signs flip\n", type, rate);
  }
}

/// Mean squared error of scores over |q|^2 |k|^2 / d, per query and key.
struct Loss {
  double sum = 0.0;
  double n = 0.0;
  void add(double score, double truth, double size2, int d) {
    sum += (score - truth) * (score - truth) / size2 * d;
    n += 1.0;
  }
  double mean() const { return sum / n; }
};

/// Signs (1 bit) or rescaled Lloyd-Max levels (2 bits) of a key whose channels are alike, and one f16:
/// the rule |k|^2 / (k . code) of RaBitQ. [d] code values times the factor.
std::vector<float> rabitq(const float* k, int d, int bits) {
  double norm2 = dot(k, k, d);
  const double sigma = std::sqrt(norm2 / d);
  std::vector<float> code(static_cast<std::size_t>(d));
  for (int c = 0; c < d; ++c) {
    const double a = std::abs(static_cast<double>(k[c])) / sigma;
    const double level = bits == 1 ? 1.0 : a > 0.9816 ? 1.510 : 0.4528;
    code[static_cast<std::size_t>(c)] =
        static_cast<float>(std::copysign(level, static_cast<double>(k[c])));
  }
  const float factor = to_f32(to_f16(static_cast<float>(norm2 / dot(k, code.data(), d))));
  for (float& value : code) value *= factor;
  return code;
}

// At equal stored bits. Gaussian keys are as good as rotated ones: their channels are alike.
TEST(Qjl, ARotationWithOneCorrectedScaleIsBetter) {
  constexpr int kD = 128;
  Loss qjl[2][2];  // [bits - 1][gauss]
  Loss rule[2];
  for (std::uint32_t seed = 1; seed <= 10; ++seed) {
    const std::vector<float> x = test::gauss_rows(kTileRows, kD, seed);
    const std::vector<float> q = test::gauss_rows(32, kD, 500 + seed);
    for (int bits = 1; bits <= 2; ++bits) {
      std::vector<float> scores[2];
      for (int gauss = 0; gauss < 2; ++gauss) {
        const Sketch s("m" + std::to_string(128 * bits) + ":s" + std::to_string(seed) +
                           (gauss == 1 ? ":gauss" : ""),
                       kD);
        EXPECT_EQ(s.codec.tile_bytes(kD),
                  kTileRows * (static_cast<std::size_t>(kD * bits / 8) + 2));
        scores[gauss] = s.score(s.encode(x), q);
      }
      for (int row = 0; row < kTileRows; ++row) {
        const float* key = x.data() + row * kD;
        const std::vector<float> code = rabitq(key, kD, bits);
        for (int i = 0; i < 32; ++i) {
          const float* query = q.data() + i * kD;
          const double truth = dot(query, key, kD);
          const double size2 = square(q, i, kD) * square(x, row, kD);
          rule[bits - 1].add(dot(query, code.data(), kD), truth, size2, kD);
          for (int gauss = 0; gauss < 2; ++gauss) {
            const auto score =
                static_cast<double>(scores[gauss][static_cast<std::size_t>(i * kTileRows + row)]);
            qjl[bits - 1][gauss].add(score, truth, size2, kD);
          }
        }
      }
    }
  }
  for (int b = 0; b < 2; ++b) {
    std::printf("%d.125 bits: error qjl %.3f, qjl:gauss %.3f, corrected scale %.3f\n", b + 1,
                qjl[b][0].mean(), qjl[b][1].mean(), rule[b].mean());
  }
  EXPECT_NEAR(rule[0].mean(), 0.571, 0.03);  // pi / 2 - 1
  EXPECT_NEAR(rule[1].mean(), 0.133, 0.01);  // D / (1 - D), D = 0.1175
  EXPECT_NEAR(qjl[0][1].mean() / rule[0].mean(), 2.75, 0.2) << "independent rows, as in the paper";
  EXPECT_NEAR(qjl[0][0].mean() / rule[0].mean(), 1.0, 0.1) << "orthogonal rows are a rotation";
  EXPECT_NEAR(qjl[1][1].mean() / rule[1].mean(), 5.9, 0.5);
  EXPECT_NEAR(qjl[1][0].mean() / rule[1].mean(), 2.14, 0.2) << "more signs instead of more levels";
}

}  // namespace
}  // namespace kvcodec
