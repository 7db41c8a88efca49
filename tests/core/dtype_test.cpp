// Storage types: every value, every rounding boundary, and the hardware's conversions as judge.
#include "kvcodec/core/dtype.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/support/inputs.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

namespace kvcodec {
namespace {

float from_bits(std::uint32_t bits) { return bit_cast<float>(bits); }
std::uint32_t bits_of(float x) { return bit_cast<std::uint32_t>(x); }

/// The definition, in float64: value of an f16 bit pattern.
double value_of_f16(std::uint16_t h) {
  const int exponent = (h >> 10) & 0x1f;
  const double mantissa = h & 0x3ff;
  const double sign = (h & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1.0 + mantissa / 1024.0, exponent - 15);
}

bool is_nan16(std::uint16_t h) { return (h & 0x7c00) == 0x7c00 && (h & 0x3ff) != 0; }

TEST(F16, EveryPatternHasItsValueAndComesBack) {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const f16 h{static_cast<std::uint16_t>(i)};
    const float x = to_f32(h);
    if (is_nan16(h.bits)) {
      EXPECT_TRUE(std::isnan(x)) << i;
      EXPECT_TRUE(is_nan16(to_f16(x).bits)) << i;
      EXPECT_EQ(to_f16(x).bits & 0x8000, h.bits & 0x8000) << i;
      continue;
    }
    if ((i & 0x7fff) == 0x7c00) {
      EXPECT_TRUE(std::isinf(x)) << i;
    } else {
      ASSERT_EQ(static_cast<double>(x), value_of_f16(h.bits)) << i;
    }
    ASSERT_EQ(std::signbit(x), (i & 0x8000) != 0) << i;
    ASSERT_EQ(to_f16(x).bits, h.bits) << i;
  }
}

// Between neighbours a < b: the midpoint goes to the even one, everything else to the nearer one.
TEST(F16, RoundsToNearestEvenBetweenAllNeighbours) {
  for (std::uint32_t i = 0; i + 1 < 0x7c00; ++i) {
    for (const float sign : {1.0f, -1.0f}) {
      const auto low = static_cast<std::uint16_t>(i | (sign < 0.0f ? 0x8000u : 0u));
      const auto high = static_cast<std::uint16_t>(low + 1);
      const float middle = 0.5f * (to_f32(f16{low}) + to_f32(f16{high}));  // exact
      const std::uint16_t even = (low & 1) == 0 ? low : high;
      ASSERT_EQ(to_f16(middle).bits, even) << i;
      ASSERT_EQ(to_f16(from_bits(bits_of(middle) - 1)).bits, low) << i;
      ASSERT_EQ(to_f16(from_bits(bits_of(middle) + 1)).bits, high) << i;
    }
  }
}

TEST(F16, OverflowsToInfinityFrom65520) {
  EXPECT_EQ(to_f16(65504.0f).bits, 0x7bff);
  EXPECT_EQ(to_f16(std::nextafter(65520.0f, 0.0f)).bits, 0x7bff);
  EXPECT_EQ(to_f16(65520.0f).bits, 0x7c00);
  EXPECT_EQ(to_f16(-65520.0f).bits, 0xfc00);
  EXPECT_EQ(to_f16(3e38f).bits, 0x7c00);
  EXPECT_EQ(to_f16(std::numeric_limits<float>::infinity()).bits, 0x7c00);
  EXPECT_EQ(to_f32(f16{0x7bff}), kF16Max);
}

TEST(F16, SmallestValues) {
  EXPECT_EQ(to_f16(0x1p-24f).bits, 0x0001);
  EXPECT_EQ(to_f16(0x1p-25f).bits, 0x0000);  // tie with 0, which is even
  EXPECT_EQ(to_f16(std::nextafter(0x1p-25f, 1.0f)).bits, 0x0001);
  EXPECT_EQ(to_f16(0x1.8p-24f).bits, 0x0002);  // tie between 1 and 2
  EXPECT_EQ(to_f16(-0x1p-30f).bits, 0x8000);
  EXPECT_EQ(to_f16(0x1p-14f).bits, 0x0400);
  EXPECT_EQ(to_f16(std::numeric_limits<float>::denorm_min()).bits, 0x0000);
}

TEST(Bf16, EveryPatternComesBack) {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const bf16 h{static_cast<std::uint16_t>(i)};
    const float x = to_f32(h);
    ASSERT_EQ(bits_of(x), i << 16);
    if (std::isnan(x)) {
      ASSERT_EQ(to_bf16(x).bits, (i | 0x40u)) << i;  // quiet
    } else {
      ASSERT_EQ(to_bf16(x).bits, h.bits) << i;
    }
  }
}

TEST(Bf16, RoundsToNearestEvenBetweenAllNeighbours) {
  for (std::uint32_t low = 0; low < 0x7f80; ++low) {
    const std::uint32_t even = (low & 1) == 0 ? low : low + 1;
    for (const std::uint32_t sign : {0u, 0x8000u}) {
      const std::uint32_t tie = ((low | sign) << 16) | 0x8000u;
      ASSERT_EQ(to_bf16(from_bits(tie)).bits, even | sign) << low;
      ASSERT_EQ(to_bf16(from_bits(tie - 1)).bits, low | sign) << low;
      ASSERT_EQ(to_bf16(from_bits(tie + 1)).bits, (low + 1) | sign) << low;
    }
  }
  EXPECT_EQ(to_f32(to_bf16(kBf16Max)), kBf16Max);
  EXPECT_TRUE(std::isinf(to_f32(to_bf16(kF32Max))));
  EXPECT_TRUE(std::isnan(to_f32(to_bf16(from_bits(0x7f800001u)))));  // a signalling NaN stays NaN
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("f16c"))) std::uint16_t hardware_f16(float x) {
  return static_cast<std::uint16_t>(
      _mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT), 0));
}

TEST(F16, AgreesWithTheHardware) {
  if (!__builtin_cpu_supports("f16c")) GTEST_SKIP() << "this machine has no F16C";
  test::Random random(16);
  for (std::uint32_t i = 0; i < 2000000; ++i) {
    const auto bits = static_cast<std::uint32_t>(random.bits());
    const float x = from_bits(bits);
    if (std::isnan(x)) continue;
    ASSERT_EQ(to_f16(x).bits, hardware_f16(x)) << std::hex << bits;
    // The same significand in the range where f16 has values.
    const float y = from_bits((bits & 0x807fffffu) | ((100u + (bits >> 8) % 44u) << 23));
    ASSERT_EQ(to_f16(y).bits, hardware_f16(y)) << std::hex << bits_of(y);
  }
}
#endif

TEST(DType, ConversionsAreConstant) {
  static_assert(to_f16(1.0f).bits == 0x3c00 && to_bf16(1.0f).bits == 0x3f80);
  static_assert(to_f32(f16{0xc000}) == -2.0f && to_f32(bf16{0xc000}) == -2.0f);
  static_assert(dtype_of<float> == DType::f32 && dtype_of<f16> == DType::f16 &&
                dtype_of<bf16> == DType::bf16);
}

TEST(DType, LoadAndStore) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    std::uint32_t memory[3] = {0xffffffffu, 0xffffffffu, 0xffffffffu};
    store_value(type, memory, 1, -1.5f);
    EXPECT_EQ(load_value(type, memory, 1), -1.5f) << to_string(type);
    EXPECT_TRUE(std::isnan(load_value(type, memory, 0))) << to_string(type);
    EXPECT_TRUE(std::isnan(load_value(type, memory, 2))) << to_string(type);
    EXPECT_EQ(to_f32(to_f16(1.0f)), 1.0f);
    EXPECT_EQ(dtype_bytes(type), type == DType::f32 ? 4u : 2u);
  }
  EXPECT_STREQ(to_string(DType::f32), "f32");
  EXPECT_STREQ(to_string(DType::f16), "f16");
  EXPECT_STREQ(to_string(DType::bf16), "bf16");
  EXPECT_EQ(dtype_max(DType::f16), 65504.0f);
  EXPECT_EQ(dtype_max(DType::bf16), to_f32(bf16{0x7f7f}));
  EXPECT_EQ(dtype_max(DType::f32), std::numeric_limits<float>::max());
}

}  // namespace
}  // namespace kvcodec
