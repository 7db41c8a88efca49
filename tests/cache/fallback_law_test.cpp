// hold_raw and stop_evicting obey the container's laws: what they mean, that chunks do not matter,
// forks, truncation, failures.
#include <gtest/gtest.h>

#include "tests/support/cache_cases.hpp"

namespace kvcodec {
namespace {

using test::CacheLaws;
using test::contains;
using test::contents;
using test::message_of;
using test::state_of;
using test::Tokens;

constexpr std::int64_t kTokens = 600;

/// A cache with the newest tokens' windows larger by `more` rows.
Cache with_recent(const test::CacheCase& c, std::int32_t more, std::int64_t max_tokens) {
  CacheConfig config = make_cache_config(c.plan, c.shape, 1, max_tokens);
  config.layers[0].n_recent += more;
  return Cache(std::move(config));
}

TEST_P(CacheLaws, HeldRowsAreALargerWindow) {
  const Tokens tokens(GetParam().shape, kTokens, 1);
  Cache held = GetParam().make(kTokens);
  Cache wide = with_recent(GetParam(), 100, kTokens);
  held.open();
  wide.open();
  held.hold_raw(0, 0, 100);
  EXPECT_EQ(held.held_rows(0, 0), 100);
  for (std::int64_t t = 0; t < kTokens; t += 30) {
    ASSERT_EQ(append(held, 0, 0, tokens, t, 30), Status::ok);
    ASSERT_EQ(append(wide, 0, 0, tokens, t, 30), Status::ok);
    ASSERT_EQ(contents(held, 0), contents(wide, 0)) << t;
  }
  EXPECT_EQ(state_of(held), state_of(wide));
}

TEST_P(CacheLaws, LettingGoLeavesNoTrace) {
  const Tokens tokens(GetParam().shape, kTokens, 1);
  Cache held = GetParam().make(kTokens);
  Cache plain = GetParam().make(kTokens);
  held.open();
  plain.open();
  const auto both = [&](std::int64_t first, std::int64_t n) {
    ASSERT_EQ(append(held, 0, 0, tokens, first, n), Status::ok);
    ASSERT_EQ(append(plain, 0, 0, tokens, first, n), Status::ok);
  };
  both(0, 170);
  held.hold_raw(0, 0, 250);
  EXPECT_EQ(contents(held, 0), contents(plain, 0));
  both(170, 20);
  both(190, 183);
  const std::int64_t encoded = held.stats().rows_encoded;
  EXPECT_LE(encoded, plain.stats().rows_encoded);
  held.hold_raw(0, 0, 90);
  both(373, 30);
  held.hold_raw(0, 0, 0);
  EXPECT_EQ(held.held_rows(0, 0), 0);
  EXPECT_EQ(state_of(held), state_of(plain));
  both(403, 197);
  EXPECT_EQ(state_of(held), state_of(plain));
}

TEST_P(CacheLaws, AppendInAnyChunksWhileHeld) {
  const Tokens tokens(GetParam().shape, kTokens, 1);
  Cache caches[2] = {GetParam().make(kTokens), GetParam().make(kTokens)};
  for (int i : {0, 1}) {
    Cache& cache = caches[i];
    cache.open();
    const auto add = [&](std::int64_t first, std::int64_t n) {
      if (i == 0) {
        ASSERT_EQ(append(cache, 0, 0, tokens, first, n), Status::ok);
        return;
      }
      for (std::int64_t t = first; t < first + n; ++t) {
        ASSERT_EQ(append(cache, 0, 0, tokens, t, 1), Status::ok);
      }
    };
    add(0, 100);
    cache.hold_raw(0, 0, 130);
    add(100, 300);
    cache.hold_raw(0, 0, 10);
    add(400, 150);
  }
  EXPECT_EQ(state_of(caches[0]), state_of(caches[1]));
}

TEST_P(CacheLaws, ForksInheritAndTruncationKeepsHolding) {
  const Tokens tokens(GetParam().shape, kTokens, 1);
  Cache cache = GetParam().make(3 * kTokens, 3);
  const SeqId a = cache.open();
  cache.hold_raw(a, 0, 300);
  ASSERT_EQ(append(cache, a, 0, tokens, 0, 250), Status::ok);
  const SeqId b = cache.fork(a);
  EXPECT_EQ(cache.held_rows(b, 0), 300);
  const auto before = contents(cache, a);
  cache.hold_raw(b, 0, 0);
  ASSERT_EQ(append(cache, b, 0, tokens, 250, 150), Status::ok);
  EXPECT_EQ(contents(cache, a), before);
  EXPECT_EQ(cache.held_rows(a, 0), 300);
  // All of a is raw, so any length is exact.
  ASSERT_EQ(cache.truncate(a, 101), Status::ok);
  EXPECT_EQ(cache.held_rows(a, 0), 300);
  ASSERT_EQ(append(cache, a, 0, tokens, 101, 299), Status::ok);
  cache.hold_raw(a, 0, 0);
  EXPECT_EQ(contents(cache, a), contents(cache, b));
  const SeqId c = cache.open();
  EXPECT_EQ(cache.held_rows(c, 0), 0);
}

INSTANTIATE_TEST_SUITE_P(Pairs, CacheLaws, ::testing::ValuesIn(test::cache_cases()),
                         test::name_of_case);

TEST(HoldRaw, OutOfPagesChangesNothing) {
  const HeadShape shape{2, 2, 64};
  const Tokens tokens(shape, 400, 1);
  Cache cache(make_cache_config("kv=nqkv,recent=1", shape, 1, 256, 2));
  const SeqId a = cache.open();
  cache.hold_raw(a, 0, 200);
  ASSERT_EQ(append(cache, a, 0, tokens, 0, 200), Status::ok);
  const SeqId b = cache.open();
  ASSERT_EQ(append(cache, b, 0, tokens, 0, 256), Status::ok);
  const auto state = state_of(cache);
  EXPECT_TRUE(contains(message_of<out_of_pages>([&] { cache.hold_raw(a, 0, 0); }),
                       {"Cache::hold_raw", "sequence 0", "layer 0", "n_rows = 0", "6 pages"}));
  EXPECT_EQ(state_of(cache), state);
  EXPECT_EQ(cache.held_rows(a, 0), 200);
  cache.close(b);
  cache.hold_raw(a, 0, 0);
  EXPECT_EQ(cache.stats().rows_encoded, 2 * 192);
}

TEST(HoldRaw, RefusesByName) {
  Cache cache(make_cache_config("kv=int8", {2, 2, 64}, 2, 256, 2));
  const SeqId seq = cache.open();
  const auto state = state_of(cache);
  EXPECT_TRUE(contains(message_of<invalid_argument>([&] { cache.hold_raw(seq, 0, -1); }),
                       {"hold_raw", "n_rows = -1", "0..65536"}));
  EXPECT_TRUE(contains(message_of<invalid_argument>([&] { cache.hold_raw(seq, 0, 65537); }),
                       {"n_rows = 65537"}));
  for (const std::int32_t layer : {-1, 2}) {
    const std::string name = "layer = " + std::to_string(layer);
    EXPECT_TRUE(
        contains(message_of<invalid_argument>([&] { cache.hold_raw(seq, layer, 1); }), {name}));
    EXPECT_TRUE(contains(
        message_of<invalid_argument>([&] { cache.stop_evicting(seq, layer, true); }), {name}));
    EXPECT_THROW(cache.held_rows(seq, layer), invalid_argument);
    EXPECT_THROW(cache.evicts(seq, layer), invalid_argument);
  }
  EXPECT_TRUE(
      contains(message_of<invalid_argument>([&] { cache.hold_raw(1, 0, 1); }), {"seq = 1"}));
  EXPECT_TRUE(contains(message_of<invalid_argument>([&] { cache.stop_evicting(1, 0, true); }),
                       {"seq = 1"}));
  EXPECT_THROW(cache.held_rows(1, 0), invalid_argument);
  EXPECT_THROW(cache.evicts(1, 0), invalid_argument);
  EXPECT_EQ(state_of(cache), state);
  cache.hold_raw(seq, 0, 65536);
  EXPECT_EQ(cache.held_rows(seq, 0), 256) << "rows that can never come are not waited for";
  EXPECT_EQ(cache.stats().layers_held, 1);
}

const char* const kPolicies[] = {"kv=nqkv,policy=lagkv:l64:r0.5,sink=4,recent=8",
                                 "k=mean:n90+int8,v=f16,policy=lagkv:l32:r0.5,sink=3,page=256",
                                 "kv=int8,policy=window:n150,sink=4,recent=10",
                                 "kv=int8,policy=keydiff:r0.4,recent=8,page=256"};

// What a layer without a policy holds, tile by tile, is what one holds that was told not to evict.
TEST(StopEvicting, KeepsEveryRow) {
  const HeadShape shape{2, 2, 64};
  const Tokens tokens(shape, kTokens, 1);
  for (const std::string plan : kPolicies) {
    SCOPED_TRACE(plan);
    Cache cache(make_cache_config(plan, shape, 1, kTokens, 2));
    const SeqId a = cache.open();
    cache.stop_evicting(a, 0, true);
    EXPECT_FALSE(cache.evicts(a, 0));
    EXPECT_EQ(cache.stats().layers_not_evicting, 1);
    ASSERT_EQ(append(cache, a, 0, tokens, 0, 500), Status::ok);
    cache.end_prompt(a);
    EXPECT_EQ(cache.n_kept(a, 0, 0), 500);
    EXPECT_EQ(cache.stats().rows_dropped, 0);
    const SeqId b = cache.fork(a);
    EXPECT_FALSE(cache.evicts(b, 0));
    cache.close(b);
    cache.stop_evicting(a, 0, false);
    EXPECT_TRUE(cache.evicts(a, 0));
    EXPECT_EQ(cache.n_kept(a, 0, 0), 500);
    ASSERT_EQ(append(cache, a, 0, tokens, 500, 100), Status::ok);
    if (cache.config().layers[0].policy.chunk_rows() > 0) {
      EXPECT_LT(cache.n_kept(a, 0, 0), 600);
    }
    if (cache.config().layers[0].policy.newest_rows() > 0) {
      EXPECT_LT(cache.n_kept(a, 0, 0), 4 + 150 + 192) << "a sliding window catches up";
    }
  }
}

TEST(StopEvicting, AppendInAnyChunks) {
  const HeadShape shape{2, 2, 64};
  const Tokens tokens(shape, kTokens, 1);
  for (const std::string plan : kPolicies) {
    SCOPED_TRACE(plan);
    std::vector<std::byte> states[2];
    for (const std::int64_t piece : {std::int64_t{1}, std::int64_t{100}}) {
      Cache cache(make_cache_config(plan, shape, 1, kTokens, 1));
      const SeqId a = cache.open();
      for (std::int64_t t = 0; t < kTokens; t += piece) {
        if (t == 200) cache.stop_evicting(a, 0, true);
        if (t == 300) cache.hold_raw(a, 0, 70);
        if (t == 400) cache.stop_evicting(a, 0, false);
        if (t == 500) cache.hold_raw(a, 0, 0);
        ASSERT_EQ(append(cache, a, 0, tokens, t, piece), Status::ok);
      }
      cache.end_prompt(a);
      states[piece == 1 ? 0 : 1] = contents(cache, a);
    }
    EXPECT_EQ(states[0], states[1]);
  }
}

// The same with a policy that judges: rows that are let go are judged as they would have been.
TEST(HoldRaw, PoliciesJudgeTheSameLater) {
  const HeadShape shape{2, 2, 64};
  const Tokens tokens(shape, kTokens, 1);
  for (const std::string plan : kPolicies) {
    SCOPED_TRACE(plan);
    Cache cache(make_cache_config(plan, shape, 1, 2 * kTokens, 2));
    const SeqId held = cache.open();
    const SeqId plain = cache.open();
    for (std::int64_t t = 0; t < kTokens; t += 100) {
      if (t == 200) cache.hold_raw(held, 0, 250);
      ASSERT_EQ(append(cache, held, 0, tokens, t, 100), Status::ok);
      ASSERT_EQ(append(cache, plain, 0, tokens, t, 100), Status::ok);
    }
    EXPECT_GT(cache.n_kept(held, 0, 0) + (plan.find("keydiff") != std::string::npos ? 1 : 0),
              cache.n_kept(plain, 0, 0));
    cache.hold_raw(held, 0, 0);
    EXPECT_EQ(contents(cache, held), contents(cache, plain));
    cache.end_prompt(held);
    cache.end_prompt(plain);
    EXPECT_EQ(contents(cache, held), contents(cache, plain));
  }
}

}  // namespace
}  // namespace kvcodec
