// Law 6: with raw f32 storage attend is dense attention; equal weights over ones give exactly one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kvcodec/transform/builtin.hpp"
#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_cases.hpp"

namespace kvcodec {
namespace {

using test::takes_values;
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

/// Value rows of ones and one codec.
class Ones : public ::testing::TestWithParam<std::string> {
 protected:
  /// What the codec makes of ones, from one tile.
  static std::vector<float> decoded_ones(const AnyCodec& plain, std::int32_t head_dim) {
    const AnyCodec codec = plain.with_tables(head_dim);
    const std::vector<float> x(
        static_cast<std::size_t>(kTileRows * codec.head_span(head_dim) * head_dim), 1.0f);
    std::vector<std::byte> tile(codec.tile_bytes(head_dim));
    std::vector<float> y(x.size());
    codec.encode_tile(Side::value, head_dim, x.data(), tile.data());
    codec.decode_tile(Side::value, head_dim, tile.data(), y.data());
    return y;
  }
};

// Law 6. Equal weights over values of one: where the codec holds ones exactly these are sums of integers,
// exact in f32 up to 2^24; elsewhere the result is what the codec makes of a one and not further off,
// however many keys there are. An accumulator in f16 would return 0.0625 at 32,768 keys.
TEST_P(Ones, SumToOne) {
  const std::string& spec = GetParam();
  const AnyCodec codec = make_codec(spec);
  const std::int32_t n_heads = takes_values(spec) ? codec.head_span(64) : 1;
  const HeadShape shape{n_heads, n_heads, 64};
  const bool long_run = spec == "f16" || spec == "nqkv:g64";
  const std::int64_t longest = long_run ? 131072 : 32768;
  Cache cache(make_cache_config(test::plan_of(spec) + ",recent=32,sink=4", shape, 1, longest));
  const std::vector<float> ones = decoded_ones(takes_values(spec) ? codec : make_codec("f16"), 64);
  const auto [low, high] = std::minmax_element(ones.begin(), ones.end());
  EXPECT_NEAR(*low, 1.0f, 0.2f) << "the least is the level of lm:b1:rms, sqrt(2 / pi)";
  EXPECT_NEAR(*high, 1.0f, 0.2f);
  const SeqId seq = cache.open();
  Tokens chunk(shape, 1024, 1);
  chunk.v.assign(chunk.v.size(), 1.0f);
  AttendWorkspace workspace;
  const std::vector<float> q(static_cast<std::size_t>(n_heads * 64), 0.0f);
  for (std::int64_t n = 1024; n <= longest; n += 1024) {
    ASSERT_EQ(append(cache, seq, 0, chunk, 0, 1024), Status::ok);
    if (n != 1024 && n != 8192 && n != 32768 && n != longest) continue;
    const std::int64_t encoded = (n - 4 - 32) / kTileRows * kTileRows;
    test::for_each_isa([&] {
      Step step;
      step.seqs = {&seq, 1};
      step.q = dense_rows(q.data(), 1, n_heads, 64);
      std::vector<float> out(q.size());
      std::vector<float> lse(static_cast<std::size_t>(n_heads));
      attend(cache, 0, step, out.data(), lse.data(), test::default_options(64), workspace);
      for (std::size_t i = 0; i < out.size(); ++i) {
        const double raw = static_cast<double>(n - encoded);
        const double want = (raw + static_cast<double>(encoded) * static_cast<double>(ones[i])) /
                            static_cast<double>(n);
        if (*low == 1.0f && *high == 1.0f) {
          ASSERT_EQ(out[i], 1.0f) << n;
        } else {
          // The roundings of equal terms add up within a split of 1,024 rows and no further.
          ASSERT_NEAR(out[i], want, 1024 * 0x1p-25) << n;
        }
      }
      ASSERT_FLOAT_EQ(lse[0], std::log(static_cast<float>(n)));
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Codecs, Ones, ::testing::ValuesIn(test::codec_specs()),
                         test::name_of_param);

// Which of them hold ones exactly, so that the list above cannot quietly become inexact.
TEST(OnesAreExact, InTheseCodecs) {
  for (const std::string spec : {"f32", "f16", "bf16", "fp8", "mxfp4", "kivi:b2:g32", "kivi:b4:g64",
                                 "nqkv:g64", "nqsym:g64"}) {
    const std::vector<float> x(64 * 64, 1.0f);
    std::vector<float> y(x.size());
    const AnyCodec codec = make_codec(spec).with_tables(64);
    std::vector<std::byte> tile(codec.tile_bytes(64));
    codec.encode_tile(Side::value, 64, x.data(), tile.data());
    codec.decode_tile(Side::value, 64, tile.data(), y.data());
    EXPECT_EQ(x, y) << spec;
  }
}

}  // namespace
}  // namespace kvcodec
