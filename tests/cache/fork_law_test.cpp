// Law 3: a fork never disturbs its parent, nor the parent its fork; closing gives back exactly the
// pages that nobody else uses. A random walk compares everything with a cache that shares nothing.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/support/cache_cases.hpp"

namespace kvcodec {
namespace {

using test::CacheLaws;
using test::contents;
using test::Tokens;

TEST_P(CacheLaws, ForkAndParentDoNotDisturbEachOther) {
  const Tokens tokens(GetParam().shape, 400, 1);
  const Tokens others(GetParam().shape, 400, 3);
  // 130 rows at truncation: a page is shared whose last tile is partly used, where rows may be cut.
  for (const bool child_writes_first : {false, true}) {
    Cache cache = GetParam().make(2000, 3);
    const SeqId parent = cache.open();
    ASSERT_EQ(append(cache, parent, 0, tokens, 0, 300), Status::ok);
    const std::int64_t kept = test::cut_length(cache, 130);
    ASSERT_EQ(cache.truncate(parent, kept), Status::ok);
    const std::vector<std::byte> before = contents(cache, parent);
    const std::int64_t free_before = cache.free_pages(0);
    const SeqId child = cache.fork(parent);
    EXPECT_EQ(cache.free_pages(0), free_before) << "a fork takes no page";
    EXPECT_EQ(contents(cache, child), before);
    EXPECT_EQ(cache.n_tokens(child), kept);
    const SeqId first = child_writes_first ? child : parent;
    const SeqId second = child_writes_first ? parent : child;
    ASSERT_EQ(append(cache, first, 0, others, kept, 400 - kept), Status::ok);
    EXPECT_EQ(contents(cache, second), before);
    const std::vector<std::byte> written = contents(cache, first);
    ASSERT_EQ(append(cache, second, 0, tokens, kept, 400 - kept), Status::ok);
    EXPECT_EQ(contents(cache, first), written);
    Cache straight = GetParam().make(2000);
    straight.open();
    ASSERT_EQ(append(straight, 0, 0, tokens, 0, 400), Status::ok);
    EXPECT_EQ(contents(cache, second), contents(straight, 0));
    cache.close(first);
    EXPECT_EQ(contents(cache, second), contents(straight, 0));
    cache.close(second);
    EXPECT_EQ(cache.free_pages(0), Cache(cache.config()).free_pages(0));
  }
}

/// Pages that the open sequences use in one layer.
std::size_t used_pages(const Cache& cache, const std::map<SeqId, std::vector<int>>& model) {
  std::set<std::int32_t> pages;
  for (const auto& [seq, tokens] : model) {
    ViewBuffers buffers;
    static_cast<void>(cache.view(0, {&seq, 1}, buffers));
    pages.insert(buffers.indices.begin(), buffers.indices.end());
  }
  return pages.size();
}

/// Appends token number `token` of a fixed text to all layers.
Status append_token(Cache& cache, SeqId seq, const Tokens& text, int token) {
  return append(cache, seq, 0, text, token, 1);
}

/// contents() of a sequence with these tokens that was never forked or truncated.
std::vector<std::byte> expected_contents(const CacheConfig& config, const Tokens& text,
                                         const std::vector<int>& tokens) {
  CacheConfig one = config;
  one.max_sequences = 1;
  Cache cache(one);
  cache.open();
  for (const int token : tokens) EXPECT_EQ(append_token(cache, 0, text, token), Status::ok);
  return contents(cache, 0);
}

// The model: per open sequence the list of its tokens. Truncation is followed by appends that fill
// the window again, after which contents must equal those of a cache without history.
TEST_P(CacheLaws, RandomWalkAgainstAModel) {
  constexpr int kText = 64;
  const Tokens text(GetParam().shape, kText, 8);
  Cache cache = GetParam().make(6000, 4);
  const std::int64_t all_pages = cache.free_pages(0);
  std::map<SeqId, std::vector<int>> model;
  test::Random random(9);
  const auto pick = [&] {
    auto it = model.begin();
    std::advance(it, random.below(static_cast<std::int64_t>(model.size())));
    return it->first;
  };
  const auto grow = [&](SeqId seq, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      const int token = static_cast<int>(random.below(kText));
      ASSERT_EQ(append_token(cache, seq, text, token), Status::ok);
      model[seq].push_back(token);
    }
  };
  const LayerConfig& layer = cache.config().layers[0];
  const std::int64_t refill = layer.n_recent + layer.rollback_rows + 2 * kTileRows + layer.n_sink;
  for (int step = 0; step < 36; ++step) {
    const std::int64_t action = random.below(6);
    if (model.empty() || (action == 0 && model.size() < 4)) {
      model[cache.open()] = {};
    } else if (action == 1 && model.size() < 4) {
      const SeqId parent = pick();
      const SeqId child = cache.fork(parent);
      model[child] = model[parent];
    } else if (action == 2) {
      const SeqId seq = pick();
      cache.close(seq);
      model.erase(seq);
      EXPECT_FALSE(cache.is_open(seq));
    } else if (action == 3) {
      const SeqId seq = pick();
      std::vector<int>& tokens = model[seq];
      const std::int64_t n =
          test::cut_length(cache, random.below(static_cast<std::int64_t>(tokens.size()) + 1));
      ASSERT_EQ(cache.truncate(seq, n), Status::ok);
      tokens.resize(static_cast<std::size_t>(n));
      grow(seq, refill);
    } else {
      const SeqId seq = pick();
      if (model[seq].size() < 600) grow(seq, random.below(100));
    }
    for (const auto& [seq, tokens] : model) {
      ASSERT_EQ(cache.n_tokens(seq), static_cast<std::int64_t>(tokens.size())) << step;
    }
    ASSERT_EQ(cache.free_pages(0), all_pages - static_cast<std::int64_t>(used_pages(cache, model)))
        << step;
    if (step % 6 == 5) {
      for (const auto& [seq, tokens] : model) {
        ASSERT_EQ(contents(cache, seq), expected_contents(cache.config(), text, tokens)) << step;
      }
    }
  }
  while (!model.empty()) {
    cache.close(model.begin()->first);
    model.erase(model.begin());
  }
  EXPECT_EQ(cache.free_pages(0), all_pages);
  EXPECT_EQ(cache.bytes().total(), 0);
}

INSTANTIATE_TEST_SUITE_P(Pairs, CacheLaws, ::testing::ValuesIn(test::cache_cases()),
                         test::name_of_case);

TEST(Fork, InheritsTheClampedFlagAndKeepsItsOwn) {
  const HeadShape shape{1, 1, 64};
  Cache cache(make_cache_config("kv=f16", shape, 1, 100, 3));
  Tokens tokens(shape, 3, 1);
  tokens.v[70] = 1e6f;
  const SeqId a = cache.open();
  ASSERT_EQ(append(cache, a, 0, tokens, 0, 1), Status::ok);
  const SeqId b = cache.fork(a);
  ASSERT_EQ(append(cache, b, 0, tokens, 1, 1), Status::ok);
  EXPECT_FALSE(cache.has_clamped(a));
  EXPECT_TRUE(cache.has_clamped(b));
  EXPECT_TRUE(cache.has_clamped(cache.fork(b)));
}

}  // namespace
}  // namespace kvcodec
