// Offsets in a page: tiles fill it without overlap, aligned, for every pair of codecs.
#include "kvcodec/page/page_format.hpp"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

TEST(PageFormat, TilesDoNotOverlapAndAreAligned) {
  constexpr int kHeads = 8;
  for (const std::string& k : test::codec_specs()) {
    for (const std::string& v : test::codec_specs()) {
      for (const int head_dim : test::kHeadDims) {
        const AnyCodec kc = make_codec(k);
        const AnyCodec vc = make_codec(v);
        if (!kc.supports(head_dim) || !vc.supports(head_dim) || vc.key_only()) continue;
        for (const int page_size : {64, 256}) {
          const PageFormat f = make_page_format(kc, vc, head_dim, kHeads, page_size);
          EXPECT_EQ(f.span, std::max(kc.head_span(head_dim), vc.head_span(head_dim)));
          ASSERT_EQ(f.page_bytes() % 64, 0u);
          std::vector<std::uint8_t> used(f.page_bytes(), 0);
          const auto mark = [&](const std::uint8_t* tile, std::size_t n) {
            const auto offset = static_cast<std::size_t>(tile - used.data());
            ASSERT_EQ(offset % 16, 0u);
            ASSERT_LE(offset + n, used.size());
            for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(used[offset + i]++, 0) << k << " " << v;
          };
          for (int strip = 0; strip < page_size / kTileRows; ++strip) {
            for (int head = 0; head < f.span; ++head) {
              const auto kt = f.k_tile(used.data(), strip, head);
              const auto vt = f.v_tile(used.data(), strip, head);
              ASSERT_EQ(kt.head, head % kc.head_span(head_dim));
              ASSERT_EQ(vt.head, head % vc.head_span(head_dim));
              if (kt.head == 0) mark(kt.tile, f.k_tile_bytes);
              if (vt.head == 0) mark(vt.tile, f.v_tile_bytes);
            }
          }
          const auto n_used = std::accumulate(used.begin(), used.end(), std::size_t{0});
          EXPECT_LT(used.size() - n_used, 64u) << "padding at the end only";
        }
      }
    }
  }
}

TEST(PageFormat, ByHand) {
  // K: g256 at head_dim 64 shares scales over 4 heads; V: g128 over 2.
  const PageFormat f =
      make_page_format(make_codec("nqkv:g256"), make_codec("nqsym:g128"), 64, 8, 128);
  constexpr std::size_t kKeys = 4 * 64 * 32 + 128;
  constexpr std::size_t kValues = 2 * 64 * 32 + 128;
  EXPECT_EQ(f.span, 4);
  EXPECT_EQ(f.strip_bytes(), kKeys + 2 * kValues);
  EXPECT_EQ(f.page_bytes(), 2 * (kKeys + 2 * kValues));
  std::byte* const base = nullptr;
  const auto offset = [&](const TileRef<std::byte>& t) { return t.tile - base; };
  EXPECT_EQ(offset(f.k_tile(base, 0, 3)), 0);
  EXPECT_EQ(f.k_tile(base, 0, 3).head, 3);
  EXPECT_EQ(offset(f.v_tile(base, 0, 1)), static_cast<std::ptrdiff_t>(kKeys));
  EXPECT_EQ(f.v_tile(base, 0, 1).head, 1);
  EXPECT_EQ(offset(f.v_tile(base, 0, 2)), static_cast<std::ptrdiff_t>(kKeys + kValues));
  EXPECT_EQ(offset(f.k_tile(base, 1, 0)), static_cast<std::ptrdiff_t>(kKeys + 2 * kValues));
}

TEST(PageFormat, RefusesAndSaysWhy) {
  const AnyCodec f16 = make_codec("f16");
  for (const int page_size : {0, -64, 63, 96, 65600}) {
    EXPECT_TRUE(test::contains(
        test::message_of<invalid_argument>([&] { make_page_format(f16, f16, 64, 1, page_size); }),
        {"page_size = " + std::to_string(page_size), "64..65536", "multiple of 64"}));
  }
  EXPECT_TRUE(
      test::contains(test::message_of<unsupported>([&] { make_page_format(f16, f16, 72, 1, 64); }),
                     {"f16", "head_dim = 72"}));
  EXPECT_TRUE(test::contains(test::message_of<unsupported>([&] {
                               make_page_format(f16, make_codec("nqkv:g256"), 64, 6, 64);
                             }),
                             {"nqkv:g256", " v ", "4 heads", "n_kv_heads = 6", "multiple of 4"}));
}

}  // namespace
}  // namespace kvcodec
