// What is left when memory runs out in the middle of a change: this binary lets any one allocation
// fail. The sequence is as before, or it can only be read and closed; others are untouched.
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>

#include "tests/support/attend_tools.hpp"
#include "tests/support/codebook_tokens.hpp"
#include "tests/support/codecs.hpp"

namespace {

/// Allocations of this thread until one fails; below 0: none will.
thread_local std::int64_t allocations_left = -1;

void* limited(std::size_t n, std::size_t alignment) {
  if (allocations_left >= 0 && allocations_left-- == 0) throw std::bad_alloc();
  void* p = nullptr;
  if (posix_memalign(&p, alignment, n == 0 ? 1 : n) != 0) throw std::bad_alloc();
  return p;
}

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t n) {
  return limited(n, alignof(std::max_align_t));
}
[[gnu::noinline]] void* operator new[](std::size_t n) {
  return limited(n, alignof(std::max_align_t));
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p, std::size_t) noexcept { std::free(p); }

namespace kvcodec {
namespace {

using test::append;
using test::contents;
using test::Tokens;

constexpr HeadShape kShape{4, 2, 64};
constexpr std::int64_t kPrompt = 200;
constexpr std::int64_t kTokens = 400;

class OutOfMemory : public ::testing::TestWithParam<std::string> {
 protected:
  OutOfMemory() : config_(make_cache_config(GetParam(), kShape, 1, 4 * kTokens, 3)) {}

  void observe(Cache& cache, SeqId seq) const {
    const std::int64_t n = cache.observed_rows(0);
    const std::vector<float> q = test::gauss_rows(n, 256, 5);
    cache.observe(seq, 0, dense_rows(q.data(), n, 4, 64), 0.1f);
  }

  /// What must hold after a failed call.
  void expect_sound(Cache& cache, SeqId seq, const std::vector<std::byte>& before) {
    if (contents(cache, seq) == before) return;
    ++n_broken_;
    EXPECT_EQ(append(cache, seq, 0, tokens_, 0, 70), Status::out_of_memory);
    EXPECT_THROW(cache.end_prompt(seq), std::bad_alloc);
    EXPECT_EQ(cache.truncate(seq, cache.n_tokens(seq) - 1), Status::cannot_truncate);
    ViewBuffers buffers;
    const KvView view = cache.view(0, {&seq, 1}, buffers);
    const test::QueryBatch batch = test::make_queries(kShape, {1}, {kTokens}, 3);
    test::expect_matches_reference(view, batch, test::default_options(64), GetParam());
  }

  /// Runs change(cache, seq) with the n-th allocation failing, for every n.
  template <class Prepare, class Change>
  void fail_everywhere(Prepare&& prepare, Change&& change) {
    Cache straight(config_);
    const SeqId whole = straight.open();
    prepare(straight, whole);
    ASSERT_TRUE(change(straight, whole));
    for (std::int64_t n = 0; n < 2000; ++n) {
      Cache cache(config_);
      const std::int64_t all_free = cache.free_pages(0);
      const SeqId other = cache.open();
      prepare(cache, other);
      const SeqId seq = cache.fork(other);
      const std::vector<std::byte> before = contents(cache, seq);
      allocations_left = n;
      const bool done = change(cache, seq);
      const bool none_failed = allocations_left >= 0;
      allocations_left = -1;
      EXPECT_EQ(contents(cache, other), before) << n;
      if (done) {
        EXPECT_EQ(contents(cache, seq), contents(straight, whole)) << n;
      } else {
        expect_sound(cache, seq, before);
      }
      cache.close(seq);
      EXPECT_EQ(contents(cache, other), before) << n;
      cache.close(other);
      EXPECT_EQ(cache.free_pages(0), all_free) << n;
      if (none_failed) return;
    }
    ADD_FAILURE() << "more allocations than expected";
  }

  CacheConfig config_;
  Tokens tokens_ = test::clustered_tokens(config_, kTokens, 7);
  int n_broken_ = 0;
};

TEST_P(OutOfMemory, InAppend) {
  const auto prepare = [&](Cache& cache, SeqId seq) {
    ASSERT_EQ(append(cache, seq, 0, tokens_, 0, kPrompt), Status::ok);
    observe(cache, seq);
    cache.end_prompt(seq);
  };
  fail_everywhere(prepare, [&](Cache& cache, SeqId seq) {
    return append(cache, seq, 0, tokens_, kPrompt, 150) == Status::ok;
  });
  EXPECT_GT(n_broken_, 0) << "no allocation in the middle of a change";
}

TEST_P(OutOfMemory, AtTheEndOfThePrompt) {
  const auto prepare = [&](Cache& cache, SeqId seq) {
    ASSERT_EQ(append(cache, seq, 0, tokens_, 0, kPrompt), Status::ok);
    observe(cache, seq);
  };
  fail_everywhere(prepare, [&](Cache& cache, SeqId seq) {
    try {
      cache.end_prompt(seq);
      return true;
    } catch (const std::bad_alloc&) {
      return false;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(
    Plans, OutOfMemory,
    ::testing::Values("k=codebook:t0.98,v=codebook:t0.95,rope=10000,recent=8",
                      "k=codebook:t0.98,v=codebook:t0.95:head,policy=spindle:r0.5:w16,rope=10000",
                      "kv=nqkv,policy=lagkv:l64:r0.5,recent=8"),
    test::name_of_param);

}  // namespace
}  // namespace kvcodec
