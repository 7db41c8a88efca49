// Synthetic contexts: rows by formula, exact attention finds what is planted, plans lose what they must.
#include "src/eval/synthetic.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "kvcodec/core/error.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec::eval {
namespace {

using test::contains;
using test::message_of;

constexpr std::int64_t kLength = 2048;
constexpr std::size_t kDim = SyntheticContext::kShape.head_dim;

/// Of one task at one length, over all depths.
struct Total {
  std::int64_t right = 0, asked = 0;
  double mass = 0.0;
  double share() const { return static_cast<double>(right) / static_cast<double>(asked); }
};

Total total(const SyntheticLength& l, TaskKind task) {
  Total t;
  double parts = 0.0;
  for (const SyntheticScore& s : l.scores) {
    if (s.task != task) continue;
    t.right += s.right;
    t.asked += s.asked;
    t.mass += s.mass;
    parts += 1.0;
  }
  t.mass /= parts;
  return t;
}

std::vector<SyntheticResult> run(const std::vector<std::string>& plans,
                                 SyntheticOptions options = {}, const Executor& executor = {}) {
  if (options.lengths.size() > 1) options.lengths = {kLength};
  return run_synthetic(named_plans(plans), options, executor);
}

TEST(Synthetic, RowsDependOnNothingButTheirPosition) {
  const SyntheticContext context(kv_model("rope"), kLength, 3);
  std::vector<float> k(2 * 300 * kDim), v(k.size()), one_k(2 * kDim), one_v(2 * kDim);
  context.rows(100, 300, k.data(), v.data());
  for (const std::int64_t i : {0, 17, 299}) {
    context.rows(100 + i, 1, one_k.data(), one_v.data());
    for (std::size_t c = 0; c < kDim; ++c) {
      const std::size_t at = static_cast<std::size_t>(i) * kDim + c;
      ASSERT_EQ(one_k[c], k[at]);
      ASSERT_EQ(one_v[kDim + c], v[300 * kDim + at]);
    }
  }
  const SyntheticContext other(kv_model("rope"), kLength, 4);
  other.rows(100, 1, one_k.data(), one_v.data());
  EXPECT_NE(one_k[0], k[0]);
}

TEST(Synthetic, PairsAreNearDuplicatesAndFactsStandApart) {
  const SyntheticContext context(kv_model("iid"), kLength, 3);
  EXPECT_GT(context.duplicate_cosine(), 0.6);
  std::vector<std::vector<float>> keys;
  std::vector<float> k(2 * kDim), v(2 * kDim);
  for (const Planted& q : context.queries()) {
    if (q.kind != TaskKind::key_value) continue;
    context.rows(context.positions()[static_cast<std::size_t>(q.facts[0])], 1, k.data(), v.data());
    keys.emplace_back(k.begin(), k.begin() + kDim);
  }
  ASSERT_EQ(keys.size(), 64u);
  double dot = 0.0, square = 0.0;
  for (std::size_t c = 0; c < kDim; ++c) {
    dot += static_cast<double>(keys[3][c]) * static_cast<double>(keys[40][c]);
    square += static_cast<double>(keys[3][c]) * static_cast<double>(keys[3][c]);
  }
  EXPECT_NEAR(dot / square, context.duplicate_cosine(), 1e-5);
  auto positions = context.positions();
  std::sort(positions.begin(), positions.end());
  EXPECT_EQ(std::adjacent_find(positions.begin(), positions.end()), positions.end());
  EXPECT_LT(positions.back(), kLength - 128);
}

TEST(Synthetic, ExactAttentionFindsWhatIsPlantedInEveryModel) {
  for (const std::string model : {"rope", "iid", "outliers", "biased", "lognormal"}) {
    SyntheticOptions options;
    options.kv_model = model;
    const auto results = run({"kv=f16"}, options);
    ASSERT_EQ(results.size(), 2u);
    for (const SyntheticResult& r : results) {
      EXPECT_GE(total(r.lengths[0], TaskKind::needle).share(), 0.98) << model << r.name;
      EXPECT_GE(total(r.lengths[0], TaskKind::multi_needle).share(), 0.9) << model << r.name;
      EXPECT_GE(total(r.lengths[0], TaskKind::key_value).share(), 0.98) << model << r.name;
    }
    EXPECT_EQ(results[0].lengths[0].out_err_worst, 0.0);
    EXPECT_LT(results[1].lengths[0].out_err_worst, 0.02);
    // What the cache says of one position is what exact attention gives it.
    for (const TaskKind task : {TaskKind::needle, TaskKind::multi_needle, TaskKind::key_value}) {
      const Total exact = total(results[0].lengths[0], task);
      EXPECT_NEAR(total(results[1].lengths[0], task).mass, exact.mass, 2e-3) << model;
      EXPECT_GT(exact.mass, 0.9) << model;
    }
    const Total pairs = total(results[0].lengths[0], TaskKind::key_value);
    EXPECT_NEAR(pairs.mass, SyntheticContext::kShare, 0.01) << "by design";
    EXPECT_EQ(pairs.asked, 128);
  }
}

TEST(Synthetic, FewerBitsFindLessAndNaiveTwoBitsFail) {
  const auto results = run({"kv=int8", "kv=wkv:b3:g64:x1", "kv=wkv:b2:g64:x1",
                            "k=mean+hadamard+lm:b2,v=hadamard+lm:b2"});
  const auto share = [&](std::size_t i) {
    return total(results[i].lengths[0], TaskKind::key_value).share();
  };
  EXPECT_GE(share(1), 0.98);
  EXPECT_LT(share(3), 0.7);
  EXPECT_GT(share(4), share(3));
  for (std::size_t i = 2; i < 4; ++i) {
    EXPECT_GT(results[i].lengths[0].out_err_mean, results[i - 1].lengths[0].out_err_mean);
    EXPECT_LT(results[i].lengths[0].bytes, results[i - 1].lengths[0].bytes);
  }
  EXPECT_NEAR(results[1].lengths[0].payload_bits, 8.125 * (kLength - 64) / kLength, 0.01);
}

TEST(Synthetic, WhatIsEvictedHasNoMass) {
  const auto results = run({"kv=f16,policy=window:n128", "kv=f16,policy=snapkv:r0.5"});
  for (const TaskKind task : {TaskKind::needle, TaskKind::multi_needle, TaskKind::key_value}) {
    const Total gone = total(results[1].lengths[0], task);
    EXPECT_EQ(gone.right, 0);
    EXPECT_EQ(gone.mass, 0.0);
    const Total half = total(results[2].lengths[0], task);
    EXPECT_GT(half.share(), 0.1);
    EXPECT_LT(half.share(), 0.9);
  }
  EXPECT_LT(results[2].lengths[0].payload_bits, 9.0);
}

TEST(Synthetic, TheSameForAnyThreadsAndRepeatsAddUp) {
  SyntheticOptions options;
  options.contexts = 2;
  options.lengths = {1024};
  ThreadPool pool(3);
  std::int64_t last = 0;
  options.progress = [&](std::int64_t done, std::int64_t all) {
    EXPECT_GT(done, last);
    EXPECT_EQ(all, 2048);
    last = done;
  };
  const auto a = run({"kv=nqkv:g64", "kv=codebook:t0.9"}, options);
  EXPECT_EQ(last, 2048);
  options.progress = {};
  const auto b = run({"kv=nqkv:g64", "kv=codebook:t0.9"}, options, pool.executor());
  EXPECT_EQ(total(a[1].lengths[0], TaskKind::needle).asked, 2 * 64);
  for (std::size_t i = 0; i < a.size(); ++i) {
    ASSERT_TRUE(a[i].lengths[0].run);
    EXPECT_EQ(a[i].lengths[0].out_err_mean, b[i].lengths[0].out_err_mean);
    EXPECT_EQ(total(a[i].lengths[0], TaskKind::key_value).mass,
              total(b[i].lengths[0], TaskKind::key_value).mass);
  }
  options.contexts = 1;  // every context is another one
  EXPECT_NE(run({"kv=nqkv:g64"}, options)[1].lengths[0].out_err_mean, a[1].lengths[0].out_err_mean);
  options.codebook_tokens = 1023;
  EXPECT_FALSE(run({"kv=codebook:t0.9"}, options)[1].lengths[0].run);
}

TEST(Synthetic, RefusalsNameWhatIsAllowed) {
  const auto refusal = [](SyntheticOptions options) {
    return message_of<invalid_argument>(
        [&] { run_synthetic(named_plans({"kv=f16"}), options, {}); });
  };
  EXPECT_TRUE(contains(refusal({.kv_model = "x"}), {"\"x\"", "rope, iid, outliers"}));
  EXPECT_TRUE(contains(refusal({.lengths = {1000}}), {"length = 1000", "1024..1048576"}));
  EXPECT_TRUE(contains(refusal({.lengths = {}}), {"lengths"}));
  EXPECT_TRUE(contains(refusal({.contexts = 0}), {"contexts = 0", "1..1000"}));
}

}  // namespace
}  // namespace kvcodec::eval
