// Views that an engine fills itself: its own pages in any order, listed positions, different
// lengths per head, no optional arrays.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "kvcodec/codec/make_codec.hpp"
#include "tests/support/attend_tools.hpp"

namespace kvcodec {
namespace {

using test::default_options;
using test::expect_matches_reference;
using test::make_queries;
using test::QueryBatch;

/// Pages of random rows in shuffled order, with a gap after every page.
struct Engine {
  KvView view;
  std::vector<std::byte> memory;
  std::vector<std::int64_t> indptr = {0};
  std::vector<std::int32_t> indices;
  std::vector<std::int32_t> last_page_len;
  std::vector<std::int32_t> first_pos;
  std::vector<std::int32_t> slot_pos;

  /// lengths: encoded rows of each stream.
  Engine(const HeadShape& shape, const std::string& k, const std::string& v, int page_size,
         std::int32_t n_seq, const std::vector<std::int32_t>& lengths) {
    view.shape = shape;
    view.n_seq = n_seq;
    view.k_codec = make_codec(k);
    view.v_codec = make_codec(v);
    view.format =
        make_page_format(view.k_codec, view.v_codec, shape.head_dim, shape.n_kv_heads, page_size);
    for (const std::int32_t n : lengths) {
      const std::int32_t n_pages = (n + page_size - 1) / page_size;
      indptr.push_back(indptr.back() + n_pages);
      last_page_len.push_back(n_pages == 0 ? 0 : n - (n_pages - 1) * page_size);
    }
    indices.resize(static_cast<std::size_t>(indptr.back()));
    std::iota(indices.begin(), indices.end(), 0);
    test::Random random(5);
    for (std::size_t i = indices.size(); i > 1; --i) {
      std::swap(indices[i - 1],
                indices[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(i)))]);
    }
    const std::size_t stride = view.format.page_bytes() + 192;
    memory.assign(stride * indices.size() + 64, std::byte{0xcc});
    const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
    std::byte* base = memory.data() + (64 - address % 64) % 64;
    for (std::size_t page = 0; page < indices.size(); ++page) fill(base + page * stride, page);
    view.pages = base;
    view.page_stride = static_cast<std::int64_t>(stride);
    view.indptr = indptr.data();
    view.indices = indices.data();
    view.last_page_len = last_page_len.data();
  }

  void fill(std::byte* page, std::uint64_t seed) {
    const PageFormat& f = view.format;
    for (int strip = 0; strip < f.page_size / kTileRows; ++strip) {
      for (int h = 0; h < f.span; h += f.k_span) {
        const auto x = test::gauss_rows(kTileRows, f.k_span * f.head_dim, ++seed * 7919);
        view.k_codec.encode_tile(Side::key, f.head_dim, x.data(), f.k_tile(page, strip, h).tile);
      }
      for (int h = 0; h < f.span; h += f.v_span) {
        const auto x = test::gauss_rows(kTileRows, f.v_span * f.head_dim, ++seed * 104729);
        view.v_codec.encode_tile(Side::value, f.head_dim, x.data(), f.v_tile(page, strip, h).tile);
      }
    }
  }
};

TEST(View, PagesInAnyOrderWithoutOptionalArrays) {
  const Engine engine({4, 2, 64}, "nqkv", "nqsym", 64, 2, {1100, 1100, 65, 65});
  const QueryBatch batch = make_queries({4, 2, 64}, {3, 6}, {1099, 64}, 1);
  test::for_each_isa(
      [&] { expect_matches_reference(engine.view, batch, default_options(64), "engine pages"); });
}

TEST(View, LargePagesAndHeadsThatShareThem) {
  const HeadShape shape{4, 4, 64};
  const Engine engine(shape, "nqkv:g256", "nqkv:g128", 192, 2, {500, 0});
  const QueryBatch batch = make_queries(shape, {2, 2}, {499, 1}, 2);
  test::for_each_isa(
      [&] { expect_matches_reference(engine.view, batch, default_options(64), "spans"); });
}

// Heads may keep different numbers of rows (per-head budgets).
TEST(View, HeadsOfDifferentLength) {
  Engine engine({6, 3, 80}, "int8", "f16", 128, 1, {1, 1500, 64});
  engine.first_pos = {40, 0, 1000};
  engine.view.first_pos = engine.first_pos.data();
  for (const std::int32_t window : {0, 700}) {
    AttendOptions options = default_options(80);
    options.window = window;
    options.window_sinks = window / 10;
    const QueryBatch batch = make_queries({6, 3, 80}, {9}, {1499}, 3);
    test::for_each_isa([&] { expect_matches_reference(engine.view, batch, options, "lengths"); });
  }
}

// After eviction positions have gaps; they need not even ascend.
TEST(View, ListedPositions) {
  const HeadShape shape{2, 2, 128};
  Engine engine(shape, "nqkv", "bf16", 64, 2, {1100, 300, 64, 5});
  engine.slot_pos.resize(engine.indices.size() * 64);
  test::Random random(6);
  for (std::int32_t& pos : engine.slot_pos) pos = static_cast<std::int32_t>(random.below(5000));
  engine.view.slot_pos = engine.slot_pos.data();
  for (const std::int32_t window : {0, 1, 600}) {
    for (const std::int32_t sinks : {0, 30}) {
      AttendOptions options = default_options(128);
      options.window = window;
      options.window_sinks = sinks;
      QueryBatch batch = make_queries(shape, {5, 4}, {4999, 2500}, 7);
      batch.pos[1] = 17;
      batch.pos[2] = -1;
      test::for_each_isa(
          [&] { expect_matches_reference(engine.view, batch, options, "listed positions"); });
    }
  }
}

// Listed positions that count up are the same as none.
TEST(View, ListedPositionsThatCountUpChangeNothing) {
  const HeadShape shape{2, 1, 64};
  Engine engine(shape, "nqkv", "nqkv", 128, 1, {1200});
  const QueryBatch batch = make_queries(shape, {8}, {1150}, 8);
  AttendOptions options = default_options(64);
  options.window = 333;
  options.window_sinks = 3;
  test::for_each_isa([&] {
    engine.view.slot_pos = nullptr;
    const test::Result want = test::run_attend(engine.view, batch, options);
    engine.slot_pos.resize(engine.indices.size() * 128);
    for (std::size_t i = 0; i < engine.indices.size(); ++i) {
      for (std::size_t slot = 0; slot < 128; ++slot) {
        engine.slot_pos[static_cast<std::size_t>(engine.indices[i]) * 128 + slot] =
            static_cast<std::int32_t>(i * 128 + slot);
      }
    }
    engine.view.slot_pos = engine.slot_pos.data();
    const test::Result got = test::run_attend(engine.view, batch, options);
    EXPECT_TRUE(test::same_bits(got.out, want.out, "out"));
    EXPECT_TRUE(test::same_bits(got.lse, want.lse, "lse"));
  });
}

// Rows after the last one of a stream may hold anything.
TEST(View, RowsBeyondTheEndAreNotRead) {
  const HeadShape shape{1, 1, 64};
  Engine engine(shape, "f32", "f32", 64, 1, {70});
  const QueryBatch batch = make_queries(shape, {2}, {500}, 9);
  test::for_each_isa([&] {
    const test::Result before = test::run_attend(engine.view, batch, default_options(64));
    // The second page's rows from 6 on become huge.
    auto* page =
        const_cast<std::byte*>(engine.view.pages) + engine.indices[1] * engine.view.page_stride;
    const PageFormat& f = engine.view.format;
    std::vector<float> x(64 * 64);
    for (const Side side : {Side::key, Side::value}) {
      std::byte* tile = side == Side::key ? f.k_tile(page, 0, 0).tile : f.v_tile(page, 0, 0).tile;
      engine.view.k_codec.decode_tile(side, 64, tile, x.data());
      std::fill(x.begin() + 6 * 64, x.end(), 1e30f);
      engine.view.k_codec.encode_tile(side, 64, x.data(), tile);
    }
    const test::Result after = test::run_attend(engine.view, batch, default_options(64));
    EXPECT_TRUE(test::same_bits(after.out, before.out, "out"));
    EXPECT_TRUE(test::same_bits(after.lse, before.lse, "lse"));
  });
}

}  // namespace
}  // namespace kvcodec
