// The container's laws with policies: what is kept, in whatever chunks it came; truncation, forks,
// failures; memory that evicted rows give back.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kvcodec/policy/builtin.hpp"
#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_cases.hpp"

namespace kvcodec {
namespace {

using test::contents;
using test::state_of;
using test::Tokens;

constexpr std::int64_t kTokens = 700;

std::vector<test::CacheCase> policy_cases() {
  return {
      {"kv=nqkv,policy=lagkv:l64:r0.5,sink=4,recent=8", {4, 2, 64}},
      {"k=f16,v=int8,policy=lagkv:l100:r0.3,recent=1,page=256", {2, 1, 80}},
      {"k=hadamard+nqkv,v=nqsym,policy=lagkv:l64:r0.25,recent=150,rollback=16", {2, 2, 128}},
      {"k=mean:n90+hadamard+nqkv,v=mean:n200+nqsym,policy=lagkv:l32:r0.5,sink=3", {4, 2, 64}},
      {"kv=int8,policy=window:n150,sink=4,recent=10", {2, 2, 64}},
      {"kv=nqkv,policy=window:n300,recent=10,page=128", {4, 1, 64}},
      {"k=qjl:m64:o3:mo32:fixed,v=int8,policy=window:n150,recent=10", {2, 2, 64}},
      {"kv=nqkv,policy=snapkv:r0.5:w16,sink=2,recent=8", {4, 2, 64}},
      {"k=mean:n5000+hadamard+nqkv,v=nqsym,policy=snapkv:r0.3:w16,recent=40", {4, 2, 64}},
      {"kv=int8,policy=keydiff:r0.4,recent=8,page=256", {2, 2, 80}},
      {"kv=f16,policy=lagkv:l128:r0.5;1:policy=none", {2, 2, 64}},
  };
}

class PolicyLaws : public ::testing::TestWithParam<test::CacheCase> {
 protected:
  static Cache make(std::int64_t max_tokens, std::int32_t max_sequences = 1) {
    return GetParam().make(max_tokens, max_sequences, 2);
  }

  static bool at_prompt(const Cache& cache) {
    const AnyPolicy& policy = cache.config().layers[0].policy;
    return policy.chunk_rows() == 0;
  }

  /// Appends tokens to both layers in chunks of the given sizes, over and over.
  static void fill(Cache& cache, SeqId seq, const Tokens& tokens, std::int64_t first,
                   std::int64_t end, std::vector<std::int64_t> sizes) {
    for (std::size_t i = 0; first < end; ++i) {
      const std::int64_t n = std::min(end - first, sizes[i % sizes.size()]);
      for (const std::int32_t layer : {0, 1}) {
        ASSERT_EQ(append(cache, seq, layer, tokens, first, n), Status::ok);
      }
      first += n;
    }
  }

  /// All that a cache with one sequence holds, wherever its pages lie: layers take pages in the order
  /// of the appends.
  static std::vector<std::byte> meaning_of(const Cache& cache) {
    std::vector<std::byte> out = contents(cache, 0);
    const CacheBytes bytes = cache.bytes();
    test::append_bytes(out, &bytes, sizeof bytes);
    return out;
  }

  /// Hands over the queries of the newest tokens and declares the prompt complete.
  static void end_prompt(Cache& cache, SeqId seq, std::int64_t n_tokens) {
    const HeadShape& shape = cache.config().shape;
    const std::vector<float> q =
        test::gauss_rows(kTokens, std::int64_t{shape.n_q_heads} * shape.head_dim, 77);
    for (const std::int32_t layer : {0, 1}) {
      const std::int64_t n = cache.observed_rows(layer);
      const std::int64_t first = (n_tokens - n) * shape.n_q_heads * shape.head_dim;
      cache.observe(seq, layer, dense_rows(q.data() + first, n, shape.n_q_heads, shape.head_dim),
                    0.1f);
    }
    cache.end_prompt(seq);
  }
};

TEST_P(PolicyLaws, AppendInAnyChunksLeavesTheSameBytes) {
  const Tokens tokens(GetParam().shape, kTokens, 1);
  std::vector<std::vector<std::byte>> states;
  for (const std::vector<std::int64_t>& sizes :
       {std::vector<std::int64_t>{kTokens}, {1}, {64}, {7, 130, 0, 51}}) {
    Cache cache = make(kTokens);
    const SeqId seq = cache.open();
    fill(cache, seq, tokens, 0, 500, sizes);
    end_prompt(cache, seq, 500);
    fill(cache, seq, tokens, 500, kTokens, sizes);
    states.push_back(meaning_of(cache));
    EXPECT_EQ(cache.n_tokens(seq), kTokens);
    EXPECT_LT(cache.n_kept(seq, 0, 0), kTokens);
  }
  for (const auto& state : states) EXPECT_EQ(state, states[0]);
}

TEST_P(PolicyLaws, TruncateInTheWindowIsExactAndNeverBeyondJudgedRows) {
  const Tokens tokens(GetParam().shape, kTokens, 3);
  Cache straight = make(kTokens);
  straight.open();
  fill(straight, 0, tokens, 0, kTokens, {kTokens});
  if (at_prompt(straight)) end_prompt(straight, 0, kTokens);
  Cache cache = make(kTokens);
  const SeqId seq = cache.open();
  fill(cache, seq, tokens, 0, kTokens - 5, {50});
  const Tokens wrong(GetParam().shape, kTokens, 5);
  fill(cache, seq, wrong, kTokens - 5, kTokens - 2, {3});
  ASSERT_EQ(cache.truncate(seq, kTokens - 5), Status::ok);
  fill(cache, seq, tokens, kTokens - 5, kTokens, {2});
  if (at_prompt(cache)) end_prompt(cache, seq, kTokens);
  EXPECT_EQ(meaning_of(cache), meaning_of(straight));
  const std::vector<std::byte> before = state_of(cache);
  ASSERT_EQ(cache.truncate(seq, 100), Status::cannot_truncate);
  EXPECT_EQ(state_of(cache), before);
}

TEST_P(PolicyLaws, ForksDoNotDisturbEachOtherAndGiveBackTheirPages) {
  const Tokens tokens(GetParam().shape, kTokens, 7);
  const Tokens others(GetParam().shape, kTokens, 9);
  Cache cache = make(4 * kTokens, 3);
  const std::int64_t all_free = cache.free_pages(0);
  const SeqId parent = cache.open();
  fill(cache, parent, tokens, 0, 400, {400});
  end_prompt(cache, parent, 400);
  const SeqId child = cache.fork(parent);
  const std::vector<std::byte> before = contents(cache, parent);
  EXPECT_EQ(contents(cache, child), before);
  fill(cache, child, others, 400, kTokens, {13});
  EXPECT_EQ(contents(cache, parent), before);
  const std::vector<std::byte> written = contents(cache, child);
  fill(cache, parent, tokens, 400, kTokens, {13});
  EXPECT_EQ(contents(cache, child), written);
  cache.close(child);
  cache.close(parent);
  EXPECT_EQ(cache.free_pages(0), all_free);
  EXPECT_EQ(cache.bytes().total(), 0);
}

TEST_P(PolicyLaws, AttentionSeesExactlyWhatIsKept) {
  const Tokens tokens(GetParam().shape, kTokens, 11);
  Cache cache = make(2 * kTokens, 2);
  const SeqId a = cache.open();
  const SeqId b = cache.open();
  fill(cache, a, tokens, 0, kTokens, {kTokens});
  end_prompt(cache, a, kTokens);
  fill(cache, b, tokens, 0, 333, {100});
  ViewBuffers buffers;
  const SeqId seqs[] = {a, b};
  const KvView view = cache.view(0, seqs, buffers);
  for (std::int32_t head = 0; head < view.shape.n_kv_heads; ++head) {
    const test::HeadRows rows = test::decoded_rows(view, 0, head);
    EXPECT_EQ(static_cast<std::int64_t>(rows.pos.size()), cache.n_kept(a, 0, head));
    std::vector<std::int32_t> sorted = rows.pos;
    std::sort(sorted.begin(), sorted.end());
    EXPECT_EQ(std::unique(sorted.begin(), sorted.end()), sorted.end()) << "a token is there twice";
    EXPECT_EQ(sorted.back(), kTokens - 1);
  }
  const test::QueryBatch batch = test::make_queries(view.shape, {1, 40}, {kTokens - 1, 332}, 13);
  test::for_each_isa([&] {
    test::expect_matches_reference(view, batch, test::default_options(view.shape.head_dim), "kept");
  });
}

TEST_P(PolicyLaws, AFailedCallChangesNothing) {
  const Tokens tokens(GetParam().shape, kTokens, 15);
  Cache cache = make(400, 2);
  const SeqId a = cache.open();
  const SeqId b = cache.open();
  fill(cache, a, tokens, 0, 380, {380});
  end_prompt(cache, a, 380);
  const std::vector<std::byte> before = state_of(cache);
  EXPECT_EQ(append(cache, a, 0, tokens, 380, 21), Status::out_of_pages);
  EXPECT_EQ(append(cache, b, 0, tokens, 0, 401), Status::out_of_pages);
  EXPECT_EQ(state_of(cache), before);
}

INSTANTIATE_TEST_SUITE_P(Policies, PolicyLaws, ::testing::ValuesIn(policy_cases()),
                         test::name_of_case);

/// Positions that LagKV keeps of one head, by its definition: partitions in a row.
std::vector<std::int32_t> lag_positions(const Tokens& tokens, std::int32_t head, std::int64_t n,
                                        std::int64_t n_sink, std::int64_t lag,
                                        const AnyPolicy& policy) {
  const std::int64_t d = tokens.shape.head_dim;
  const auto rows_of = [&](const std::vector<float>& x, std::int64_t first, std::int64_t count) {
    std::vector<float> out;
    for (std::int64_t t = first; t < first + count; ++t) {
      const auto at = x.begin() + t * tokens.width() + head * d;
      out.insert(out.end(), at, at + d);
    }
    return out;
  };
  std::vector<std::int32_t> kept;
  std::int64_t at = 0;
  for (; at < std::min(n, n_sink); ++at) kept.push_back(static_cast<std::int32_t>(at));
  for (; n - at >= 2 * lag; at += lag) {
    const std::vector<float> k = rows_of(tokens.k, at, 2 * lag);
    const std::vector<float> v = rows_of(tokens.v, at, 2 * lag);
    std::vector<KeepMask> masks(static_cast<std::size_t>(lag));
    PolicyRows rows;
    rows.head_dim = static_cast<int>(d);
    rows.n_rows = lag;
    rows.n_ahead = lag;
    rows.k = k.data();
    rows.v = v.data();
    policy.select(rows, masks);
    for (std::int64_t r = 0; r < lag; ++r) {
      if (masks[static_cast<std::size_t>(r)] != 0)
        kept.push_back(static_cast<std::int32_t>(at + r));
    }
  }
  for (; at < n; ++at) kept.push_back(static_cast<std::int32_t>(at));
  return kept;
}

TEST(LagKvInCache, KeepsWhatTheDefinitionKeepsAtEveryLength) {
  const HeadShape shape{2, 2, 64};
  const Tokens tokens(shape, 300, 17);
  Cache cache(make_cache_config("kv=f32,policy=lagkv:l32:r0.4,sink=5,recent=1", shape, 1, 300));
  const SeqId seq = cache.open();
  for (std::int64_t n = 1; n <= 300; ++n) {
    ASSERT_EQ(append(cache, seq, 0, tokens, n - 1, 1), Status::ok);
    if (n % 7 != 0 && n < 290) continue;
    ViewBuffers buffers;
    const KvView view = cache.view(0, {&seq, 1}, buffers);
    for (std::int32_t head = 0; head < 2; ++head) {
      std::vector<std::int32_t> got = test::decoded_rows(view, 0, head).pos;
      std::sort(got.begin(), got.end());
      ASSERT_EQ(got, lag_positions(tokens, head, n, 5, 32, make_policy("lagkv:l32:r0.4"))) << n;
    }
  }
}

// Rows reach the policy as the model made them, whatever transform stands before the codec.
TEST(LagKvInCache, RotatedRowsAreJudgedUnrotated) {
  const HeadShape shape{2, 2, 64};
  const Tokens tokens(shape, 300, 19);
  std::vector<std::vector<std::int32_t>> kept;
  for (const char* side : {"f32", "hadamard+f32"}) {
    Cache cache(make_cache_config(std::string("kv=") + side + ",policy=lagkv:l32:r0.4,recent=1",
                                  shape, 1, 300));
    const SeqId seq = cache.open();
    ASSERT_EQ(append(cache, seq, 0, tokens, 0, 300), Status::ok);
    ViewBuffers buffers;
    kept.push_back(test::decoded_rows(cache.view(0, {&seq, 1}, buffers), 0, 1).pos);
  }
  EXPECT_EQ(kept[0], kept[1]);
}

TEST(EvictedPages, ReturnToThePool) {
  const HeadShape shape{1, 1, 64};
  const Tokens tokens(shape, 4096, 21);
  for (const auto& [plan, most] :
       {std::pair{"kv=int8,policy=lagkv:l128:r0.25", 15},
        std::pair{"kv=int8,policy=window:n512", 7}, std::pair{"kv=int8", 63}}) {
    Cache cache(make_cache_config(plan, shape, 1, 4096));
    const SeqId seq = cache.open();
    ASSERT_EQ(append(cache, seq, 0, tokens, 0, 4096), Status::ok);
    EXPECT_EQ(64 - cache.free_pages(0), most) << plan;
  }
}

/// Query head i of the group keeps the rows whose number leaves i when divided by the group's size;
/// rows divisible by 5 are evicted.
struct Striped {
  static constexpr const char* family = "striped";
  static constexpr const char* options_help = "none";
  static constexpr bool per_query_head = true;
  static Striped parse(const std::string&) { return {}; }
  std::string name() const { return family; }
  std::int32_t chunk_rows() const { return 0; }
  std::int32_t lookahead_rows() const { return 8; }
  std::int32_t observed_rows() const { return 0; }
  void select(const PolicyRows& rows, std::span<KeepMask> keep) const {
    for (std::size_t r = 0; r < keep.size(); ++r) {
      const int head = static_cast<int>(r) % rows.gqa_group;
      keep[r] = r % 5 == 0 ? KeepMask{0} : static_cast<KeepMask>(1 << head);
    }
  }
};
static_assert(Policy<Striped>);

TEST(QueryHeadMasks, EachQueryHeadSeesItsOwnRows) {
  const HeadShape shape{6, 2, 64};
  const Tokens tokens(shape, 500, 23);
  CacheConfig config = make_cache_config("k=int8,v=nqkv,sink=3,recent=10", shape, 1, 600);
  config.layers[0].policy = Striped{};
  Cache cache(config);
  const SeqId seq = cache.open();
  ASSERT_EQ(append(cache, seq, 0, tokens, 0, 400), Status::ok);
  cache.end_prompt(seq);
  ASSERT_EQ(append(cache, seq, 0, tokens, 400, 100), Status::ok);
  ViewBuffers buffers;
  const KvView view = cache.view(0, {&seq, 1}, buffers);
  const test::HeadRows all = test::decoded_rows(view, 0, 0);
  // 387 judged rows without every fifth, then 3 sinks, 110 rows that came later or were the newest.
  EXPECT_EQ(all.pos.size(), 387u - 78u + 3u + 110u);
  for (int g = 0; g < 3; ++g) {
    EXPECT_NEAR(static_cast<double>(all.seen_by(g, 64).pos.size()), 309.0 / 3 + 113, 1.0);
  }
  const test::QueryBatch batch = test::make_queries(shape, {20}, {499}, 25);
  test::for_each_isa(
      [&] { test::expect_matches_reference(view, batch, test::default_options(64), "masks"); });
}

TEST(PolicyRefusals, SayWhatIsWrong) {
  const HeadShape shape{4, 4, 64};
  EXPECT_TRUE(test::contains(test::message_of<unsupported>([&] {
                               Cache(make_cache_config("kv=nqkv:g256,policy=lagkv", shape, 1, 100));
                             }),
                             {"lagkv", "nqkv:g256", "scales"}));
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([&] {
                               Cache(make_cache_config("kv=nqkv,policy=lag", shape, 1, 100));
                             }),
                             {"\"lag\"", "lagkv", "snapkv", "window"}));
  Cache cache(make_cache_config("kv=nqkv,policy=snapkv:r0.5:w16", shape, 1, 200));
  const SeqId seq = cache.open();
  const Tokens tokens(shape, 200, 27);
  ASSERT_EQ(append(cache, seq, 0, tokens, 0, 200), Status::ok);
  const std::vector<std::byte> before = state_of(cache);
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([&] { cache.end_prompt(seq); }),
                             {"observe", "snapkv", "observed queries = 0", "allowed: 16"}));
  EXPECT_THROW(cache.observe(seq, 0, AnyRows(dense_rows(tokens.k.data(), 16, 4, 64)), 0.0f),
               invalid_argument);
  EXPECT_THROW(cache.observe(seq, 1, AnyRows(dense_rows(tokens.k.data(), 16, 4, 64)), 0.1f),
               invalid_argument);
  EXPECT_THROW(cache.observe(seq, 0, AnyRows(dense_rows(tokens.k.data(), 201, 4, 64)), 0.1f),
               invalid_argument);
  EXPECT_EQ(state_of(cache), before);
}

/// What the end of the prompt must be told: the attention of the newest w queries, all of them.
class Observation : public ::testing::TestWithParam<std::string> {
 protected:
  static constexpr HeadShape kShape{4, 2, 64};
  static constexpr std::int64_t kPrompt = 200;
  static constexpr std::int64_t kWindow = 64;

  Observation() { EXPECT_EQ(append(cache_, seq_, 0, tokens_, 0, kPrompt), Status::ok); }

  AnyRows queries(std::int64_t first, std::int64_t n) const {
    return dense_rows(q_.data() + first * 256, n, 4, 64);
  }
  void observe(std::int64_t first, std::int64_t n) {
    cache_.observe(seq_, 0, queries(first, n), 0.1f);
  }
  /// The prompt cannot end, says why, and nothing has changed.
  void expect_refusal(std::int64_t n_observed) {
    const std::vector<std::byte> before = state_of(cache_);
    EXPECT_TRUE(
        test::contains(test::message_of<invalid_argument>([&] { cache_.end_prompt(seq_); }),
                       {"end_prompt", "layer 0", "observed queries = " + std::to_string(n_observed),
                        "allowed: 64", GetParam().substr(0, 6)}));
    EXPECT_EQ(state_of(cache_), before);
  }

  Tokens tokens_{kShape, 300, 31};
  std::vector<float> q_ = test::gauss_rows(300, 256, 33);
  Cache cache_{make_cache_config("kv=int8,policy=" + GetParam(), kShape, 1, 300)};
  SeqId seq_ = cache_.open();
};

TEST_P(Observation, FewerOrMoreQueriesThanThePolicyWantsAreRefused) {
  expect_refusal(0);
  observe(190, 10);
  expect_refusal(10);
  observe(100, 100);
  expect_refusal(100);
  observe(136, 64);
  cache_.end_prompt(seq_);
  EXPECT_LT(cache_.n_kept(seq_, 0, 0), kPrompt);
  const std::vector<std::byte> before = state_of(cache_);
  observe(136, 64);  // too late: nothing happens
  cache_.end_prompt(seq_);
  EXPECT_EQ(state_of(cache_), before);
}

// Tokens appended since make the observed ones old.
TEST_P(Observation, IsOfTheNewestTokens) {
  observe(136, 64);
  ASSERT_EQ(append(cache_, seq_, 0, tokens_, kPrompt, 100), Status::ok);
  expect_refusal(0);
  observe(236, 64);
  cache_.end_prompt(seq_);
}

TEST_P(Observation, InSeveralCallsIsTheSameAsInOne) {
  Cache pieces(cache_.config());
  pieces.open();
  ASSERT_EQ(append(pieces, 0, 0, tokens_, 0, 150), Status::ok);
  pieces.observe(0, 0, queries(136, 14), 0.1f);
  for (const auto& [first, n] : {std::pair{150, 31}, std::pair{181, 19}}) {
    ASSERT_EQ(append(pieces, 0, 0, tokens_, first, n), Status::ok);
    pieces.observe(0, 0, queries(first, n), 0.1f);
  }
  pieces.end_prompt(0);
  observe(136, 64);
  cache_.end_prompt(seq_);
  EXPECT_EQ(contents(pieces, 0), contents(cache_, seq_));
}

TEST_P(Observation, IsForgottenWithWhatATruncationTakesBack) {
  observe(136, 64);
  ASSERT_EQ(cache_.truncate(seq_, kPrompt - 1), Status::ok);
  ASSERT_EQ(append(cache_, seq_, 0, tokens_, kPrompt - 1, 1), Status::ok);
  expect_refusal(0);
}

// A prompt of which nothing is judged needs no queries.
TEST_P(Observation, ShortPromptsNeedNone) {
  ASSERT_EQ(cache_.truncate(seq_, kWindow), Status::ok);
  cache_.end_prompt(seq_);
  EXPECT_EQ(cache_.n_kept(seq_, 0, 0), kWindow);
}

INSTANTIATE_TEST_SUITE_P(Policies, Observation,
                         ::testing::Values("snapkv:r0.5:w64", "spindle:r0.5:w64"),
                         test::name_of_param);

}  // namespace
}  // namespace kvcodec
