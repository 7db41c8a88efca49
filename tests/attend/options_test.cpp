// Every option against the reference: windows, sinks, sink logits, soft cap, causal order.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_cases.hpp"

namespace kvcodec {
namespace {

using test::default_options;
using test::expect_matches_reference;
using test::make_queries;
using test::QueryBatch;
using test::Tokens;

constexpr float kInf = std::numeric_limits<float>::infinity();

class AttendOption : public ::testing::Test {
 protected:
  AttendOption() {
    seq_ = cache_.open();
    EXPECT_EQ(append(cache_, seq_, 0, tokens_, 0, 1300), Status::ok);
    short_ = cache_.open();
    EXPECT_EQ(append(cache_, short_, 0, tokens_, 0, 70), Status::ok);
    const SeqId seqs[] = {seq_, short_};
    view_ = cache_.view(0, seqs, buffers_);
    options_ = default_options(64);
  }

  /// Decode, a few and many query tokens.
  void check(const std::string& what) {
    test::for_each_isa([&] {
      expect_matches_reference(view_, make_queries(shape_, {1, 1}, {1299, 69}, 2), options_, what);
      expect_matches_reference(view_, make_queries(shape_, {37, 3}, {1299, 69}, 3), options_, what);
    });
  }

  HeadShape shape_{4, 2, 64};
  Tokens tokens_{shape_, 1300, 1};
  Cache cache_{make_cache_config("k=nqkv,v=int8,sink=4,recent=20", shape_, 1, 3000, 2)};
  SeqId seq_ = 0;
  SeqId short_ = 0;
  ViewBuffers buffers_;
  KvView view_;
  AttendOptions options_;
};

TEST_F(AttendOption, Window) {
  for (const std::int32_t window : {1, 19, 64, 65, 1000, 1299, 1300}) {
    options_.window = window;
    check("window " + std::to_string(window));
  }
}

TEST_F(AttendOption, WindowWithSinks) {
  for (const std::int32_t window : {1, 130}) {
    for (const std::int32_t sinks : {1, 4, 5, 69, 1300}) {
      options_.window = window;
      options_.window_sinks = sinks;
      check("window " + std::to_string(window) + ", sinks " + std::to_string(sinks));
    }
  }
  options_.window = 0;  // without a window they mean nothing
  check("sinks without a window");
}

TEST_F(AttendOption, ExtremeWindowsDoNotOverflow) {
  options_.window = std::numeric_limits<std::int32_t>::max();
  check("largest window");
  options_.window_sinks = std::numeric_limits<std::int32_t>::max();
  options_.window = 1;
  check("largest sinks");
}

TEST_F(AttendOption, SoftCap) {
  for (const float cap : {0.5f, 30.0f, 50.0f}) {
    options_.logits_soft_cap = cap;
    check("cap " + std::to_string(cap));
  }
}

TEST_F(AttendOption, SinkLogits) {
  const float sinks[] = {0.0f, -kInf, 25.0f, -30.0f};
  options_.sink_logits = sinks;
  check("sink logits");
  options_.window = 7;
  options_.window_sinks = 2;
  options_.logits_soft_cap = 3.0f;
  check("everything at once");
}

TEST_F(AttendOption, LargeAndSmallScales) {
  for (const float scale : {1e-6f, 1.0f, 8.0f}) {
    options_.sm_scale = scale;
    test::for_each_isa([&] {
      const QueryBatch batch = make_queries(shape_, {2, 2}, {1299, 69}, 4);
      const test::Result got = test::run_attend(view_, batch, options_);
      const test::Expected want = test::reference(view_, batch, options_);
      // Logits of several hundred carry an error of their own size times 2^-22.
      EXPECT_TRUE(test::close(got.out, want.out, 64, {1e-3, 1e-3}, "scale"));
      EXPECT_TRUE(test::close(got.lse, want.lse, 1, {1e-3, 1e-5}, "scale"));
    });
  }
}

// Query positions anywhere: before every row, in the middle, beyond the end.
TEST_F(AttendOption, PositionsOfQueriesAreFree) {
  QueryBatch batch = make_queries(shape_, {6, 2}, {1299, 69}, 5);
  batch.pos = {-1, 0, 3, 4, 700, 100000, -5, 2000000000};
  test::for_each_isa([&] {
    expect_matches_reference(view_, batch, options_, "positions");
    const test::Result got = test::run_attend(view_, batch, options_);
    for (std::size_t i = 0; i < 4 * 64; ++i) ASSERT_EQ(got.out[i], 0.0f);
    for (std::size_t i = 0; i < 4; ++i) ASSERT_EQ(got.lse[i], -kInf);
  });
}

TEST_F(AttendOption, EmptySequencesGiveZeroAndMinusInfinity) {
  Cache cache(make_cache_config("kv=nqkv", shape_, 1, 100, 3));
  const SeqId seqs[] = {cache.open(), cache.open()};
  ViewBuffers buffers;
  const KvView view = cache.view(0, seqs, buffers);
  const QueryBatch batch = make_queries(shape_, {1, 9}, {0, 8}, 6);
  const float sinks[] = {0.0f, -kInf, 1.5f, -2.0f};
  test::for_each_isa([&] {
    test::Result got = test::run_attend(view, batch, options_);
    for (const float x : got.out) ASSERT_EQ(x, 0.0f);
    for (const float x : got.lse) ASSERT_EQ(x, -kInf);
    AttendOptions with_sinks = options_;
    with_sinks.sink_logits = sinks;
    got = test::run_attend(view, batch, with_sinks);
    for (const float x : got.out) ASSERT_EQ(x, 0.0f);
    for (std::size_t i = 0; i < got.lse.size(); ++i) ASSERT_EQ(got.lse[i], sinks[i % 4]) << i;
  });
}

TEST_F(AttendOption, SequencesWithoutQueryTokensAreSkipped) {
  const SeqId seqs[] = {short_, seq_, short_};
  ViewBuffers buffers;
  const KvView view = cache_.view(0, seqs, buffers);
  test::for_each_isa([&] {
    expect_matches_reference(view, make_queries(shape_, {0, 2, 0}, {69, 1299, 69}, 7), options_,
                             "empty in between");
    expect_matches_reference(view, make_queries(shape_, {2, 0, 5}, {69, 1299, 69}, 8), options_,
                             "empty in the middle");
  });
}

}  // namespace
}  // namespace kvcodec
