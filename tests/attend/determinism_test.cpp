// Law 7, bit for bit on one instruction set. For one view of a sequence, the result of one query
// token (its q and its position) is the same bits
//   - for any number of workers and any order in which an executor runs the work,
//   - alone or beside other sequences of the batch, in any order of sequences,
//   - whether the other query tokens of the sequence are in the same call or in others.
// It is not promised between views that hold the same rows differently (encoded or raw).
#include <gtest/gtest.h>

#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_cases.hpp"

namespace kvcodec {
namespace {

using test::make_queries;
using test::QueryBatch;
using test::Result;
using test::same_bits;
using test::Tokens;

struct Setup {
  std::string plan;
  HeadShape shape;
  Arithmetic arithmetic = Arithmetic::f32;
};

constexpr Arithmetic kInteger = Arithmetic::integer;

class Determinism : public ::testing::TestWithParam<Setup> {
 protected:
  static constexpr std::int64_t kLengths[] = {2100, 70, 1100};
  static constexpr std::int64_t kQueries[] = {4, 3, 35};

  Determinism() {
    for (std::size_t s = 0; s < 3; ++s) {
      seqs_.push_back(cache_.open());
      const Tokens tokens(shape_, kLengths[s], 1 + s);
      EXPECT_EQ(append(cache_, seqs_.back(), 0, tokens, 0, kLengths[s]), Status::ok);
    }
    view_ = cache_.view(0, seqs_, buffers_);
    batch_ = make_queries(shape_, {kQueries[0], kQueries[1], kQueries[2]},
                          {kLengths[0] - 1, kLengths[1] - 1, kLengths[2] - 1}, 9);
    options_ = test::default_options(shape_.head_dim);
    options_.window = 1500;
    options_.window_sinks = 3;
    options_.arithmetic = GetParam().arithmetic;
  }

  std::size_t out_per_token() const {
    return static_cast<std::size_t>(shape_.n_q_heads * shape_.head_dim);
  }

  /// Query tokens first .. first + n - 1 of sequence s, alone.
  QueryBatch some(std::size_t s, std::int64_t first, std::int64_t n) const {
    QueryBatch b;
    b.indptr = {0, n};
    const auto begin = static_cast<std::ptrdiff_t>(batch_.indptr[s] + first);
    b.pos.assign(batch_.pos.begin() + begin, batch_.pos.begin() + begin + n);
    const auto width = static_cast<std::ptrdiff_t>(out_per_token());
    b.q.assign(batch_.q.begin() + begin * width, batch_.q.begin() + (begin + n) * width);
    return b;
  }

  HeadShape shape_ = GetParam().shape;
  Cache cache_{make_cache_config(GetParam().plan, shape_, 1, 4000, 3)};
  std::vector<SeqId> seqs_;
  ViewBuffers buffers_;
  KvView view_;
  QueryBatch batch_;
  AttendOptions options_;
};

TEST_P(Determinism, AnyNumberOfWorkersAndAnyOrder) {
  ThreadPool two(2);
  ThreadPool three(3);
  const Executor backwards{nullptr, 2, [](void*, std::int64_t n, void* arg, Executor::Task fn) {
                             for (std::int64_t i = n - 1; i >= 0; --i) fn(arg, i, 1);
                           }};
  test::for_each_isa([&] {
    const Result want = test::run_attend(view_, batch_, options_);
    for (const Executor& executor : {two.executor(), three.executor(), backwards}) {
      for (int again = 0; again < 2; ++again) {
        const Result got = test::run_attend(view_, batch_, options_, executor);
        ASSERT_TRUE(same_bits(got.out, want.out, "out"));
        ASSERT_TRUE(same_bits(got.lse, want.lse, "lse"));
      }
    }
  });
}

TEST_P(Determinism, AloneOrInABatchChunkedOrNot) {
  test::for_each_isa([&] {
    const Result whole = test::run_attend(view_, batch_, options_);
    for (std::size_t s = 0; s < 3; ++s) {
      ViewBuffers buffers;
      const KvView alone = cache_.view(0, {&seqs_[s], 1}, buffers);
      for (const std::int64_t chunk : {std::int64_t{1}, std::int64_t{3}, kQueries[s]}) {
        Result joined;
        for (std::int64_t t = 0; t < kQueries[s]; t += chunk) {
          const Result part =
              test::run_attend(alone, some(s, t, std::min(chunk, kQueries[s] - t)), options_);
          joined.out.insert(joined.out.end(), part.out.begin(), part.out.end());
          joined.lse.insert(joined.lse.end(), part.lse.begin(), part.lse.end());
        }
        const auto first = static_cast<std::size_t>(batch_.indptr[s]);
        const std::size_t n = static_cast<std::size_t>(kQueries[s]);
        const std::vector<float> want(
            whole.out.begin() + static_cast<std::ptrdiff_t>(first * out_per_token()),
            whole.out.begin() + static_cast<std::ptrdiff_t>((first + n) * out_per_token()));
        const auto heads = static_cast<std::size_t>(shape_.n_q_heads);
        const std::vector<float> want_lse(
            whole.lse.begin() + static_cast<std::ptrdiff_t>(first * heads),
            whole.lse.begin() + static_cast<std::ptrdiff_t>((first + n) * heads));
        ASSERT_TRUE(
            same_bits(joined.out, want,
                      "sequence " + std::to_string(s) + " in chunks of " + std::to_string(chunk)));
        ASSERT_TRUE(same_bits(joined.lse, want_lse, "lse"));
      }
    }
  });
}

TEST_P(Determinism, OrderOfSequencesDoesNotMatter) {
  const SeqId reversed[] = {seqs_[2], seqs_[1], seqs_[0]};
  ViewBuffers buffers;
  const KvView view = cache_.view(0, reversed, buffers);
  const QueryBatch ones = make_queries(shape_, {1, 1, 1}, {2099, 69, 1099}, 3);
  QueryBatch turned = ones;
  for (std::size_t s = 0; s < 3; ++s) {
    std::copy_n(ones.q.begin() + static_cast<std::ptrdiff_t>(s * out_per_token()), out_per_token(),
                turned.q.begin() + static_cast<std::ptrdiff_t>((2 - s) * out_per_token()));
    turned.pos[2 - s] = ones.pos[s];
  }
  test::for_each_isa([&] {
    const Result a = test::run_attend(view_, ones, options_);
    const Result b = test::run_attend(view, turned, options_);
    for (std::size_t s = 0; s < 3; ++s) {
      const auto at = static_cast<std::ptrdiff_t>(s * out_per_token());
      const auto other = static_cast<std::ptrdiff_t>((2 - s) * out_per_token());
      const auto n = static_cast<std::ptrdiff_t>(out_per_token());
      const std::vector<float> x(a.out.begin() + at, a.out.begin() + at + n);
      const std::vector<float> y(b.out.begin() + other, b.out.begin() + other + n);
      ASSERT_TRUE(same_bits(x, y, "sequence " + std::to_string(s)));
    }
  });
}

INSTANTIATE_TEST_SUITE_P(
    Plans, Determinism,
    ::testing::Values(Setup{"k=nqkv,v=nqsym,recent=32,sink=4", {4, 2, 64}},
                      Setup{"k=int8,v=f16,recent=1", {7, 1, 80}},
                      Setup{"k=f32,v=bf16,recent=100,page=256", {16, 1, 64}},
                      Setup{"kv=nqkv:g128,recent=1", {2, 2, 64}},
                      Setup{"k=qjl:m256,v=nqkv:g64,recent=1", {4, 2, 64}},
                      Setup{"kv=int8,recent=1", {7, 1, 80}, kInteger},
                      Setup{"k=kivi:b2:g32,v=lm:b3", {16, 1, 64}, kInteger},
                      Setup{"k=qjl:m256:o8:fixed,v=nqkv:g64,recent=1", {4, 2, 64}, kInteger}),
    [](const auto& setup) { return test::test_name(setup.param.plan); });

// Threads take units one by one, so none is idle for longer than one unit: a split of one head.
TEST(Balance, ARaggedBatchIsCutIntoSplitsOfHeads) {
  const HeadShape shape{4, 2, 64};
  Cache cache(make_cache_config("kv=int8,recent=0", shape, 1, 4096, 3));
  constexpr std::int64_t kTokens[] = {64, 2560, 1024};
  std::vector<SeqId> seqs;
  for (const std::int64_t n : kTokens) {
    seqs.push_back(cache.open());
    const Tokens tokens(shape, n, 5);
    ASSERT_EQ(append(cache, seqs.back(), 0, tokens, 0, n), Status::ok);
  }
  ViewBuffers buffers;
  const KvView view = cache.view(0, seqs, buffers);
  const QueryBatch batch = make_queries(shape, {1, 1, 1}, {63, 2559, 1023}, 9);
  std::vector<std::int64_t> n_units;
  const Executor executor{&n_units, 2,
                          [](void* self, std::int64_t n, void* arg, Executor::Task fn) {
                            static_cast<std::vector<std::int64_t>*>(self)->push_back(n);
                            for (std::int64_t i = 0; i < n; ++i) fn(arg, i, 0);
                          }};
  test::run_attend(view, batch, test::default_options(64), executor);
  // Per head one unit for each 1,024 rows or part of them, and one for the rows that are not encoded;
  // sequences of at most 1,024 rows have one unit per head.
  EXPECT_EQ(n_units, std::vector<std::int64_t>{2 * 1 + 2 * (3 + 1) + 2 * 1});
}

}  // namespace
}  // namespace kvcodec
