// Codebooks in a cache: the container's laws where tables grow, keys come back at their positions,
// and what the tables hold is what the rows and their weights say.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kvcodec/policy/builtin.hpp"
#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_cases.hpp"
#include "tests/support/codebook_tokens.hpp"

namespace kvcodec {
namespace {

using test::clustered_tokens;
using test::contents;
using test::entries_of;
using test::n_entries;
using test::state_of;
using test::Tokens;

constexpr std::int64_t kTokens = 600;
constexpr std::int64_t kPrompt = 400;

std::vector<test::CacheCase> codebook_cases() {
  return {
      {"k=codebook:t0.98,v=codebook:t0.95,rope=10000,recent=8", {8, 2, 64}},
      {"k=codebook:t0.98:head,v=codebook:t0.95:head,rope=10000,sink=4,recent=1,page=256",
       {8, 2, 64}},
      {"k=codebook:t0.98:norope,v=codebook:t0.95:first,sink=3,recent=20,page=256", {4, 1, 80}},
      {"k=codebook:t0.98,v=codebook:t0.95,rope=10000,recent=0,flush=128,rollback=5", {4, 2, 64}},
      {"k=codebook:t0.98,v=codebook:t0.95,policy=spindle:r0.5:w16,rope=500000,sink=4,recent=8",
       {8, 2, 64}},
      {"k=codebook:t0.98:head,v=codebook:t0.95:head,policy=spindle:r0.4:w16,rope=10000,page=256",
       {8, 2, 128}},
      {"k=codebook:t0.98:norope,v=nqsym,policy=spindle:r0.5:w16:shared", {8, 2, 64}},
      {"k=mean:n100+hadamard+nqkv,v=codebook:t0.95,policy=lagkv:l64:r0.5,recent=8", {4, 2, 64}},
  };
}

class CodebookLaws : public ::testing::TestWithParam<test::CacheCase> {
 protected:
  static Cache make(std::int64_t max_tokens = kTokens, std::int32_t max_sequences = 1) {
    return GetParam().make(max_tokens, max_sequences);
  }

  static void fill(Cache& cache, SeqId seq, const Tokens& tokens, std::int64_t first,
                   std::int64_t end, std::vector<std::int64_t> sizes = {kTokens}) {
    for (std::size_t i = 0; first < end; ++i) {
      const std::int64_t n = std::min(end - first, sizes[i % sizes.size()]);
      ASSERT_EQ(append(cache, seq, 0, tokens, first, n), Status::ok);
      first += n;
    }
  }

  /// Hands over queries of the newest tokens and declares the prompt complete.
  static void end_prompt(Cache& cache, SeqId seq) {
    const HeadShape& shape = cache.config().shape;
    const std::int64_t n = cache.observed_rows(0);
    const std::vector<float> q =
        test::gauss_rows(n, std::int64_t{shape.n_q_heads} * shape.head_dim, 77);
    cache.observe(seq, 0, dense_rows(q.data(), n, shape.n_q_heads, shape.head_dim), 0.1f);
    cache.end_prompt(seq);
  }

  /// A sequence with the prompt and what follows.
  static SeqId open_full(Cache& cache, const Tokens& tokens,
                         const std::vector<std::int64_t>& sizes = {kTokens}) {
    const SeqId seq = cache.open();
    fill(cache, seq, tokens, 0, kPrompt, sizes);
    end_prompt(cache, seq);
    fill(cache, seq, tokens, kPrompt, kTokens, sizes);
    return seq;
  }

  static Side a_book(const Cache& cache) {
    return cache.config().layers[0].k.codec.as<Codebook>() != nullptr ? Side::key : Side::value;
  }
};

TEST_P(CodebookLaws, AppendInAnyChunksLeavesTheSameBytesAndTables) {
  const Tokens tokens = clustered_tokens(make().config(), kTokens, 1);
  std::vector<std::vector<std::byte>> states;
  for (const std::vector<std::int64_t>& sizes :
       {std::vector<std::int64_t>{kTokens}, {1}, {64}, {7, 130, 0, 51}}) {
    Cache cache = make();
    const SeqId seq = open_full(cache, tokens, sizes);
    states.push_back(contents(cache, seq));
    const CacheBytes bytes = cache.bytes();
    test::append_bytes(states.back(), &bytes, sizeof bytes);
    EXPECT_GT(n_entries(cache, seq, a_book(cache)), 12u);
    EXPECT_LT(n_entries(cache, seq, a_book(cache)), 800u) << "no rows are alike";
  }
  for (const auto& state : states) EXPECT_EQ(state, states[0]);
}

TEST_P(CodebookLaws, AttentionIsTheReferenceOverDecodedRows) {
  Cache cache = make(2 * kTokens, 2);
  const Tokens tokens = clustered_tokens(cache.config(), kTokens, 3);
  const Tokens others = clustered_tokens(cache.config(), kTokens, 5);
  const SeqId seqs[] = {open_full(cache, tokens), cache.open()};
  fill(cache, seqs[1], others, 0, 333, {100});
  ViewBuffers buffers;
  const KvView view = cache.view(0, seqs, buffers);
  const test::QueryBatch batch = test::make_queries(view.shape, {2, 33}, {kTokens - 1, 332}, 7);
  test::for_each_isa([&] {
    test::expect_matches_reference(view, batch, test::default_options(view.shape.head_dim),
                                   GetParam().plan);
  });
}

TEST_P(CodebookLaws, ForksShareTablesUntilOneGrows) {
  Cache cache = make(4 * kTokens, 3);
  const Tokens tokens = clustered_tokens(cache.config(), kTokens, 9);
  const Tokens others = clustered_tokens(cache.config(), kTokens, 11);
  const std::int64_t all_free = cache.free_pages(0);
  const SeqId parent = cache.open();
  fill(cache, parent, tokens, 0, kPrompt);
  end_prompt(cache, parent);
  const std::int64_t payload = cache.bytes().payload;
  const std::vector<std::byte> before = contents(cache, parent);
  const SeqId child = cache.fork(parent);
  EXPECT_EQ(cache.bytes().payload, payload) << "shared tables count once";
  EXPECT_EQ(cache.bytes(child).payload, cache.bytes(parent).payload);
  EXPECT_EQ(contents(cache, child), before);
  fill(cache, child, others, kPrompt, kTokens, {13});
  EXPECT_EQ(contents(cache, parent), before);
  const Side side = a_book(cache);
  EXPECT_GT(n_entries(cache, child, side), n_entries(cache, parent, side));
  const std::vector<std::byte> written = contents(cache, child);
  fill(cache, parent, tokens, kPrompt, kTokens, {13});
  EXPECT_EQ(contents(cache, child), written);
  // The parent is what it would be without a child.
  Cache alone = make();
  open_full(alone, tokens);
  EXPECT_EQ(contents(cache, parent), contents(alone, 0));
  cache.close(child);
  EXPECT_EQ(contents(cache, parent), contents(alone, 0));
  cache.close(parent);
  EXPECT_EQ(cache.free_pages(0), all_free);
  EXPECT_EQ(cache.bytes().total(), 0);
}

TEST_P(CodebookLaws, TruncateInTheWindowIsExactAndNeverBeyond) {
  Cache cache = make();
  const Tokens tokens = clustered_tokens(cache.config(), kTokens, 13);
  const Tokens wrong = clustered_tokens(cache.config(), kTokens, 15);
  const SeqId seq = cache.open();
  fill(cache, seq, tokens, 0, kPrompt);
  end_prompt(cache, seq);
  ViewBuffers buffers;
  const std::int64_t raw = cache.view(0, {&seq, 1}, buffers).recent[0].n_rows;
  // Fewer tokens than still fit into the window, so that none of them leaves it.
  const LayerConfig& layer = cache.config().layers[0];
  ASSERT_GT(raw, 0);
  const std::int64_t more = std::min<std::int64_t>(5, layer.n_recent + layer.flush_rows - 1 - raw);
  fill(cache, seq, wrong, kPrompt, kPrompt + more);
  ASSERT_EQ(cache.truncate(seq, kPrompt - std::min<std::int64_t>(raw, 3)), Status::ok);
  fill(cache, seq, tokens, kPrompt - std::min<std::int64_t>(raw, 3), kTokens, {2});
  Cache straight = make();
  open_full(straight, tokens);
  EXPECT_EQ(contents(cache, seq), contents(straight, 0));
  const std::vector<std::byte> before = state_of(cache);
  for (const std::int64_t n : {std::int64_t{0}, std::int64_t{100}, kTokens - 300}) {
    EXPECT_EQ(cache.truncate(seq, n), Status::cannot_truncate) << n;
  }
  EXPECT_EQ(state_of(cache), before);
}

TEST_P(CodebookLaws, AFailedCallChangesNothing) {
  Cache cache = make(450, 2);
  const Tokens tokens = clustered_tokens(cache.config(), kTokens, 17);
  const SeqId a = cache.open();
  const SeqId b = cache.open();
  fill(cache, a, tokens, 0, kPrompt);
  const std::vector<std::byte> early = state_of(cache);
  if (cache.observed_rows(0) > 0) {
    EXPECT_THROW(cache.end_prompt(a), invalid_argument);
    EXPECT_EQ(state_of(cache), early);
  }
  end_prompt(cache, a);
  const std::vector<std::byte> before = state_of(cache);
  EXPECT_EQ(append(cache, a, 0, tokens, kPrompt, 51), Status::out_of_pages);
  EXPECT_EQ(append(cache, b, 0, tokens, 0, 451), Status::out_of_pages);
  EXPECT_EQ(cache.try_append(a, 0, tokens.k_rows(0, 3), tokens.v_rows(0, 4)),
            Status::invalid_argument);
  EXPECT_EQ(state_of(cache), before);
  // What b could append would take more pages than are left.
  std::int64_t held = 0;
  while (held + 7 <= 450 && append(cache, b, 0, tokens, held, 7) == Status::ok) held += 7;
  const std::vector<std::byte> full = state_of(cache);
  EXPECT_EQ(append(cache, b, 0, tokens, held, 101), Status::out_of_pages);
  EXPECT_EQ(state_of(cache), full);
}

INSTANTIATE_TEST_SUITE_P(Plans, CodebookLaws, ::testing::ValuesIn(codebook_cases()),
                         test::name_of_case);

// ---- contents() itself: tables count ----

TEST(ContentsOfACache, TellTablesApart) {
  const HeadShape shape{1, 1, 64};
  std::vector<std::vector<std::byte>> all;
  for (const std::uint64_t seed : {1u, 3u}) {
    Cache cache(make_cache_config("k=f16,v=codebook:t0.9999,recent=0", shape, 1, 64));
    const SeqId seq = cache.open();
    Tokens tokens(shape, 64, 1);
    // Rows of one length: magnitudes and indices are those of any other seed.
    tokens.v = test::gauss_rows(64, 64, seed);
    for (std::int64_t t = 0; t < 64; ++t) {
      float* x = tokens.v.data() + t * 64;
      const double length = test::norm(x, 64);
      for (int c = 0; c < 64; ++c) x[c] = static_cast<float>(16.0 * x[c] / length);
    }
    ASSERT_EQ(append(cache, seq, 0, tokens, 0, 64), Status::ok);
    all.push_back(contents(cache, seq));
    ViewBuffers buffers;
    const KvView view = cache.view(0, {&seq, 1}, buffers);
    const std::byte* tile = view.format.v_tile(view.page_data(view.page_of(0, 0)), 0, 0).tile;
    all.emplace_back(tile, tile + 256);
  }
  EXPECT_EQ(all[1], all[3]) << "the same indices";
  EXPECT_NE(all[0], all[2]);
}

// ---- Keys come back at their positions ----

constexpr HeadShape kShape{8, 2, 64};

CacheConfig rope_config(const std::string& options, std::int64_t max_tokens = kTokens) {
  return make_cache_config("k=codebook:" + options + ",v=f16,rope=10000,recent=0", kShape, 1,
                           max_tokens);
}

// Every row is an entry of its own, so what is lost is the rounding of raw rows and of entries to
// f16, and f32 turning back and forth.
TEST(RopeOnRead, DecodedKeysAreTheKeysThatWereAppended) {
  for (const char* options : {"t0.9999", "t0.9999:head"}) {
    const CacheConfig config = rope_config(options, 40000);
    Cache cache(config);
    const SeqId seq = cache.open();
    const std::int64_t n = 4096;
    const Tokens tokens =
        test::rope_tokens(config, test::gauss_rows(n, 128, 19), test::gauss_rows(n, 128, 21));
    ASSERT_EQ(append(cache, seq, 0, tokens, 0, n), Status::ok);
    ViewBuffers buffers;
    const KvView view = cache.view(0, {&seq, 1}, buffers);
    for (std::int32_t head = 0; head < 2; ++head) {
      const test::HeadRows rows = test::decoded_rows(view, 0, head);
      ASSERT_EQ(std::ssize(rows.pos), n);
      double worst = 0.0;
      for (std::int64_t t = 0; t < n; ++t) {
        ASSERT_EQ(rows.pos[static_cast<std::size_t>(t)], t);
        const float* want = tokens.k.data() + t * 128 + head * 64;
        const double length = test::norm(want, 64);
        for (int c = 0; c < 64; ++c) {
          const double error = static_cast<double>(rows.k[static_cast<std::size_t>(t * 64 + c)]) -
                               static_cast<double>(want[c]);
          worst = std::max(worst, std::fabs(error) / length);
        }
      }
      // Entries, magnitudes and raw rows are rounded by 2^-11 of components that rarely reach half
      // of the length.
      EXPECT_LT(worst, 0x1p-11) << options;
    }
  }
}

/// 5 directions in turn at all positions, with lengths of their own.
Tokens repeated_tokens(const CacheConfig& config, std::int64_t n) {
  const std::vector<float> some = test::gauss_rows(5, 64, 23);
  test::Random random(25);
  std::vector<float> k;
  for (std::int64_t row = 0; row < n * 2; ++row) {
    const auto length = static_cast<float>(0.5 + random.uniform());
    for (int c = 0; c < 64; ++c) {
      k.push_back(length * some[static_cast<std::size_t>(row % 5 * 64 + c)]);
    }
  }
  return test::rope_tokens(config, k, k);
}

TEST(RopeOnRead, KeysThatAreAlikeBeforePositionEncodingShareAnEntry) {
  for (const char* options : {"t0.98", "t0.98:head", "t0.9995"}) {
    const CacheConfig config = rope_config(options);
    Cache cache(config);
    const SeqId seq = cache.open();
    ASSERT_EQ(append(cache, seq, 0, repeated_tokens(config, 512), 0, 512), Status::ok);
    EXPECT_EQ(n_entries(cache, seq, Side::key, 0), 5u) << options;
    EXPECT_EQ(n_entries(cache, seq, Side::key, 1), 5u) << options;
  }
  // The control: taken as they are, keys at different positions are not alike.
  Cache cache(rope_config("t0.98:norope"));
  const SeqId seq = cache.open();
  ASSERT_EQ(append(cache, seq, 0, repeated_tokens(cache.config(), 512), 0, 512), Status::ok);
  EXPECT_GT(n_entries(cache, seq, Side::key), 50u);
}

// ---- What the tables hold ----

/// Encoded rows of one side, heads one after the other, as the cache hands them to its table.
struct EncodedRows {
  std::vector<float> x;
  std::vector<std::int32_t> weights;
  std::vector<std::uint32_t> index;  ///< as stored
};

EncodedRows encoded_rows(const KvView& view, Side side, const Tokens& tokens,
                         const RopeTable* rope) {
  EncodedRows rows;
  const auto group = static_cast<unsigned>((1 << view.shape.gqa_group()) - 1);
  const std::vector<float>& from = side == Side::key ? tokens.k : tokens.v;
  const int d = view.shape.head_dim;
  for (std::int32_t head = 0; head < view.shape.n_kv_heads; ++head) {
    for (std::int64_t row = 0; row < view.encoded_rows(head); ++row) {
      const std::int32_t page = view.page_of(head, row);
      const auto slot = static_cast<int>(row % view.format.page_size);
      const std::int64_t at = std::int64_t{page} * view.format.page_size + slot;
      const std::int32_t pos = view.slot_pos[at];
      std::vector<float> x(static_cast<std::size_t>(d));
      for (int c = 0; c < d; ++c) {
        const auto i = static_cast<std::size_t>(pos * tokens.width() + head * d + c);
        x[static_cast<std::size_t>(c)] = to_f32(to_f16(from[i]));
      }
      if (rope != nullptr) rope->unrotate(pos, x.data());
      rows.x.insert(rows.x.end(), x.begin(), x.end());
      rows.weights.push_back(std::popcount(view.slot_mask[at] & group));
      const std::byte* base = view.page_data(page);
      const std::byte* tile = side == Side::key
                                  ? view.format.k_tile(base, slot / kTileRows, 0).tile
                                  : view.format.v_tile(base, slot / kTileRows, 0).tile;
      rows.index.push_back(test::book_of(view, side, head).index_of(tile, slot % kTileRows));
    }
  }
  return rows;
}

bool same_entries(const CodebookTable& table, const std::vector<f16>& got) {
  const std::size_t n =
      static_cast<std::size_t>(table.n_entries()) * static_cast<std::size_t>(table.head_dim());
  return got.size() == n && std::memcmp(got.data(), table.entries(), n * sizeof(f16)) == 0;
}

// GQA 4: a row counts as often as query heads keep it, all heads of the layer in one table.
TEST(GreedyCoverInCache, IsThatOfTheKeptRowsWithTheirWeights) {
  const std::int64_t n = 700;
  const CacheConfig config = make_cache_config(
      "k=codebook:t0.98,v=codebook:t0.95,policy=spindle:r0.5:w16,rope=10000", kShape, 1, n);
  Cache cache(config);
  const SeqId seq = cache.open();
  const Tokens tokens =
      test::rope_tokens(config, test::sphere_rows(2 * n, 27), test::sphere_rows(2 * n, 29));
  ASSERT_EQ(append(cache, seq, 0, tokens, 0, n), Status::ok);
  const std::vector<float> q = test::gauss_rows(16, 512, 31);
  cache.observe(seq, 0, dense_rows(q.data(), 16, 8, 64), 1.0f);
  cache.end_prompt(seq);
  ViewBuffers buffers;
  const KvView view = cache.view(0, {&seq, 1}, buffers);
  const RopeTable rope(config.rope_frequencies, static_cast<std::int32_t>(n));
  for (const Side side : test::kSides) {
    const EncodedRows rows = encoded_rows(view, side, tokens, side == Side::key ? &rope : nullptr);
    ASSERT_GT(rows.weights.size(), 600u);
    EXPECT_GT(*std::max_element(rows.weights.begin(), rows.weights.end()), 2);
    EXPECT_EQ(*std::min_element(rows.weights.begin(), rows.weights.end()), 1);
    const float theta = side == Side::key ? 0.98f : 0.95f;
    CodebookTable table(64, theta);
    std::vector<std::uint32_t> index(rows.weights.size());
    std::vector<float> magnitude(index.size());
    table.cover(std::ssize(index), rows.x.data(), rows.weights.data(), index.data(),
                magnitude.data());
    EXPECT_TRUE(same_entries(table, entries_of(cache, seq, side)));
    EXPECT_EQ(index, rows.index);
    // The control: without weights other rows become entries.
    CodebookTable flat(64, theta);
    flat.cover(std::ssize(index), rows.x.data(), nullptr, index.data(), magnitude.data());
    EXPECT_FALSE(same_entries(flat, entries_of(cache, seq, side)));
  }
}

// Every query head sees as many rows as the policy counts, not the same ones, and a row that several
// see is stored once.
TEST(GreedyCoverInCache, QueryHeadsSeeTheirOwnRows) {
  const std::int64_t n = 700;
  Cache cache(
      make_cache_config("k=codebook:t0.98,v=codebook:t0.95,policy=spindle:r0.5:w16,rope=10000,"
                        "sink=3,recent=16",
                        kShape, 1, n));
  const SeqId seq = cache.open();
  const Tokens tokens = clustered_tokens(cache.config(), n, 33);
  ASSERT_EQ(append(cache, seq, 0, tokens, 0, n), Status::ok);
  const std::vector<float> q = test::gauss_rows(16, 512, 35);
  cache.observe(seq, 0, dense_rows(q.data(), 16, 8, 64), 1.0f);
  cache.end_prompt(seq);
  ViewBuffers buffers;
  const KvView view = cache.view(0, {&seq, 1}, buffers);
  const std::int64_t counted = spindle_count(n - 3, 16, 0.5, 0.05, 0, 1);
  for (std::int32_t head = 0; head < 2; ++head) {
    const test::HeadRows all = test::decoded_rows(view, 0, head);
    std::vector<std::vector<std::int32_t>> seen;
    for (int g = 0; g < 4; ++g) {
      seen.push_back(all.seen_by(g, 64).pos);
      EXPECT_EQ(std::ssize(seen.back()), counted + 3 + 16);
    }
    EXPECT_NE(seen[0], seen[1]);
    EXPECT_LT(std::ssize(all.pos), 4 * (counted + 19)) << "shared rows stand once";
    EXPECT_GT(std::ssize(all.pos), counted + 19);
  }
}

// After the prompt: rows that have an entry take it, others extend the table, which never changes
// what it has.
TEST(DecodeTime, KnownRowsTakeTheirEntryAndNewOnesExtendTheTable) {
  const CacheConfig config = make_cache_config(
      "k=codebook:t0.98,v=codebook:t0.95,rope=10000,recent=4", kShape, 1, 2000, 2);
  Cache cache(config);
  std::vector<float> k = test::gauss_rows(2 * 256, 64, 37);
  std::vector<float> v = test::gauss_rows(2 * 256, 64, 39);
  const std::vector<float> known_k(k.begin(), k.begin() + 128 * 128);
  const std::vector<float> known_v(v.begin(), v.begin() + 128 * 128);
  k.insert(k.end(), known_k.begin(), known_k.end());  // tokens 256..383 repeat 0..127
  v.insert(v.end(), known_v.begin(), known_v.end());
  const std::vector<float> fresh = test::gauss_rows(2 * 128, 64, 41);
  k.insert(k.end(), fresh.begin(), fresh.end());
  v.insert(v.end(), fresh.begin(), fresh.end());
  const Tokens tokens = test::rope_tokens(config, k, v);
  const SeqId seq = cache.open();
  ASSERT_EQ(append(cache, seq, 0, tokens, 0, 260), Status::ok);
  cache.end_prompt(seq);
  const SeqId child = cache.fork(seq);
  std::vector<f16> before[2] = {entries_of(cache, seq, Side::key),
                                entries_of(cache, seq, Side::value)};
  EXPECT_EQ(before[0].size(), 512u * 64u) << "random rows are not alike";
  const std::int64_t payload = cache.bytes().payload;
  for (std::int64_t t = 260; t < 388; ++t) {
    ASSERT_EQ(append(cache, child, 0, tokens, t, 1), Status::ok);
  }
  for (const Side side : test::kSides) {
    const std::vector<f16> now = entries_of(cache, child, side);
    EXPECT_EQ(now.size(), before[static_cast<int>(side)].size()) << "no table has grown";
  }
  // So parent and child still share them: what came are 2 pages per head.
  EXPECT_LT(cache.bytes().payload, payload + 8192);
  for (std::int64_t t = 388; t < 512; ++t) {
    ASSERT_EQ(append(cache, child, 0, tokens, t, 1), Status::ok);
  }
  for (const Side side : test::kSides) {
    const std::vector<f16> now = entries_of(cache, child, side);
    const std::vector<f16>& old = before[static_cast<int>(side)];
    ASSERT_GT(now.size(), old.size());
    EXPECT_EQ(std::memcmp(now.data(), old.data(), old.size() * sizeof(f16)), 0);
    EXPECT_EQ(entries_of(cache, seq, side).size(), old.size()) << "the parent's is as it was";
  }
  EXPECT_GT(cache.bytes().payload, payload + 2 * 512 * 128) << "two tables each now";
}

TEST(CodebookRefusals, SayWhatIsWrong) {
  const auto refusal = [](const std::string& plan) {
    return test::message_of<invalid_argument>(
        [&] { Cache(make_cache_config(plan, kShape, 1, 9)); });
  };
  const auto unsupported_by = [](const std::string& plan) {
    return test::message_of<unsupported>([&] { Cache(make_cache_config(plan, kShape, 1, 9)); });
  };
  EXPECT_TRUE(test::contains(refusal("k=codebook,v=f16"),
                             {"layer 0 k", "codebook:t0.98", "rope_frequencies.size() = 0",
                              "head_dim / 2 = 32", "norope"}));
  CacheConfig config = make_cache_config("k=codebook,v=codebook", kShape, 1, 9);
  config.rope_frequencies.assign(31, 0.1);
  EXPECT_TRUE(test::contains(test::message_of<invalid_argument>([&] { Cache{config}; }),
                             {"rope_frequencies.size() = 31", "head_dim / 2 = 32"}));
  config.rope_frequencies.assign(32, std::numeric_limits<double>::quiet_NaN());
  EXPECT_TRUE(
      test::contains(test::message_of<invalid_argument>([&] { Cache{config}; }), {"frequencies"}));
  for (const std::string stage : {"hadamard+", "mean+", "mean+hadamard+"}) {
    EXPECT_TRUE(test::contains(unsupported_by("k=" + stage + "codebook,v=f16,rope=10000"),
                               {"layer 0 k", "codebook", "without a center and transforms"}));
    EXPECT_TRUE(test::contains(unsupported_by("k=f16,v=" + stage + "codebook"), {"layer 0 v"}));
  }
  // Heads that keep different rows cannot share scales with the codec on the other side.
  EXPECT_TRUE(test::contains(unsupported_by("k=nqkv:g128,v=codebook"), {"nqkv:g128", "scales"}));
  // Values need no positions, whatever their options say.
  Cache(make_cache_config("k=f16,v=codebook", kShape, 1, 9));
}

}  // namespace
}  // namespace kvcodec
