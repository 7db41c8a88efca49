// nvfp4 and mxfp4 to the letter: the vendors' codes and scales, rounding, groups, limits.
#include "kvcodec/codec/fp4.hpp"

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

template <class Codec>
struct Tile {
  Codec codec;
  int head_dim;
  std::vector<float> x;
  std::vector<std::byte> bytes;
  std::vector<float> y;
  Side side = Side::key;
  bool finite = true;

  explicit Tile(const std::string& options = "", int d = 64)
      : codec(Codec::parse(options)), head_dim(d), x(static_cast<std::size_t>(kTileRows * d)) {}

  float& at(int row, int channel) { return x[static_cast<std::size_t>(row * head_dim + channel)]; }
  void run(Side s = Side::key) {
    side = s;
    bytes.assign(codec.tile_bytes(head_dim), std::byte{0xee});
    y.assign(x.size(), kNan);
    finite = codec.encode_tile(side, head_dim, x.data(), bytes.data());
    codec.decode_tile(side, head_dim, bytes.data(), y.data());
  }
  std::uint32_t code(int row, int channel) const {
    return TileLayout{side, 4, head_dim}.get(bytes.data(), row, channel);
  }
  std::uint8_t scale(int row, int channel) const {
    return static_cast<std::uint8_t>(
        bytes[codec.scale_offset(head_dim, channel) + static_cast<std::size_t>(row)]);
  }
  float value(int row, int channel) const {
    return y[static_cast<std::size_t>(row * head_dim + channel)];
  }
};

/// A row as vendors store it: two codes per byte, the even channel in the low half.
template <class Codec>
std::vector<int> linear_bytes(const Tile<Codec>& tile, int row, int n) {
  std::vector<int> bytes;
  for (int c = 0; c < n; c += 2) {
    bytes.push_back(static_cast<int>(tile.code(row, c) | tile.code(row, c + 1) << 4));
  }
  return bytes;
}

template <class Codec>
class Fp4Test : public ::testing::Test {};
using Codecs = ::testing::Types<NvFp4, MxFp4>;
struct Names {
  template <class C>
  static std::string GetName(int) {
    return C::family;
  }
};
TYPED_TEST_SUITE(Fp4Test, Codecs, Names);

// All sixteen rows of the published FP4 table, in one group whose unit is 1.
TYPED_TEST(Fp4Test, CodesAreTheVendorsNibbles) {
  constexpr float values[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
  for (const Side side : test::kSides) {
    Tile<TypeParam> tile;
    for (int c = 0; c < 16; ++c) tile.at(21, c) = values[c];
    tile.run(side);
    EXPECT_EQ(linear_bytes(tile, 21, 16),
              (std::vector<int>{0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe}));
    EXPECT_EQ(tile.scale(21, 0), (std::is_same_v<TypeParam, NvFp4> ? 0x38 : 127));
    for (int c = 0; c < 16; ++c) {
      EXPECT_EQ(tile.value(21, c), values[c]);
      EXPECT_EQ(std::signbit(tile.value(21, c)), c >= 8);
    }
  }
}

// Worked by hand: max 10, so the scale is e4m3(10 / 6) = 1.625 = 0x3d.
TEST(NvFp4, AGroupByHand) {
  constexpr float x[16] = {10.0f,     1.0f,  1.21875f, -5.6875f, 0.40625f, 0.41f,
                           -2.03125f, 2.1f,  2.84375f, -4.0625f, 8.125f,   8.126f,
                           0.0f,      -0.1f, 3.3f,     -9.0f};
  //  x / unit              6.15      0.615     0.75      -3.5      0.25      0.252  -1.25      1.29
  //                        1.75      -2.5      5         5.0006    0         -0.06  2.03       -5.5
  constexpr float level[16] = {6.0f, 0.5f,  1.0f, -4.0f, 0.0f, 0.5f,  -1.0f, 1.5f,
                               2.0f, -2.0f, 4.0f, 6.0f,  0.0f, -0.0f, 2.0f,  -6.0f};
  for (const Side side : test::kSides) {
    for (const auto& [options, s] : {std::pair{"", 1.0f}, {"s0.0078125", 0x1p-7f}}) {
      Tile<NvFp4> tile(options);
      for (int c = 0; c < 16; ++c) tile.at(5, 32 + c) = x[c] * s;
      tile.run(side);
      EXPECT_EQ(tile.scale(5, 32), 0x3d);
      for (int c = 0; c < 16; ++c) EXPECT_EQ(tile.value(5, 32 + c), level[c] * 1.625f * s) << c;
    }
  }
}

// Worked by hand: max 10 lies in 8..16, so the scale is 2^(3 - 2) = 2, stored as 128.
TEST(MxFp4, AGroupByHand) {
  constexpr float x[8] = {10.0f, 9.99f, -0.5f, 0.51f, 1.5f, -2.5f, 7.0f, 0.0f};
  constexpr float value[8] = {8.0f, 8.0f, -0.0f, 1.0f, 2.0f, -2.0f, 8.0f, 0.0f};
  for (const Side side : test::kSides) {
    Tile<MxFp4> tile;
    for (int c = 0; c < 8; ++c) tile.at(5, 32 + c) = x[c];
    tile.at(6, 0) = 15.99f;  // 7.995 units: clipped to 6
    tile.at(7, 0) = 8.0f;
    tile.at(8, 0) = std::nextafter(8.0f, 0.0f);  // one binade lower
    tile.run(side);
    EXPECT_EQ(tile.scale(5, 32), 128);
    for (int c = 0; c < 8; ++c) EXPECT_EQ(tile.value(5, 32 + c), value[c]) << c;
    EXPECT_EQ(tile.scale(6, 0), 128);
    EXPECT_EQ(tile.value(6, 0), 12.0f);
    EXPECT_EQ(tile.scale(7, 0), 128);
    EXPECT_EQ(tile.value(7, 0), 8.0f);
    EXPECT_EQ(tile.scale(8, 0), 127);
    EXPECT_EQ(tile.value(8, 0), 6.0f);
  }
}

TYPED_TEST(Fp4Test, SizeIsCodesAndAByteAGroup) {
  for (const int head_dim : test::kHeadDims) {
    const int group = std::is_same_v<TypeParam, NvFp4> ? 16 : 32;
    const int n_groups = (head_dim + group - 1) / group;
    EXPECT_TRUE(TypeParam{}.supports(head_dim));
    EXPECT_EQ(TypeParam{}.tile_bytes(head_dim),
              static_cast<std::size_t>(32 * head_dim + 64 * n_groups));
  }
  EXPECT_FALSE(TypeParam{}.supports(72));
  EXPECT_FALSE(TypeParam{}.supports(272));
}

// The scale follows from the group's maximum alone; the code is the nearest of all sixteen values.
TYPED_TEST(Fp4Test, EveryCodeIsTheNearest) {
  for (const std::string options : {"", "s0.25", "s0.003"}) {
    if (std::is_same_v<TypeParam, MxFp4> && !options.empty()) continue;
    Tile<TypeParam> tile(options, 80);
    const int group = std::is_same_v<TypeParam, NvFp4> ? 16 : 32;
    tile.x = test::make_rows(test::Input::lognormal, kTileRows, 80, 17);
    tile.run(Side::value);
    const auto& scales = tile.codec.scales;
    for (int row = 0; row < kTileRows; ++row) {
      for (int c = 0; c < 80; ++c) {
        const int first = c / group * group;
        float largest = 0.0f;
        for (int i = first; i < std::min(first + group, 80); ++i) {
          largest = std::max(largest, std::fabs(tile.at(row, i)));
        }
        ASSERT_EQ(tile.scale(row, c), scales.stored_for(largest)) << row << ", " << c;
        const double unit = scales.unit(tile.scale(row, c));
        const double x = tile.at(row, c);
        double nearest = kInf;
        for (int code = 0; code < 16; ++code) {
          const double level = to_f32(e2m1{static_cast<std::uint8_t>(code)});
          nearest = std::min(nearest, std::fabs(x - level * unit));
        }
        const double own = to_f32(e2m1{static_cast<std::uint8_t>(tile.code(row, c))});
        ASSERT_LE(std::fabs(x - own * unit), nearest + 1e-7 * std::fabs(x)) << row << ", " << c;
        ASSERT_EQ(tile.value(row, c), static_cast<float>(own * unit)) << row << ", " << c;
        ASSERT_EQ(tile.code(row, c) >= 8, std::signbit(tile.at(row, c)) && unit > 0.0);
      }
    }
  }
}

TEST(NvFp4, ScalesAreRoundedToNearestAndSaturate) {
  const NvFp4Scales one;
  EXPECT_EQ(one.stored_for(6.0f), 0x38);
  EXPECT_EQ(one.stored_for(6.0f * 1.0625f), 0x38);  // tie of 1 and 1.125
  EXPECT_EQ(one.stored_for(6.0f * 1.1875f), 0x3a);  // tie of 1.125 and 1.25
  EXPECT_EQ(one.stored_for(2688.0f), 0x7e);
  EXPECT_EQ(one.stored_for(3e38f), 0x7e);
  EXPECT_EQ(one.stored_for(6.0f * 0x1p-10f), 0);
  EXPECT_EQ(one.stored_for(6.1f * 0x1p-10f), 1);
  // NVIDIA: global = 448 * 6 / max |x| of the tensor; ours is its reciprocal.
  const float tensor_max = 3.7f;
  const NvFp4Scales tuned = NvFp4Scales::parse("s" + format_float(tensor_max / 2688.0f));
  EXPECT_EQ(tuned.stored_for(tensor_max), 0x7e);
  EXPECT_NEAR(6.0f * tuned.unit(0x7e), tensor_max, 1e-6f);
}

TEST(NvFp4, LimitsAndTinyGroups) {
  Tile<NvFp4> tile;
  tile.at(0, 0) = 2688.0f;
  tile.at(0, 16) = 1e6f;
  tile.at(0, 17) = -2688.0f;
  tile.at(0, 32) = -3e38f;
  tile.at(1, 0) = 6.0f * 0x1p-10f;  // the scale rounds to zero
  tile.at(1, 1) = -1e-4f;
  tile.at(1, 16) = 6.0f * 0x1p-9f;
  tile.run();
  EXPECT_TRUE(tile.finite);
  EXPECT_EQ(tile.value(0, 0), 2688.0f);
  EXPECT_EQ(tile.value(0, 16), 2688.0f);
  EXPECT_EQ(tile.value(0, 17), -2688.0f);
  EXPECT_EQ(tile.value(0, 32), -2688.0f);
  EXPECT_EQ(tile.code(1, 0), 0u);
  EXPECT_EQ(tile.code(1, 1), 0u);
  EXPECT_EQ(tile.scale(1, 0), 0);
  EXPECT_EQ(tile.value(1, 16), 6.0f * 0x1p-9f);
  Tile<NvFp4> small("s1e-30");  // even the smallest unit is a normal f32
  small.at(0, 0) = 3e38f;
  small.at(1, 0) = 6.0f * 0x1p-9f * 1e-30f;
  small.run();
  EXPECT_EQ(small.value(0, 0), 6.0f * (448.0f * 1e-30f));
  EXPECT_EQ(small.scale(1, 0), 1);
}

TEST(MxFp4, LimitsAndTinyGroups) {
  Tile<MxFp4> tile;
  tile.at(0, 0) = std::numeric_limits<float>::max();
  tile.at(1, 0) = 0x1p-149f;  // half of the smallest unit's half: rounds to 0
  tile.at(1, 32) = 0x1.8p-127f;
  tile.at(2, 0) = 0x1p-126f;
  tile.run();
  EXPECT_TRUE(tile.finite);
  EXPECT_EQ(tile.scale(0, 0), 125 + 127);
  EXPECT_EQ(tile.value(0, 0), 6.0f * 0x1p125f);
  EXPECT_EQ(tile.scale(1, 0), 0);
  EXPECT_EQ(tile.value(1, 0), 0.0f);
  EXPECT_EQ(tile.scale(1, 32), 0);
  EXPECT_EQ(tile.value(1, 32), 0x1.8p-127f);
  EXPECT_EQ(tile.value(2, 0), 0x1p-126f);
  EXPECT_EQ(tile.scale(3, 0), 0);
  EXPECT_EQ(tile.code(3, 0), 0u);
}

// NaN counts as 0 and an infinity as the largest f32; only their own group sees them.
TYPED_TEST(Fp4Test, NonFiniteValuesSpoilNobody) {
  for (const float bad : {kNan, kInf, -kInf}) {
    Tile<TypeParam> with;
    with.x = test::gauss_rows(kTileRows, 64, 6);
    Tile<TypeParam> clean = with;
    Tile<TypeParam> untouched = with;
    with.at(11, 40) = bad;
    clean.at(11, 40) =
        std::isnan(bad) ? 0.0f : std::copysign(std::numeric_limits<float>::max(), bad);
    with.run();
    clean.run();
    untouched.run();
    EXPECT_FALSE(with.finite);
    EXPECT_TRUE(clean.finite);
    EXPECT_EQ(with.bytes, clean.bytes);
    for (int row = 0; row < kTileRows; ++row) {
      for (int c = 0; c < 64; ++c) {
        if (row == 11 && c >= 32) continue;
        ASSERT_EQ(with.value(row, c), untouched.value(row, c));
      }
    }
  }
}

TEST(MxFp4, TheLastGroupMayBeShort) {
  Tile<MxFp4> tile("", 80);
  for (int c = 0; c < 80; ++c) tile.at(0, c) = c < 64 ? 1.0f : 4.0f;
  tile.run();
  EXPECT_EQ(tile.codec.n_groups(80), 3);
  EXPECT_EQ(tile.scale(0, 63), 125);
  EXPECT_EQ(tile.scale(0, 64), 127);
  EXPECT_EQ(tile.value(0, 79), 4.0f);
}

TEST(NvFp4, Options) {
  EXPECT_EQ(NvFp4::parse("").name(), "nvfp4:s1");
  EXPECT_EQ(NvFp4::parse("s0.003").name(), "nvfp4:s0.003");
  for (const std::string bad : {"s", "s0", "s-1", "snan", "s1x", "g16", "s1:s2"}) {
    EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([&] { NvFp4::parse(bad); }),
                               {"nvfp4", "\"" + bad + "\"", "1e-30..1e30"}))
        << bad;
  }
}

TEST(MxFp4, HasNoOptions) {
  EXPECT_EQ(MxFp4::parse("").name(), "mxfp4");
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([] { MxFp4::parse("s1"); }),
                             {"mxfp4", "s1", "none"}));
}

}  // namespace
}  // namespace kvcodec
