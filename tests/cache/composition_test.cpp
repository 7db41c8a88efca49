// Policies, transforms, centers, windows and codecs together: what holds for each alone must hold
// for what a user combines. Every composition is checked for attention against float64 on every
// instruction set, for the same bits whatever runs beside it, and for the container's laws.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kvcodec/attend/attn_state.hpp"
#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_cases.hpp"
#include "tests/support/codebook_tokens.hpp"

namespace kvcodec {
namespace {

using test::contents;
using test::same_bits;
using test::Tokens;

constexpr std::int64_t kTokens = 700;
constexpr std::int64_t kPrompt = 560;

struct Composition {
  std::string plan;
  HeadShape shape;
  std::int32_t n_layers = 1;
  /// The same eviction and window over f32, where there is eviction.
  std::string bare = "";
};

void PrintTo(const Composition& c, std::ostream* out) { *out << c.plan; }

std::vector<Composition> compositions() {
  return {
      {"k=nqkv,v=nqsym,policy=lagkv:l64:r0.5,sink=4,recent=8",
       {8, 2, 64},
       1,
       "kv=f32,policy=lagkv:l64:r0.5,sink=4,recent=8"},
      {"k=qjl:m256,v=kivi:b2:g32,policy=lagkv:l128:r0.5,recent=1",
       {4, 2, 128},
       1,
       "kv=f32,policy=lagkv:l128:r0.5,recent=1"},
      {"kv=nqkv,policy=spindle:r0.5:w16,sink=2,recent=8",
       {8, 2, 64},
       2,
       "kv=f32,policy=spindle:r0.5:w16,sink=2,recent=8"},
      {"k=hadamard+lm:b4,v=hadamard:s7+lm:b4:rms,policy=snapkv:r0.4:w16,recent=8",
       {8, 2, 128},
       1,
       "kv=f32,policy=snapkv:r0.4:w16,recent=8"},
      {"k=mean:n100+kivi:b2:g32,v=mean:n64+kivi:b4:g64,recent=16", {4, 2, 80}},
      {"kv=fp8:row,policy=window:n300,sink=4,recent=10,page=128",
       {4, 1, 64},
       1,
       "kv=f32,policy=window:n300,sink=4,recent=10,page=128"},
      {"k=hadamard+rabitq:b4,v=int8,recent=20,sink=3", {7, 1, 96}},
      {"k=nvfp4,v=hadamard+wkv:b3:g32,recent=1,page=256", {2, 2, 128}},
      {"k=nqkv,v=nqsym,policy=lagkv:l64:r0.5,recent=8;0-1:kv=f16,policy=none;2-:k=kivi:b4:g32,"
       "v=hadamard+lm:b3,recent=40;3:kv=int8,policy=knorm:r0.3,flush=128",
       {4, 2, 64},
       4,
       "kv=f32,policy=lagkv:l64:r0.5,recent=8;0-1:policy=none;2-:recent=40;"
       "3:policy=knorm:r0.3,flush=128"},
      {"k=kivi:b2:g32,v=wkv:b2:g64:x0.58,rollback=20,recent=4", {4, 2, 64}},
      {"k=qjl:m512:o8:mo128,v=kivi:b2:g32,recent=0,flush=128,page=256", {4, 2, 128}},
      {"k=mean:n90+hadamard+lm:b3,v=mxfp4,policy=keydiff:r0.4,recent=8,rollback=9",
       {4, 2, 64},
       1,
       "kv=f32,policy=keydiff:r0.4,recent=8,rollback=9"},
      {"k=codebook:t0.9,v=kivi:b4:g32,policy=lagkv:l64:r0.5,rope=10000",
       {4, 2, 64},
       1,
       "kv=f32,policy=lagkv:l64:r0.5"},
  };
}

/// Those with a policy.
std::vector<Composition> evictions() {
  std::vector<Composition> all = compositions();
  std::erase_if(all, [](const Composition& c) { return c.bare.empty(); });
  return all;
}

/// Rows that f16 holds exactly, so that policies judge the same values whatever the raw type is.
Tokens exact_tokens(const HeadShape& shape, std::int64_t n, std::uint64_t seed) {
  Tokens tokens(shape, n, seed);
  for (std::vector<float>* x : {&tokens.k, &tokens.v}) {
    for (float& value : *x) value = to_f32(to_f16(value));
  }
  return tokens;
}

class Compositions : public ::testing::TestWithParam<Composition> {
 protected:
  static Cache make(const std::string& plan, std::int64_t max_tokens = kTokens,
                    std::int32_t max_sequences = 1) {
    const Composition& c = GetParam();
    return Cache(make_cache_config(plan, c.shape, c.n_layers, max_tokens, max_sequences));
  }
  static Cache make(std::int64_t max_tokens = kTokens, std::int32_t max_sequences = 1) {
    return make(GetParam().plan, max_tokens, max_sequences);
  }

  static void fill(Cache& cache, SeqId seq, const Tokens& tokens, std::int64_t first,
                   std::int64_t end, std::vector<std::int64_t> sizes = {kTokens}) {
    for (std::size_t i = 0; first < end; ++i) {
      const std::int64_t n = std::min(end - first, sizes[i % sizes.size()]);
      for (std::int32_t layer = 0; layer < cache.n_layers(); ++layer) {
        ASSERT_EQ(append(cache, seq, layer, tokens, first, n), Status::ok);
      }
      first += n;
    }
  }

  static void end_prompt(Cache& cache, SeqId seq) {
    const HeadShape& shape = cache.config().shape;
    for (std::int32_t layer = 0; layer < cache.n_layers(); ++layer) {
      const std::int64_t n = cache.observed_rows(layer);
      const std::vector<float> q =
          test::gauss_rows(n, std::int64_t{shape.n_q_heads} * shape.head_dim, 77);
      cache.observe(seq, layer, dense_rows(q.data(), n, shape.n_q_heads, shape.head_dim), 0.05f);
    }
    cache.end_prompt(seq);
  }

  static SeqId open_full(Cache& cache, const Tokens& tokens,
                         const std::vector<std::int64_t>& sizes = {kTokens}) {
    const SeqId seq = cache.open();
    fill(cache, seq, tokens, 0, kPrompt, sizes);
    end_prompt(cache, seq);
    fill(cache, seq, tokens, kPrompt, kTokens, sizes);
    return seq;
  }

  /// Positions that are there, by layer and KV head.
  static std::vector<std::vector<std::int32_t>> positions(const Cache& cache, SeqId seq) {
    std::vector<std::vector<std::int32_t>> all;
    for (std::int32_t layer = 0; layer < cache.n_layers(); ++layer) {
      ViewBuffers buffers;
      const KvView view = cache.view(layer, {&seq, 1}, buffers);
      for (std::int32_t head = 0; head < view.shape.n_kv_heads; ++head) {
        const test::HeadRows rows = test::decoded_rows(view, 0, head);
        for (int g = 0; g < view.shape.gqa_group(); ++g) {
          all.push_back(rows.seen_by(g, view.shape.head_dim).pos);
          std::sort(all.back().begin(), all.back().end());
        }
      }
    }
    return all;
  }
};

/// Attention through the Cache, transforms and all.
test::Result run_step(const Cache& cache, std::int32_t layer, std::span<const SeqId> seqs,
                      const test::QueryBatch& batch, const Executor& executor = {}) {
  const HeadShape& shape = cache.config().shape;
  Step step;
  step.seqs = seqs;
  step.indptr = batch.indptr;
  step.q = dense_rows(batch.q.data(), batch.n_tokens(), shape.n_q_heads, shape.head_dim);
  test::Result r;
  r.out.resize(batch.q.size());
  r.lse.resize(static_cast<std::size_t>(batch.n_tokens() * shape.n_q_heads));
  AttendWorkspace workspace;
  attend(cache, layer, step, r.out.data(), r.lse.data(), test::default_options(shape.head_dim),
         workspace, executor);
  return r;
}

/// The float64 reference of the same, in f64 from the decoded rows on.
test::Expected expected_step(const Cache& cache, std::int32_t layer, const KvView& view,
                             test::QueryBatch batch) {
  const HeadShape& shape = view.shape;
  const int d = shape.head_dim;
  const LayerConfig& config = cache.config().layers[static_cast<std::size_t>(layer)];
  const auto head_of = [&](std::int64_t row) {
    return static_cast<int>(row % shape.n_q_heads / shape.gqa_group());
  };
  for (std::int64_t row = 0; row < std::ssize(batch.q) / d; ++row) {
    config.k.transform.query(d, head_of(row), batch.q.data() + row * d);
  }
  test::Expected want = test::reference(view, batch, test::default_options(d));
  std::vector<float> out(static_cast<std::size_t>(d));
  for (std::int64_t row = 0; row < std::ssize(batch.q) / d; ++row) {
    double* x = want.out.data() + row * d;
    for (int c = 0; c < d; ++c) out[static_cast<std::size_t>(c)] = static_cast<float>(x[c]);
    config.v.transform.output(d, head_of(row), out.data());
    std::copy(out.begin(), out.end(), x);
  }
  return want;
}

TEST_P(Compositions, AttentionIsTheReferenceOverDecodedRows) {
  Cache cache = make(3 * kTokens, 3);
  const Tokens tokens = exact_tokens(GetParam().shape, kTokens, 1);
  const SeqId seqs[] = {open_full(cache, tokens), cache.open(), cache.open()};
  fill(cache, seqs[1], exact_tokens(GetParam().shape, 70, 3), 0, 70);
  fill(cache, seqs[2], exact_tokens(GetParam().shape, 333, 5), 0, 333, {100});
  const test::QueryBatch batch =
      test::make_queries(GetParam().shape, {2, 1, 35}, {kTokens - 1, 69, 332}, 7);
  for (std::int32_t layer = 0; layer < cache.n_layers(); ++layer) {
    ViewBuffers buffers;
    const KvView view = cache.view(layer, seqs, buffers);
    EXPECT_GT(view.encoded_rows(0), 0);
    const test::Expected want = expected_step(cache, layer, view, batch);
    test::for_each_isa([&] {
      const test::Result got = run_step(cache, layer, seqs, batch);
      test::expect_close(got, want, view.shape.head_dim, GetParam().plan);
    });
  }
}

TEST_P(Compositions, SameBitsForAnyThreadsAloneAndInABatch) {
  Cache cache = make(2 * kTokens, 2);
  const Tokens tokens = exact_tokens(GetParam().shape, kTokens, 9);
  const SeqId seqs[] = {cache.open(), cache.open()};
  fill(cache, seqs[0], exact_tokens(GetParam().shape, 333, 11), 0, 333);
  fill(cache, seqs[1], tokens, 0, kPrompt);
  end_prompt(cache, seqs[1]);
  fill(cache, seqs[1], tokens, kPrompt, kTokens);
  const test::QueryBatch batch =
      test::make_queries(GetParam().shape, {3, 2}, {332, kTokens - 1}, 13);
  test::QueryBatch second;
  second.indptr = {0, 2};
  const std::ptrdiff_t width = GetParam().shape.n_q_heads * GetParam().shape.head_dim;
  second.q.assign(batch.q.begin() + 3 * width, batch.q.end());
  ThreadPool three(3);
  for (std::int32_t layer = 0; layer < cache.n_layers(); ++layer) {
    test::for_each_isa([&] {
      const test::Result want = run_step(cache, layer, seqs, batch);
      const test::Result threads = run_step(cache, layer, seqs, batch, three.executor());
      EXPECT_TRUE(same_bits(threads.out, want.out, "3 threads"));
      EXPECT_TRUE(same_bits(threads.lse, want.lse, "3 threads, lse"));
      const test::Result alone = run_step(cache, layer, {seqs + 1, 1}, second);
      const std::vector<float> part(want.out.begin() + 3 * width, want.out.end());
      EXPECT_TRUE(same_bits(alone.out, part, "alone"));
    });
  }
}

class Evictions : public Compositions {};

TEST_P(Evictions, DoNotDependOnWhatComesAfterThem) {
  const Tokens tokens = exact_tokens(GetParam().shape, kTokens, 15);
  Cache bare = make(GetParam().bare);
  open_full(bare, tokens);
  const auto want = positions(bare, 0);
  EXPECT_LT(want.back().size(), static_cast<std::size_t>(kTokens));
  // Rotated rows are rounded after the rotation: f32 lets policies see what they were.
  const bool rotated = GetParam().plan.find("hadamard") != std::string::npos;
  std::string plan = GetParam().plan;
  if (rotated) plan = plan + ";raw=f32";
  Cache cache = make(plan);
  open_full(cache, tokens);
  EXPECT_EQ(positions(cache, 0), want);
}

TEST_P(Compositions, AppendInAnyChunksLeavesTheSameBytes) {
  const Tokens tokens = exact_tokens(GetParam().shape, kTokens, 17);
  std::vector<std::vector<std::byte>> states;
  for (const std::vector<std::int64_t>& sizes :
       {std::vector<std::int64_t>{kTokens}, {1}, {7, 130, 0, 51}}) {
    Cache cache = make();
    states.push_back(contents(cache, open_full(cache, tokens, sizes)));
    const CacheBytes bytes = cache.bytes();
    test::append_bytes(states.back(), &bytes, sizeof bytes);
  }
  for (const auto& state : states) EXPECT_EQ(state, states[0]);
}

// As many tokens as recent and rollback say can always be taken back, whatever came before.
TEST_P(Compositions, TokensOfTheWindowCanBeTakenBack) {
  const Tokens tokens = exact_tokens(GetParam().shape, kTokens, 19);
  const Tokens wrong = exact_tokens(GetParam().shape, kTokens, 21);
  Cache straight = make();
  open_full(straight, tokens);
  std::int64_t keep = kTokens;
  for (const LayerConfig& layer : straight.config().layers) {
    keep = std::min<std::int64_t>(keep, layer.n_recent + layer.rollback_rows);
  }
  Cache cache = make();
  const SeqId seq = cache.open();
  fill(cache, seq, tokens, 0, kPrompt, {50});
  end_prompt(cache, seq);
  fill(cache, seq, tokens, kPrompt, kTokens - keep);
  fill(cache, seq, wrong, kTokens - keep, kTokens, {3});
  ASSERT_EQ(cache.truncate(seq, kTokens - keep), Status::ok);
  fill(cache, seq, tokens, kTokens - keep, kTokens, {2});
  EXPECT_EQ(contents(cache, seq), contents(straight, 0));
}

TEST_P(Compositions, ForksDoNotDisturbEachOther) {
  const Tokens tokens = exact_tokens(GetParam().shape, kTokens, 23);
  const Tokens others = exact_tokens(GetParam().shape, kTokens, 25);
  Cache cache = make(4 * kTokens, 2);
  const std::int64_t all_free = cache.free_pages(0);
  const SeqId parent = cache.open();
  fill(cache, parent, tokens, 0, kPrompt);
  end_prompt(cache, parent);
  const std::vector<std::byte> before = contents(cache, parent);
  const SeqId child = cache.fork(parent);
  fill(cache, child, others, kPrompt, kTokens, {13});
  EXPECT_EQ(contents(cache, parent), before);
  const std::vector<std::byte> written = contents(cache, child);
  fill(cache, parent, tokens, kPrompt, kTokens, {17});
  EXPECT_EQ(contents(cache, child), written);
  Cache straight = make();
  open_full(straight, tokens);
  EXPECT_EQ(contents(cache, parent), contents(straight, 0));
  cache.close(parent);
  cache.close(child);
  EXPECT_EQ(cache.free_pages(0), all_free);
}

// Law 5: attention over the newest positions and over what lies before them, merged.
TEST_P(Compositions, SplitsMergeIntoTheWhole) {
  Cache cache = make();
  const SeqId seq = open_full(cache, exact_tokens(GetParam().shape, kTokens, 27));
  const HeadShape& shape = GetParam().shape;
  const AttendOptions all = test::default_options(shape.head_dim);
  for (std::int32_t layer = 0; layer < cache.n_layers(); ++layer) {
    ViewBuffers buffers;
    const KvView view = cache.view(layer, {&seq, 1}, buffers);
    test::for_each_isa([&] {
      for (const std::int32_t window : {1, 50, 400}) {
        AttendOptions newest = all;
        newest.window = window;
        test::QueryBatch batch = test::make_queries(shape, {1}, {kTokens - 1}, 29);
        test::Result a = test::run_attend(view, batch, newest);
        const test::Result whole = test::run_attend(view, batch, all);
        batch.pos[0] = kTokens - 1 - window;
        const test::Result b = test::run_attend(view, batch, all);
        for (std::int32_t h = 0; h < shape.n_q_heads; ++h) {
          merge(a.out.data() + h * shape.head_dim, a.lse[static_cast<std::size_t>(h)],
                b.out.data() + h * shape.head_dim, b.lse[static_cast<std::size_t>(h)],
                shape.head_dim);
        }
        const auto width = static_cast<std::size_t>(shape.head_dim);
        EXPECT_TRUE(test::close(a.out, whole.out, width, {5e-6, 5e-6}, "window"));
        EXPECT_TRUE(test::close(a.lse, whole.lse, 1, {5e-6, 1e-6}, "window"));
      }
    });
  }
}

std::string name_of(const ::testing::TestParamInfo<Composition>& c) {
  return std::to_string(c.index) + "_" + test::test_name(c.param.plan).substr(0, 60);
}

INSTANTIATE_TEST_SUITE_P(Plans, Compositions, ::testing::ValuesIn(compositions()), name_of);
INSTANTIATE_TEST_SUITE_P(Plans, Evictions, ::testing::ValuesIn(evictions()), name_of);

// What memory a composition takes is what its parts say: kept rows times the codec's size.
TEST(CompositionBytes, AreThoseOfTheKeptRows) {
  const HeadShape shape{2, 2, 128};
  const Tokens tokens = exact_tokens(shape, 8192, 31);
  const auto payload = [&](const std::string& plan) {
    Cache cache(make_cache_config(plan, shape, 1, 8192));
    const SeqId seq = cache.open();
    EXPECT_EQ(append(cache, seq, 0, tokens, 0, 8192), Status::ok);
    cache.end_prompt(seq);
    return static_cast<double>(cache.bytes(seq).payload);
  };
  const double whole = payload("kv=nqkv,recent=0");
  EXPECT_EQ(whole, 8192 * 2 * 2 * 128 * 4.25 / 8);
  EXPECT_NEAR(payload("kv=nqkv,recent=0,policy=lagkv:l128:r0.5") / whole, 0.5, 0.02);
  EXPECT_NEAR(payload("kv=nqkv,recent=0,policy=lagkv:l128:r0.25") / whole, 0.25, 0.02);
  EXPECT_NEAR(payload("k=qjl:m256,v=kivi:b2:g32,recent=0,policy=lagkv:l128:r0.5") / whole,
              0.5 * (2.125 + 3.0) / 8.5, 0.02);
}

}  // namespace
}  // namespace kvcodec
