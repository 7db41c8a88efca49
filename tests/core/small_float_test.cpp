// e4m3, e2m1 and e8m0: every code, every rounding boundary, and NVIDIA's conversions as judge.
#include "kvcodec/core/small_float.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

float from_bits(std::uint32_t bits) { return bit_cast<float>(bits); }
std::uint32_t bits_of(float x) { return bit_cast<std::uint32_t>(x); }
/// Neighbours of a float that is neither 0 nor infinite, by magnitude.
float larger(float x) { return from_bits(bits_of(x) + 1); }
float smaller(float x) { return from_bits(bits_of(x) - 1); }

e4m3 e4m3_of(int bits) { return {static_cast<std::uint8_t>(bits)}; }
e2m1 e2m1_of(int bits) { return {static_cast<std::uint8_t>(bits)}; }

/// The definition, in float64: value of an e4m3 bit pattern without its sign.
double magnitude_of_e4m3(int bits) {
  const int exponent = bits >> 3;
  const double mantissa = bits & 7;
  return exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(1.0 + mantissa / 8.0, exponent - 7);
}

TEST(E4m3, EveryCodeHasItsValueAndComesBack) {
  for (int bits = 0; bits < 256; ++bits) {
    const float x = to_f32(e4m3_of(bits));
    ASSERT_EQ(std::signbit(x), bits >= 128) << bits;
    ASSERT_EQ(to_e4m3(x).bits, bits) << bits;
    if ((bits & 0x7f) == 0x7f) {
      ASSERT_TRUE(std::isnan(x)) << bits;
    } else {
      ASSERT_EQ(std::fabs(static_cast<double>(x)), magnitude_of_e4m3(bits & 0x7f)) << bits;
    }
  }
}

// Rows of the published table: OFP8, E4M3.
TEST(E4m3, PublishedValues) {
  EXPECT_EQ(to_f32(e4m3{0x7e}), 448.0f);
  EXPECT_EQ(to_f32(e4m3{0xfe}), -448.0f);
  EXPECT_EQ(to_f32(e4m3{0x08}), 0x1p-6f);
  EXPECT_EQ(to_f32(e4m3{0x07}), 0.875f * 0x1p-6f);
  EXPECT_EQ(to_f32(e4m3{0x01}), 0x1p-9f);
  EXPECT_EQ(to_f32(e4m3{0x38}), 1.0f);
  EXPECT_EQ(to_f32(e4m3{0x78}), 256.0f);  // the exponent that IEEE would spend on infinity
  EXPECT_EQ(to_f32(e4m3{0xb8}), -1.0f);
  EXPECT_TRUE(std::signbit(to_f32(e4m3{0x80})));
}

// Between neighbours a < b: the midpoint goes to the even code, everything else to the nearer one.
TEST(E4m3, RoundsToNearestEvenBetweenAllNeighbours) {
  for (int bits = 0; bits < 0x7e; ++bits) {
    for (const int sign : {0, 0x80}) {
      const int low = bits | sign;
      const float middle = 0.5f * (to_f32(e4m3_of(low)) + to_f32(e4m3_of(low + 1)));  // exact
      ASSERT_EQ(to_e4m3(middle).bits, low % 2 == 0 ? low : low + 1) << low;
      ASSERT_EQ(to_e4m3(smaller(middle)).bits, low) << low;
      ASSERT_EQ(to_e4m3(larger(middle)).bits, low + 1) << low;
    }
  }
}

TEST(E4m3, Saturates) {
  for (const float x : {448.0f, larger(448.0f), 463.0f, 464.0f, 480.0f, 512.0f, 3e38f, kInf}) {
    EXPECT_EQ(to_e4m3(x).bits, 0x7e) << x;
    EXPECT_EQ(to_e4m3(-x).bits, 0xfe) << x;
  }
  EXPECT_EQ(to_e4m3(432.0f).bits, 0x7e);  // tie of 416 (odd) and 448 (even)
  EXPECT_EQ(to_e4m3(smaller(432.0f)).bits, 0x7d);
  EXPECT_EQ(to_e4m3(kNan).bits, 0x7f);
  EXPECT_EQ(to_e4m3(-kNan).bits, 0xff);
}

TEST(E4m3, SmallestValues) {
  EXPECT_EQ(to_e4m3(0x1p-9f).bits, 1);
  EXPECT_EQ(to_e4m3(0x1p-10f).bits, 0);  // tie with 0, which is even
  EXPECT_EQ(to_e4m3(larger(0x1p-10f)).bits, 1);
  EXPECT_EQ(to_e4m3(0x1.8p-9f).bits, 2);  // tie of 1 and 2
  EXPECT_EQ(to_e4m3(0x1.ep-7f).bits, 8);  // tie of the largest subnormal and the smallest normal
  EXPECT_EQ(to_e4m3(-0x1p-20f).bits, 0x80);
  EXPECT_EQ(to_e4m3(std::numeric_limits<float>::denorm_min()).bits, 0);
  EXPECT_EQ(to_e4m3(-0.0f).bits, 0x80);
}

// Rows of the published table: OCP MX, FP4.
TEST(E2m1, EveryCodeHasItsValueAndComesBack) {
  constexpr float levels[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  for (int bits = 0; bits < 16; ++bits) {
    const float x = to_f32(e2m1_of(bits));
    EXPECT_EQ(std::fabs(x), levels[bits % 8]) << bits;
    EXPECT_EQ(std::signbit(x), bits >= 8) << bits;
    EXPECT_EQ(to_e2m1(x).bits, bits);
  }
  EXPECT_EQ(to_f32(e2m1{0xf3}), 1.5f) << "only four bits count";
}

TEST(E2m1, RoundsToNearestEvenBetweenAllNeighbours) {
  for (int low = 0; low < 7; ++low) {
    const float middle = 0.5f * (to_f32(e2m1_of(low)) + to_f32(e2m1_of(low + 1)));
    EXPECT_EQ(middle, e2m1_midpoint(low));
    const int even = low % 2 == 0 ? low : low + 1;
    EXPECT_EQ(to_e2m1(middle).bits, even) << low;
    EXPECT_EQ(to_e2m1(smaller(middle)).bits, low) << low;
    EXPECT_EQ(to_e2m1(larger(middle)).bits, low + 1) << low;
    EXPECT_EQ(to_e2m1(-middle).bits, even + 8) << low;
    EXPECT_EQ(to_e2m1(-smaller(middle)).bits, low + 8) << low;
    EXPECT_EQ(to_e2m1(-larger(middle)).bits, low + 9) << low;
  }
}

TEST(E2m1, SaturatesAndHasNoNan) {
  for (const float x : {6.0f, larger(6.0f), 7.0f, 8.0f, 1e30f, kInf}) {
    EXPECT_EQ(to_e2m1(x).bits, 7) << x;
    EXPECT_EQ(to_e2m1(-x).bits, 15) << x;
  }
  EXPECT_EQ(to_e2m1(kNan).bits, 0);
  EXPECT_EQ(to_e2m1(-kNan).bits, 0);
  EXPECT_EQ(to_e2m1(std::numeric_limits<float>::denorm_min()).bits, 0);
  EXPECT_EQ(to_e2m1(-0.0f).bits, 8);
}

// With a unit, the boundaries are the midpoints times the unit, rounded to f32.
TEST(E2m1, CodesInUnits) {
  test::Random random(12);
  for (int trial = 0; trial < 2000; ++trial) {
    const float unit = static_cast<float>(std::exp(40.0 * random.uniform() - 20.0));
    for (int low = 0; low < 7; ++low) {
      const float tie = e2m1_midpoint(low) * unit;
      ASSERT_EQ(e2m1_code_of(tie, unit), low % 2 == 0 ? low : low + 1) << unit;
      ASSERT_EQ(e2m1_code_of(smaller(tie), unit), low) << unit;
      ASSERT_EQ(e2m1_code_of(larger(tie), unit), low + 1) << unit;
    }
  }
  EXPECT_EQ(e2m1_code_of(kNan, 1.0f), 0);
  EXPECT_EQ(e2m1_code_of(kInf, 1.0f), 7);
}

TEST(E8m0, EveryCodeIsItsPowerOfTwo) {
  for (int bits = 0; bits < 255; ++bits) {
    const e8m0 v{static_cast<std::uint8_t>(bits)};
    EXPECT_EQ(static_cast<double>(to_f32(v)), std::ldexp(1.0, bits - 127)) << bits;
    EXPECT_EQ(to_e8m0(bits - 127).bits, bits);
  }
  EXPECT_TRUE(std::isnan(to_f32(e8m0{255})));
  EXPECT_EQ(to_e8m0(-128).bits, 0);
  EXPECT_EQ(to_e8m0(-1000).bits, 0);
  EXPECT_EQ(to_e8m0(128).bits, 254);
}

TEST(E8m0, FloorOfLogarithm) {
  for (int exponent = -149; exponent <= 127; ++exponent) {
    const auto power = static_cast<float>(std::ldexp(1.0, exponent));
    ASSERT_EQ(floor_log2(power), exponent);
    if (exponent == -149) continue;  // its neighbours are 0 and 2^-148
    ASSERT_EQ(floor_log2(smaller(power)), exponent - 1);
    ASSERT_EQ(floor_log2(larger(power)), exponent);
  }
  EXPECT_EQ(floor_log2(std::numeric_limits<float>::max()), 127);
  EXPECT_EQ(floor_log2(-6.0f), 2) << "the sign is ignored";
}

// Every 4093rd f32 that is a number, converted by cuda_fp8.h and cuda_fp4.h of CUDA 13.0 on the host
// (__NV_SATFINITE, __NV_E4M3; __NV_E2M1, cudaRoundNearest); FNV-1a over the codes.
TEST(SmallFloat, AgreesWithTheVendorsConversions) {
  std::uint64_t e4m3_hash = 0xcbf29ce484222325u;
  std::uint64_t e2m1_hash = e4m3_hash;
  int n = 0;
  for (std::uint64_t i = 0; i < (std::uint64_t{1} << 32); i += 4093) {
    const float x = from_bits(static_cast<std::uint32_t>(i));
    if (std::isnan(x)) continue;
    e4m3_hash = (e4m3_hash ^ to_e4m3(x).bits) * 0x100000001b3u;
    e2m1_hash = (e2m1_hash ^ to_e2m1(x).bits) * 0x100000001b3u;
    ++n;
  }
  EXPECT_EQ(n, 1045246);
  EXPECT_EQ(e4m3_hash, 0x93fe97f9954e0b98u);
  EXPECT_EQ(e2m1_hash, 0xd7baf2943450908cu);
}

TEST(SmallFloat, ConversionsAreConstant) {
  static_assert(to_e4m3(1.0f).bits == 0x38 && to_f32(e4m3{0xc0}) == -2.0f);
  static_assert(to_e2m1(-3.1f).bits == 0xd && to_f32(e2m1{0x7}) == kE2m1Max);
  static_assert(to_e8m0(floor_log2(0.3f)).bits == 125 && to_f32(e8m0{128}) == 2.0f);
  static_assert(to_f32(e4m3{0x7e}) == kE4m3Max);
}

}  // namespace
}  // namespace kvcodec
