// attend against float64 over the decoded rows: all codec pairs, shapes and instruction sets.
#include <gtest/gtest.h>

#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_cases.hpp"

namespace kvcodec {
namespace {

using test::default_options;
using test::expect_matches_reference;
using test::make_queries;
using test::QueryBatch;
using test::Tokens;

/// A cache with sequences of these lengths.
struct Batch {
  Cache cache;
  std::vector<SeqId> seqs;
  ViewBuffers buffers;
  KvView view;

  Batch(Cache made, const std::vector<std::int64_t>& lengths, std::uint64_t seed)
      : cache(std::move(made)) {
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      const Tokens tokens(cache.config().shape, lengths[s], seed + 10 * s);
      seqs.push_back(cache.open());
      EXPECT_EQ(append(cache, seqs.back(), 0, tokens, 0, lengths[s]), Status::ok);
    }
    view = cache.view(0, seqs, buffers);
  }
};

class AttendPairs : public ::testing::TestWithParam<test::CacheCase> {};

TEST_P(AttendPairs, DecodeAndManyQueriesOverARaggedBatch) {
  // More than one split, a partly filled tile, an empty sequence, one inside the sinks.
  const std::vector<std::int64_t> lengths = {1230, 0, 3, 333};
  Batch b(GetParam().make(2048, 4), lengths, 1);
  // A tile of which truncation left 18 rows or so, where rows are independent.
  const std::int64_t kept = test::cut_length(b.cache, 150);
  ASSERT_EQ(b.cache.truncate(b.seqs[3], kept), Status::ok);
  b.view = b.cache.view(0, b.seqs, b.buffers);
  const HeadShape& shape = GetParam().shape;
  const QueryBatch decode = make_queries(shape, {1, 1, 1, 1}, {1229, 0, 2, kept - 1}, 5);
  const QueryBatch many = make_queries(shape, {7, 2, 3, 34}, {1229, 1, 2, kept - 1}, 6);
  const AttendOptions options = default_options(shape.head_dim);
  test::for_each_isa([&] {
    expect_matches_reference(b.view, decode, options, "decode");
    expect_matches_reference(b.view, many, options, "many queries");
  });
}

INSTANTIATE_TEST_SUITE_P(Pairs, AttendPairs, ::testing::ValuesIn(test::cache_cases()),
                         test::name_of_case);

TEST(AttendShapes, GqaGroupsAndHeadSizes) {
  int i = 0;
  for (const std::int32_t group : {1, 2, 4, 7, 8, 16}) {
    for (const std::int32_t head_dim : {64, 80, 112, 128, 192, 256}) {
      const HeadShape shape{2 * group, 2, head_dim};
      const char* plans[] = {"k=nqkv:g64,v=nqsym:g64", "kv=f16", "kv=int8", "k=f32,v=bf16"};
      Batch b(Cache(make_cache_config(plans[i++ % 4] + std::string(",recent=3"), shape, 1, 512)),
              {200}, 7);
      const QueryBatch batch = make_queries(shape, {5}, {199}, 8);
      SCOPED_TRACE("group " + std::to_string(group) + ", head_dim " + std::to_string(head_dim));
      test::for_each_isa(
          [&] { expect_matches_reference(b.view, batch, default_options(head_dim), "shape"); });
    }
  }
}

// Every option variant of every codec, on both sides, at a head size that all of them take.
TEST(AttendVariants, EveryOption) {
  for (const std::string& spec : test::codec_specs()) {
    const HeadShape shape{8, 4, 64};
    Batch b(Cache(make_cache_config(test::plan_of(spec) + ",recent=1", shape, 1, 512)), {170}, 9);
    const QueryBatch batch = make_queries(shape, {3}, {169}, 10);
    test::for_each_isa([&] { expect_matches_reference(b.view, batch, default_options(64), spec); });
  }
}

// Rows of the query tokens given beside the cache == appended, where the storage is exact: with raw
// rows in f32 if the same rows are encoded either way, with codec f32 always.
TEST(AttendNew, OwnRowsEqualAppendThenAttend) {
  struct Case {
    std::string plan;
    std::int64_t n_new;
  };
  const HeadShape shape{6, 3, 96};
  const Tokens tokens(shape, 400, 11);
  for (const Case& c :
       {Case{"kv=nqkv:g32,raw=f32,recent=150,sink=2", 30},
        Case{"k=int8,v=nqsym:g32,raw=f32,recent=150", 3}, Case{"kv=f32,recent=10", 100}}) {
    Cache cache(make_cache_config(c.plan, shape, 1, 800, 2));
    const SeqId past = cache.open();
    const SeqId full = cache.open();
    ASSERT_EQ(append(cache, past, 0, tokens, 0, 400 - c.n_new), Status::ok);
    ASSERT_EQ(append(cache, full, 0, tokens, 0, 400), Status::ok);
    const QueryBatch batch = make_queries(shape, {c.n_new}, {399}, 12);
    QueryBatch with_rows = batch;
    const auto first = static_cast<std::ptrdiff_t>((400 - c.n_new) * tokens.width());
    with_rows.k_new.assign(tokens.k.begin() + first, tokens.k.end());
    with_rows.v_new.assign(tokens.v.begin() + first, tokens.v.end());
    ViewBuffers full_buffers;
    ViewBuffers past_buffers;
    const KvView full_view = cache.view(0, {&full, 1}, full_buffers);
    const KvView past_view = cache.view(0, {&past, 1}, past_buffers);
    const test::Expected want = test::reference(full_view, batch, default_options(96));
    test::for_each_isa([&] {
      test::expect_close(test::run_attend(full_view, batch, default_options(96)), want, 96,
                         c.plan + ", appended");
      test::expect_close(test::run_attend(past_view, with_rows, default_options(96)), want, 96,
                         c.plan + ", own rows");
    });
  }
}

}  // namespace
}  // namespace kvcodec
