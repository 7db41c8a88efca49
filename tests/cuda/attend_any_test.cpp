// The general path of attention on the device: every codec on either side, pairs, head sizes, options.
#include <gtest/gtest.h>

#include <limits>

#include "kvcodec/codec/codebook.hpp"
#include "kvcodec/codec/qjl.hpp"
#include "tests/cuda/attend_tools.hpp"
#include "tests/support/codebook_tokens.hpp"

namespace kvcodec {
namespace {

using cuda::AttendPath;
using test::attend_on_device;
using test::Cached;

void expect_general(const KvView& view, const test::QueryBatch& batch, const AttendOptions& options,
                    const std::string& what) {
  ASSERT_EQ(cuda::attend_path(view), AttendPath::general) << what;
  expect_near(attend_on_device(view, batch, options), test::reference(view, batch, options), what,
              test::kGeneral);
}

struct Case {
  std::string plan;
  HeadShape shape;
  std::int64_t n_rows = 145;
};
std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  return std::to_string(info.index) + "_" + test::test_name(info.param.plan) + "_d" +
         std::to_string(info.param.shape.head_dim) + "_g" +
         std::to_string(info.param.shape.gqa_group());
}
void PrintTo(const Case& c, std::ostream* os) { *os << c.plan; }

/// Every built-in codec as K and as V beside bf16, which no fused kernel reads; head sizes and groups
/// take turns.
std::vector<Case> codec_cases() {
  constexpr std::int32_t kGroups[] = {1, 4, 7, 16};
  std::vector<Case> cases;
  for (const std::string& spec : test::codec_specs()) {
    const AnyCodec codec = make_codec(spec);
    for (const Side side : test::kSides) {
      if (side == Side::value && codec.key_only()) continue;
      std::size_t i = cases.size();
      while (!codec.supports(test::kHeadDims[i % 5])) ++i;
      const std::int32_t head_dim = test::kHeadDims[i % 5];
      const std::int32_t n_kv_heads = codec.head_span(head_dim);
      const std::int32_t group = n_kv_heads > 1 ? 2 : kGroups[cases.size() % 4];
      cases.push_back(
          {(side == Side::key ? "k=" + spec + ",v=bf16" : "k=bf16,v=" + spec) + ",recent=8",
           {group * n_kv_heads, n_kv_heads, head_dim}});
    }
  }
  return cases;
}

class AttendAny : public test::OnDevice<::testing::TestWithParam<Case>> {};

TEST_P(AttendAny, IsTheReference) {
  const Case& c = GetParam();
  const Cached cached(c.plan, c.shape, {c.n_rows});
  expect_general(cached.view, cached.queries({1}), test::default_options(c.shape.head_dim), c.plan);
}

// The same where the view lists a codec per sequence and head, as it does for codecs with tables of their
// own: whatever a TileFormat says of the first is then not asked.
TEST_P(AttendAny, IsTheReferenceWithCodecsPerHead) {
  const Case& c = GetParam();
  Cached cached(c.plan, c.shape, {c.n_rows});
  const auto n = static_cast<std::size_t>(c.shape.n_kv_heads);
  const std::vector<AnyCodec> k_codecs(n, cached.view.k_codec);
  const std::vector<AnyCodec> v_codecs(n, cached.view.v_codec);
  cached.view.k_codecs = k_codecs.data();
  cached.view.v_codecs = v_codecs.data();
  expect_general(cached.view, cached.queries({1}), test::default_options(c.shape.head_dim), c.plan);
}

INSTANTIATE_TEST_SUITE_P(Codecs, AttendAny, ::testing::ValuesIn(codec_cases()), name_of);

// Pairs without a fused kernel, head sizes of no kernel's, the widest tiles, outliers that the first
// tile fixes, heads that share tiles on one side or in two nestings, centers.
INSTANTIATE_TEST_SUITE_P(
    Pairs, AttendAny,
    ::testing::Values(
        Case{"k=nqkv,v=int8", {4, 1, 128}}, Case{"kv=kivi", {7, 1, 128}},
        Case{"k=nvfp4,v=mxfp4", {16, 1, 80}}, Case{"kv=lm:b3", {4, 2, 112}},
        Case{"kv=f32", {16, 1, 256}}, Case{"k=f16,v=f32", {4, 1, 240}},
        Case{"k=int8,v=bf16", {16, 1, 256}}, Case{"k=fp8,v=nqsym", {2, 2, 96}},
        Case{"kv=lm:b2", {4, 1, 80}}, Case{"k=qjl:m64:o3:mo32:fixed,v=int8,page=256", {4, 2, 64}},
        Case{"k=qjl:m96:o8:mo64,v=kivi,recent=8", {12, 2, 80}, 200},
        Case{"k=qjl:m1024:o32:tile,v=f16,recent=8", {6, 1, 128}},
        Case{"k=qjl:m320,v=nqkv", {4, 1, 128}}, Case{"k=qjl:m64:o32:exact,v=nqfit", {5, 1, 64}},
        Case{"k=nqkv:g256,v=bf16", {8, 4, 64}}, Case{"k=kivi,v=nqkv:g256", {4, 2, 128}},
        Case{"k=nqkv:g256,v=int8,page=256", {8, 8, 64}, 330},
        Case{"k=mean:n64+kivi,v=mean:n64+mxfp4,page=256,recent=8", {4, 2, 64}, 330},
        Case{"k=lm:b1,v=rabitq:b1", {4, 1, 80}}, Case{"k=rabitq:b1,v=lm:b1", {4, 2, 112}},
        Case{"k=wkv:b4:g32,v=kivi:b4:g64", {4, 1, 112}}, Case{"kv=wkv:b3:g64", {16, 1, 128}},
        Case{"kv=mxfp4,recent=0", {4, 1, 64}, 64}, Case{"kv=mxfp4,recent=32", {4, 1, 64}, 3}),
    name_of);

class AttendAnyOptions : public test::OnDevice<> {};

/// A pair that takes all the turns there are: sketches, parts that are not rows, two head sizes of
/// queries.
const char* const kPlans[] = {"k=kivi,v=int8", "k=qjl:m96:o8:mo64,v=lm:b3"};

TEST_F(AttendAnyOptions, RaggedBatchesOfManyTokens) {
  for (const std::string plan : kPlans) {
    const Cached cached(plan + ",recent=8,sink=4", {8, 2, 64}, {300, 0, 70, 520});
    expect_general(cached.view, cached.queries({5, 0, 1, 3}), test::default_options(64), plan);
  }
}

// Row 192 begins a tile that of the unit of tokens 187..192 only the last one sees; with a window, others
// are seen by the first ones only.
TEST_F(AttendAnyOptions, TokensOfAPromptThatIsCached) {
  for (const std::string plan : kPlans) {
    const Cached cached(plan + ",recent=1", {3, 1, 64}, {300});
    const test::QueryBatch batch = test::make_queries(cached.view.shape, {40}, {216}, 77);
    AttendOptions options = test::default_options(64);
    expect_general(cached.view, batch, options, plan);
    options.window = 60;
    expect_general(cached.view, batch, options, plan + ", window");
  }
}

TEST_F(AttendAnyOptions, WindowSoftCapAndSinkLogits) {
  for (const std::string plan : kPlans) {
    const Cached cached(plan + ",recent=8,sink=4", {8, 2, 64}, {400});
    const test::QueryBatch batch = cached.queries({3});
    AttendOptions options = test::default_options(64);
    options.window = 150;
    expect_general(cached.view, batch, options, plan + ", window");
    options.window_sinks = 70;
    options.logits_soft_cap = 2.0f;
    expect_general(cached.view, batch, options, plan + ", window with sinks, soft cap");
    const float inf = std::numeric_limits<float>::infinity();
    const std::vector<float> sinks = {0.5f, -inf, 3.0f, 20.0f, -5.0f, 0.0f, 1.0f, 2.0f};
    options.sink_logits = sinks.data();
    expect_general(cached.view, batch, options, plan + ", sink logits");
  }
}

TEST_F(AttendAnyOptions, OwnRowsThatAreNotCached) {
  for (const std::string plan : kPlans) {
    const Cached cached(plan + ",recent=8", {8, 2, 80}, {200, 64});
    test::QueryBatch batch = test::make_queries(cached.view.shape, {4, 2}, {200 + 3, 64 + 1}, 5);
    batch.k_new = test::gauss_rows(6, 160, 6);
    batch.v_new = test::gauss_rows(6, 160, 7);
    expect_general(cached.view, batch, test::default_options(80), plan);
  }
}

// Listed positions, masks per query head, staged rows.
TEST_F(AttendAnyOptions, WhatPoliciesLeave) {
  for (const char* plan : {"k=nqkv,v=int8,policy=lagkv:l64:r0.5,sink=16",
                           "k=qjl:m96:o4:mo32:fixed,v=mxfp4,policy=lagkv:l64:r0.5,sink=16"}) {
    const Cached lag(plan, {4, 2, 64}, {500});
    expect_general(lag.view, lag.queries({2}), test::default_options(64), plan);
  }
}

TEST_F(AttendAnyOptions, RowsThatWereCutOffStayUnseen) {
  const HeadShape shape{4, 2, 64};
  Cached cached("k=nvfp4,v=lm:b3,recent=8", shape, {330});
  ASSERT_EQ(cached.cache.truncate(cached.seqs[0], 200), Status::ok);
  const test::Tokens more(shape, 30, 55);
  ASSERT_EQ(append(cached.cache, cached.seqs[0], 0, more, 0, 30), Status::ok);
  cached.last_pos = {229};
  cached.view = cached.cache.view(0, cached.seqs, cached.buffers);
  ASSERT_NE(cached.view.encoded_rows(0) % kTileRows, 0);
  expect_general(cached.view, cached.queries({1}), test::default_options(64), "cut");
}

// Queries and outputs of 16 bits, on both paths: each value costs half a unit of its last place.
TEST_F(AttendAnyOptions, QueriesAndOutputsOfSixteenBits) {
  for (const char* plan : {"k=kivi,v=int8", "kv=int8"}) {
    const Cached cached(plan, {4, 2, 64}, {150});
    for (const DType type : {DType::f16, DType::bf16}) {
      test::QueryBatch batch = cached.queries({2});
      batch.q = test::loaded(test::stored(batch.q, type), type);
      const AttendOptions options = test::default_options(64);
      const double step = type == DType::f16 ? 0x1p-11 : 0x1p-8;
      expect_near(attend_on_device(cached.view, batch, options, 256, 0, type),
                  test::reference(cached.view, batch, options), std::string(plan) + to_string(type),
                  {test::kFused.out + step, test::kFused.lse});
    }
  }
}

// Tables that grow with a sequence, one per layer or per head; keys turned to their positions.
TEST_F(AttendAnyOptions, Codebooks) {
  for (const char* plan :
       {"k=codebook:t0.98,v=codebook:t0.95,rope=10000,recent=8",
        "k=codebook:t0.98:head,v=codebook:t0.95:head,rope=10000,sink=4,recent=1,page=256",
        "k=codebook:t0.98:norope,v=nqsym,recent=8", "k=kivi,v=codebook:t0.95,recent=8"}) {
    const CacheConfig config = make_cache_config(plan, {8, 2, 64}, 1, 400, 2);
    Cache cache(config);
    std::vector<SeqId> seqs;
    for (const std::int64_t n : {250, 100}) {
      seqs.push_back(cache.open());
      const test::Tokens tokens = test::clustered_tokens(config, n, 3 + static_cast<unsigned>(n));
      ASSERT_EQ(append(cache, seqs.back(), 0, tokens, 0, n), Status::ok);
    }
    ViewBuffers buffers;
    const KvView view = cache.view(0, seqs, buffers);
    expect_general(view, test::make_queries(view.shape, {2, 1}, {249, 99}, 8),
                   test::default_options(64), plan);
  }
}

// Codecs of one type whose tables differ between heads: here projections that did not make the bytes.
TEST_F(AttendAnyOptions, TablesOfTheirOwnPerHead) {
  Cached cached("k=qjl:m128,v=lm:b4,recent=8", {4, 2, 64}, {150, 80});
  ASSERT_EQ(cuda::attend_path(cached.view), AttendPath::fused);
  std::vector<AnyCodec> k_codecs;
  for (const char* seed : {"s3", "s4", "s5", "s6"}) {
    k_codecs.push_back(make_codec(std::string("qjl:m128:") + seed).with_tables(64));
  }
  const std::vector<AnyCodec> v_codecs(4, cached.view.v_codec);
  cached.view.k_codecs = k_codecs.data();
  cached.view.v_codecs = v_codecs.data();
  expect_general(cached.view, cached.queries({1, 1}), test::default_options(64), "own tables");
}

TEST_F(AttendAnyOptions, ResultsDependNeitherOnTheBatchNorOnTheMemory) {
  const HeadShape shape{4, 2, 64};
  for (const std::string plan : kPlans) {
    const Cached alone(plan, shape, {620}, 9);
    const Cached among(plan, shape, {620, 300, 30}, 9);
    const AttendOptions options = test::default_options(64);
    const auto one = attend_on_device(alone.view, alone.queries({1}), options);
    const auto all = attend_on_device(among.view, among.queries({1, 4, 1}), options);
    const auto few = attend_on_device(among.view, among.queries({1, 4, 1}), options, 256, 1);
    for (std::size_t i = 0; i < one.out.size(); ++i) ASSERT_EQ(one.out[i], all.out[i]) << i;
    for (std::size_t i = 0; i < one.lse.size(); ++i) ASSERT_EQ(one.lse[i], all.lse[i]) << i;
    EXPECT_EQ(test::bits_of(all.out), test::bits_of(few.out));
    EXPECT_EQ(test::bits_of(all.lse), test::bits_of(few.lse));
  }
}

TEST_F(AttendAnyOptions, LessMemoryForLogitsIsLessMemory) {
  const Cached cached("k=kivi,v=int8", {4, 2, 64}, {100});
  cuda::AttendLimits limits;
  limits.max_encoded_rows = 1 << 20;
  limits.logits_bytes = 1;
  const std::size_t least = cuda::attend_workspace_bytes(cached.view, limits);
  constexpr std::size_t kSplit = 2 * 2 * 1024 * 4;  // heads, query rows, rows, f32
  limits.logits_bytes = 5 * kSplit;
  EXPECT_EQ(cuda::attend_workspace_bytes(cached.view, limits), least + 4 * kSplit);
  limits.logits_bytes = std::size_t{1} << 40;  // no more than there are splits
  EXPECT_EQ(cuda::attend_workspace_bytes(cached.view, limits), least + 1023 * kSplit);
}

/// Codecs that are on no list: one whose tiles nothing describes, and one with a TileFormat.
struct UserCodec : NvFp4 {
  static constexpr const char* family = "mine";
  std::string name() const { return family; }
};
struct FormattedUserCodec : Int8Token {
  static constexpr const char* family = "formatted";
  std::string name() const { return family; }
};

TEST_F(AttendAnyOptions, PathsAreSaid) {
  const HeadShape shape{4, 2, 64};
  const auto view_of = [&](const AnyCodec& k, const AnyCodec& v) {
    KvView view;
    view.shape = shape;
    view.n_seq = 1;
    view.k_codec = k;
    view.v_codec = v;
    return view;
  };
  EXPECT_EQ(cuda::attend_path(view_of(make_codec("int8"), make_codec("int8"))), AttendPath::fused);
  EXPECT_EQ(cuda::attend_path(view_of(make_codec("nqkv"), make_codec("int8"))),
            AttendPath::general);
  const auto refused = [&](const AnyCodec& k, const AnyCodec& v,
                           const std::vector<std::string>& parts) {
    const KvView view = view_of(k, v);
    EXPECT_EQ(cuda::attend_path(view), AttendPath::none);
    EXPECT_FALSE(cuda::supports(view));
    EXPECT_TRUE(test::contains(cuda::why_unsupported(view), parts));
    EXPECT_TRUE(test::contains(test::message_of<unsupported>([&] {
                                 static_cast<void>(cuda::attend_workspace_bytes(view, {}));
                               }),
                               parts));
  };
  EXPECT_EQ(cuda::attend_path(view_of(FormattedUserCodec{}, Int8Token{})), AttendPath::fused);
  EXPECT_EQ(cuda::attend_path(view_of(FormattedUserCodec{}, Kivi{})), AttendPath::general);
  refused(UserCodec{}, Int8Token{}, {"attend on the device: codec mine for k", "built-in", "int8"});
  refused(Kivi{}, UserCodec{}, {"attend on the device: codec mine for v", "built-in"});
  refused(Kivi{}, make_codec("qjl"), {"codec qjl", "for v", "keys only"});
  refused({}, Int8Token{}, {"no codecs"});
}

// A codec that was never given its tables is caught before a kernel reads through a null pointer.
TEST_F(AttendAnyOptions, MissingTablesAreNamed) {
  Cached cached("k=qjl:m96:o4:mo32,v=int8,recent=8", {4, 2, 64}, {100});
  cached.view.k_codec = make_codec("qjl:m96:o4:mo32");
  const test::QueryBatch batch = cached.queries({1});
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([&] {
                               attend_on_device(cached.view, batch, test::default_options(64));
                             }),
                             {"attend on the device", "qjl", "without tables"}));
}

}  // namespace
}  // namespace kvcodec
