// The raw codecs: exact round trips of their own values, clamping, sizes.
#include "kvcodec/codec/raw.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kvcodec/cache/cache_config.hpp"
#include "kvcodec/codec/make_codec.hpp"
#include "tests/support/codecs.hpp"
#include "tests/support/compare.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

template <class T>
class RawTest : public ::testing::Test {};
using Codecs = ::testing::Types<float, f16, bf16>;
TYPED_TEST_SUITE(RawTest, Codecs);

TYPED_TEST(RawTest, RoundsLikeItsType) {
  const RawCodec<TypeParam> codec;
  for (const Side side : test::kSides) {
    for (const int head_dim : test::kHeadDims) {
      const std::vector<float> x = test::make_rows(test::Input::lognormal, kTileRows, head_dim, 2);
      std::vector<std::byte> bytes(codec.tile_bytes(head_dim));
      EXPECT_EQ(bytes.size(), sizeof(TypeParam) * x.size());
      EXPECT_TRUE(codec.encode_tile(side, head_dim, x.data(), bytes.data()));
      std::vector<float> y(x.size());
      codec.decode_tile(side, head_dim, bytes.data(), y.data());
      std::vector<float> want;
      for (const float value : x) want.push_back(to_f32(from_f32<TypeParam>(value)));
      EXPECT_TRUE(test::same_bits(y, want, codec.name()));
    }
  }
}

TYPED_TEST(RawTest, ClampsAndReportsNonFiniteValues) {
  const RawCodec<TypeParam> codec;
  const float limit = dtype_max(dtype_of<TypeParam>);
  constexpr float inf = std::numeric_limits<float>::infinity();
  std::vector<float> x(kTileRows * 64, 0.5f);
  x[1] = std::numeric_limits<float>::max();
  x[2] = -limit;
  x[3] = -0.0f;
  std::vector<std::byte> bytes(codec.tile_bytes(64));
  std::vector<float> y(x.size());
  EXPECT_TRUE(codec.encode_tile(Side::key, 64, x.data(), bytes.data()));
  codec.decode_tile(Side::key, 64, bytes.data(), y.data());
  EXPECT_EQ(y[1], limit);
  EXPECT_EQ(y[2], -limit);
  EXPECT_TRUE(std::signbit(y[3]));
  for (const float bad : {inf, -inf, std::numeric_limits<float>::quiet_NaN()}) {
    x[70] = bad;
    EXPECT_FALSE(codec.encode_tile(Side::key, 64, x.data(), bytes.data()));
    codec.decode_tile(Side::key, 64, bytes.data(), y.data());
    EXPECT_EQ(y[70], std::isnan(bad) ? 0.0f : std::copysign(limit, bad));
    EXPECT_EQ(y[69], 0.5f);
    EXPECT_EQ(y[71], 0.5f);
  }
}

TEST(Raw, DefaultStorageOfRawRows) {
  EXPECT_EQ(default_raw_dtype(RawF32{}), DType::f32);
  EXPECT_EQ(default_raw_dtype(RawBf16{}), DType::bf16);
  EXPECT_EQ(default_raw_dtype(RawF16{}), DType::f16);
  EXPECT_EQ(default_raw_dtype(make_codec("nqkv")), DType::f16);
}

TEST(MakeCodec, MessagesListWhatExists) {
  const std::string unknown = test::message_of<invalid_argument>([] { make_codec("nqk:g64"); });
  EXPECT_TRUE(test::contains(unknown, {"\"nqk\"", "allowed"}));
  BuiltinCodecs::for_each(
      [&]<class C>() { EXPECT_TRUE(test::contains(unknown, {C::family})) << C::family; });
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([] { make_codec(""); }), {"nqkv"}));
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([] { make_codec("nqkv:g65"); }),
                             {"nqkv", "g65", "32, 64, 128 or 256", "0.5..1", "search"}));
  EXPECT_TRUE(
      test::contains(test::message_of<invalid_argument>([] { make_codec("nqsym:search:x0.9"); }),
                     {"search", "x0.9"}));
  for (const char* empty_option : {"nqkv:g64:", "nqkv::g64", "nqkv::"}) {
    EXPECT_THROW(make_codec(empty_option), invalid_argument) << empty_option;
  }
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([] { make_codec("f16:g64"); }),
                             {"f16", "g64", "none"}));
}

TEST(AnyCodec, KnowsItsType) {
  const AnyCodec codec = make_codec("nqkv:g128");
  ASSERT_NE(codec.as<Nqkv>(), nullptr);
  EXPECT_EQ(codec.as<Nqkv>()->group, 128);
  EXPECT_EQ(codec.as<NqkvSymmetric>(), nullptr);
  EXPECT_EQ(codec.as<RawF16>(), nullptr);
  EXPECT_FALSE(AnyCodec{});
  EXPECT_TRUE(codec.row_independent());
  EXPECT_TRUE(codec.bit_exact());
}

}  // namespace
}  // namespace kvcodec
