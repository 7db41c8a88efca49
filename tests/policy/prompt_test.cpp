// Policies that judge a whole prompt at once: kvpress-lagkv, snapkv, keydiff, knorm.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kvcodec/policy/observe.hpp"
#include "tests/support/codecs.hpp"
#include "tests/support/policy_tools.hpp"

namespace kvcodec {
namespace {

using test::PolicyInput;
using Positions = std::vector<std::int64_t>;

constexpr int kDim = 64;

Positions range(std::int64_t begin, std::int64_t end) {
  Positions all(static_cast<std::size_t>(end - begin));
  std::iota(all.begin(), all.end(), begin);
  return all;
}

std::vector<double> lag_press(const std::string& options, const PolicyInput& in, std::int64_t n) {
  std::vector<double> score(static_cast<std::size_t>(n));
  KvpressLagKv::parse(options).scores(in.head_dim, n, in.k.data(), in.v.data(), score);
  return score;
}

TEST(KvpressLagKv, RanksEachPartitionAndKeepsBothEnds) {
  constexpr std::int64_t kTokens = 4 + 5 * 32 + 13;
  const PolicyInput in(kTokens, kDim, 51);
  const std::vector<double> rank = lag_press("l32", in, kTokens);
  const std::vector<double> cross = lag_press("l32:cross", in, kTokens);
  for (std::int64_t t = 0; t < kTokens; ++t) {
    const bool end = t < 4 || t >= 4 + 4 * 32;  // sinks; the last partition and 13 more
    EXPECT_EQ(rank[static_cast<std::size_t>(t)] == 1.0, end) << t;
    EXPECT_EQ(cross[static_cast<std::size_t>(t)] == 1.0, end) << t;
  }
  for (std::size_t first = 4; first < 4 + 4 * 32; first += 32) {
    std::vector<double> k(32);
    std::vector<double> v(32);
    const std::size_t at = first * kDim;
    lag_scores(kDim, 32, in.k.data() + at, in.k.data() + at + 32 * kDim, k.data());
    lag_scores(kDim, 32, in.v.data() + at, in.v.data() + at + 32 * kDim, v.data());
    double sum = 0.0;
    for (std::size_t t = 0; t < 32; ++t) {
      EXPECT_DOUBLE_EQ(cross[first + t], (k[t] + v[t]) / 2.0);
      sum += cross[first + t];
      const auto below = std::count_if(cross.begin() + static_cast<std::ptrdiff_t>(first),
                                       cross.begin() + static_cast<std::ptrdiff_t>(first) + 32,
                                       [&](double other) { return other < cross[first + t]; });
      EXPECT_EQ(rank[first + t], static_cast<double>(below) / 32.0);
    }
    EXPECT_NEAR(sum, 1.0, 1e-12);
  }
}

TEST(KvpressLagKv, ShortPromptsGetSinksAndARamp) {
  const PolicyInput in(200, kDim, 53);
  for (const std::int64_t n : {0, 1, 4, 5, 67}) {
    const std::vector<double> score = lag_press("l32", in, n);
    for (std::int64_t t = 0; t < n; ++t) {
      const double want = t < 4 ? 1.0 : static_cast<double>(t - 4) / static_cast<double>(n - 4);
      EXPECT_EQ(score[static_cast<std::size_t>(t)], want) << n << " " << t;
    }
  }
  EXPECT_NE(lag_press("l32", in, 68)[67], 63.0 / 64.0) << "68 = 4 + 2 * 32 is long enough";
  Positions want = range(0, 4);
  for (const std::int64_t t : range(41, 67)) want.push_back(t);
  EXPECT_EQ(test::kept_of(make_policy("kvpress-lagkv:l32:r0.45"), in.rows(0, 67, 0)), want);
}

TEST(KvpressLagKv, TiesGoToTheLowerPosition) {
  const PolicyInput in(4 + 3 * 32, kDim, 0, test::Input::constant);
  // Both partitions tie inside; 4 + 32 rows have score 1, 14 ranks 31/32, 30/32, ... are kept.
  const Positions kept = test::kept_of(make_policy("kvpress-lagkv:l32:r0.5"), in.rows(0, 100, 0));
  Positions want = range(0, 4 + 7);
  for (const std::int64_t t : range(36, 36 + 7)) want.push_back(t);
  for (const std::int64_t t : range(68, 100)) want.push_back(t);
  EXPECT_EQ(kept, want);
  // Fewer places than rows of score 1: the newest go.
  EXPECT_EQ(test::kept_of(make_policy("kvpress-lagkv:l32:r0.1"), in.rows(0, 100, 0)).back(), 73);
}

TEST(KvpressLagKv, RanksDoNotCollideInLongPartitions) {
  const PolicyInput in(3 * 1024, kDim, 57);
  std::vector<double> score = lag_press("l1024:s0", in, 3 * 1024);
  for (const std::ptrdiff_t first : {0, 1024}) {
    std::sort(score.begin() + first, score.begin() + first + 1024);
    for (std::ptrdiff_t i = 0; i < 1024; ++i) {
      ASSERT_EQ(static_cast<float>(score[static_cast<std::size_t>(first + i)]),
                static_cast<float>(i) / 1024.0f);
    }
  }
}

TEST(KeyDiff, FindsTheKeysThatPointElsewhere) {
  PolicyInput in(40, kDim, 61);
  for (std::int64_t t = 0; t < 40; ++t) {
    for (int c = 0; c < kDim; ++c) in.key(t, c) = 0.1f * in.key(t, c) + 1.0f;
  }
  for (int c = 0; c < kDim; ++c) {
    in.key(11, c) = -0.01f;                         // the opposite direction, short
    in.key(30, c) = c % 2 == 0 ? 100.0f : -100.0f;  // a right angle, long
  }
  EXPECT_EQ(test::kept_of(make_policy("keydiff:r0.025"), in.rows(0, 40, 0)), Positions{11});
  EXPECT_EQ(test::kept_of(make_policy("keydiff:r0.05"), in.rows(0, 40, 0)), (Positions{11, 30}));
  std::vector<double> score(40);
  keydiff_scores(kDim, 40, in.k.data(), score.data());
  EXPECT_NEAR(score[11], 1.0, 1e-3);
  EXPECT_NEAR(score[30], 0.0, 0.05) << "its own share of the anchor";
}

TEST(KeyDiff, LengthsOfKeysPlayNoRole) {
  PolicyInput in(50, kDim, 67);
  std::vector<double> before(50);
  std::vector<double> after(50);
  keydiff_scores(kDim, 50, in.k.data(), before.data());
  for (std::int64_t t = 0; t < 50; ++t) {
    for (int c = 0; c < kDim; ++c) in.key(t, c) *= std::ldexp(1.0f, static_cast<int>(t % 30) - 15);
  }
  keydiff_scores(kDim, 50, in.k.data(), after.data());
  for (std::size_t t = 0; t < 50; ++t) EXPECT_NEAR(after[t], before[t], 1e-14);
}

TEST(KeyDiff, ZeroKeysAreDefined) {
  PolicyInput in(20, kDim, 71);
  for (int c = 0; c < kDim; ++c) in.key(3, c) = 0.0f;
  std::vector<double> score(20, 9.0);
  keydiff_scores(kDim, 20, in.k.data(), score.data());
  EXPECT_EQ(score[3], 0.0);
  for (const double s : score) EXPECT_TRUE(s >= -1.0 && s <= 1.0);
  const PolicyInput zero(20, kDim, 0, test::Input::zero);
  EXPECT_EQ(test::kept_of(make_policy("keydiff:r0.25"), zero.rows(0, 20, 0)), range(0, 5));
  // Two keys that cancel: no anchor.
  PolicyInput pair(2, kDim, 0, test::Input::constant);
  for (int c = 0; c < kDim; ++c) pair.key(1, c) = -pair.key(1, c);
  keydiff_scores(kDim, 2, pair.k.data(), score.data());
  EXPECT_EQ(score[0], 0.0);
  EXPECT_EQ(score[1], 0.0);
}

TEST(Knorm, KeepsTheShortestKeys) {
  PolicyInput in(30, kDim, 0, test::Input::constant);
  for (std::int64_t t = 0; t < 30; ++t) {
    for (int c = 0; c < kDim; ++c) in.key(t, c) *= static_cast<float>((t * 7) % 30 + 1);
  }
  EXPECT_EQ(test::kept_of(make_policy("knorm:r0.1"), in.rows(0, 30, 0)), (Positions{0, 13, 26}));
  const PolicyInput same(30, kDim, 0, test::Input::constant);
  EXPECT_EQ(test::kept_of(make_policy("knorm:r0.1"), same.rows(0, 30, 0)), range(0, 3));
}

TEST(PromptPolicies, KeepAtLeastOneRow) {
  const PolicyInput in(3, kDim, 73);
  for (const char* spec : {"kvpress-lagkv:r0.1", "keydiff:r0.1", "knorm:r0.1"}) {
    EXPECT_EQ(test::kept_of(make_policy(spec), in.rows(0, 3, 0)).size(), 1u) << spec;
  }
}

// Attention weights, pooled and averaged without any of the library's code.
Positions reference_snapkv(const PolicyInput& in, std::int64_t n, int pooling, std::size_t n_kept) {
  std::vector<double> score(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = i - pooling / 2; j <= i + pooling / 2; ++j) {
      for (int g = 0; j >= 0 && j < n && g < in.gqa_group; ++g) {
        score[static_cast<std::size_t>(i)] +=
            static_cast<double>(in.observed[static_cast<std::size_t>(g * n + j)]);
      }
    }
  }
  Positions order = range(0, n);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return score[static_cast<std::size_t>(a)] > score[static_cast<std::size_t>(b)];
  });
  order.resize(n_kept);
  std::sort(order.begin(), order.end());
  return order;
}

TEST(SnapKv, KeepsTheLargestPooledWeights) {
  const std::int64_t n = 200;
  PolicyInput in(n + 64, kDim, 79);
  in.gqa_group = 3;
  test::Random random(83);
  for (int i = 0; i < 3 * n; ++i) in.observed.push_back(static_cast<float>(random.uniform()));
  for (const int pooling : {1, 5, 7}) {
    for (const auto& [window, ratio, n_kept] :
         {std::tuple{64, "0.5", 68}, {16, "0.3", 48}, {64, "1", 200}, {64, "0.2", 0}}) {
      const AnyPolicy policy = make_policy("snapkv:r" + std::string(ratio) + ":w" +
                                           std::to_string(window) + ":p" + std::to_string(pooling));
      EXPECT_EQ(policy.lookahead_rows(), window);
      EXPECT_EQ(policy.observed_rows(), window);
      EXPECT_EQ(test::kept_of(policy, in.rows(0, n, window)),
                reference_snapkv(in, n, pooling, static_cast<std::size_t>(n_kept)))
          << pooling << " " << window;
    }
  }
}

TEST(SnapKv, TheDivisorIsTheSameAtTheBorders) {
  PolicyInput in(20, kDim, 1);
  in.observed.assign(16, 4.0f);
  std::vector<double> score(16);
  SnapKv::parse("w4:p5").scores(1, 16, in.observed.data(), score.data());
  EXPECT_DOUBLE_EQ(score[0], 0.6);
  EXPECT_DOUBLE_EQ(score[1], 0.8);
  EXPECT_DOUBLE_EQ(score[2], 1.0);
  EXPECT_DOUBLE_EQ(score[15], 0.6);
  // Equal scores: positions 2 to 13 tie, the lowest of them stay.
  EXPECT_EQ(test::kept_of(make_policy("snapkv:w4:r0.45"), in.rows(0, 16, 4)), range(2, 7));
}

TEST(SnapKv, SaysWhatToCallIfNothingWasObserved) {
  const PolicyInput in(100, kDim, 1);
  const std::string text = test::message_of<invalid_argument>(
      [&] { (void)test::kept_of(make_policy("snapkv:w32"), in.rows(0, 68, 32)); });
  EXPECT_TRUE(test::contains(
      text, {"snapkv", "observe the newest 32 queries before the prompt is declared complete"}));
}

// A key that the last queries look for stays; without the observation it would not stand out.
TEST(SnapKv, KeepsWhatTheQuestionAsksFor) {
  const std::int64_t n = 300;
  const std::int64_t window = 16;
  PolicyInput in(n, kDim, 89);
  const std::vector<float> q(in.k.begin() + 123 * kDim, in.k.begin() + 124 * kDim);
  std::vector<float> queries;
  for (std::int64_t j = 0; j < window; ++j) queries.insert(queries.end(), q.begin(), q.end());
  std::vector<float> sums(static_cast<std::size_t>(n));
  observe_attention(kDim, window, queries.data(), n, in.k.data(), 0.5f, sums.data());
  in.observed.assign(sums.begin(), sums.begin() + (n - window));
  const AnyPolicy policy = make_policy("snapkv:w16:p1:r0.06");  // the window and two rows
  const Positions kept = test::kept_of(policy, in.rows(0, n - window, window));
  EXPECT_EQ(kept.size(), 2u);
  EXPECT_NE(std::find(kept.begin(), kept.end(), 123), kept.end());
}

TEST(PromptPolicies, OptionsAndTheirErrors) {
  EXPECT_EQ(KvpressLagKv::parse("").name(), "kvpress-lagkv:l128:r0.5");
  EXPECT_EQ(KvpressLagKv::parse("cross:s16:r0.3:l64").name(), "kvpress-lagkv:l64:r0.3:s16:cross");
  EXPECT_EQ(SnapKv::parse("").name(), "snapkv:r0.5:w64");
  EXPECT_EQ(SnapKv::parse("p7:w32").name(), "snapkv:r0.5:w32:p7");
  EXPECT_EQ(KeyDiff::parse("r0.25").name(), "keydiff:r0.25");
  EXPECT_EQ(Knorm::parse("").name(), "knorm:r0.5");
  for (const char* bad :
       {"kvpress-lagkv:s-1", "kvpress-lagkv:s", "kvpress-lagkv:l4", "kvpress-lagkv:Cross",
        "kvpress-lagkv:w1", "snapkv:w0", "snapkv:w1025", "snapkv:p4", "snapkv:p0", "snapkv:p65",
        "snapkv:r0", "snapkv::", "keydiff:r1.5", "keydiff:0.5", "keydiff:r0.5:x", "knorm:rnan",
        "knorm:l8"}) {
    const std::string spec = bad;
    const std::string text = test::message_of<invalid_argument>([&] { (void)make_policy(spec); });
    EXPECT_TRUE(test::contains(text, {"option = ", "allowed: "})) << spec;
  }
}

TEST(KeepLargest, OrdersNanLastAndTiesByPosition) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> score{kNan, 1.0, 2.0, 1.0, kNan, 2.0, -1.0};
  std::vector<KeepMask> keep(score.size());
  const auto kept = [&](std::int64_t n) {
    keep_largest(score, n, keep);
    Positions positions;
    for (std::size_t i = 0; i < keep.size(); ++i) {
      if (keep[i] == kKeptByAll) positions.push_back(static_cast<std::int64_t>(i));
    }
    return positions;
  };
  EXPECT_EQ(kept(-1), Positions{});
  EXPECT_EQ(kept(1), Positions{2});
  EXPECT_EQ(kept(3), (Positions{1, 2, 5}));
  EXPECT_EQ(kept(6), (Positions{0, 1, 2, 3, 5, 6}));
  EXPECT_EQ(kept(99), range(0, 7));
}

}  // namespace
}  // namespace kvcodec
