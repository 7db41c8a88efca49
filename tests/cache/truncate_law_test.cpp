// Law 2. What holds exactly, for codecs with independent rows, after truncate(n):
//   - encoded rows before n keep their bytes, raw rows before n keep theirs;
//   - appending the same tokens again leaves contents equal to those of a cache that never
//     truncated, as soon as the window is full again.
// For a codec that mixes rows: the same where n lies in the window or at a tile's edge, otherwise
// cannot_truncate and nothing changes.
#include <gtest/gtest.h>

#include <cstring>

#include "kvcodec/cache/layer_cache.hpp"
#include "tests/support/cache_cases.hpp"

namespace kvcodec {
namespace {

using test::CacheLaws;
using test::contents;
using test::state_of;
using test::Tokens;

constexpr std::int64_t kTokens = 400;

TEST_P(CacheLaws, TruncateInsideTheWindowIsExact) {
  const Tokens tokens(GetParam().shape, kTokens, 1);
  Cache cache = GetParam().make(kTokens);
  const SeqId seq = cache.open();
  const LayerConfig& config = cache.config().layers[0];
  const std::int64_t keep = config.n_recent + config.rollback_rows;
  for (const std::int64_t n : {kTokens - 1, kTokens - 30, std::int64_t{200}}) {
    // As many tokens as stay raw in any case can be taken back, whatever came before.
    for (std::int64_t back = 0; back <= std::min<std::int64_t>(keep, 40); back += 13) {
      ASSERT_EQ(cache.truncate(seq, 0), Status::ok);
      ASSERT_EQ(append(cache, seq, 0, tokens, 0, n), Status::ok);
      ASSERT_EQ(cache.truncate(seq, n - back), Status::ok);
      EXPECT_EQ(cache.n_tokens(seq), n - back);
      ASSERT_EQ(append(cache, seq, 0, tokens, n - back, back), Status::ok);
      Cache straight = GetParam().make(kTokens);
      straight.open();
      ASSERT_EQ(append(straight, 0, 0, tokens, 0, n), Status::ok);
      ASSERT_EQ(contents(cache, seq), contents(straight, 0)) << n << " - " << back;
    }
  }
}

TEST_P(CacheLaws, TruncateIntoPagesKeepsRowsAndAppendsGoOn) {
  const Tokens tokens(GetParam().shape, kTokens, 3);
  Cache straight = GetParam().make(kTokens);
  straight.open();
  ASSERT_EQ(append(straight, 0, 0, tokens, 0, kTokens), Status::ok);
  test::Random random(4);
  Cache cache = GetParam().make(kTokens);
  const SeqId seq = cache.open();
  const std::int64_t all_free = cache.free_pages(0);
  ASSERT_EQ(append(cache, seq, 0, tokens, 0, kTokens), Status::ok);
  for (int trial = 0; trial < 12; ++trial) {
    const std::int64_t n =
        test::cut_length(cache, trial < 6 ? 64 * trial + (trial % 2) : random.below(kTokens));
    const std::vector<std::byte> before = contents(cache, seq);
    ASSERT_EQ(cache.truncate(seq, n), Status::ok) << n;
    ASSERT_EQ(cache.n_tokens(seq), n);
    ViewBuffers buffers;
    const KvView view = cache.view(0, {&seq, 1}, buffers);
    ASSERT_EQ(view.sinks[0].n_rows + view.encoded_rows(0) + view.recent[0].n_rows, n);
    // Truncating twice is truncating once.
    const std::vector<std::byte> cut = contents(cache, seq);
    ASSERT_EQ(cache.truncate(seq, n), Status::ok);
    ASSERT_EQ(contents(cache, seq), cut);
    std::int64_t t = n;
    while (t < kTokens) {
      const std::int64_t step = std::min(kTokens - t, 1 + random.below(70));
      ASSERT_EQ(append(cache, seq, 0, tokens, t, step), Status::ok);
      t += step;
    }
    ASSERT_EQ(contents(cache, seq), before) << n;
    ASSERT_EQ(contents(cache, seq), contents(straight, 0)) << n;
  }
  ASSERT_EQ(cache.truncate(seq, 0), Status::ok);
  EXPECT_EQ(cache.free_pages(0), all_free);
}

INSTANTIATE_TEST_SUITE_P(Pairs, CacheLaws, ::testing::ValuesIn(test::cache_cases()),
                         test::name_of_case);

/// Rows of a tile depend on each other: every value is stored as the difference to the row before.
struct Difference {
  static constexpr const char* family = "difference";
  static constexpr bool bit_exact = true;
  std::string name() const { return family; }
  int head_span(int) const noexcept { return 1; }
  bool supports(int) const noexcept { return true; }
  std::size_t tile_bytes(int head_dim) const noexcept {
    return static_cast<std::size_t>(kTileRows * head_dim) * 4;
  }
  LossBounds loss(int) const noexcept { return {0.0, 1e-6}; }
  bool encode_tile(Side, int head_dim, const float* x, std::byte* out) const noexcept {
    for (int i = 0; i < kTileRows * head_dim; ++i) {
      const float difference = i < head_dim ? x[i] : x[i] - x[i - head_dim];
      std::memcpy(out + 4 * i, &difference, 4);
    }
    return true;
  }
  void decode_tile(Side, int head_dim, const std::byte* in, float* x) const noexcept {
    for (int i = 0; i < kTileRows * head_dim; ++i) {
      std::memcpy(x + i, in + 4 * i, 4);
      if (i >= head_dim) x[i] += x[i - head_dim];
    }
  }
};
static_assert(Codec<Difference> && !RowCodec<Difference>);

TEST(Truncate, CodecsThatMixRowsRefuseToCutATile) {
  const HeadShape shape{2, 2, 64};
  const Tokens tokens(shape, 300, 5);
  LayerConfig window;
  window.n_sink = 3;
  window.n_recent = 8;
  LayerCache<Difference, RawF16> layer(shape, 300, window);
  Cache& cache = layer.cache();
  const SeqId seq = layer.open();
  ASSERT_EQ(append(cache, seq, 0, tokens, 0, 300), Status::ok);
  // 3 sinks, 4 tiles, 41 recent rows.
  const auto state = state_of(cache);
  for (const std::int64_t n : {4, 66, 68, 200, 258}) {
    EXPECT_EQ(cache.truncate(seq, n), Status::cannot_truncate) << n;
    EXPECT_EQ(state_of(cache), state) << n;
  }
  const auto whole = contents(cache, seq);
  for (const std::int64_t n : {299, 259, 195, 67, 3, 2, 0}) {
    ASSERT_EQ(cache.truncate(seq, n), Status::ok) << n;
    ASSERT_EQ(append(cache, seq, 0, tokens, n, 300 - n), Status::ok);
    ASSERT_EQ(contents(cache, seq), whole) << n;
  }
}

// One layer that cannot leaves all layers as they were.
TEST(Truncate, IsAllOrNothingOverLayers) {
  const HeadShape shape{1, 1, 64};
  CacheConfig config = make_cache_config("kv=f16,recent=1", shape, 2, 200);
  config.layers[1].v.codec = Difference{};
  Cache cache(config);
  const SeqId seq = cache.open();
  const Tokens tokens(shape, 200, 6);
  for (std::int32_t l = 0; l < 2; ++l) ASSERT_EQ(append(cache, seq, l, tokens, 0, 200), Status::ok);
  const auto state = state_of(cache);
  EXPECT_EQ(cache.truncate(seq, 100), Status::cannot_truncate);
  EXPECT_EQ(state_of(cache), state);
  ASSERT_EQ(cache.truncate(seq, 128), Status::ok);
  EXPECT_EQ(cache.n_tokens(seq, 0), 128);
  EXPECT_EQ(cache.n_tokens(seq, 1), 128);
}

TEST(Truncate, RefusesMoreTokensThanALayerHas) {
  const HeadShape shape{1, 1, 64};
  Cache cache(make_cache_config("kv=f16", shape, 2, 200));
  const SeqId seq = cache.open();
  const Tokens tokens(shape, 200, 6);
  ASSERT_EQ(append(cache, seq, 0, tokens, 0, 150), Status::ok);
  ASSERT_EQ(append(cache, seq, 1, tokens, 0, 149), Status::ok);
  const auto state = state_of(cache);
  for (const std::int64_t n :
       {std::int64_t{150}, std::int64_t{151}, std::int64_t{-1}, std::int64_t{1} << 40}) {
    EXPECT_EQ(cache.truncate(seq, n), Status::invalid_argument) << n;
  }
  for (const SeqId other : {-1, 1, 1 << 20}) {
    EXPECT_EQ(cache.truncate(other, 0), Status::invalid_argument);
  }
  EXPECT_EQ(state_of(cache), state);
  EXPECT_EQ(cache.truncate(seq, 149), Status::ok);  // evens the layers out
  EXPECT_EQ(cache.n_tokens(seq, 0), 149);
}

}  // namespace
}  // namespace kvcodec
