// Configuration errors name the field, its value and what is allowed; limits are accepted.
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "kvcodec/transform/builtin.hpp"
#include "tests/support/cache_cases.hpp"

namespace kvcodec {
namespace {

using test::contains;
using test::message_of;

CacheConfig good() { return make_cache_config("kv=nqkv", {4, 2, 64}, 2, 1000, 2); }

template <class E = invalid_argument>
std::string refusal(const std::function<void(CacheConfig&)>& change) {
  CacheConfig config = good();
  change(config);
  return message_of<E>([&] { Cache cache(config); });
}

TEST(CacheConfig, GoodOnesWork) {
  EXPECT_NO_THROW(Cache{good()});
  CacheConfig largest = good();
  largest.layers[0].n_sink = 65536;
  largest.layers[0].n_recent = 65536;
  largest.layers[1].rollback_rows = 65536;
  EXPECT_NO_THROW(Cache{largest});
}

TEST(CacheConfig, NamesFieldValueAndRange) {
  using C = CacheConfig;
  EXPECT_TRUE(contains(refusal([](C& c) { c.layers[1].n_sink = -1; }),
                       {"layer 1", "n_sink = -1", "0..65536"}));
  EXPECT_TRUE(contains(refusal([](C& c) { c.layers[0].n_sink = 65537; }),
                       {"layer 0", "n_sink = 65537", "0..65536"}));
  EXPECT_TRUE(contains(refusal([](C& c) { c.layers[0].n_recent = -1; }),
                       {"layer 0", "n_recent = -1", "0..65536"}));
  EXPECT_TRUE(contains(refusal([](C& c) { c.layers[0].flush_rows = 100; }),
                       {"layer 0", "flush_rows = 100", "multiples of 64"}));
  EXPECT_TRUE(contains(refusal([](C& c) { c.layers[1].k.center.n_rows = 0; }),
                       {"layer 1 k", "center.n_rows = 0", "1.."}));
  EXPECT_TRUE(contains(refusal([](C& c) { c.layers[1].v.center.kind = Centering::Kind::fixed; }),
                       {"layer 1", "v.center.values is null"}));
  EXPECT_TRUE(contains(refusal([](C& c) { c.layers[0].rollback_rows = 65537; }),
                       {"rollback_rows = 65537", "0..65536"}));
  EXPECT_TRUE(contains(refusal([](C& c) { c.layers.clear(); }), {"layers = 0", "1..65536"}));
  EXPECT_TRUE(contains(refusal([](C& c) { c.max_tokens = 0; }), {"max_tokens = 0", "1.."}));
  EXPECT_TRUE(contains(refusal([](C& c) { c.max_tokens = std::int64_t{1} << 31; }),
                       {"max_tokens = 2147483648", "2147483647"}));
  EXPECT_TRUE(contains(refusal([](C& c) { c.max_sequences = 0; }), {"max_sequences = 0"}));
  EXPECT_TRUE(contains(refusal([](C& c) { c.page_size = 100; }), {"page_size = 100", "64"}));
  EXPECT_TRUE(contains(refusal([](C& c) { c.shape.head_dim = 72; }), {"head_dim = 72"}));
  EXPECT_TRUE(contains(refusal([](C& c) { c.shape.n_q_heads = 3; }), {"n_q_heads = 3"}));
  EXPECT_TRUE(
      contains(refusal([](C& c) { c.layers[1].k.codec = AnyCodec{}; }), {"layer 1", "k.codec"}));
  EXPECT_TRUE(
      contains(refusal([](C& c) { c.layers[0].v.codec = AnyCodec{}; }), {"layer 0", "v.codec"}));
}

TEST(CacheConfig, WhatACodecCannotServeIsUnsupported) {
  using C = CacheConfig;
  EXPECT_TRUE(
      contains(refusal<unsupported>([](C& c) { c.layers[0].k.codec = make_codec("nqkv:g256"); }),
               {"nqkv:g256", " k ", "n_kv_heads = 2", "4"}));
  EXPECT_TRUE(contains(refusal<unsupported>([](C& c) {
                         c.shape.head_dim = 80;
                         c.layers[0].v.codec = make_codec("nqkv:g128");
                       }),
                       {"nqkv:g128", " v ", "head_dim = 80"}));
}

// A codec that takes few head sizes, to reach messages that built-in ones never need.
struct Only64 : Identity {
  static constexpr const char* family = "only64";
  static Only64 parse(const std::string&) { return {}; }
  std::string name() const { return family; }
  bool supports(int head_dim) const noexcept { return head_dim == 64; }
};

TEST(CacheConfig, TransformThatDoesNotTakeTheHeadSize) {
  CacheConfig config = make_cache_config("kv=nqkv", {4, 2, 128}, 1, 1000);
  config.layers[0].v.transform = Only64{};
  EXPECT_TRUE(contains(message_of<unsupported>([&] { Cache cache(config); }),
                       {"layer 0", "only64", "head_dim = 128"}));
}

// Sizes that no machine has must not overflow into small ones.
TEST(CacheConfig, AbsurdSizesAreRefused) {
  CacheConfig config = make_cache_config("kv=f32", {65536, 65536, 256}, 1000, 2147483647, 1 << 20);
  EXPECT_THROW(Cache{config}, invalid_argument);
  config.max_sequences = 1;
  EXPECT_THROW(Cache{config}, invalid_argument);
  config.page_size = 65536;
  EXPECT_THROW(Cache{config}, invalid_argument);
}

TEST(CacheConfig, MovedCacheKeepsWorking) {
  Cache a(good());
  const SeqId seq = a.open();
  const test::Tokens tokens({4, 2, 64}, 100, 1);
  ASSERT_EQ(append(a, seq, 0, tokens, 0, 100), Status::ok);
  const auto contents = test::contents(a, seq, 0);
  Cache b = std::move(a);
  EXPECT_EQ(test::contents(b, seq, 0), contents);
  EXPECT_EQ(b.n_layers(), 2);
  EXPECT_EQ(b.config().max_tokens, 1000);
}

}  // namespace
}  // namespace kvcodec
