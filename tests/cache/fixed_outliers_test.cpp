// What a codec fixes once per sequence and head (ContinuingCodec): every tile has it from the first
// one, however the rows came, after truncations and forks, with policies, on both sides and over
// several heads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "kvcodec/codec/qjl.hpp"
#include "tests/support/cache_tools.hpp"

namespace kvcodec {
namespace {

using test::contents;
using test::Tokens;

constexpr HeadShape kShape{4, 2, 64};
constexpr std::int64_t kTokens = 500;
constexpr const char* kFixed = "k=qjl:m64:o3:mo32:fixed,v=int8";
constexpr const char* kTile = "k=qjl:m64:o3:mo32:tile,v=int8";

/// Keys with three loud channels per head, others from 64 tokens to the next: a tile left alone
/// would choose other outlier channels than the tile before.
Tokens drifting(std::uint64_t seed) {
  Tokens tokens(kShape, kTokens, seed);
  for (std::size_t i = 0; i < tokens.k.size(); ++i) {
    const std::size_t token = i / 128;
    const std::size_t loud = (seed + 5 * (token / 64) + 29 * (i / 64 % 2)) % 61;
    if (i % 64 >= loud && i % 64 < loud + 3) tokens.k[i] *= 20.0f;
  }
  return tokens;
}

using Set = std::vector<int>;

/// The outlier channels of every K tile of a sequence's head.
std::vector<Set> sets_of(const Cache& cache, SeqId seq, int head) {
  ViewBuffers buffers;
  const KvView view = cache.view(0, {&seq, 1}, buffers);
  const Qjl& codec = *view.k_codec.as<Qjl>();
  std::vector<Set> sets;
  for (std::int64_t row = 0; row < view.encoded_rows(head); row += kTileRows) {
    const std::byte* page = view.page_data(view.page_of(head, row));
    const int strip = static_cast<int>(row % view.format.page_size) / kTileRows;
    const std::byte* channels = codec.channels_of(view.format.k_tile(page, strip, 0).tile, 0);
    sets.emplace_back();
    for (int j = 0; j < codec.outlier_channels; ++j) {
      sets.back().push_back(static_cast<int>(channels[j]));
    }
  }
  return sets;
}

/// The set that all tiles of a head have; empty, and a failure, if they differ.
Set only_set(const Cache& cache, SeqId seq, int head) {
  const std::vector<Set> sets = sets_of(cache, seq, head);
  EXPECT_FALSE(sets.empty());
  for (const Set& set : sets) {
    if (set != sets[0]) {
      ADD_FAILURE() << "tiles of head " << head << " have different outlier channels";
      return {};
    }
  }
  return sets.empty() ? Set{} : sets[0];
}

Cache make(const std::string& plan, std::int32_t max_sequences = 1) {
  return Cache(make_cache_config(plan, kShape, 1, 4 * kTokens, max_sequences));
}

void fill(Cache& cache, SeqId seq, const Tokens& tokens, std::int64_t first, std::int64_t end,
          std::int64_t step) {
  for (; first < end; first += step) {
    const std::int64_t n = std::min(step, end - first);
    ASSERT_EQ(append(cache, seq, 0, tokens, first, n), Status::ok);
  }
}

TEST(FixedOutliers, AreThoseOfTheFirstTileOfEachHead) {
  const Tokens tokens = drifting(1);
  for (const char* rest :
       {",recent=1", ",sink=4,recent=40,page=256", ",recent=0,flush=256,page=128",
        ",policy=lagkv:l64:r0.5,recent=1", ",policy=lagkv:l32:r0.7,sink=2,recent=1,page=256",
        ",policy=keydiff:r0.6,recent=8,page=128", ",policy=window:n150,recent=10"}) {
    SCOPED_TRACE(rest);
    // With `tile` the first tile chooses the same and the others for themselves.
    Cache tile = make(std::string(kTile) + rest);
    const SeqId seq = tile.open();
    std::vector<Set> first(2);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      fill(tile, seq, tokens, t, t + 1, 1);
      if (t + 1 == kTokens) tile.end_prompt(seq);
      for (int head = 0; head < 2; ++head) {
        const std::vector<Set> sets = sets_of(tile, seq, head);
        auto& chosen = first[static_cast<std::size_t>(head)];
        if (chosen.empty() && !sets.empty()) chosen = sets[0];
      }
    }
    EXPECT_NE(first[0], first[1]) << "heads choose alike";
    EXPECT_NE(sets_of(tile, seq, 0).back(), first[0]) << "tiles choose alike: nothing is tested";
    for (const std::int64_t step : {std::int64_t{1}, std::int64_t{90}, kTokens}) {
      Cache fixed = make(std::string(kFixed) + rest);
      fill(fixed, fixed.open(), tokens, 0, kTokens, step);
      fixed.end_prompt(0);
      ASSERT_GE(sets_of(fixed, 0, 0).size(), 2u);
      for (int head = 0; head < 2; ++head) {
        EXPECT_EQ(only_set(fixed, 0, head), first[static_cast<std::size_t>(head)])
            << "head " << head << ", appended by " << step;
      }
      EXPECT_EQ(fixed.bytes().payload, tile.bytes().payload);
    }
  }
}

TEST(FixedOutliers, AreChosenAnewWhenNothingIsLeft) {
  const Tokens tokens = drifting(1);
  const Tokens others = drifting(9);
  for (const char* rest : {",recent=1", ",sink=4,recent=40,page=256"}) {
    Cache cache = make(std::string(kFixed) + rest);
    const SeqId seq = cache.open();
    const std::int64_t n_sink = cache.config().layers[0].n_sink;
    fill(cache, seq, tokens, 0, kTokens, 100);
    const Set old = only_set(cache, seq, 0);
    // What is cut behind a tile keeps the set for all that follows.
    ASSERT_EQ(cache.truncate(seq, n_sink + 64), Status::ok);
    fill(cache, seq, others, n_sink + 64, kTokens, 100);
    EXPECT_EQ(only_set(cache, seq, 0), old) << rest;
    // Behind the sinks as well as at the very beginning.
    for (const std::int64_t n : {n_sink, std::int64_t{0}}) {
      ASSERT_EQ(cache.truncate(seq, n), Status::ok);
      Cache fresh = make(std::string(kFixed) + rest);
      ASSERT_EQ(append(fresh, fresh.open(), 0, tokens, 0, n), Status::ok);
      fill(cache, seq, others, n, kTokens, 100);
      fill(fresh, 0, others, n, kTokens, 100);
      EXPECT_NE(only_set(cache, seq, 0), old) << rest;
      EXPECT_EQ(contents(cache, seq), contents(fresh, 0)) << rest;
    }
  }
}

TEST(FixedOutliers, AForkKeepsThem) {
  const Tokens tokens = drifting(1);
  const Tokens others = drifting(9);
  for (const char* rest :
       {",recent=1", ",sink=4,recent=40,page=256", ",policy=lagkv:l64:r0.5,recent=1,page=256"}) {
    SCOPED_TRACE(rest);
    const std::string plan = std::string(kFixed) + rest;
    Cache cache = make(plan, 3);
    const SeqId parent = cache.open();
    fill(cache, parent, tokens, 0, 250, 250);
    const Set set = only_set(cache, parent, 0);
    const SeqId child = cache.fork(parent);
    const SeqId sibling = cache.fork(parent);
    // Their last page, which may hold the first tile, is copied when they write to it.
    fill(cache, child, others, 250, 400, 150);
    fill(cache, sibling, others, 250, 400, 50);
    // The parent starts over, on the pages that nobody else uses.
    if (cache.truncate(parent, 0) == Status::ok) {
      fill(cache, parent, others, 0, 300, 300);
      EXPECT_NE(only_set(cache, parent, 0), set);
    }
    cache.close(parent);
    const SeqId next = cache.open();
    fill(cache, next, others, 0, 300, 300);
    EXPECT_NE(only_set(cache, next, 0), set);
    fill(cache, child, others, 400, kTokens, 100);
    fill(cache, sibling, others, 400, kTokens, 50);
    Cache alone = make(plan);
    fill(alone, alone.open(), tokens, 0, 250, 250);
    fill(alone, 0, others, 250, kTokens, kTokens);
    EXPECT_EQ(only_set(cache, child, 0), set);
    EXPECT_EQ(contents(cache, child), contents(alone, 0));
    EXPECT_EQ(contents(cache, sibling), contents(alone, 0));
  }
}

/// Stores differences to the first value of the stream's first tile, of Span heads. Rows are
/// independent, so that a cache can be cut inside a tile.
template <int Span>
struct Stamped {
  static constexpr const char* family = "stamped";
  static constexpr bool bit_exact = true;
  std::string name() const { return family; }
  int head_span(int) const noexcept { return Span; }
  bool supports(int) const noexcept { return true; }
  std::size_t tile_bytes(int head_dim) const noexcept {
    return static_cast<std::size_t>(kTileRows * Span * head_dim) * 4 + 16;
  }
  LossBounds loss(int) const noexcept { return {0.0, 1e-6}; }
  bool encode_tile(Side, int head_dim, const float* x, std::byte* out) const noexcept {
    return put(head_dim, x[0], x, out);
  }
  bool encode_tile_after(Side, int head_dim, const std::byte* first_tile, const float* x,
                         std::byte* out) const noexcept {
    return put(head_dim, stamp(first_tile), x, out);
  }
  void decode_tile(Side, int head_dim, const std::byte* in, float* x) const noexcept {
    for (int i = 0; i < kTileRows * Span * head_dim; ++i) {
      std::memcpy(x + i, in + 16 + 4 * i, 4);
      x[i] += stamp(in);
    }
  }
  void copy_rows(Side, int head_dim, const std::byte* from, std::byte* to, int begin,
                 int end) const noexcept {
    const auto row = static_cast<std::size_t>(4 * Span * head_dim);
    const std::size_t at = 16 + row * static_cast<std::size_t>(begin);
    std::memcpy(to + at, from + at, row * static_cast<std::size_t>(end - begin));
  }
  static float stamp(const std::byte* tile) noexcept {
    float value = 0.0f;
    std::memcpy(&value, tile, 4);
    return value;
  }

 private:
  static bool put(int head_dim, float stamp, const float* x, std::byte* out) noexcept {
    std::memset(out, 0, 16);
    std::memcpy(out, &stamp, 4);
    for (int i = 0; i < kTileRows * Span * head_dim; ++i) {
      const float difference = x[i] - stamp;
      std::memcpy(out + 16 + 4 * i, &difference, 4);
    }
    return true;
  }
};
static_assert(ContinuingCodec<Stamped<1>> && RowCodec<Stamped<2>>);

/// Whether every tile has the stamp of its own stream's first row, and decodes to the tokens.
template <int KSpan, int VSpan>
void check_stamps(const Cache& cache, const Tokens& first, const Tokens& tokens) {
  ViewBuffers buffers;
  const SeqId seq = 0;
  const KvView view = cache.view(0, {&seq, 1}, buffers);
  const PageFormat& f = view.format;
  for (int head = 0; head < 4; ++head) {
    const int stream = head / f.span;
    const std::int64_t n = view.encoded_rows(stream);
    ASSERT_GE(n, 3 * kTileRows);
    for (std::int64_t row = 0; row < n; row += kTileRows) {
      const std::byte* page = view.page_data(view.page_of(stream, row));
      const int strip = static_cast<int>(row % f.page_size) / kTileRows;
      const auto check = [&](auto codec, TileRef<const std::byte> ref, const std::vector<float>& x0,
                             const std::vector<float>& x) {
        const auto in_tile = static_cast<std::size_t>(64 * (head - ref.head));
        ASSERT_EQ(codec.stamp(ref.tile), x0[in_tile]) << head << " " << row;
        const int span = codec.head_span(64);
        std::vector<float> y(static_cast<std::size_t>(kTileRows * span * 64));
        codec.decode_tile(Side::key, 64, ref.tile, y.data());
        for (std::int64_t r = 0; r < std::min<std::int64_t>(kTileRows, n - row); ++r) {
          for (int c = 0; c < 64; ++c) {
            ASSERT_NEAR(y[static_cast<std::size_t>((r * span + ref.head) * 64 + c)],
                        x[static_cast<std::size_t>(((row + r) * 4 + head) * 64 + c)], 1e-5f)
                << head << " " << row + r;
          }
        }
      };
      check(Stamped<KSpan>{}, f.k_tile(page, strip, head % f.span), first.k, tokens.k);
      check(Stamped<VSpan>{}, f.v_tile(page, strip, head % f.span), first.v, tokens.v);
    }
  }
}

template <int KSpan, int VSpan>
void run_stamps(const char* plan) {
  const HeadShape shape{4, 4, 64};
  CacheConfig config = make_cache_config(plan, shape, 1, kTokens);
  config.layers[0].k.codec = Stamped<KSpan>{};
  config.layers[0].v.codec = Stamped<VSpan>{};
  Cache cache(config);
  const SeqId seq = cache.open();
  const Tokens tokens(shape, kTokens, 3);
  const Tokens others(shape, kTokens, 5);
  fill(cache, seq, tokens, 0, kTokens, 130);
  check_stamps<KSpan, VSpan>(cache, tokens, tokens);
  // Cut inside a later tile and inside the first one: both are completed with the stamp they have.
  for (const std::int64_t n : {100, 10}) {
    ASSERT_EQ(cache.truncate(seq, n), Status::ok);
    Tokens mixed = others;
    std::copy_n(tokens.k.begin(), n * tokens.width(), mixed.k.begin());
    std::copy_n(tokens.v.begin(), n * tokens.width(), mixed.v.begin());
    fill(cache, seq, mixed, n, kTokens, 130);
    check_stamps<KSpan, VSpan>(cache, tokens, mixed);
  }
}

TEST(FixedPerHead, HoldsOnBothSidesAndOverSeveralHeads) {
  for (const char* plan : {"kv=f32,raw=f32,recent=1", "kv=f32,raw=f32,recent=1,page=256"}) {
    run_stamps<1, 1>(plan);
    run_stamps<2, 2>(plan);
    run_stamps<1, 2>(plan);
    run_stamps<4, 2>(plan);
  }
}

}  // namespace
}  // namespace kvcodec
