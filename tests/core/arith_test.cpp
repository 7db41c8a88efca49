#include "kvcodec/core/arith.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(Arith, RoundEvenOnTies) {
  EXPECT_EQ(round_even(0.5f), 0);
  EXPECT_EQ(round_even(1.5f), 2);
  EXPECT_EQ(round_even(2.5f), 2);
  EXPECT_EQ(round_even(-0.5f), 0);
  EXPECT_EQ(round_even(-1.5f), -2);
  EXPECT_EQ(round_even(-2.5f), -2);
  EXPECT_EQ(round_even(126.5f), 126);
  EXPECT_EQ(round_even(std::nextafter(126.5f, 200.0f)), 127);
  EXPECT_EQ(round_even(std::nextafter(0.5f, 0.0f)), 0);
  EXPECT_EQ(round_even(-0.0f), 0);
}

TEST(Arith, RoundEvenIsNearbyint) {
  test::Random random(1);
  for (int i = 0; i < 200000; ++i) {
    const auto x = static_cast<float>((2.0 * random.uniform() - 1.0) * 4194303.0);
    ASSERT_EQ(round_even(x), static_cast<int>(std::nearbyint(x))) << x;
    const float half = static_cast<float>(random.below(1000)) - 499.5f;
    ASSERT_EQ(round_even(half), static_cast<int>(std::nearbyint(half))) << half;
  }
  EXPECT_EQ(round_even(4194303.0f), 4194303);
  EXPECT_EQ(round_even(-4194303.0f), -4194303);
}

TEST(Arith, ClampFinite) {
  EXPECT_EQ(clamp_finite(1e5f, 65504.0f), 65504.0f);
  EXPECT_EQ(clamp_finite(-1e5f, 65504.0f), -65504.0f);
  EXPECT_EQ(clamp_finite(65504.0f, 65504.0f), 65504.0f);
  EXPECT_EQ(clamp_finite(kInf, 3.0f), 3.0f);
  EXPECT_EQ(clamp_finite(-kInf, 3.0f), -3.0f);
  EXPECT_EQ(clamp_finite(kNan, 3.0f), 0.0f);
  EXPECT_EQ(clamp_finite(-kNan, 3.0f), 0.0f);
  EXPECT_EQ(clamp_finite(-2.5f, 3.0f), -2.5f);
  EXPECT_TRUE(std::signbit(clamp_finite(-0.0f, 3.0f)));
}

TEST(Arith, IsFiniteAndAbs) {
  for (const float x : {0.0f, -0.0f, 1e-45f, -3e38f, std::numeric_limits<float>::max()}) {
    EXPECT_TRUE(is_finite(x));
    EXPECT_EQ(abs_of(x), std::fabs(x));
    EXPECT_FALSE(std::signbit(abs_of(x)));
  }
  for (const float x : {kInf, -kInf, kNan, -kNan}) EXPECT_FALSE(is_finite(x));
  EXPECT_TRUE(std::isnan(abs_of(-kNan)));
  EXPECT_EQ(abs_of(-kInf), kInf);
}

TEST(Arith, IsConstant) {
  static_assert(round_even(2.5f) == 2 && abs_of(-1.0f) == 1.0f);
  static_assert(is_finite(1.0f) && clamp_finite(5.0f, 2.0f) == 2.0f);
}

}  // namespace
}  // namespace kvcodec
