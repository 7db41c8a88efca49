// wkv to the letter: scales, zeros, codes, ties, clips, degenerate groups, packing of 3 bits.
#include "kvcodec/codec/affine_token.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/codecs.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// A tile, filled with `rest`, and what a codec makes of it.
struct Tile {
  int head_dim;
  AffineToken codec;
  std::vector<float> x;
  std::vector<std::byte> bytes;
  std::vector<float> decoded;
  Side side = Side::key;
  bool finite = true;

  Tile(const std::string& options, int dim, float rest = 0.0f)
      : head_dim(dim),
        codec(AffineToken::parse(options)),
        x(static_cast<std::size_t>(kTileRows * dim), rest) {}
  float& at(int row, int channel) { return x[static_cast<std::size_t>(row * head_dim + channel)]; }

  void run() {
    bytes.assign(codec.tile_bytes(head_dim), std::byte{0xee});
    decoded.assign(x.size(), kNan);
    finite = codec.encode_tile(side, head_dim, x.data(), bytes.data());
    codec.decode_tile(side, head_dim, bytes.data(), decoded.data());
  }
  /// By the layout, not by the codec's own reader.
  std::uint32_t code(int row, int channel) const {
    const TileLayout low{side, codec.bits == 3 ? 2 : codec.bits, head_dim};
    const std::uint32_t bits = low.get(bytes.data(), row, channel);
    if (codec.bits != 3) return bits;
    const TileLayout high{side, 1, head_dim};
    return bits + 4 * high.get(bytes.data() + low.plane_bytes(), row, channel);
  }
  float scale(int row, int g = 0) const {
    return to_f32(f16{get_scale(bytes.data() + codec.scale_offset(head_dim, g), row)});
  }
  float zero(int row, int g = 0) const {
    return to_f32(f16{get_scale(bytes.data() + codec.zero_offset(head_dim, g), row)});
  }
  float value(int row, int channel) const {
    return decoded[static_cast<std::size_t>(row * head_dim + channel)];
  }
};

// 0..15 in one group without clipping: step 1, offset 0, every integer its own code; halves go to
// the even neighbour.
TEST(AffineToken, HandWorkedFourBits) {
  for (const Side side : test::kSides) {
    Tile t("b4:g64:x1", 64);
    t.side = side;
    for (int i = 0; i < 16; ++i) t.at(3, i) = static_cast<float>(i);
    const float halves[] = {0.5f, 1.5f, 2.5f, 13.5f, 14.5f, 0.49f, 0.51f, 14.51f};
    for (int i = 0; i < 8; ++i) t.at(3, 16 + i) = halves[i];
    t.run();
    EXPECT_EQ(t.scale(3), 1.0f);
    EXPECT_EQ(t.zero(3), 0.0f);
    for (int i = 0; i < 16; ++i) {
      EXPECT_EQ(t.code(3, i), static_cast<std::uint32_t>(i));
      EXPECT_EQ(t.value(3, i), static_cast<float>(i));
    }
    const std::uint32_t want[] = {0, 2, 2, 14, 14, 0, 1, 15};
    for (int i = 0; i < 8; ++i) EXPECT_EQ(t.code(3, 16 + i), want[i]) << halves[i];
  }
}

// -8..8 at clip 0.5: the middle half of the range is -4..4, its step 8 / 15 in f16.
TEST(AffineToken, ClipKeepsTheMiddleOfTheRange) {
  Tile t("b4:g64:x0.5", 64);
  t.at(0, 0) = -8.0f;
  t.at(0, 1) = 8.0f;
  t.at(0, 2) = -4.0f;
  t.at(0, 3) = 4.0f;
  t.at(1, 0) = 10.0f;  // about a middle that is not 0: 0..10 becomes 2.5..7.5
  t.run();
  EXPECT_EQ(t.scale(0), to_f32(to_f16(8.0f / 15.0f)));
  EXPECT_EQ(t.zero(0), -4.0f);
  EXPECT_EQ(t.code(0, 0), 0u);
  EXPECT_EQ(t.code(0, 1), 15u);
  EXPECT_EQ(t.value(0, 0), -4.0f) << "the end is lost on purpose";
  EXPECT_EQ(t.code(0, 2), 0u);
  EXPECT_EQ(t.code(0, 3), 15u);
  EXPECT_EQ(t.zero(1), 2.5f);
  EXPECT_EQ(t.scale(1), to_f32(to_f16(5.0f / 15.0f)));
}

TEST(AffineToken, DefaultClipsAreThePublishedOnes) {
  EXPECT_EQ(AffineToken::default_clip(4, 128), 0.92f);
  EXPECT_EQ(AffineToken::default_clip(3, 128), 0.80f);
  EXPECT_EQ(AffineToken::default_clip(2, 128), 0.58f);
  EXPECT_EQ(AffineToken::default_clip(8, 128), 1.0f);
  for (const int bits : {2, 3, 4}) {
    for (int n = 32; n <= 128; n += 16) {
      EXPECT_LE(AffineToken::default_clip(bits, n), AffineToken::default_clip(bits, n - 16))
          << "larger groups have a wider range to give up, bits " << bits << " n " << n;
    }
  }
}

// The default lies at the minimum: neither more nor less clipping is better by over half a percent,
// and 0.06 away (the negative control) it is visibly worse.
TEST(AffineToken, DefaultClipsMinimiseTheError) {
  const int dim = 64;
  const std::vector<float> x = test::gauss_rows(64 * kTileRows, dim, 41);
  const auto error_at = [&](AffineToken codec, float clip) {
    codec.clip = clip;
    Tile t(codec.name().substr(4), dim);
    double sum = 0.0;
    for (std::size_t first = 0; first < x.size(); first += t.x.size()) {
      std::copy_n(x.begin() + static_cast<std::ptrdiff_t>(first), t.x.size(), t.x.begin());
      t.run();
      for (std::size_t i = 0; i < t.x.size(); ++i) {
        const double e = static_cast<double>(t.x[i]) - static_cast<double>(t.decoded[i]);
        sum += e * e;
      }
    }
    return sum;
  };
  for (const char* options : {"b2:g32", "b3:g64", "b4:g64"}) {
    const AffineToken codec = AffineToken::parse(options);
    const float usual = AffineToken::default_clip(codec.bits, codec.group);
    const double best = error_at(codec, 0.0f);
    EXPECT_EQ(best, error_at(codec, usual)) << options;
    for (const float step : {-0.02f, 0.02f}) {
      EXPECT_GT(error_at(codec, usual + step), 0.995 * best) << options << " " << step;
    }
    EXPECT_GT(error_at(codec, usual - 0.06f), 1.01 * best) << options;
  }
}

/// Relative squared error over about n_values Gaussian values.
double loss_of(const AffineToken& codec, int head_dim, int n_values) {
  Tile t("", head_dim);
  t.codec = codec;
  double error = 0.0;
  double norm = 0.0;
  for (int n = 0; n < n_values; n += kTileRows * head_dim) {
    t.x = test::gauss_rows(kTileRows, head_dim, 900 + static_cast<std::uint64_t>(n));
    t.run();
    for (std::size_t i = 0; i < t.x.size(); ++i) {
      const double e = static_cast<double>(t.x[i]) - static_cast<double>(t.decoded[i]);
      error += e * e;
      norm += static_cast<double>(t.x[i]) * static_cast<double>(t.x[i]);
    }
  }
  return error / norm;
}

// Closed values of unclipped groups and the published clip at 128; then the codec's own bounds for
// everything it can be asked for.
TEST(AffineToken, LossOnGaussianRows) {
  struct Known {
    const char* options;
    int head_dim;
    double loss;
  };
  for (const Known& known : {Known{"b4:g128:x0.92", 128, 0.0091}, Known{"b4:g32:x1", 128, 0.00612},
                             Known{"b4:g64:x1", 128, 0.00803}, Known{"b4:g128:x1", 128, 0.00995},
                             Known{"b3:g32:x1", 64, 0.02813}, Known{"b3:g128:x1", 256, 0.04572},
                             Known{"b2:g32:x1", 64, 0.15441}, Known{"b2:g128:x1", 128, 0.25042},
                             Known{"b3:g128:x0.8", 128, 0.0344}}) {
    const AffineToken codec = AffineToken::parse(known.options);
    EXPECT_NEAR(loss_of(codec, known.head_dim, 400000), known.loss, 0.02 * known.loss)
        << known.options;
    const LossBounds bounds = codec.loss(known.head_dim);
    EXPECT_LT(bounds.high / bounds.low, 1.07) << known.options;
  }
  for (const char* bits : {"b2", "b3", "b4", "b8"}) {
    for (const char* group : {":g32", ":g64", ":g128"}) {
      for (const char* clip : {"", ":x1", ":x0.9", ":x0.3"}) {
        const AffineToken codec = AffineToken::parse(std::string(bits) + group + clip);
        for (const int head_dim : {64, 80, 112, 128, 192}) {
          const double loss = loss_of(codec, head_dim, 60000);
          const LossBounds bounds = codec.loss(head_dim);
          EXPECT_GE(loss, bounds.low) << codec.name() << " " << head_dim;
          EXPECT_LE(loss, bounds.high) << codec.name() << " " << head_dim;
          // The negative control: bounds of other groups do not fit.
          AffineToken other = codec;
          other.group = codec.group == 32 ? 64 : 32;
          const LossBounds wrong = other.loss(128);
          const bool tight = bounds.high < 1.1 * bounds.low;
          if (tight && head_dim == 128) {
            EXPECT_TRUE(loss < wrong.low || loss > wrong.high) << codec.name();
          }
        }
      }
    }
  }
}

// "epsilon keeps h at the smallest normal f16": a constant group needs no special case.
TEST(AffineToken, ConstantGroupsKeepTheSmallestNormalStep) {
  for (const char* options : {"b2:g64", "b3:g64", "b4:g64", "b8:g64", "b4:g64:x0.3"}) {
    for (const float constant : {0.0f, -0.0f, 0.75f, -3.0f, 0.1f, 1e-6f, 65504.0f, -65504.0f}) {
      Tile t(options, 64, constant);
      t.run();
      EXPECT_EQ(t.scale(5), 0x1p-14f) << options << " " << constant;
      EXPECT_EQ(t.zero(5), to_f32(to_f16(constant)));
      // Half a step, or, where the step is finer than the rounding of the zero, that rounding.
      const float bound = std::max(0x1p-15f, std::abs(to_f32(to_f16(constant)) - constant));
      EXPECT_LE(std::abs(t.value(5, 7) - constant), bound) << options << " " << constant;
    }
  }
}

TEST(AffineToken, RangesBelowTheSmallestStepStayInsideIt) {
  Tile t("b4:g64:x1", 64);
  t.at(0, 0) = 0x1p-15f;    // half of the smallest step: a tie, to even
  t.at(0, 1) = 0x1.8p-15f;  // three quarters of it
  t.at(1, 0) = 14 * 0x1p-14f;
  t.at(2, 0) = 30 * 0x1p-14f;  // wider than 15 smallest steps: step doubled
  t.run();
  EXPECT_EQ(t.scale(0), 0x1p-14f);
  EXPECT_EQ(t.code(0, 0), 0u);
  EXPECT_EQ(t.code(0, 1), 1u);
  EXPECT_EQ(t.scale(1), 0x1p-14f);
  EXPECT_EQ(t.code(1, 0), 14u);
  EXPECT_EQ(t.scale(2), 0x1p-13f);
  EXPECT_EQ(t.code(2, 0), 15u);
}

// Codes come from the scale and the zero that are stored. 2049 rounds to 2048 and the step 0.1 to
// another f16: with the unrounded zero every code of the row would be one step too small.
TEST(AffineToken, CodesAreFormedWithTheRoundedParameters) {
  Tile t("b4:g64:x1", 64, 2049.0f);
  for (int i = 0; i < 16; ++i) t.at(0, i) = 2049.0f + static_cast<float>(i);
  t.run();
  EXPECT_EQ(t.zero(0), 2048.0f);
  EXPECT_EQ(t.scale(0), 1.0f);
  for (int i = 0; i < 15; ++i) EXPECT_EQ(t.value(0, i), 2049.0f + static_cast<float>(i));
  EXPECT_EQ(t.code(0, 14), 15u);
  EXPECT_EQ(t.value(0, 15), 2063.0f) << "clipped by the rounding of the zero";

  // A step that rounds down by 0.02 %: far up the codes the difference exceeds half a step of 255.
  Tile u("b8:g64:x1", 64);
  const float top = 255.0f * 1.00048f;
  u.at(0, 63) = top;
  u.at(0, 0) = 200.55f;
  u.run();
  EXPECT_EQ(u.scale(0), 1.0f);
  EXPECT_EQ(u.code(0, 0), 201u) << "200.55 / 1.00048 = 200.45 would give 200";
}

TEST(AffineToken, WidestRanges) {
  for (const char* options : {"b2:g64:x1", "b3:g64:x1", "b4:g64:x1", "b8:g64:x1"}) {
    Tile t(options, 64);
    t.at(0, 0) = 65504.0f;
    t.at(0, 1) = -65504.0f;
    t.at(1, 0) = 3e38f;  // clamped
    t.at(1, 1) = -3e38f;
    t.run();
    EXPECT_TRUE(t.finite) << "finite input, though beyond f16";
    for (const int row : {0, 1}) {
      const float levels = static_cast<float>((1 << t.codec.bits) - 1);
      EXPECT_EQ(t.scale(row), to_f32(to_f16(2.0f * 65504.0f / levels))) << options;
      EXPECT_EQ(t.value(row, 1), -65504.0f);
      EXPECT_EQ(t.code(row, 0), static_cast<std::uint32_t>(levels));
      EXPECT_NEAR(t.value(row, 0), 65504.0f, 65504.0f * 0x1p-10f);
      EXPECT_LE(std::abs(t.value(row, 2)), 0.5001f * t.scale(row));
    }
  }
}

TEST(AffineToken, ThreeBitsAreALowAndAHighPlane) {
  for (const int dim : {64, 80, 128}) {  // 80: the 1-bit plane of K has padding
    for (const Side side : test::kSides) {
      Tile t("b3:g128:x1", dim);
      t.side = side;
      for (int row = 0; row < kTileRows; ++row) {
        for (int c = 0; c < dim; ++c) t.at(row, c) = static_cast<float>((c * 3 + row) % 8);
      }
      t.run();
      for (int row = 0; row < kTileRows; ++row) {
        ASSERT_EQ(t.scale(row), 1.0f);
        for (int c = 0; c < dim; ++c) {
          ASSERT_EQ(t.code(row, c), static_cast<std::uint32_t>((c * 3 + row) % 8))
              << "row " << row << " channel " << c;
          ASSERT_EQ(t.value(row, c), t.at(row, c));
        }
      }
      const std::size_t planes =
          TileLayout{side, 2, dim}.plane_bytes() + TileLayout{side, 1, dim}.plane_bytes();
      EXPECT_EQ(t.codec.scale_offset(dim, 0), planes);
    }
  }
}

TEST(AffineToken, GroupsEndWithTheHead) {
  struct Shape {
    const char* options;
    int head_dim, n_groups, last;
  };
  for (const Shape& s :
       {Shape{"g32", 80, 3, 16}, Shape{"g64", 80, 2, 16}, Shape{"g128", 80, 1, 80},
        Shape{"g128", 64, 1, 64}, Shape{"g128", 192, 2, 64}, Shape{"g64", 256, 4, 64}}) {
    Tile t(std::string("b8:") + s.options, s.head_dim);
    ASSERT_EQ(t.codec.n_groups(s.head_dim), s.n_groups);
    // The last group's own range, and a neighbour's that would spoil it.
    for (int c = 0; c < s.head_dim; ++c) {
      t.at(0, c) =
          c >= s.head_dim - s.last ? static_cast<float>(c % 16) : (c % 2 == 0 ? 0.0f : 1000.0f);
    }
    t.run();
    EXPECT_EQ(t.scale(0, s.n_groups - 1), to_f32(to_f16(15.0f / 255.0f))) << s.options;
    EXPECT_EQ(t.zero(0, s.n_groups - 1), 0.0f);
    EXPECT_NEAR(t.value(0, s.head_dim - 1), 15.0f, 15.0f * 0x1p-10f);
    const std::size_t codes = static_cast<std::size_t>(kTileRows * s.head_dim);
    EXPECT_EQ(t.bytes.size(), codes + static_cast<std::size_t>(2 * s.n_groups) * 128);
  }
}

TEST(AffineToken, NonFiniteValuesCountAsZeroOrTheLargestAndSpoilNoOtherRow) {
  const std::vector<float> rows = test::gauss_rows(kTileRows, 64, 5);
  for (const char* options : {"b3:g32", "b4:g64", "b8:g64"}) {
    for (const float bad : {kNan, kInf, -kInf}) {
      Tile with(options, 64);
      Tile without(options, 64);
      Tile clean(options, 64);
      with.x = without.x = clean.x = rows;
      with.at(9, 40) = bad;
      without.at(9, 40) = std::isnan(bad) ? 0.0f : bad > 0 ? 65504.0f : -65504.0f;
      for (Tile* t : {&with, &without, &clean}) t->run();
      EXPECT_FALSE(with.finite);
      EXPECT_TRUE(without.finite);
      EXPECT_EQ(with.bytes, without.bytes);
      for (int row = 0; row < kTileRows; ++row) {
        for (int c = 0; c < 64; ++c) {
          // With g32 the other group of the row keeps its values as well.
          const bool same_group = row == 9 && (with.codec.group == 64 || c >= 32);
          if (same_group) continue;
          ASSERT_EQ(with.value(row, c), clean.value(row, c));
        }
      }
    }
  }
}

// The sum of an exact product rounds once, so fusing it changes nothing.
TEST(AffineToken, ValuesDoNotDependOnFusedMultiplyAdd) {
  test::Random random(6);
  int rounded = 0;
  for (int trial = 0; trial < 100000; ++trial) {
    const auto code = static_cast<std::uint32_t>(random.below(256));
    const float scale = to_f32(to_f16(static_cast<float>(std::exp(-9.0 * random.uniform()))));
    const float zero = to_f32(to_f16(static_cast<float>(100.0 * random.gauss())));
    const float fused = std::fmaf(static_cast<float>(code), scale, zero);
    ASSERT_EQ(affine_value(code, scale, zero), fused);
    const double exact =
        static_cast<double>(code) * static_cast<double>(scale) + static_cast<double>(zero);
    if (static_cast<double>(fused) != exact) ++rounded;
  }
  EXPECT_GT(rounded, 1000) << "the inputs never needed a rounding";
}

TEST(AffineToken, NamesAndParameters) {
  EXPECT_EQ(AffineToken::parse("").name(), "wkv:b4:g128");
  EXPECT_EQ(AffineToken::parse("x0.85:g32:b2").name(), "wkv:b2:g32:x0.85");
  EXPECT_EQ(AffineToken::parse("x1").name(), "wkv:b4:g128:x1");
  EXPECT_EQ(AffineToken::parse("b3:x0.3").clip, 0.3f);
  EXPECT_EQ(AffineToken::parse("g64").clip, 0.0f);
  for (const std::string bad : {"b1", "b5", "b", "b44", "g16", "g256", "g", "x0.29", "x1.01",
                                "xnan", "x", "4", "g64:", ":", "B4", "b4 "}) {
    EXPECT_THROW(AffineToken::parse(bad), invalid_argument) << bad;
  }
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([] { AffineToken::parse("x0.2"); }),
                             {"wkv", "x0.2", "0.3..1"}));
  AffineToken codec;
  codec.bits = 5;
  EXPECT_FALSE(codec.supports(128));
  EXPECT_FALSE(AffineToken{}.supports(72));
}

// Everything counted, padding of the 1-bit plane included.
TEST(AffineToken, Sizes) {
  const auto bits = [](const char* options, int d) {
    return static_cast<double>(AffineToken::parse(options).tile_bytes(d)) * 8.0 / (kTileRows * d);
  };
  EXPECT_EQ(bits("b4:g128", 128), 4.25);
  EXPECT_EQ(bits("b4:g64", 128), 4.5);
  EXPECT_EQ(bits("b4:g32", 128), 5.0);
  EXPECT_EQ(bits("b3:g128", 128), 3.25);
  EXPECT_EQ(bits("b2:g128", 256), 2.25);
  EXPECT_EQ(bits("b8:g128", 128), 8.25);
  EXPECT_EQ(bits("b3:g128", 80), 3.0 + 0.2 + 0.4);  // 16 of 96 bits of a key are padding
}

}  // namespace
}  // namespace kvcodec
