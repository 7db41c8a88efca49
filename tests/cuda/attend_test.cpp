// Attention on the device against the float64 reference over the rows that the view decodes to.
#include <gtest/gtest.h>

#include <limits>

#include "tests/cuda/attend_tools.hpp"

namespace kvcodec {
namespace {

using test::attend_on_device;
using test::Cached;
using test::expect_near;

struct Case {
  const char* plan;
  HeadShape shape;
  std::int64_t n_rows;
};
std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  return test::test_name(
      std::string(info.param.plan) + "_d" + std::to_string(info.param.shape.head_dim) + "_g" +
      std::to_string(info.param.shape.gqa_group()) + "_n" + std::to_string(info.param.n_rows));
}
void PrintTo(const Case& c, std::ostream* os) { *os << c.plan; }

class DeviceAttend : public test::OnDevice<::testing::TestWithParam<Case>> {};

TEST_P(DeviceAttend, IsTheReference) {
  const Case& c = GetParam();
  const Cached cached(c.plan, c.shape, {c.n_rows});
  ASSERT_EQ(cuda::attend_path(cached.view), cuda::AttendPath::fused);
  const test::QueryBatch batch = cached.queries({1});
  const AttendOptions options = test::default_options(c.shape.head_dim);
  expect_near(attend_on_device(cached.view, batch, options),
              test::reference(cached.view, batch, options), c.plan);
}

// Every kind of code on both sides, group sizes with short rests, zeros, shared heads, one to sixteen
// query heads per KV head, lengths around tiles and splits.
INSTANTIATE_TEST_SUITE_P(
    Kinds, DeviceAttend,
    ::testing::Values(
        Case{"kv=nqkv", {2, 2, 128}, 320}, Case{"kv=nqkv:g32", {4, 1, 128}, 200},
        Case{"kv=nqsym:g128", {8, 1, 128}, 700}, Case{"kv=nqkv:g256", {4, 2, 128}, 260},
        Case{"kv=nqkv", {16, 1, 64}, 330}, Case{"kv=nqsym", {5, 1, 80}, 250},
        Case{"kv=nqkv", {12, 1, 96}, 200}, Case{"kv=nqkv", {4, 1, 256}, 200},
        Case{"kv=nqkv", {16, 1, 256}, 140}, Case{"kv=hadamard+lm:b4", {4, 1, 128}, 260},
        Case{"kv=wkv:b4:g32", {4, 1, 128}, 260}, Case{"kv=wkv:b4:g64", {16, 1, 64}, 200},
        Case{"k=lm:b4,v=kivi:b4:g32", {4, 1, 128}, 200},
        Case{"k=rabitq:b4,v=lm:b4", {4, 1, 64}, 200}, Case{"kv=int8", {4, 1, 128}, 330},
        Case{"kv=int8", {7, 1, 80}, 200}, Case{"kv=int8", {16, 1, 64}, 200},
        Case{"kv=wkv:b8:g64", {4, 1, 128}, 200}, Case{"k=int8,v=nqsym", {4, 1, 128}, 330},
        Case{"kv=fp8", {4, 1, 128}, 200}, Case{"kv=fp8:row", {4, 1, 64}, 200},
        Case{"kv=fp8:s0.25", {16, 1, 64}, 200}, Case{"kv=f16", {4, 1, 128}, 260},
        Case{"kv=f16", {4, 1, 96}, 200}, Case{"kv=f16", {2, 1, 256}, 140},
        Case{"kv=lm:b2", {4, 1, 128}, 330}, Case{"kv=wkv:b2:g64", {4, 1, 128}, 200},
        Case{"k=lm:b2,v=kivi:b2:g32", {16, 1, 64}, 200},
        Case{"k=rabitq:b1,v=lm:b4", {4, 1, 128}, 200}, Case{"k=lm:b1,v=lm:b2", {4, 1, 64}, 200},
        Case{"k=qjl:m256,v=lm:b4", {4, 1, 128}, 330}, Case{"k=qjl:m128,v=lm:b2", {4, 1, 64}, 200},
        Case{"k=qjl:m128,v=lm:b4", {4, 1, 128}, 200}, Case{"k=qjl:m64,v=lm:b4", {16, 1, 64}, 200},
        Case{"kv=nqsym,recent=0", {4, 1, 64}, 64}, Case{"kv=nqsym,recent=0", {4, 1, 64}, 256},
        Case{"kv=nqsym,recent=1", {4, 1, 64}, 257}, Case{"kv=nqsym,recent=32", {4, 1, 64}, 3},
        Case{"kv=mean:n64+nqsym,page=256", {4, 2, 64}, 600}),
    name_of);

/// A view of which some things are unusual, under options.
class DeviceAttendOptions : public test::OnDevice<> {
 protected:
  void expect_reference(const Cached& cached, const std::vector<std::int64_t>& counts,
                        const AttendOptions& options, const std::string& what) {
    const test::QueryBatch batch = cached.queries(counts);
    expect_near(attend_on_device(cached.view, batch, options),
                test::reference(cached.view, batch, options), what);
  }
};

TEST_F(DeviceAttendOptions, RaggedBatchesOfManyTokens) {
  const Cached cached("kv=nqsym,recent=8,sink=4", {8, 2, 64}, {300, 0, 70, 520});
  expect_reference(cached, {5, 0, 1, 3}, test::default_options(64), "tokens 5, 0, 1, 3");
}

TEST_F(DeviceAttendOptions, WindowSoftCapAndSinkLogits) {
  const Cached cached("kv=int8,recent=8,sink=4", {8, 2, 64}, {400});
  AttendOptions options = test::default_options(64);
  options.window = 150;
  expect_reference(cached, {3}, options, "window");
  options.window_sinks = 70;
  expect_reference(cached, {3}, options, "window with sinks");
  options.logits_soft_cap = 2.0f;
  expect_reference(cached, {3}, options, "soft cap");
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> sinks = {0.5f, -inf, 3.0f, 20.0f, -5.0f, 0.0f, 1.0f, 2.0f};
  options.sink_logits = sinks.data();
  expect_reference(cached, {3}, options, "sink logits");
}

TEST_F(DeviceAttendOptions, OwnRowsThatAreNotCached) {
  const Cached cached("kv=nqsym,recent=8", {8, 2, 64}, {200, 64});
  test::QueryBatch batch = test::make_queries(cached.view.shape, {4, 2}, {200 + 3, 64 + 1}, 5);
  batch.k_new = test::gauss_rows(6, 128, 6);
  batch.v_new = test::gauss_rows(6, 128, 7);
  const AttendOptions options = test::default_options(64);
  expect_near(attend_on_device(cached.view, batch, options),
              test::reference(cached.view, batch, options), "own rows");
}

// Listed positions, masks per query head, staged rows.
TEST_F(DeviceAttendOptions, WhatPoliciesLeave) {
  const Cached lag("kv=nqsym,policy=lagkv:l64:r0.5,sink=16", {4, 2, 64}, {700});
  expect_reference(lag, {2}, test::default_options(64), "lagkv");
}

// Rows that a truncation left behind in a tile have positions that raw rows have by now.
TEST_F(DeviceAttendOptions, RowsThatWereCutOffStayUnseen) {
  const HeadShape shape{4, 2, 64};
  Cached cached("kv=nqsym,recent=8", shape, {330});
  ASSERT_EQ(cached.cache.truncate(cached.seqs[0], 200), Status::ok);
  const test::Tokens more(shape, 30, 55);
  ASSERT_EQ(append(cached.cache, cached.seqs[0], 0, more, 0, 30), Status::ok);
  cached.last_pos = {229};
  cached.view = cached.cache.view(0, cached.seqs, cached.buffers);
  ASSERT_NE(cached.view.encoded_rows(0) % kTileRows, 0);
  expect_reference(cached, {1}, test::default_options(64), "cut");
}

TEST_F(DeviceAttendOptions, ResultsDependOnNothingElseInTheBatch) {
  const HeadShape shape{4, 2, 64};
  const Cached alone("kv=nqsym", shape, {420}, 9);
  const Cached among("kv=nqsym", shape, {420, 900, 30}, 9);
  const AttendOptions options = test::default_options(64);
  const auto one = attend_on_device(alone.view, alone.queries({1}), options);
  const auto all = attend_on_device(among.view, among.queries({1, 4, 1}), options);
  for (std::size_t i = 0; i < one.out.size(); ++i) ASSERT_EQ(one.out[i], all.out[i]) << i;
  for (std::size_t i = 0; i < one.lse.size(); ++i) ASSERT_EQ(one.lse[i], all.lse[i]) << i;
}

// Weights that are all equal, values that are all one (these codecs store it exactly): one.
TEST_F(DeviceAttendOptions, EqualWeightsOverOnesGiveOne) {
  const HeadShape shape{4, 1, 64};
  const std::int64_t n = 3000;
  for (const char* plan : {"kv=f16", "kv=nqfit", "kv=nqsym", "kv=fp8"}) {
    Cache cache(make_cache_config(plan, shape, 1, n));
    const SeqId seq = cache.open();
    test::Tokens tokens(shape, n, 1);
    std::fill(tokens.v.begin(), tokens.v.end(), 1.0f);
    ASSERT_EQ(append(cache, seq, 0, tokens, 0, n), Status::ok);
    ViewBuffers buffers;
    const KvView view = cache.view(0, {&seq, 1}, buffers);
    test::QueryBatch batch = test::make_queries(shape, {1}, {n - 1}, 3);
    std::fill(batch.q.begin(), batch.q.end(), 0.0f);
    const auto got = attend_on_device(view, batch, test::default_options(64), 1024);
    for (const float x : got.out) ASSERT_EQ(x, 1.0f) << plan;
    for (const float x : got.lse) ASSERT_NEAR(x, std::log(3000.0), 1e-5) << plan;
  }
}

// The guards around the workspace and the results are attend_within's.
TEST_F(DeviceAttendOptions, MoreRowsThanTheLimitsSayTouchNoOtherMemory) {
  for (const char* plan : {"kv=nqsym,recent=300,sink=4", "kv=f32,recent=300,sink=4"}) {
    const Cached cached(plan, {4, 2, 64}, {1000, 700});
    const test::QueryBatch batch = cached.queries({1, 1});
    for (const std::int64_t encoded : {0, 64, 300}) {
      for (const std::int64_t raw : {0, 100, 257}) {
        cuda::AttendLimits limits;
        limits.split_rows = 256;
        limits.max_encoded_rows = encoded;
        limits.max_raw_rows = raw;
        test::attend_within(cached.view, batch, test::default_options(64), limits);
      }
    }
  }
}

TEST_F(DeviceAttendOptions, BadArgumentsAreNamed) {
  const Cached cached("kv=nqsym", {4, 2, 64}, {100});
  AttendOptions options = test::default_options(64);
  const auto message = [&](const AttendOptions& o, const cuda::AttendLimits& limits,
                           std::size_t bytes) -> std::string {
    float x = 0.0f;
    std::int64_t i = 0;
    std::int32_t j = 0;
    try {
      cuda::attend(cached.view, {&x, DType::f32, &i, &j}, {&x}, o, limits, &x, bytes);
    } catch (const invalid_argument& e) {
      return e.what();
    }
    return "accepted";
  };
  cuda::AttendLimits limits;
  limits.max_encoded_rows = 100;
  EXPECT_TRUE(test::contains(message(options, limits, 16), {"workspace_bytes = 16"}));
  limits.split_rows = 100;
  EXPECT_TRUE(test::contains(message(options, limits, 16), {"split_rows = 100"}));
  limits = {};
  limits.max_tokens_per_seq = 0;
  EXPECT_TRUE(test::contains(message(options, limits, 16), {"max_tokens_per_seq = 0"}));
  options.sm_scale = -1.0f;
  EXPECT_TRUE(test::contains(message(options, {}, 16), {"sm_scale"}));
}

}  // namespace
}  // namespace kvcodec
