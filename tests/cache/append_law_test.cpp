// Law 1: appending n tokens at once leaves the same bytes as appending them one by one or in any
// chunks; sequences do not influence each other. And: non-finite input spoils no other row.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/cache_cases.hpp"
#include "tests/support/compare.hpp"

namespace kvcodec {
namespace {

using test::CacheLaws;
using test::contents;
using test::state_of;
using test::Tokens;

constexpr std::int64_t kTokens = 400;

TEST_P(CacheLaws, AppendInAnyChunksLeavesTheSameBytes) {
  const Tokens tokens(GetParam().shape, kTokens, 1);
  Cache whole = GetParam().make(kTokens);
  whole.open();
  Cache single = GetParam().make(kTokens);
  single.open();
  test::Random random(2);
  std::vector<std::int64_t> cuts = {0};
  while (cuts.back() < kTokens) {
    cuts.push_back(std::min(kTokens, cuts.back() + random.below(90)));  // 0 is a chunk, too
  }
  Cache chunks = GetParam().make(kTokens);
  chunks.open();
  ASSERT_EQ(append(whole, 0, 0, tokens, 0, kTokens), Status::ok);
  for (std::int64_t t = 0; t < kTokens; ++t) {
    ASSERT_EQ(append(single, 0, 0, tokens, t, 1), Status::ok);
  }
  for (std::size_t c = 0; c + 1 < cuts.size(); ++c) {
    ASSERT_EQ(append(chunks, 0, 0, tokens, cuts[c], cuts[c + 1] - cuts[c]), Status::ok);
  }
  EXPECT_EQ(whole.n_tokens(0), kTokens);
  EXPECT_EQ(contents(whole, 0), contents(single, 0));
  EXPECT_EQ(contents(whole, 0), contents(chunks, 0));
  EXPECT_EQ(state_of(whole), state_of(single));
  EXPECT_EQ(state_of(whole), state_of(chunks));
}

TEST_P(CacheLaws, BytesDoNotDependOnOtherSequences) {
  const Tokens tokens(GetParam().shape, kTokens, 3);
  const Tokens other(GetParam().shape, kTokens, 5);
  Cache alone = GetParam().make(kTokens);
  alone.open();
  ASSERT_EQ(append(alone, 0, 0, tokens, 0, kTokens), Status::ok);
  Cache shared = GetParam().make(2 * kTokens, 2);
  const SeqId a = shared.open();
  const SeqId b = shared.open();
  for (std::int64_t t = 0; t < kTokens; t += 40) {
    ASSERT_EQ(append(shared, b, 0, other, t, 40), Status::ok);
    ASSERT_EQ(append(shared, a, 0, tokens, t, 40), Status::ok);
  }
  EXPECT_EQ(contents(shared, a), contents(alone, 0));
}

/// Values of raw rows of one side, [n_rows, head_dim].
std::vector<float> raw_values(const void* data, DType type, std::int64_t n) {
  std::vector<float> x;
  for (std::int64_t i = 0; i < n; ++i) x.push_back(load_value(type, data, i));
  return x;
}

// Token t is in the window exactly where the configuration says: first sinks, then encoded rows in
// whole tiles, then at least n_recent (+ rollback) and fewer than flush_rows more recent rows, unless
// rows wait for a center.
TEST_P(CacheLaws, WindowHoldsWhatTheConfigurationSays) {
  const Tokens tokens(GetParam().shape, kTokens, 7);
  Cache cache = GetParam().make(kTokens);
  const SeqId seq = cache.open();
  const LayerConfig& config = cache.config().layers[0];
  const std::int64_t keep = config.n_recent + config.rollback_rows;
  for (std::int64_t n = 1; n <= kTokens; ++n) {
    ASSERT_EQ(append(cache, seq, 0, tokens, n - 1, 1), Status::ok);
    ViewBuffers buffers;
    const KvView view = cache.view(0, {&seq, 1}, buffers);
    const std::int64_t sinks = std::min<std::int64_t>(n, config.n_sink);
    const std::int64_t whole = (n - sinks - keep) / config.flush_rows * config.flush_rows;
    std::int64_t centered = 0;
    for (const Centering& c : {config.k.center, config.v.center}) {
      if (c.kind == Centering::Kind::prompt) centered = std::max<std::int64_t>(centered, c.n_rows);
    }
    const bool waits = centered > 0 && n - sinks < centered + keep;
    const std::int64_t encoded = waits ? 0 : std::max<std::int64_t>(0, whole);
    ASSERT_EQ(view.sinks[0].n_rows, sinks);
    ASSERT_EQ(view.encoded_rows(0), encoded);
    ASSERT_EQ(view.recent[0].n_rows, n - sinks - encoded);
    ASSERT_EQ(view.recent[0].first_pos, sinks + encoded);
    ASSERT_EQ(view.first_pos[0], sinks);
    // The newest raw row is the newest token, transformed and rounded.
    const RawRows& r = n <= sinks ? view.sinks[0] : view.recent[0];
    if (r.n_rows == 0) continue;  // a window of no rows, just emptied
    const int d = view.shape.head_dim;
    std::vector<float> want(tokens.k.begin() + (n - 1) * tokens.width(),
                            tokens.k.begin() + (n - 1) * tokens.width() + d);
    config.k.transform.forward(d, 0, want.data());
    for (float& x : want) {
      float stored = 0.0f;
      store_value(view.k_raw_dtype, &stored, 0, x);
      x = load_value(view.k_raw_dtype, &stored, 0);
    }
    const std::vector<float> held = raw_values(r.k, view.k_raw_dtype, r.n_rows * r.row_stride);
    const std::vector<float> last(held.end() - d, held.end());
    // A transform may have its input rounded to the storage type before, never after.
    ASSERT_TRUE(test::close(last, want, want.size(), {1e-6, 0x1p-7}, "token " + std::to_string(n)));
  }
}

TEST_P(CacheLaws, NonFiniteInputIsReportedAndSpoilsNoOtherRow) {
  const Tokens good(GetParam().shape, kTokens, 11);
  constexpr float inf = std::numeric_limits<float>::infinity();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), inf, -inf}) {
    Tokens replaced = good;
    Tokens spoilt = good;
    Cache with = GetParam().make(kTokens);
    Cache without = GetParam().make(kTokens);
    with.open();
    without.open();
    const KvView limits = [&] {
      ViewBuffers buffers;
      const SeqId seq = 0;
      return with.view(0, {&seq, 1}, buffers);
    }();
    // One row of a tile, of K or V; what stands for it is 0 or the storage type's largest value.
    for (const std::int64_t token : {2, 130, 399}) {
      const auto at = static_cast<std::size_t>(token * good.width() + 5);
      const auto stand_in = [&](DType type) {
        return std::isnan(bad) ? 0.0f : std::copysign(dtype_max(type), bad);
      };
      spoilt.k[at] = bad;
      spoilt.v[at] = bad;
      replaced.k[at] = stand_in(limits.k_raw_dtype);
      replaced.v[at] = stand_in(limits.v_raw_dtype);
    }
    ASSERT_EQ(append(with, 0, 0, spoilt, 0, kTokens), Status::ok);
    ASSERT_EQ(append(without, 0, 0, replaced, 0, kTokens), Status::ok);
    EXPECT_TRUE(with.has_clamped(0));
    EXPECT_EQ(contents(with, 0), contents(without, 0)) << bad;
  }
  Cache clean = GetParam().make(kTokens);
  clean.open();
  ASSERT_EQ(append(clean, 0, 0, good, 0, kTokens), Status::ok);
  EXPECT_FALSE(clean.has_clamped(0));
}

INSTANTIATE_TEST_SUITE_P(Pairs, CacheLaws, ::testing::ValuesIn(test::cache_cases()),
                         test::name_of_case);

// Strides and storage types of the caller do not matter.
TEST(Append, TakesAnyStridesAndTypes) {
  const HeadShape shape{2, 2, 64};
  const Tokens tokens(shape, 100, 4);
  Tokens halves = tokens;
  for (std::vector<float>* x : {&halves.k, &halves.v}) {
    for (float& value : *x) value = to_f32(to_f16(value));
  }
  const CacheConfig config = make_cache_config("kv=nqkv", shape, 1, 100, 2);
  Cache cache(config);
  const SeqId dense = cache.open();
  const SeqId strided = cache.open();
  ASSERT_EQ(append(cache, dense, 0, halves, 0, 100), Status::ok);
  // [n_kv_heads, n_tokens, head_dim] with a gap after every row, in f16.
  const std::int64_t row = 70;
  std::vector<f16> k(static_cast<std::size_t>(2 * 100 * row));
  std::vector<f16> v = k;
  for (std::int64_t t = 0; t < 100; ++t) {
    for (std::int64_t i = 0; i < 128; ++i) {
      const auto to = static_cast<std::size_t>((i / 64 * 100 + t) * row + i % 64);
      k[to] = to_f16(tokens.k[static_cast<std::size_t>(t * 128 + i)]);
      v[to] = to_f16(tokens.v[static_cast<std::size_t>(t * 128 + i)]);
    }
  }
  cache.append(strided, 0, Rows<f16>{k.data(), 100, row, 100 * row},
               Rows<f16>{v.data(), 100, row, 100 * row});
  EXPECT_EQ(contents(cache, strided), contents(cache, dense));
}

}  // namespace
}  // namespace kvcodec
