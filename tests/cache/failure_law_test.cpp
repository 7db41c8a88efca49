// Law 4: a call that fails leaves every byte, page number and counter as it was.
#include <gtest/gtest.h>

#include "tests/support/cache_cases.hpp"

namespace kvcodec {
namespace {

using test::CacheLaws;
using test::contains;
using test::message_of;
using test::state_of;
using test::Tokens;

TEST_P(CacheLaws, OutOfPagesChangesNothing) {
  const Tokens tokens(GetParam().shape, 2000, 1);
  Cache cache = GetParam().make(512, 2);
  const SeqId a = cache.open();
  const SeqId b = cache.open();
  ASSERT_EQ(append(cache, a, 0, tokens, 0, 500), Status::ok);
  // b gets what is left; then every append that needs a page fails as a whole.
  std::int64_t held = 0;
  bool failed = false;
  for (int i = 0; i < 60 && !failed; ++i) {
    const auto state = state_of(cache);
    const std::int64_t n = 37;
    const Status status = append(cache, b, 0, tokens, held, n);
    if (status == Status::ok) {
      held += n;
      continue;
    }
    failed = true;
    ASSERT_EQ(status, Status::out_of_pages);
    ASSERT_EQ(state_of(cache), state);
    const std::string message = message_of<out_of_pages>(
        [&] { cache.append(b, 0, tokens.k_rows(held, n), tokens.v_rows(held, n)); });
    EXPECT_TRUE(contains(message, {"n_tokens = 37", "sequence 1", "layer 0", "max_tokens = 512",
                                   std::to_string(held), "free pages"}));
    EXPECT_EQ(state_of(cache), state);
  }
  EXPECT_TRUE(failed);
  // Room made, the same call works, unless one sequence alone has reached max_tokens.
  cache.close(a);
  const Status after = held + 37 <= 512 ? Status::ok : Status::out_of_pages;
  EXPECT_EQ(append(cache, b, 0, tokens, held, 37), after);
}

// Copying a shared page needs a page: a truncated fork in a full cache.
TEST_P(CacheLaws, OutOfPagesWhenASharedPageMustBeCopied) {
  const Tokens tokens(GetParam().shape, 2000, 1);
  Cache cache = GetParam().make(512, 3);
  const SeqId a = cache.open();
  ASSERT_EQ(append(cache, a, 0, tokens, 0, 500), Status::ok);
  const std::int64_t cut = test::cut_length(cache, 140);
  const std::int64_t kept = test::can_cut(cache, a, cut) ? cut : 500;
  ASSERT_EQ(cache.truncate(a, kept), Status::ok);
  const SeqId b = cache.fork(a);
  const SeqId filler = cache.open();
  std::int64_t held = 0;
  while (append(cache, filler, 0, tokens, held, 8) == Status::ok) held += 8;
  ASSERT_GT(held, 0);
  std::int64_t appended = 0;
  for (int i = 0; i < 50; ++i) {
    const auto state = state_of(cache);
    const Status status = append(cache, b, 0, tokens, kept + appended, 8);
    if (status != Status::ok) {
      EXPECT_EQ(status, Status::out_of_pages);
      EXPECT_EQ(state_of(cache), state);
      break;
    }
    appended += 8;
  }
  EXPECT_LT(appended, 400);
}

INSTANTIATE_TEST_SUITE_P(Pairs, CacheLaws, ::testing::ValuesIn(test::cache_cases()),
                         test::name_of_case);

// Layers are appended one after the other. When one fails half-way, the layers done before keep
// their tokens, the failed one keeps its bytes, and truncate evens them out.
TEST(MultiLayer, FailureInTheMiddleOfAStep) {
  const HeadShape shape{1, 1, 64};
  const Tokens tokens(shape, 200, 1);
  Cache cache(make_cache_config("kv=f16,recent=1", shape, 2, 192, 3));
  const SeqId a = cache.open();
  const SeqId b = cache.open();
  const SeqId c = cache.open();
  EXPECT_EQ(cache.free_pages(0), 6);  // both layers share them: their pages have one size
  ASSERT_EQ(append(cache, a, 0, tokens, 0, 140), Status::ok);
  ASSERT_EQ(append(cache, a, 1, tokens, 0, 100), Status::ok);
  for (std::int32_t l = 0; l < 2; ++l) {
    ASSERT_EQ(append(cache, b, l, tokens, 0, 100), Status::ok);
    ASSERT_EQ(append(cache, c, l, tokens, 0, 40), Status::ok);
  }
  ASSERT_EQ(cache.free_pages(1), 1);
  ASSERT_EQ(append(cache, c, 0, tokens, 40, 60), Status::ok);
  const auto state = state_of(cache);
  ASSERT_EQ(append(cache, c, 1, tokens, 40, 60), Status::out_of_pages);
  EXPECT_EQ(state_of(cache), state);
  EXPECT_EQ(cache.n_tokens(c, 0), 100);
  EXPECT_EQ(cache.n_tokens(c, 1), 40);
  ASSERT_EQ(cache.truncate(c, 40), Status::ok);
  EXPECT_EQ(cache.n_tokens(c, 0), 40);
  cache.close(a);
  for (std::int32_t l = 0; l < 2; ++l) {
    ASSERT_EQ(append(cache, c, l, tokens, 40, 60), Status::ok);
    EXPECT_EQ(test::contents(cache, c, l), test::contents(cache, b, l));
  }
}

class Failures : public ::testing::Test {
 protected:
  Failures() : cache_(make_cache_config("kv=nqkv,recent=1,sink=2;1:kv=int8", shape_, 2, 256, 2)) {
    seq_ = cache_.open();
    for (std::int32_t l = 0; l < 2; ++l) {
      EXPECT_EQ(append(cache_, seq_, l, tokens_, 0, 200), Status::ok);
    }
    before_ = state_of(cache_);
  }
  ~Failures() override { EXPECT_EQ(state_of(cache_), before_); }

  AnyRows good() const { return tokens_.k_rows(0, 5); }
  void expect_refused(const AnyRows& k, const AnyRows& v, const std::vector<std::string>& parts) {
    EXPECT_EQ(cache_.try_append(seq_, 0, k, v), Status::invalid_argument);
    EXPECT_TRUE(
        contains(message_of<invalid_argument>([&] { cache_.append(seq_, 0, k, v); }), parts));
  }

  HeadShape shape_{2, 2, 64};
  Tokens tokens_{shape_, 300, 1};
  Cache cache_;
  SeqId seq_ = 0;
  std::vector<std::byte> before_;
};

TEST_F(Failures, BadRows) {
  AnyRows bad = good();
  bad.data = nullptr;
  expect_refused(bad, good(), {"Cache::append", " k "});
  expect_refused(good(), bad, {"Cache::append", " v "});
  bad = good();
  bad.n_tokens = -1;
  expect_refused(bad, bad, {"n_tokens = -1"});
  bad = good();
  bad.n_tokens = 4;
  expect_refused(good(), bad, {"v.n_tokens = 4", "k.n_tokens = 5"});
  bad = good();
  bad.head_stride = 63;
  expect_refused(bad, good(), {"head_stride = 63", "head_dim = 64"});
  bad = good();
  bad.token_stride = -1;
  expect_refused(good(), bad, {"token_stride = -1"});
  AnyRows none;
  none.head_stride = 64;
  EXPECT_EQ(cache_.try_append(seq_, 0, none, none), Status::ok);  // zero tokens are fine
}

TEST_F(Failures, BadSequencesAndLayers) {
  for (const SeqId seq : {-1, 1, 2, 1 << 30}) {
    EXPECT_EQ(cache_.try_append(seq, 0, good(), good()), Status::invalid_argument);
    EXPECT_FALSE(cache_.is_open(seq));
    const std::string name = "seq = " + std::to_string(seq);
    EXPECT_TRUE(contains(
        message_of<invalid_argument>([&] { cache_.append(seq, 0, good(), good()); }), {name}));
    EXPECT_TRUE(contains(message_of<invalid_argument>([&] { cache_.close(seq); }), {name}));
    EXPECT_TRUE(contains(message_of<invalid_argument>([&] { cache_.fork(seq); }), {name}));
    EXPECT_TRUE(contains(message_of<invalid_argument>([&] { cache_.n_tokens(seq); }), {name}));
    EXPECT_TRUE(contains(message_of<invalid_argument>([&] { cache_.bytes(seq); }), {name}));
    EXPECT_TRUE(contains(message_of<invalid_argument>([&] { cache_.has_clamped(seq); }), {name}));
    ViewBuffers buffers;
    EXPECT_THROW(cache_.view(0, {&seq, 1}, buffers), invalid_argument);
  }
  for (const std::int32_t layer : {-1, 2, 1 << 30}) {
    EXPECT_EQ(cache_.try_append(seq_, layer, good(), good()), Status::invalid_argument);
    const std::string name = "layer = " + std::to_string(layer);
    EXPECT_TRUE(
        contains(message_of<invalid_argument>([&] { cache_.append(seq_, layer, good(), good()); }),
                 {name, "0..1"}));
    EXPECT_TRUE(contains(message_of<invalid_argument>([&] { cache_.n_tokens(seq_, layer); }),
                         {name, "0..1"}));
    ViewBuffers buffers;
    EXPECT_THROW(cache_.view(layer, {&seq_, 1}, buffers), invalid_argument);
    EXPECT_EQ(cache_.free_pages(layer), 0);
  }
}

TEST_F(Failures, TooManySequences) {
  const SeqId second = cache_.open();
  EXPECT_TRUE(contains(message_of<out_of_pages>([&] { cache_.open(); }), {"max_sequences", "2"}));
  EXPECT_TRUE(contains(message_of<out_of_pages>([&] { cache_.fork(seq_); }), {"max_sequences"}));
  cache_.close(second);
}

TEST_F(Failures, MoreThanMaxTokens) {
  const AnyRows rows = tokens_.k_rows(0, 57);  // 200 + 57 > 256
  EXPECT_EQ(cache_.try_append(seq_, 1, rows, rows), Status::out_of_pages);
  AnyRows endless = good();
  endless.n_tokens = std::int64_t{1} << 62;
  EXPECT_EQ(cache_.try_append(seq_, 1, endless, endless), Status::out_of_pages);
}

}  // namespace
}  // namespace kvcodec
