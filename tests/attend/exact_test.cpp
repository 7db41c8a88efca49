// Law 6: with raw f32 storage attend is dense attention; equal weights over ones give exactly one.
#include <gtest/gtest.h>

#include <cmath>

#include "kvcodec/transform/builtin.hpp"
#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_cases.hpp"

namespace kvcodec {
namespace {

using test::Tokens;

/// Dense causal attention of the last n queries over the original rows.
test::Expected dense(const Tokens& tokens, const test::QueryBatch& batch,
                     const AttendOptions& options) {
  const HeadShape& s = tokens.shape;
  const std::int64_t d = s.head_dim;
  std::vector<std::int32_t> pos(static_cast<std::size_t>(tokens.size()));
  for (std::size_t i = 0; i < pos.size(); ++i) pos[i] = static_cast<std::int32_t>(i);
  test::Expected want;
  want.out.resize(batch.q.size());
  for (std::int64_t row = 0; row < batch.n_tokens() * s.n_q_heads; ++row) {
    const std::int64_t head = row % s.n_q_heads / s.gqa_group();
    want.lse.push_back(reference_attend(
        s.head_dim, tokens.size(), batch.q.data() + row * d, tokens.k.data() + head * d,
        tokens.v.data() + head * d, tokens.width(), pos.data(),
        batch.pos[static_cast<std::size_t>(row / s.n_q_heads)], options,
        -std::numeric_limits<double>::infinity(), want.out.data() + row * d));
  }
  return want;
}

// Through the Cache's own attend, with transforms: queries rotated, outputs rotated back.
TEST(Exact, RawStorageIsDenseAttention) {
  for (const std::string plan : {"kv=f32,recent=1", "kv=hadamard+f32,recent=32,sink=4",
                                 "k=hadamard:s3+f32,v=hadamard:plain+f32,recent=5,page=256"}) {
    for (const HeadShape shape : {HeadShape{4, 2, 64}, HeadShape{3, 1, 80}}) {
      const Tokens tokens(shape, 1200, 1);
      Cache cache(make_cache_config(plan, shape, 1, 1200));
      const SeqId seq = cache.open();
      ASSERT_EQ(append(cache, seq, 0, tokens, 0, 1200), Status::ok);
      const test::QueryBatch batch = test::make_queries(shape, {6}, {1199}, 2);
      const AttendOptions options = test::default_options(shape.head_dim);
      const test::Expected want = dense(tokens, batch, options);
      test::for_each_isa([&] {
        Step step;
        step.seqs = {&seq, 1};
        step.indptr = batch.indptr;
        step.q = dense_rows(batch.q.data(), 6, shape.n_q_heads, shape.head_dim);
        test::Result got{std::vector<float>(want.out.size()), std::vector<float>(want.lse.size())};
        AttendWorkspace workspace;
        attend(cache, 0, step, got.out.data(), got.lse.data(), options, workspace);
        test::expect_close(got, want, shape.head_dim, plan);
      });
    }
  }
}

// The tokens' own rows given with the step, transformed like cached ones.
TEST(Exact, OwnRowsGoThroughTheTransforms) {
  const HeadShape shape{4, 2, 64};
  const Tokens tokens(shape, 300, 3);
  Cache cache(make_cache_config("kv=hadamard+f32,recent=1", shape, 1, 300));
  const SeqId seq = cache.open();
  ASSERT_EQ(append(cache, seq, 0, tokens, 0, 290), Status::ok);
  const test::QueryBatch batch = test::make_queries(shape, {10}, {299}, 4);
  const AttendOptions options = test::default_options(64);
  Step step;
  step.seqs = {&seq, 1};
  step.indptr = batch.indptr;
  step.q = dense_rows(batch.q.data(), 10, 4, 64);
  step.k_new = tokens.k_rows(290, 10);
  step.v_new = tokens.v_rows(290, 10);
  test::Result got{std::vector<float>(batch.q.size()), std::vector<float>(40)};
  AttendWorkspace workspace;
  attend(cache, 0, step, got.out.data(), got.lse.data(), options, workspace);
  test::expect_close(got, dense(tokens, batch, options), 64, "own rows");
  EXPECT_EQ(cache.n_tokens(seq), 290) << "attend appends nothing";
}

class Ones : public ::testing::TestWithParam<std::string> {};

// Weights of exactly 1 and values of exactly 1: sums of integers, exact in f32 up to 2^24.
TEST_P(Ones, SumToExactlyOne) {
  const HeadShape shape{1, 1, 64};
  const bool long_run = GetParam() == "f16" || GetParam() == "nqkv:g64";
  const std::int64_t longest = long_run ? 131072 : 32768;
  Cache cache(make_cache_config("k=" + GetParam() + ",v=" + GetParam() + ",recent=32,sink=4", shape,
                                1, longest));
  const SeqId seq = cache.open();
  Tokens chunk(shape, 1024, 1);
  chunk.v.assign(chunk.v.size(), 1.0f);
  AttendWorkspace workspace;
  const std::vector<float> q(64, 0.0f);
  for (std::int64_t n = 1024; n <= longest; n += 1024) {
    ASSERT_EQ(append(cache, seq, 0, chunk, 0, 1024), Status::ok);
    if (n != 1024 && n != 8192 && n != 32768 && n != longest) continue;
    test::for_each_isa([&] {
      Step step;
      step.seqs = {&seq, 1};
      step.q = dense_rows(q.data(), 1, 1, 64);
      std::vector<float> out(64);
      float lse = 0.0f;
      attend(cache, 0, step, out.data(), &lse, test::default_options(64), workspace);
      for (const float x : out) ASSERT_EQ(x, 1.0f) << n;
      ASSERT_FLOAT_EQ(lse, std::log(static_cast<float>(n)));
    });
  }
}

// int8 holds 1 only up to the rounding of its scale, so it is not in the list.
INSTANTIATE_TEST_SUITE_P(Codecs, Ones,
                         ::testing::Values("f32", "f16", "bf16", "nqkv:g64", "nqsym:g64"),
                         test::name_of_param);

TEST(Exact, OnesThroughInt8AreOneWithinItsStep) {
  const HeadShape shape{1, 1, 64};
  Cache cache(make_cache_config("kv=int8,recent=1", shape, 1, 8192));
  const SeqId seq = cache.open();
  Tokens tokens(shape, 8192, 1);
  tokens.v.assign(tokens.v.size(), 1.0f);
  ASSERT_EQ(append(cache, seq, 0, tokens, 0, 8192), Status::ok);
  ViewBuffers buffers;
  const KvView view = cache.view(0, {&seq, 1}, buffers);
  test::QueryBatch batch = test::make_queries(shape, {1}, {8191}, 1);
  batch.q.assign(64, 0.0f);
  test::for_each_isa([&] {
    const test::Result got = test::run_attend(view, batch, test::default_options(64));
    for (const float x : got.out) ASSERT_NEAR(x, 1.0f, 0x1p-10f);
    ASSERT_FLOAT_EQ(got.lse[0], std::log(8192.0f));
  });
}

}  // namespace
}  // namespace kvcodec
