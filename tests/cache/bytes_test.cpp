// bytes() is honest: payload, window and values against a count by hand.
#include <gtest/gtest.h>

#include "tests/support/cache_cases.hpp"

namespace kvcodec {
namespace {

using test::Tokens;

TEST(Bytes, CountedByHand) {
  const HeadShape shape{8, 4, 128};
  Cache cache(make_cache_config("k=nqkv:g64,v=int8,recent=32,sink=4", shape, 3, 4096, 4));
  const Tokens tokens(shape, 1000, 1);
  const SeqId seq = cache.open();
  for (std::int32_t l = 0; l < 3; ++l)
    ASSERT_EQ(append(cache, seq, l, tokens, 0, 1000), Status::ok);
  // 4 sinks, (996 - 32) / 64 = 15 tiles, 36 recent rows.
  const std::int64_t page = 64 * (128 / 2 + 2 * 2) + 64 * (128 + 2);  // K tile, V tile
  const CacheBytes b = cache.bytes(seq);
  EXPECT_EQ(b.payload, 3 * 4 * 15 * page);
  // f16 rows, two sides, four heads; the window holds up to n_recent + 64 rows.
  EXPECT_EQ(b.window, 3 * 2 * 4 * (4 + 32 + 64) * 128 * 2);
  EXPECT_EQ(b.n_values, std::int64_t{3} * 2 * 1000 * 4 * 128);
  EXPECT_GE(b.tables, 3 * 4 * 15 * 4);
  EXPECT_LT(b.tables, 4096);
  EXPECT_EQ(b.total(), b.payload + b.window + b.tables);
  EXPECT_DOUBLE_EQ(b.bits_per_value(),
                   8.0 * static_cast<double>(b.total()) / static_cast<double>(b.n_values));
  const CacheBytes all = cache.bytes();
  EXPECT_EQ(all.total(), b.total());
  EXPECT_EQ(all.n_values, b.n_values);
}

TEST(Bytes, SharedPagesCountOnce) {
  const HeadShape shape{2, 2, 64};
  Cache cache(make_cache_config("kv=nqkv,recent=1", shape, 1, 4096, 3));
  const Tokens tokens(shape, 705, 1);
  const SeqId a = cache.open();
  ASSERT_EQ(append(cache, a, 0, tokens, 0, 641), Status::ok);
  const CacheBytes one = cache.bytes(a);
  const SeqId b = cache.fork(a);
  EXPECT_EQ(cache.bytes(b).payload, one.payload);
  EXPECT_EQ(cache.bytes().payload, one.payload);
  EXPECT_EQ(cache.bytes().n_values, 2 * one.n_values);
  EXPECT_EQ(cache.bytes().window, 2 * one.window);
  ASSERT_EQ(append(cache, b, 0, tokens, 641, 64), Status::ok);  // one more page per head
  EXPECT_EQ(cache.bytes().payload, one.payload + one.payload / 10);
}

TEST(Bytes, EmptyCacheHasNone) {
  Cache cache(make_cache_config("kv=nqkv", {2, 2, 64}, 2, 4096, 3));
  EXPECT_EQ(cache.bytes().total(), 0);
  EXPECT_EQ(cache.bytes().bits_per_value(), 0.0);
  const SeqId seq = cache.open();
  EXPECT_EQ(cache.bytes(seq).payload, 0);
  EXPECT_EQ(cache.bytes(seq).n_values, 0);
  EXPECT_EQ(cache.bytes(seq).bits_per_value(), 0.0);
  EXPECT_GT(cache.bytes(seq).window, 0) << "reserved when a sequence opens";
}

// Over a long sequence the bits approach what the codec's tiles hold; never below.
TEST(Bytes, BitsPerValueApproachTheCodecs) {
  const HeadShape shape{1, 1, 128};
  const Tokens tokens(shape, 8192, 1);
  for (const std::string& spec : test::codec_specs()) {
    if (spec.find("search") != std::string::npos || spec.find("g256") != std::string::npos)
      continue;
    Cache cache(make_cache_config(test::plan_of(spec) + ",recent=1", shape, 1, 8192));
    const SeqId seq = cache.open();
    ASSERT_EQ(append(cache, seq, 0, tokens, 0, 8192), Status::ok);
    const std::string v = test::takes_values(spec) ? spec : "f16";
    const double tile_bits =
        8.0 *
        static_cast<double>(make_codec(spec).tile_bytes(128) + make_codec(v).tile_bytes(128)) /
        (2.0 * 64.0 * 128.0);
    // All but one tile is encoded, the window of 65 rows is reserved.
    EXPECT_GT(cache.bytes(seq).bits_per_value(), tile_bits * 127.0 / 128.0) << spec;
    EXPECT_LT(cache.bytes(seq).bits_per_value(), tile_bits + 32.0 * 65.0 / 8192.0 + 0.05) << spec;
  }
}

// Page sizes beyond a tile: whole pages are counted, also where partly used.
TEST(Bytes, PayloadCountsWholePages) {
  const HeadShape shape{1, 1, 64};
  Cache cache(make_cache_config("kv=f16,recent=1,page=256", shape, 1, 1024));
  const Tokens tokens(shape, 1024, 1);
  const SeqId seq = cache.open();
  ASSERT_EQ(append(cache, seq, 0, tokens, 0, 65), Status::ok);
  EXPECT_EQ(cache.bytes(seq).payload, 256 * 64 * 2 * 2);
  ASSERT_EQ(append(cache, seq, 0, tokens, 65, 256), Status::ok);
  EXPECT_EQ(cache.bytes(seq).payload, 2 * 256 * 64 * 2 * 2);
}

}  // namespace
}  // namespace kvcodec
