// A codec that is on no list, defined here only, works in a cache and under attention.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kvcodec/cache/layer_cache.hpp"
#include "kvcodec/codec/builtin.hpp"
#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_tools.hpp"

namespace kvcodec {
namespace {

/// 2-bit codes 0..3 for -1, -1/3, 1/3, 1 times the row's largest value, an f32 per row.
struct TwoBit {
  static constexpr const char* family = "twobit";
  static constexpr bool bit_exact = true;
  float unused = 0.0f;  ///< parameters travel with the value

  std::string name() const { return family; }
  int head_span(int) const noexcept { return 1; }
  bool supports(int head_dim) const noexcept { return head_dim % 16 == 0; }
  std::size_t tile_bytes(int head_dim) const noexcept {
    return plane(head_dim) + 4 * static_cast<std::size_t>(kTileRows);
  }
  LossBounds loss(int) const noexcept { return {0.1, 0.6}; }

  bool encode_tile(Side side, int head_dim, const float* x, std::byte* out) const noexcept {
    const TileLayout layout{side, 2, head_dim};
    for (int row = 0; row < kTileRows; ++row) {
      const float* values = x + row * head_dim;
      float largest = 0.0f;
      for (int c = 0; c < head_dim; ++c) largest = std::fmax(largest, std::fabs(values[c]));
      for (int c = 0; c < head_dim; ++c) {
        const float ratio = largest > 0.0f ? values[c] / largest : 0.0f;
        const int code = ratio < -2.0f / 3.0f ? 0 : ratio < 0.0f ? 1 : ratio < 2.0f / 3.0f ? 2 : 3;
        layout.put(out, row, c, static_cast<std::uint32_t>(code));
      }
      std::memcpy(out + plane(head_dim) + 4 * row, &largest, 4);
    }
    return true;
  }

  void decode_tile(Side side, int head_dim, const std::byte* in, float* x) const noexcept {
    const TileLayout layout{side, 2, head_dim};
    for (int row = 0; row < kTileRows; ++row) {
      float largest = 0.0f;
      std::memcpy(&largest, in + plane(head_dim) + 4 * row, 4);
      for (int c = 0; c < head_dim; ++c) {
        const auto code = static_cast<float>(layout.get(in, row, c));
        x[row * head_dim + c] = largest * (code * 2.0f / 3.0f - 1.0f);
      }
    }
  }

 private:
  static std::size_t plane(int head_dim) noexcept {
    return TileLayout{Side::key, 2, head_dim}.plane_bytes();
  }
};

/// The same with a way of its own to score: every score is shifted, so that its use shows.
struct Scoring : TwoBit {
  void score_tile(int head_dim, const std::byte* tile, int head, const float* q, int n_q,
                  float* scores) const noexcept {
    score_tile_scalar(TwoBit{}, head_dim, tile, head, q, n_q, scores);
    for (int i = 0; i < n_q * kTileRows; ++i) scores[i] += 100.0f;
  }
};

static_assert(Codec<TwoBit> && !RowCodec<TwoBit> && !ScoringCodec<TwoBit>);
static_assert(ScoringCodec<Scoring> && !SummingCodec<Scoring>);

template <class K, class V>
void expect_attends(const HeadShape& shape) {
  const test::Tokens tokens(shape, 1200, 1);
  LayerConfig window;
  window.n_sink = 2;
  window.n_recent = 10;
  LayerCache<K, V> layer(shape, 1200, window);
  const SeqId seq = layer.open();
  layer.append(seq, tokens.k_rows(0, 1200), tokens.v_rows(0, 1200));
  ViewBuffers buffers;
  const KvView view = layer.cache().view(0, {&seq, 1}, buffers);
  EXPECT_GT(view.encoded_rows(0), 1024);
  const test::QueryBatch batch = test::make_queries(shape, {5}, {1199}, 2);
  test::for_each_isa([&] {
    test::expect_matches_reference(view, batch, test::default_options(shape.head_dim),
                                   "user codec");
  });
  layer.close(seq);
}

TEST(UserCodec, WorksOnBothSides) { expect_attends<TwoBit, TwoBit>({4, 2, 64}); }
TEST(UserCodec, WorksBesideBuiltinCodecs) {
  expect_attends<TwoBit, Nqkv>({4, 2, 80});
  expect_attends<Int8Token, TwoBit>({7, 1, 128});
}

TEST(UserCodec, ItsOwnScoringIsUsed) {
  const HeadShape shape{1, 1, 64};
  const test::Tokens tokens(shape, 65, 1);
  LayerCache<Scoring, TwoBit> with(shape, 65);
  LayerCache<TwoBit, TwoBit> without(shape, 65);
  const test::QueryBatch batch = test::make_queries(shape, {1}, {64}, 2);
  test::for_each_isa([&] {
    std::vector<float> lse;
    for (Cache* cache : {&with.cache(), &without.cache()}) {
      const SeqId seq = cache->open();
      ASSERT_EQ(append(*cache, seq, 0, tokens, 0, 65), Status::ok);
      ViewBuffers buffers;
      const KvView view = cache->view(0, {&seq, 1}, buffers);
      lse.push_back(test::run_attend(view, batch, test::default_options(64)).lse[0]);
      cache->close(seq);
    }
    EXPECT_NEAR(lse[0] - lse[1], 12.5f, 0.5f);
  });
}

TEST(UserCodec, IsNotOnAnyList) {
  const AnyCodec codec = TwoBit{};
  EXPECT_EQ(codec.name(), "twobit");
  EXPECT_FALSE(codec.row_independent());
  EXPECT_NE(codec.as<TwoBit>(), nullptr);
}

}  // namespace
}  // namespace kvcodec
