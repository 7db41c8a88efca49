// Transform "affine": the formula itself, products kept, every head its own factors, and no way to
// use it without factors.
#include "kvcodec/transform/channel_affine.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kvcodec/attend/attend.hpp"
#include "kvcodec/cache/cache.hpp"
#include "kvcodec/plan/plan.hpp"
#include "kvcodec/transform/builtin.hpp"
#include "tests/support/codecs.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

using test::contains;
using test::message_of;

constexpr int kHeads = 3;
constexpr int kDim = 80;

// Factors over six orders of magnitude; powers of two if asked.
std::vector<float> make_factors(std::uint64_t seed, bool powers = false, int n = kHeads * kDim) {
  test::Random random(seed);
  std::vector<float> s;
  for (int i = 0; i < n; ++i) {
    const double exponent = std::floor(20.0 * random.uniform()) - 10.0;
    s.push_back(static_cast<float>(std::exp2(exponent) * (powers ? 1.0 : 1.0 + random.uniform())));
  }
  return s;
}

ChannelAffine bound(const std::vector<float>& s) {
  return ChannelAffine::bind({s.data(), kHeads, kDim}, kHeads, kDim);
}

SideConfig side_of(const TransformChain& transform) {
  SideConfig side;
  side.transform = transform;
  side.codec = RawF32{};
  return side;
}

TEST(ChannelAffine, DividesRowsAndMultipliesQueriesAndOutputs) {
  const std::vector<float> s = make_factors(1);
  const AnyTransform t = bound(s);
  EXPECT_FALSE(t.is_identity());
  for (int h = 0; h < kHeads; ++h) {
    const std::vector<float> x = test::gauss_rows(1, kDim, 2 + static_cast<std::uint64_t>(h));
    std::vector<float> row = x, query = x, output = x;
    t.forward(kDim, h, row.data());
    t.query(kDim, h, query.data());
    t.output(kDim, h, output.data());
    for (std::size_t c = 0; c < kDim; ++c) {
      const float factor = s[static_cast<std::size_t>(h * kDim) + c];
      ASSERT_EQ(row[c], x[c] / factor);
      ASSERT_EQ(query[c], x[c] * factor);
      ASSERT_EQ(output[c], x[c] * factor);
    }
  }
}

TEST(ChannelAffine, KeepsProductsAndRowsWithinTwoRoundings) {
  const std::vector<float> s = make_factors(3);
  const ChannelAffine t = bound(s);
  const std::vector<float> k = test::gauss_rows(1, kDim, 4), q = test::gauss_rows(1, kDim, 5);
  std::vector<float> tk = k, tq = q, back;
  t.forward(kDim, 1, tk.data());
  t.query(kDim, 1, tq.data());
  back = tk;
  t.output(kDim, 1, back.data());
  for (std::size_t c = 0; c < kDim; ++c) {
    const double product = static_cast<double>(q[c]) * static_cast<double>(k[c]);
    const double kept = static_cast<double>(tq[c]) * static_cast<double>(tk[c]);
    ASSERT_LE(std::abs(kept - product), 0x1.01p-23 * std::abs(product));
    ASSERT_LE(std::abs(back[c] - k[c]), 0x1.01p-23f * std::abs(k[c]));
  }
}

TEST(ChannelAffine, IsExactWithPowersOfTwo) {
  const std::vector<float> s = make_factors(6, true);
  const ChannelAffine t = bound(s);
  const std::vector<float> x = test::gauss_rows(1, kDim, 7);
  std::vector<float> back = x;
  t.forward(kDim, 2, back.data());
  EXPECT_NE(back, x);
  t.output(kDim, 2, back.data());
  EXPECT_EQ(back, x);
}

TEST(ChannelAffine, WithoutFactorsItIsRefused) {
  const AnyTransform t = make_transform("affine");
  EXPECT_EQ(t.name(), "affine");
  for (const int head_dim : {64, 80, 128, 256}) EXPECT_FALSE(t.supports(head_dim));
  EXPECT_FALSE(ChannelAffine::parse("").bound());
  EXPECT_TRUE(contains(message_of<invalid_argument>([] { make_transform("affine:x"); }),
                       {"affine", "x", "none"}));
  CacheConfig config;
  config.shape = {4, 2, 64};
  config.max_tokens = 100;
  config.layers.resize(1);
  config.layers[0].k = side_of(ChannelAffine{});
  config.layers[0].v = side_of({});
  EXPECT_TRUE(contains(message_of<unsupported>([&] { Cache cache(config); }), {"affine"}));
}

TEST(ChannelAffine, BindChecksEverything) {
  std::vector<float> s = make_factors(8);
  const auto refusal = [&](ChannelScales scales, int n_kv_heads, int head_dim) {
    return message_of<invalid_argument>([&] { ChannelAffine::bind(scales, n_kv_heads, head_dim); });
  };
  EXPECT_TRUE(contains(refusal({}, kHeads, kDim), {"scale", "null"}));
  EXPECT_TRUE(contains(refusal({s.data(), kHeads, kDim}, 2, kDim), {"n_kv_heads", "3", "2"}));
  EXPECT_TRUE(contains(refusal({s.data(), kHeads, kDim}, kHeads, 64), {"head_dim", "80", "64"}));
  for (const float bad : {0.0f, -1.0f, std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    s = make_factors(8);
    s[static_cast<std::size_t>(kDim + 7)] = bad;
    EXPECT_TRUE(contains(refusal({s.data(), kHeads, kDim}, kHeads, kDim),
                         {"scale", "above 0", "KV head 1", "channel 7"}));
  }
  EXPECT_FALSE(bound(make_factors(8)).supports(64));
}

TEST(ChannelAffine, ChainsWithARotation) {
  const std::vector<float> s = make_factors(9, true);
  TransformChain chain(bound(s));
  chain.append(Hadamard{});
  EXPECT_EQ(chain.name(), "affine+hadamard");
  const std::vector<float> x = test::gauss_rows(1, kDim, 10);
  std::vector<float> direct = x, back;
  bound(s).forward(kDim, 1, direct.data());
  Hadamard{}.forward(kDim, direct.data());
  std::vector<float> chained = x;
  chain.forward(kDim, 1, chained.data());
  EXPECT_EQ(chained, direct);
  chain.output(kDim, 1, chained.data());
  for (std::size_t c = 0; c < kDim; ++c) {
    // Rotation mixes channels, so that the rounding of the largest reaches all.
    ASSERT_NEAR(chained[c], x[c], 1e-3f * s[kDim + c]);
  }
}

// Attention over raw rows with and without factors that differ by head and side.
TEST(ChannelAffine, AttentionIsWhatItWasWithout) {
  constexpr HeadShape kShape{4, 2, 64};
  constexpr std::int64_t kTokens = 200;
  std::vector<float> k_factors = make_factors(11, false, 128);
  std::vector<float> v_factors = make_factors(12, false, 128);
  const std::vector<float> k = test::gauss_rows(kTokens, 128, 13);
  const std::vector<float> v = test::gauss_rows(kTokens, 128, 14);
  const std::vector<float> q = test::gauss_rows(1, 256, 15);
  const auto attend_with = [&](TransformChain k_transform, TransformChain v_transform) {
    CacheConfig config;
    config.shape = kShape;
    config.max_tokens = kTokens;
    config.layers.resize(1);
    config.layers[0].k = side_of(k_transform);
    config.layers[0].v = side_of(v_transform);
    Cache cache(config);
    const SeqId seq = cache.open();
    cache.append(seq, 0, dense_rows(k.data(), kTokens, 2, 64),
                 dense_rows(v.data(), kTokens, 2, 64));
    Step step;
    step.seqs = {&seq, 1};
    step.q = dense_rows(q.data(), 1, 4, 64);
    std::vector<float> out(256);
    AttendWorkspace workspace;
    attend(cache, 0, step, out.data(), nullptr, {.sm_scale = 0.125f}, workspace);
    return out;
  };
  const std::vector<float> expected = attend_with({}, {});
  const std::vector<float> out = attend_with(ChannelAffine::bind({k_factors.data(), 2, 64}, 2, 64),
                                             ChannelAffine::bind({v_factors.data(), 2, 64}, 2, 64));
  for (std::size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], expected[i], 1e-5f);
}

}  // namespace
}  // namespace kvcodec
