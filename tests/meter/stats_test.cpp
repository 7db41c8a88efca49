// CacheStats against counts by hand, through everything that a cache can do.
#include <gtest/gtest.h>

#include "kvcodec/attend/attend.hpp"
#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_tools.hpp"

namespace kvcodec {
namespace {

using test::Tokens;

void expect_bytes(const CacheBytes& got, const CacheBytes& want) {
  EXPECT_EQ(got.payload, want.payload);
  EXPECT_EQ(got.window, want.window);
  EXPECT_EQ(got.tables, want.tables);
  EXPECT_EQ(got.n_values, want.n_values);
}

TEST(Stats, OfAnEmptyCache) {
  const Cache cache(make_cache_config("kv=nqkv", {2, 2, 64}, 3, 640, 4));
  const CacheStats s = cache.stats();
  expect_bytes(s.bytes, {});
  EXPECT_EQ(s.sequences_max, 4);
  EXPECT_EQ(s.pages_total, 3 * 2 * 10);
  EXPECT_EQ(s.pages_free, s.pages_total);
  EXPECT_EQ(s.tokens + s.rows_kept() + s.rows_evicted + s.sequences_open + s.sequences_opened, 0);
  EXPECT_EQ(s.append, CallTimes{});
  EXPECT_EQ(s.flush, CallTimes{});
}

// Two layers, three heads; 4 sinks, 8 newest rows, so that 196 - 8 = 188 rows give two flushes.
TEST(Stats, CountedByHand) {
  const HeadShape shape{3, 3, 64};
  Cache cache(make_cache_config("k=nqkv,v=int8,sink=4,recent=8", shape, 2, 1024, 3));
  const std::int64_t all_pages = cache.stats().pages_total;
  const Tokens tokens(shape, 400, 1);
  const SeqId a = cache.open();
  ASSERT_EQ(append(cache, a, 0, tokens, 0, 200), Status::ok);
  for (int t = 0; t < 200; t += 25) ASSERT_EQ(append(cache, a, 1, tokens, t, 25), Status::ok);
  CacheStats s = cache.stats();
  EXPECT_EQ(s.sequences_open, 1);
  EXPECT_EQ(s.tokens, 400);
  EXPECT_EQ(s.tokens_appended, 400);
  EXPECT_EQ(s.rows_encoded, 2 * 3 * 128);
  EXPECT_EQ(s.rows_raw, 2 * 3 * 72);
  EXPECT_EQ(s.rows_evicted, 0);
  EXPECT_EQ(s.tiles_encoded, 2 * 3 * 2);
  EXPECT_EQ(s.flush.calls, 2 * 2);
  EXPECT_EQ(s.append.calls, 1 + 8);
  EXPECT_GT(s.flush.nanoseconds, 0);
  EXPECT_GT(s.append.nanoseconds, s.flush.nanoseconds);
  EXPECT_EQ(s.pages_free, all_pages - 2 * 3 * 2);
  expect_bytes(s.bytes, cache.bytes());

  const SeqId b = cache.fork(a);  // pages are shared
  s = cache.stats();
  EXPECT_EQ(s.sequences_opened, 2);
  EXPECT_EQ(s.sequences_forked, 1);
  EXPECT_EQ(s.tokens, 800);
  EXPECT_EQ(s.tokens_appended, 400);
  EXPECT_EQ(s.pages_free, all_pages - 2 * 3 * 2);

  ASSERT_EQ(append(cache, b, 0, tokens, 200, 64), Status::ok);
  ASSERT_EQ(cache.truncate(b, 190), Status::ok);
  s = cache.stats();
  EXPECT_EQ(s.tokens_truncated, 74 + 10);
  EXPECT_EQ(s.tokens_appended, 464);
  EXPECT_EQ(s.tokens, 400 + 380);
  EXPECT_EQ(s.tiles_encoded, 12 + 3);
  // 190 - 4 - 192 < 0: layer 0 of b was encoded up to row 192 and keeps 186.
  EXPECT_EQ(s.rows_encoded, 3 * (128 + 128 + 186 + 128));

  const Tokens wide(HeadShape{3, 3, 64}, 2000, 3);
  EXPECT_EQ(append(cache, a, 0, wide, 0, 2000), Status::out_of_pages);
  EXPECT_EQ(append(cache, 2, 0, tokens, 0, 1), Status::invalid_argument);
  EXPECT_EQ(cache.truncate(b, 5000), Status::invalid_argument);
  EXPECT_EQ(cache.stats().appends_refused, 2);
  EXPECT_EQ(cache.stats().tokens_appended, 464);
  EXPECT_EQ(cache.stats().tokens_truncated, 84);
  EXPECT_EQ(cache.stats().append.calls, 10);

  cache.close(a);
  cache.close(b);
  s = cache.stats();
  EXPECT_EQ(s.sequences_closed, 2);
  EXPECT_EQ(s.sequences_open, 0);
  EXPECT_EQ(s.pages_free, all_pages);
  EXPECT_EQ(s.tokens + s.rows_kept() + s.rows_evicted, 0);
  EXPECT_EQ(s.tokens_appended, 464);
  EXPECT_EQ(s.tiles_encoded, 15);
}

// LagKV keeps a quarter of each chunk of 64 rows; the newest 64 wait as what a chunk is judged by.
TEST(Stats, EvictedRowsOutliveTheirSequence) {
  const HeadShape shape{2, 2, 64};
  const Tokens tokens(shape, 400, 1);
  Cache cache(
      make_cache_config("kv=int8,policy=lagkv:l64:r0.25,sink=4,recent=8", shape, 1, 400, 2));
  const SeqId a = cache.open();
  std::int64_t before = 0;
  for (int t = 0; t < 400; t += 10) {
    ASSERT_EQ(append(cache, a, 0, tokens, t, 10), Status::ok);
    const CacheStats s = cache.stats();
    EXPECT_EQ(s.rows_kept(), cache.n_kept(a, 0, 0) + cache.n_kept(a, 0, 1));
    EXPECT_EQ(s.rows_evicted, 2 * s.tokens - s.rows_kept());
    EXPECT_EQ(s.rows_dropped, s.rows_evicted);
    EXPECT_GE(s.rows_dropped, before);
    before = s.rows_dropped;
  }
  // 396 rows: floor((396 - 64) / 64) = 5 chunks of 64 are judged.
  EXPECT_EQ(before, 2 * 5 * 48);
  EXPECT_EQ(cache.stats().flush.calls, 5);
  static_cast<void>(cache.fork(a));
  EXPECT_EQ(cache.stats().rows_evicted, 2 * before);
  EXPECT_EQ(cache.stats().rows_dropped, before);
  cache.close(a);
  EXPECT_EQ(cache.stats().rows_evicted, before);
  EXPECT_EQ(cache.stats().rows_dropped, before);
}

TEST(Stats, EvictionAtThePromptAndByPages) {
  const HeadShape shape{2, 2, 64};
  const Tokens tokens(shape, 700, 1);
  Cache prompt(make_cache_config("kv=int8,policy=keydiff:r0.5,recent=8", shape, 2, 400, 1));
  ASSERT_EQ(prompt.open(), 0);
  for (const int l : {0, 1}) ASSERT_EQ(append(prompt, 0, l, tokens, 0, 208), Status::ok);
  EXPECT_EQ(prompt.stats().rows_dropped, 0);
  prompt.end_prompt(0);
  EXPECT_EQ(prompt.stats().rows_dropped,
            2 * 2 * 208 - 2 * (prompt.n_kept(0, 0, 0) + prompt.n_kept(0, 0, 1)));
  EXPECT_EQ(prompt.stats().rows_dropped, 2 * 2 * 100);

  Cache window(make_cache_config("kv=int8,policy=window:n150,sink=4,recent=10", shape, 1, 700, 1));
  ASSERT_EQ(window.open(), 0);
  for (int t = 0; t < 700; ++t) ASSERT_EQ(append(window, 0, 0, tokens, t, 1), Status::ok);
  EXPECT_EQ(window.stats().rows_dropped, 2 * (700 - window.n_kept(0, 0, 0)));
  EXPECT_GE(window.stats().rows_dropped, 2 * (700 - 4 - 150 - 128));
}

// A codebook that a fork shares counts once, in stats and in bytes.
TEST(Stats, SharedCodebooksCountOnce) {
  const HeadShape shape{2, 2, 64};
  const Tokens tokens(shape, 300, 1);
  CacheConfig config = make_cache_config("kv=codebook,recent=8", shape, 1, 2000, 8);
  config.rope_frequencies.assign(32, 0.01);
  Cache cache(config);
  const SeqId a = cache.open();
  ASSERT_EQ(append(cache, a, 0, tokens, 0, 300), Status::ok);
  const std::int64_t one = cache.bytes(a).payload;
  for (int i = 0; i < 6; ++i) static_cast<void>(cache.fork(a));
  EXPECT_EQ(cache.bytes().payload, one);
  expect_bytes(cache.stats().bytes, cache.bytes());
}

TEST(Stats, TimesOfAttentionAreInTheWorkspace) {
  const HeadShape shape{2, 2, 64};
  const Tokens tokens(shape, 100, 1);
  Cache cache(make_cache_config("kv=int8", shape, 1, 200, 1));
  const SeqId seq = cache.open();
  ASSERT_EQ(append(cache, seq, 0, tokens, 0, 100), Status::ok);
  AttendWorkspace workspace;
  std::vector<float> out(128);
  Step step;
  step.seqs = {&seq, 1};
  step.q = tokens.k_rows(0, 1);
  for (int i = 0; i < 3; ++i) {
    attend(cache, 0, step, out.data(), nullptr, test::default_options(64), workspace);
  }
  EXPECT_THROW(attend(cache, 0, step, nullptr, nullptr, test::default_options(64), workspace),
               invalid_argument);
  EXPECT_EQ(workspace.times.calls, 3);
  EXPECT_GT(workspace.times.nanoseconds, 0);
  CacheStats s = cache.stats();
  EXPECT_EQ(s.attend, CallTimes{});
  s.attend += workspace.times;
  EXPECT_EQ(s.attend, workspace.times);
}

}  // namespace
}  // namespace kvcodec
