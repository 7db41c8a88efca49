// Centers: what is subtracted before encoding comes back exactly, LSE, soft cap and sink logits
// included; and what they are for.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_tools.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

using test::Tokens;

constexpr HeadShape kShape{4, 2, 64};
constexpr std::int64_t kTokens = 600;

/// Rows whose channels have means of their own, some of them large.
Tokens biased_tokens(std::uint64_t seed) {
  Tokens tokens(kShape, kTokens, seed);
  for (std::size_t i = 0; i < tokens.k.size(); ++i) {
    const std::size_t channel = i % 64;
    tokens.k[i] += channel % 16 == 3 ? 12.0f : 0.1f * static_cast<float>(channel % 5);
    tokens.v[i] += channel % 16 == 7 ? -6.0f : 0.2f * static_cast<float>(channel % 3);
  }
  return tokens;
}

/// The reference over the rows as they were appended.
test::Expected dense(const Tokens& tokens, const test::QueryBatch& batch,
                     const AttendOptions& options) {
  test::Expected want;
  want.out.resize(static_cast<std::size_t>(batch.n_tokens() * kShape.n_q_heads * 64));
  std::vector<std::int32_t> pos(static_cast<std::size_t>(kTokens));
  for (std::size_t i = 0; i < pos.size(); ++i) pos[i] = static_cast<std::int32_t>(i);
  for (std::int64_t row = 0; row < batch.n_tokens() * kShape.n_q_heads; ++row) {
    const std::int32_t q_head = static_cast<std::int32_t>(row % kShape.n_q_heads);
    const std::int64_t head = q_head / 2;
    const double sink = options.sink_logits != nullptr
                            ? static_cast<double>(options.sink_logits[q_head])
                            : -std::numeric_limits<double>::infinity();
    want.lse.push_back(reference_attend(64, kTokens, batch.q.data() + row * 64,
                                        tokens.k.data() + head * 64, tokens.v.data() + head * 64,
                                        tokens.width(), pos.data(),
                                        batch.pos[static_cast<std::size_t>(row / kShape.n_q_heads)],
                                        options, sink, want.out.data() + row * 64));
  }
  return want;
}

/// Attends over a cache with this configuration that holds the tokens.
test::Result run(const CacheConfig& config, const Tokens& tokens, const test::QueryBatch& batch,
                 const AttendOptions& options) {
  Cache cache(config);
  const SeqId seq = cache.open();
  EXPECT_EQ(append(cache, seq, 0, tokens, 0, kTokens), Status::ok);
  Step step;
  step.seqs = {&seq, 1};
  step.indptr = batch.indptr;
  step.q = dense_rows(batch.q.data(), batch.n_tokens(), kShape.n_q_heads, 64);
  test::Result r;
  r.out.resize(batch.q.size());
  r.lse.resize(static_cast<std::size_t>(batch.n_tokens() * kShape.n_q_heads));
  AttendWorkspace workspace;
  attend(cache, 0, step, r.out.data(), r.lse.data(), options, workspace);
  return r;
}

double relative_error(const test::Result& got, const test::Expected& want) {
  double error = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < want.out.size(); ++i) {
    const double e = static_cast<double>(got.out[i]) - want.out[i];
    error += e * e;
    norm += want.out[i] * want.out[i];
  }
  return std::sqrt(error / norm);
}

class Centers : public ::testing::TestWithParam<std::string> {};

TEST_P(Centers, ComeBackExactly) {
  const Tokens tokens = biased_tokens(1);
  const test::QueryBatch batch = test::make_queries(kShape, {9}, {kTokens - 1}, 3);
  const float sinks[] = {0.5f, 3.0f, -1.0f, 8.0f};
  AttendOptions plain = test::default_options(64);
  AttendOptions all = plain;
  all.logits_soft_cap = 20.0f;
  all.sink_logits = sinks;
  all.window = 300;
  const CacheConfig config = make_cache_config(GetParam(), kShape, 1, kTokens);
  for (const AttendOptions& options : {plain, all}) {
    const test::Expected want = dense(tokens, batch, options);
    test::for_each_isa([&] {
      const test::Result got = run(config, tokens, batch, options);
      EXPECT_TRUE(test::close(got.out, want.out, 64, {1e-4, 1e-4}, "out"));
      EXPECT_TRUE(test::close(got.lse, want.lse, 1, {1e-4, 1e-5}, "lse"));
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Plans, Centers,
                         ::testing::Values("kv=f32", "k=mean+f32,v=f32", "kv=mean:n64+f32,sink=3",
                                           "kv=mean:n100+hadamard+f32,recent=5",
                                           "k=f32,v=mean:n600+f32,recent=1"),
                         test::name_of_param);

TEST(FixedCenters, AreSubtractedAndComeBack) {
  const Tokens tokens = biased_tokens(5);
  const test::QueryBatch batch = test::make_queries(kShape, {3}, {kTokens - 1}, 7);
  std::vector<float> shift(128);
  for (std::size_t i = 0; i < shift.size(); ++i) {
    shift[i] = i % 16 == 3 ? 12.0f : 0.05f * static_cast<float>(i);
  }
  CacheConfig config = make_cache_config("kv=hadamard+f32,recent=1", kShape, 1, kTokens);
  for (SideConfig* side : {&config.layers[0].k, &config.layers[0].v}) {
    side->center.kind = Centering::Kind::fixed;
    side->center.values = shift.data();
  }
  const AttendOptions options = test::default_options(64);
  const test::Expected want = dense(tokens, batch, options);
  const test::Result got = run(config, tokens, batch, options);
  EXPECT_TRUE(test::close(got.out, want.out, 64, {1e-4, 1e-4}, "out"));
  EXPECT_TRUE(test::close(got.lse, want.lse, 1, {1e-4, 1e-5}, "lse"));
  // What is encoded is the difference.
  Cache cache(config);
  const SeqId seq = cache.open();
  ASSERT_EQ(append(cache, seq, 0, tokens, 0, kTokens), Status::ok);
  ViewBuffers buffers;
  const KvView view = cache.view(0, {&seq, 1}, buffers);
  std::vector<float> x(64 * 64);
  view.k_codec.decode_tile(Side::key, 64, view.page_data(view.page_of(0, 0)), x.data());
  float row[64];
  for (int c = 0; c < 64; ++c)
    row[c] = tokens.k[static_cast<std::size_t>(c)] - shift[static_cast<std::size_t>(c)];
  config.layers[0].k.transform.forward(64, 0, row);
  for (int c = 0; c < 64; ++c) EXPECT_NEAR(x[static_cast<std::size_t>(c)], row[c], 1e-4);
}

// Rotation spreads an offset over all channels but leaves it there; the center takes it away.
TEST(CentersMatter, OnKeysWithOffsets) {
  const Tokens tokens = biased_tokens(9);
  const test::QueryBatch batch = test::make_queries(kShape, {16}, {kTokens - 1}, 11);
  const AttendOptions options = test::default_options(64);
  const test::Expected want = dense(tokens, batch, options);
  const auto error = [&](const std::string& plan) {
    return relative_error(run(make_cache_config(plan, kShape, 1, kTokens), tokens, batch, options),
                          want);
  };
  const double rotated = error("kv=hadamard+nqsym");
  const double centered = error("kv=mean+hadamard+nqsym");
  EXPECT_LT(centered, 0.4 * rotated) << centered << " against " << rotated;
}

}  // namespace
}  // namespace kvcodec
