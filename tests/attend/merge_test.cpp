// Law 5: partial results of any split of the rows merge into the result over all rows.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kvcodec/attend/attn_state.hpp"
#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_cases.hpp"

namespace kvcodec {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr int kDim = 64;

struct State {
  std::vector<float> out = std::vector<float>(kDim, 0.0f);
  float lse = -kInf;

  void add(const State& other) { merge(out.data(), lse, other.out.data(), other.lse, kDim); }
};

/// Reference attention over rows begin..end-1.
State part(const std::vector<float>& q, const test::Tokens& t, std::int64_t begin, std::int64_t end,
           double scale = 0.125) {
  AttendOptions options;
  options.sm_scale = static_cast<float>(scale);
  std::vector<std::int32_t> pos(static_cast<std::size_t>(end - begin), 0);
  std::vector<double> out(kDim);
  State s;
  s.lse = static_cast<float>(reference_attend(
      kDim, end - begin, q.data(), t.k.data() + begin * kDim, t.v.data() + begin * kDim, kDim,
      pos.data(), 0, options, -std::numeric_limits<double>::infinity(), out.data()));
  for (std::size_t c = 0; c < out.size(); ++c) s.out[c] = static_cast<float>(out[c]);
  return s;
}

TEST(Merge, AnySplitIsTheWhole) {
  const test::Tokens tokens({1, 1, kDim}, 200, 1);
  const std::vector<float> q = test::gauss_rows(1, kDim, 2);
  test::Random random(3);
  for (const double scale : {0.125, 4.0}) {
    const State whole = part(q, tokens, 0, 200, scale);
    for (int trial = 0; trial < 50; ++trial) {
      State merged;
      std::int64_t at = 0;
      while (at < 200) {
        const std::int64_t end = std::min<std::int64_t>(200, at + random.below(60));
        State next = part(q, tokens, at, end, scale);  // may be empty
        if (random.below(2) == 0) {
          merged.add(next);
        } else {
          next.add(merged);
          merged = next;
        }
        at = end;
      }
      EXPECT_TRUE(test::close(merged.out, whole.out, kDim, {3e-6, 3e-6}, "merge, seed 3"));
      EXPECT_NEAR(merged.lse, whole.lse, 1e-6 * std::fabs(whole.lse) + 1e-6);
    }
  }
}

TEST(Merge, EmptySides) {
  State a;
  State b;
  a.out.assign(kDim, std::numeric_limits<float>::quiet_NaN());  // not looked at
  b.out.assign(kDim, kInf);
  a.add(b);
  EXPECT_EQ(a.lse, -kInf);
  for (const float x : a.out) ASSERT_EQ(x, 0.0f);
  State full;
  full.out.assign(kDim, 3.0f);
  full.lse = -7.0f;
  State copy = full;
  copy.add(b);
  EXPECT_EQ(copy.out, full.out);
  EXPECT_EQ(copy.lse, full.lse);
  b.add(full);
  EXPECT_EQ(b.out, full.out);
  EXPECT_EQ(b.lse, full.lse);
}

TEST(Merge, ExtremeLseMakeNoNan) {
  for (const float lse : {0.0f, 100.0f, -100.0f, 1e30f, -1e30f, 3e38f, -3e38f}) {
    for (const float other : {0.0f, 100.0f, -100.0f, 1e30f, -1e30f, 3e38f, -3e38f}) {
      State a;
      State b;
      a.out.assign(kDim, 1.0f);
      b.out.assign(kDim, 2.0f);
      a.lse = lse;
      b.lse = other;
      a.add(b);
      for (const float x : a.out) {
        ASSERT_GE(x, 1.0f);
        ASSERT_LE(x, 2.0f);
      }
      ASSERT_TRUE(std::isfinite(a.lse));
      ASSERT_GE(a.lse, std::max(lse, other));
    }
  }
}

TEST(Merge, EqualSidesShareEqually) {
  State a;
  State b;
  a.out.assign(kDim, 1.0f);
  b.out.assign(kDim, 3.0f);
  a.lse = b.lse = 2.0f;
  a.add(b);
  for (const float x : a.out) ASSERT_EQ(x, 2.0f);
  EXPECT_FLOAT_EQ(a.lse, 2.0f + std::log(2.0f));
}

// attend over a window and over what lies before it, merged, is attend over everything.
TEST(Merge, PartsOfACacheMergeIntoTheWhole) {
  const HeadShape shape{2, 2, kDim};
  const test::Tokens tokens(shape, 1500, 4);
  Cache cache(make_cache_config("k=nqkv,v=nqsym,recent=16", shape, 1, 1500));
  const SeqId seq = cache.open();
  ASSERT_EQ(append(cache, seq, 0, tokens, 0, 1500), Status::ok);
  ViewBuffers buffers;
  const KvView view = cache.view(0, {&seq, 1}, buffers);
  test::for_each_isa([&] {
    for (const std::int32_t window : {1, 100, 1100}) {
      AttendOptions newest = test::default_options(kDim);
      newest.window = window;
      test::QueryBatch batch = test::make_queries(shape, {1}, {1499}, 5);
      test::Result a = test::run_attend(view, batch, newest);
      const test::Result whole = test::run_attend(view, batch, test::default_options(kDim));
      batch.pos[0] = 1499 - window;
      const test::Result b = test::run_attend(view, batch, test::default_options(kDim));
      for (std::size_t h = 0; h < 2; ++h) {
        merge(a.out.data() + h * kDim, a.lse[h], b.out.data() + h * kDim, b.lse[h], kDim);
      }
      EXPECT_TRUE(test::close(a.out, whole.out, kDim, {3e-6, 3e-6}, "window"));
      EXPECT_TRUE(test::close(a.lse, whole.lse, 1, {3e-6, 1e-6}, "window"));
    }
  });
}

}  // namespace
}  // namespace kvcodec
