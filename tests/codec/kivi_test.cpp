// kivi to the letter: groups of tokens for K and of channels for V, ends, ties, degenerate groups.
#include "kvcodec/codec/kivi.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kvcodec/codec/any_codec.hpp"
#include "tests/support/codecs.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// A tile, filled with `rest`, and what the codec makes of it.
struct Tile {
  Side side;
  int head_dim;
  Kivi codec;
  std::vector<float> x;
  std::vector<std::byte> bytes;
  std::vector<float> decoded;
  bool finite = true;

  Tile(Side which, const std::string& options, int dim, float rest = 0.0f)
      : side(which),
        head_dim(dim),
        codec(Kivi::parse(options)),
        x(static_cast<std::size_t>(kTileRows * dim), rest) {}
  float& at(int row, int channel) { return x[static_cast<std::size_t>(row * head_dim + channel)]; }
  /// Value i of the first group: token i of channel 0 of K, channel i of token 0 of V.
  float& member(int i) { return side == Side::key ? at(i, 0) : at(0, i); }

  void run() {
    bytes.assign(codec.tile_bytes(head_dim), std::byte{0xee});
    decoded.assign(x.size(), kNan);
    finite = codec.encode_tile(side, head_dim, x.data(), bytes.data());
    codec.decode_tile(side, head_dim, bytes.data(), decoded.data());
  }
  std::uint32_t code(int i) const {
    const TileLayout layout{side, codec.bits, head_dim};
    return side == Side::key ? layout.get(bytes.data(), i, 0) : layout.get(bytes.data(), 0, i);
  }
  float value(int row, int channel) const {
    return decoded[static_cast<std::size_t>(row * head_dim + channel)];
  }
  float member_value(int i) const { return side == Side::key ? value(i, 0) : value(0, i); }
  float scale(int row, int channel) const {
    return f16_at(codec.scale_offset(side, head_dim, row, channel));
  }
  float zero(int row, int channel) const {
    return f16_at(codec.zero_offset(side, head_dim, row, channel));
  }
  float f16_at(std::size_t offset) const {
    return to_f32(f16{get_scale(bytes.data() + offset, 0)});
  }
};

// -1..2 in 2 bits: step 1, offset -1; a half goes to the even code.
TEST(Kivi, HandWorkedTwoBits) {
  for (const Side side : test::kSides) {
    Tile t(side, "b2:g32", 64);
    const float x[] = {-1.0f, 0.0f, 1.0f, 2.0f, -0.5f, 0.5f, 1.5f, 0.49f, 0.51f};
    const std::uint32_t want[] = {0, 1, 2, 3, 0, 2, 2, 1, 2};
    for (int i = 0; i < 9; ++i) t.member(i) = x[i];
    t.run();
    EXPECT_EQ(t.scale(0, 0), 1.0f);
    EXPECT_EQ(t.zero(0, 0), -1.0f);
    for (int i = 0; i < 9; ++i) {
      EXPECT_EQ(t.code(i), want[i]) << x[i];
      EXPECT_EQ(t.member_value(i), static_cast<float>(want[i]) - 1.0f);
    }
  }
}

// K: one offset per channel and run of tokens, so offsets of channels cost nothing. The same rows
// as V, grouped over channels, lose everything but the offsets.
TEST(Kivi, KeysAreGroupedOverTokensAndValuesOverChannels) {
  for (const char* options : {"b2:g32", "b2:g64"}) {
    Tile k(Side::key, options, 64);
    Tile v(Side::value, options, 64);
    for (Tile* t : {&k, &v}) {
      for (int row = 0; row < kTileRows; ++row) {
        for (int c = 0; c < 64; ++c) {
          t->at(row, c) = 100.0f * static_cast<float>(c) + static_cast<float>(row % 4);
        }
      }
      t->run();
    }
    double value_error = 0.0;
    for (int row = 0; row < kTileRows; ++row) {
      for (int c = 0; c < 64; ++c) {
        ASSERT_EQ(k.zero(row, c), 100.0f * static_cast<float>(c));
        ASSERT_EQ(k.scale(row, c), 1.0f);
        ASSERT_EQ(k.value(row, c), k.at(row, c));
        value_error =
            std::max(value_error, static_cast<double>(std::abs(v.value(row, c) - v.at(row, c))));
      }
    }
    EXPECT_GT(value_error, 400.0) << "half a step of a range of 3,100";
  }
}

/// Squared error over mean channel variance of 128 tokens of 128 channels, 8 of which have mean +-15
/// and standard deviation 2: keys of models with a bias in their key projection.
double biased_key_error(const AnyCodec& codec) {
  constexpr int kDim = 128;
  double error = 0.0;
  std::vector<std::byte> tile(codec.tile_bytes(kDim));
  std::vector<float> y(static_cast<std::size_t>(kTileRows * kDim));
  for (std::uint64_t seed = 0; seed < 2; ++seed) {
    std::vector<float> x = test::gauss_rows(kTileRows, kDim, 60 + seed);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const std::size_t channel = i % kDim;
      if (channel % 16 == 3) x[i] = 2.0f * x[i] + (channel % 32 == 3 ? 15.0f : -15.0f);
    }
    codec.encode_tile(Side::key, kDim, x.data(), tile.data());
    codec.decode_tile(Side::key, kDim, tile.data(), y.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double e = static_cast<double>(x[i]) - static_cast<double>(y[i]);
      error += e * e;
    }
  }
  return error / (2.0 * kTileRows * kDim) / ((120.0 + 8.0 * 4.0) / 128.0);
}

// Offsets and sizes of channels are scales and zeros of their own; groups along the channels pay for
// them with the resolution of everybody else.
TEST(Kivi, ChannelOffsetsOfKeysCostNothing) {
  EXPECT_NEAR(biased_key_error(make_codec("kivi:b4:g32")), 0.00612, 0.0003);
  EXPECT_NEAR(biased_key_error(make_codec("kivi:b2:g32")), 0.1544, 0.006);
  EXPECT_GT(biased_key_error(make_codec("wkv:b4:g32:x1")), 0.25);
  EXPECT_GT(biased_key_error(make_codec("nqkv:g32")), 0.15);
}

// Runs of tokens are apart: what happens in one does not reach the other.
TEST(Kivi, RunsOfTokensHaveTheirOwnScales) {
  const std::vector<float> rows = test::gauss_rows(kTileRows, 64, 8);
  Tile clean(Side::key, "b4:g32", 64);
  Tile spoilt(Side::key, "b4:g32", 64);
  clean.x = spoilt.x = rows;
  spoilt.at(31, 5) = 1000.0f;
  clean.run();
  spoilt.run();
  for (int row = 0; row < kTileRows; ++row) {
    for (int c = 0; c < 64; ++c) {
      if (row < 32 && c == 5) continue;
      ASSERT_EQ(spoilt.value(row, c), clean.value(row, c)) << row << " " << c;
    }
  }
  EXPECT_NE(spoilt.value(0, 5), clean.value(0, 5));
  EXPECT_EQ(spoilt.zero(0, 5), clean.zero(0, 5)) << "the minimum stayed";
}

TEST(Kivi, ConstantGroupsAreExact) {
  for (const Side side : test::kSides) {
    for (const char* options : {"b2:g32", "b4:g64"}) {
      for (const float constant : {0.0f, 0.75f, -3.0f, 65504.0f, -0x1p-24f, 0x1p-24f}) {
        Tile t(side, options, 64, constant);
        t.run();
        for (const float y : t.decoded) ASSERT_EQ(y, constant);
        EXPECT_EQ(t.scale(3, 3), 0.0f);
        EXPECT_EQ(t.code(3), 0u);
      }
      Tile tenth(side, options, 64, 0.1f);  // no f16: one rounding
      tenth.run();
      for (const float y : tenth.decoded) ASSERT_EQ(y, to_f32(to_f16(0.1f)));
    }
  }
}

// A range of 2^-24 divided by 3 rounds to scale 0: all values become the minimum.
TEST(Kivi, RangesThatUnderflowDecodeToTheMinimum) {
  for (const Side side : test::kSides) {
    Tile t(side, "b2:g32", 64);
    t.member(0) = 0x1p-24f;
    t.run();
    EXPECT_EQ(t.scale(0, 0), 0.0f);
    EXPECT_EQ(t.member_value(0), 0.0f);
    Tile u(side, "b2:g32", 64);
    u.member(0) = 3 * 0x1p-24f;  // the smallest scale there is
    u.member(1) = 0x1p-24f;
    u.run();
    EXPECT_EQ(u.scale(0, 0), 0x1p-24f);
    EXPECT_EQ(u.member_value(0), 3 * 0x1p-24f);
    EXPECT_EQ(u.member_value(1), 0x1p-24f);
  }
}

// In f16 the difference overflows and the group becomes NaN; here it is f32.
TEST(Kivi, WidestRanges) {
  for (const Side side : test::kSides) {
    for (const char* options : {"b2:g32", "b4:g32"}) {
      Tile t(side, options, 64);
      for (int i = 0; i < 32; ++i) t.member(i) = i % 2 == 0 ? 3e38f : -65504.0f;
      t.run();
      EXPECT_TRUE(t.finite) << "finite input, though beyond f16";
      const float levels = static_cast<float>((1 << t.codec.bits) - 1);
      EXPECT_EQ(t.scale(0, 0), to_f32(to_f16(2.0f * 65504.0f / levels)));
      for (int i = 0; i < 32; ++i) {
        EXPECT_EQ(t.code(i), i % 2 == 0 ? static_cast<std::uint32_t>(levels) : 0u);
        EXPECT_NEAR(t.member_value(i), i % 2 == 0 ? 65504.0f : -65504.0f, 65504.0f * 0x1p-10f);
      }
    }
  }
}

TEST(Kivi, CodesAreFormedWithTheRoundedParameters) {
  for (const Side side : test::kSides) {
    Tile t(side, "b4:g32", 64);
    for (int i = 0; i < 32; ++i) t.member(i) = 2049.0f + static_cast<float>(i % 16);
    t.run();
    EXPECT_EQ(t.zero(0, 0), 2048.0f) << "2049 is no f16";
    EXPECT_EQ(t.scale(0, 0), 1.0f);
    for (int i = 0; i < 15; ++i) EXPECT_EQ(t.member_value(i), t.member(i));
  }
}

TEST(Kivi, ShortGroupsOfChannels) {
  for (const char* options : {"b4:g32", "b4:g64"}) {
    Tile t(Side::value, options, 80);  // 32 + 32 + 16, 64 + 16
    for (int c = 0; c < 64; ++c) t.at(7, c) = (c % 2 == 0 ? 0.0f : 1000.0f);
    for (int c = 64; c < 80; ++c) t.at(7, c) = static_cast<float>(c - 64);
    t.run();
    EXPECT_EQ(t.scale(7, 79), 1.0f);
    for (int c = 64; c < 80; ++c) EXPECT_EQ(t.value(7, c), t.at(7, c));
  }
}

// The closed values of unclipped groups hold for groups over tokens and over channels alike.
TEST(Kivi, LossOnGaussianRows) {
  struct Known {
    const char* options;
    double loss;
  };
  for (const Known& known : {Known{"b2:g32", 0.15441}, Known{"b4:g32", 0.00612},
                             Known{"b4:g64", 0.00803}, Known{"b2:g64", 0.2024}}) {
    for (const Side side : test::kSides) {
      for (const int d : {64, 80, 128}) {
        Tile t(side, known.options, d);
        double error = 0.0;
        double norm = 0.0;
        for (std::uint64_t seed = 0; seed < 40; ++seed) {
          t.x = test::gauss_rows(kTileRows, d, 300 + seed);
          t.run();
          for (std::size_t i = 0; i < t.x.size(); ++i) {
            const double e = static_cast<double>(t.x[i]) - static_cast<double>(t.decoded[i]);
            error += e * e;
            norm += static_cast<double>(t.x[i]) * static_cast<double>(t.x[i]);
          }
        }
        const double loss = error / norm;
        const LossBounds bounds = t.codec.loss(d);
        EXPECT_GE(loss, bounds.low) << t.codec.name() << " " << d << " " << to_string(side);
        EXPECT_LE(loss, bounds.high) << t.codec.name() << " " << d << " " << to_string(side);
        if (side == Side::key || d != 80) EXPECT_NEAR(loss, known.loss, 0.02 * known.loss);
        else EXPECT_LT(loss, 0.97 * known.loss) << "a short group is finer";
      }
    }
  }
}

// Both sides have the size of V; what K leaves is zero.
TEST(Kivi, SizesAndPadding) {
  const auto bits = [](const char* options, int d) {
    return static_cast<double>(Kivi::parse(options).tile_bytes(d)) * 8.0 / (kTileRows * d);
  };
  EXPECT_EQ(bits("b2:g32", 128), 3.0);
  EXPECT_EQ(bits("b4:g32", 128), 5.0);
  EXPECT_EQ(bits("b2:g64", 64), 2.5);
  EXPECT_EQ(bits("b4:g64", 256), 4.5);
  for (const char* options : {"b2:g32", "b4:g64"}) {
    for (const int d : test::kHeadDims) {
      Tile t(Side::key, options, d, 1.0f);
      t.run();
      const std::size_t used = t.codec.zero_offset(Side::key, d, kTileRows - 1, d - 1) + 2;
      ASSERT_LE(used, t.bytes.size());
      const int n_values = kTileRows * d;
      EXPECT_EQ(used, static_cast<std::size_t>(n_values * t.codec.bits / 8 +
                                               4 * n_values / t.codec.group));
      for (std::size_t i = used; i < t.bytes.size(); ++i) ASSERT_EQ(t.bytes[i], std::byte{0});
      const std::size_t last = t.codec.zero_offset(Side::value, d, kTileRows - 1, d - 1) + 2;
      EXPECT_EQ(last, t.bytes.size());
    }
  }
}

TEST(Kivi, NonFiniteValuesCountAsZeroOrTheLargestAndSpoilOnlyTheirGroup) {
  const std::vector<float> rows = test::gauss_rows(kTileRows, 64, 5);
  for (const Side side : test::kSides) {
    for (const float bad : {kNan, kInf, -kInf}) {
      Tile with(side, "b2:g32", 64);
      Tile without(side, "b2:g32", 64);
      Tile clean(side, "b2:g32", 64);
      with.x = without.x = clean.x = rows;
      with.at(9, 40) = bad;
      without.at(9, 40) = std::isnan(bad) ? 0.0f : bad > 0 ? 65504.0f : -65504.0f;
      for (Tile* t : {&with, &without, &clean}) t->run();
      EXPECT_FALSE(with.finite);
      EXPECT_TRUE(without.finite);
      EXPECT_EQ(with.bytes, without.bytes);
      for (int row = 0; row < kTileRows; ++row) {
        for (int c = 0; c < 64; ++c) {
          const bool same_group = side == Side::key ? c == 40 && row < 32 : row == 9 && c >= 32;
          if (same_group) continue;
          ASSERT_EQ(with.value(row, c), clean.value(row, c));
        }
      }
    }
  }
}

// Rows of K share scales: a cache must refuse to cut inside a tile.
TEST(Kivi, RowsAreNotIndependent) { EXPECT_FALSE(AnyCodec(Kivi{}).row_independent()); }

TEST(Kivi, NamesAndParameters) {
  EXPECT_EQ(Kivi::parse("").name(), "kivi:b2:g32");
  EXPECT_EQ(Kivi::parse("g64:b4").name(), "kivi:b4:g64");
  for (const std::string bad :
       {"b3", "b8", "b", "g128", "g16", "g", "x0.9", "2", "b2:", ":", "b2 "}) {
    EXPECT_THROW(Kivi::parse(bad), invalid_argument) << bad;
  }
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([] { Kivi::parse("g128"); }),
                             {"kivi", "g128", "32 or 64"}));
  Kivi codec;
  codec.group = 128;
  EXPECT_FALSE(codec.supports(128)) << "a tile has 64 tokens";
  EXPECT_FALSE(Kivi{}.supports(40));
}

}  // namespace
}  // namespace kvcodec
