// Policy "lagkv": the properties of the published method, a plain float64 reference, degenerate
// input, options.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kvcodec/cache/cache.hpp"
#include "kvcodec/codec/make_codec.hpp"
#include "tests/support/codecs.hpp"
#include "tests/support/policy_tools.hpp"

namespace kvcodec {
namespace {

using test::PolicyInput;
using Positions = std::vector<std::int64_t>;

constexpr int kDim = 64;

// The formulas of the paper, written once more and plainly. `divisor` is d - 1 there.
std::vector<double> reference_scores(int d, int lag, const float* rows, const float* next,
                                     int divisor) {
  std::vector<double> sigma;
  for (int t = 0; t < lag; ++t) {
    std::vector<double> z;
    for (int c = 0; c < d; ++c) {
      double low = std::numeric_limits<double>::infinity();
      double high = -low;
      for (int s = 0; s < lag; ++s) {
        low = std::min(low, static_cast<double>(next[s * d + c]));
        high = std::max(high, static_cast<double>(next[s * d + c]));
      }
      z.push_back((static_cast<double>(rows[t * d + c]) - low) / (high - low));
    }
    const double mean = std::accumulate(z.begin(), z.end(), 0.0) / d;
    double square = 0.0;
    for (const double x : z) square += (x - mean) * (x - mean);
    sigma.push_back(std::sqrt(square / divisor));
  }
  double sum = 0.0;
  for (const double s : sigma) sum += std::exp(s);
  for (double& s : sigma) s = std::exp(s) / sum;
  return sigma;
}

std::vector<double> scores_of(const PolicyInput& in, int lag, bool key = true) {
  std::vector<double> score(static_cast<std::size_t>(lag));
  const float* x = key ? in.k.data() : in.v.data();
  lag_scores(in.head_dim, lag, x, x + lag * in.head_dim, score.data());
  return score;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] / b[i] - 1.0));
  return worst;
}

TEST(LagKv, ScoresAreThoseOfTheFormulas) {
  for (const auto& [d, lag] : {std::pair{64, 8}, {80, 33}, {128, 64}, {256, 128}}) {
    for (const test::Input kind :
         {test::Input::gauss, test::Input::outlier, test::Input::lognormal}) {
      const PolicyInput in(2 * lag, d, 5, kind);
      const float* next = in.k.data() + lag * d;
      const std::vector<double> own = scores_of(in, lag);
      EXPECT_LT(largest_difference(own, reference_scores(d, lag, in.k.data(), next, d - 1)), 1e-12);
      // The negative control: the divisor of the biased deviation gives other scores.
      EXPECT_GT(largest_difference(own, reference_scores(d, lag, in.k.data(), next, d)), 1e-6);
    }
  }
}

TEST(LagKv, KeepsTheLargestSums) {
  const int lag = 32;
  const PolicyInput in(2 * lag, kDim, 9);
  for (const double weight : {0.0, 0.5, 1.0, 4.0}) {
    const AnyPolicy policy = make_policy("lagkv:l32:r0.25:w" + format_double(weight));
    std::vector<double> sum =
        reference_scores(kDim, lag, in.k.data(), in.k.data() + lag * kDim, kDim - 1);
    const std::vector<double> v =
        reference_scores(kDim, lag, in.v.data(), in.v.data() + lag * kDim, kDim - 1);
    for (std::size_t t = 0; t < sum.size(); ++t) sum[t] += weight * v[t];
    Positions order(lag);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return sum[static_cast<std::size_t>(a)] > sum[static_cast<std::size_t>(b)];
    });
    Positions want(order.begin(), order.begin() + 8);
    std::sort(want.begin(), want.end());
    EXPECT_EQ(test::kept_of(policy, in.rows(0, lag, lag)), want) << weight;
  }
}

TEST(LagKv, ScoresOfAPartitionSumToOnePerSide) {
  const PolicyInput in(256, kDim, 11, test::Input::outlier);
  for (const bool key : {true, false}) {
    const std::vector<double> score = scores_of(in, 128, key);
    EXPECT_NEAR(std::accumulate(score.begin(), score.end(), 0.0), 1.0, 1e-12);
  }
}

// Exact factors and shifts, so that nothing but the scores' own rounding remains.
TEST(LagKv, ScalingAndShiftingAChannelChangesNothing) {
  const int lag = 64;
  PolicyInput in(2 * lag, kDim, 13);
  const std::vector<double> before = scores_of(in, lag);
  for (float& x : in.k) x = std::round(x * 1024.0f) / 1024.0f;
  const std::vector<double> rounded = scores_of(in, lag);
  for (std::int64_t t = 0; t < in.n(); ++t) {
    for (int c = 0; c < kDim; ++c) {
      in.key(t, c) = in.key(t, c) * std::ldexp(1.0f, c % 9 - 4) + static_cast<float>(c % 5 - 2);
    }
  }
  EXPECT_LT(largest_difference(scores_of(in, lag), rounded), 1e-12);
  EXPECT_GT(largest_difference(rounded, before), 1e-9) << "the comparison sees no change at all";
  // A negative factor mirrors z to 1 - z, which is another row.
  for (std::int64_t t = 0; t < in.n(); ++t) in.key(t, 3) = -in.key(t, 3);
  EXPECT_GT(largest_difference(scores_of(in, lag), rounded), 1e-4);
}

TEST(LagKv, PermutationsActAsTheyShould) {
  const int lag = 64;
  const PolicyInput in(2 * lag, kDim, 17);
  const std::vector<double> before = scores_of(in, lag);
  const auto permuted_rows = [&](std::int64_t first) {
    PolicyInput out = in;
    for (int t = 0; t < lag; ++t) {  // 37 is prime to 64
      for (int c = 0; c < kDim; ++c) {
        out.key(first + t, c) = in.k[static_cast<std::size_t>((first + t * 37 % lag) * kDim + c)];
      }
    }
    return scores_of(out, lag);
  };
  EXPECT_EQ(permuted_rows(lag), before) << "the order in the successor plays no role";
  const std::vector<double> own = permuted_rows(0);
  for (std::size_t t = 0; t < lag; ++t) EXPECT_NEAR(own[t], before[t * 37 % lag], 1e-15);
  PolicyInput channels = in;
  for (std::int64_t t = 0; t < in.n(); ++t) {
    for (int c = 0; c < kDim; ++c) {
      channels.key(t, c) = in.k[static_cast<std::size_t>(t * kDim + c * 37 % kDim)];
    }
  }
  EXPECT_LT(largest_difference(scores_of(channels, lag), before), 1e-13);
}

TEST(LagKv, AChannelFarOutsideTheSuccessorKeepsARow) {
  const int lag = 64;
  for (std::int64_t planted = 0; planted < lag; planted += 7) {
    for (const bool key : {true, false}) {
      PolicyInput in(2 * lag, kDim, 19);
      const AnyPolicy one = make_policy("lagkv:l64:r0.016");  // one row of 64
      const Positions before = test::kept_of(one, in.rows(0, lag, lag));
      (key ? in.key(planted, 21) : in.value(planted, 21)) = 200.0f;
      EXPECT_EQ(test::kept_of(one, in.rows(0, lag, lag)), Positions{planted}) << key;
      ASSERT_EQ(before.size(), 1u);
    }
  }
}

// Channels without a scale are left out: the scores are those of the other channels alone.
TEST(LagKv, ConstantChannelsAreLeftOut) {
  const int lag = 32;
  PolicyInput wide(2 * lag, 80, 23);
  PolicyInput narrow(2 * lag, 64, 0);
  for (std::int64_t t = 0; t < wide.n(); ++t) {
    for (int c = 0; c < 64; ++c) narrow.key(t, c) = wide.key(t, c);
    for (int c = 64; c < 80; ++c) {  // anything in the partition, one value in its successor
      if (t >= lag) wide.key(t, c) = c % 2 == 0 ? 1.25f : 0.0f;
    }
  }
  EXPECT_LT(largest_difference(scores_of(wide, lag), scores_of(narrow, lag)), 1e-12);
}

TEST(LagKv, DegenerateInputGivesFiniteScoresAndTheRightCount) {
  const int lag = 32;
  const AnyPolicy policy = make_policy("lagkv:l32:r0.5");
  const auto check = [&](const PolicyInput& in, const char* what) {
    for (const bool key : {true, false}) {
      double sum = 0.0;
      for (const double s : scores_of(in, lag, key)) {
        ASSERT_TRUE(std::isfinite(s) && s >= 0.0) << what;
        sum += s;
      }
      EXPECT_NEAR(sum, 1.0, 1e-12) << what;
    }
    EXPECT_EQ(test::kept_of(policy, in.rows(0, lag, lag)).size(), 16u) << what;
  };
  for (const test::Input kind : {test::Input::zero, test::Input::constant, test::Input::ramp}) {
    const PolicyInput in(2 * lag, kDim, 1, kind);
    check(in, test::to_string(kind).c_str());
    Positions lowest(16);
    std::iota(lowest.begin(), lowest.end(), 0);
    EXPECT_EQ(test::kept_of(policy, in.rows(0, lag, lag)), lowest) << "all tie";
  }
  PolicyInput one_live(2 * lag, kDim, 29);
  PolicyInput tiny(2 * lag, kDim, 31);
  PolicyInput huge(2 * lag, kDim, 37);
  for (std::int64_t t = 0; t < 2 * lag; ++t) {
    for (int c = 0; c < kDim; ++c) {
      if (t >= lag && c > 0) one_live.key(t, c) = one_live.value(t, c) = 2.0f;
      if (t >= lag) tiny.key(t, c) = tiny.value(t, c) = t % 2 == 0 ? 0.0f : 1e-45f;
      if (t < lag) tiny.key(t, c) *= 5e37f;
      huge.key(t, c) = huge.value(t, c) = (t + c) % 3 == 0 ? 3.4e38f : -3.4e38f;
    }
  }
  check(one_live, "one channel with a scale");
  check(tiny, "the smallest scale, the largest rows");
  check(huge, "ranges beyond f32");
}

TEST(LagKv, LengthsFollowTheFormula) {
  for (const auto& [spec, sinks] : {std::pair{"lagkv:l64:r0.5", 16},
                                    {"lagkv:l100:r0.57", 16},
                                    {"lagkv:l8:r0.125", 0},
                                    {"lagkv:l96:r0.16666666666666666", 4},
                                    {"lagkv:l32:r1", 5}}) {
    const AnyPolicy any = make_policy(spec);
    const LagKv& p = *any.as<LagKv>();
    const std::int64_t lag = p.lag_size;
    for (std::int64_t n = 0; n <= sinks + 5 * lag; ++n) {
      std::int64_t want = n;
      if (n >= sinks + 2 * lag) {
        want = sinks + p.kept_per_partition() * ((n - sinks) / lag - 1) + lag + (n - sinks) % lag;
      }
      ASSERT_EQ(p.kept_rows(n, sinks), want) << spec << " " << n;
      const LagPartitions parts = lag_partitions(n, sinks, lag);
      ASSERT_EQ(parts.first + parts.count * lag + parts.n_tail, n);
    }
  }
  // The f64 product, rounded down: mathematically the first two are 57 and 29.
  EXPECT_EQ(kept_count(0.57, 100), 56);
  EXPECT_EQ(kept_count(0.29, 100), 28);
  EXPECT_EQ(kept_count(1 - 0.3, 700), 489);
  EXPECT_EQ(static_cast<int>(0.57f * 100.0f), 57) << "an f32 product would not tell";
}

// What a cache keeps of a sequence that is fed in chunks.
Positions positions_of(const Cache& cache, SeqId seq, std::int32_t head) {
  ViewBuffers buffers;
  const KvView view = cache.view(0, {&seq, 1}, buffers);
  Positions positions;
  const auto add = [&](const RawRows& raw) {
    for (std::int32_t i = 0; i < raw.n_rows; ++i) {
      positions.push_back(raw.pos != nullptr ? raw.pos[i] : raw.first_pos + i);
    }
  };
  add(view.sinks[head]);
  for (std::int64_t row = 0; row < view.encoded_rows(head); ++row) {
    const std::int64_t page = view.page_of(head, row);
    positions.push_back(view.slot_pos[page * view.format.page_size + row % view.format.page_size]);
  }
  add(view.kept[head]);
  add(view.recent[head]);
  return positions;
}

TEST(LagKv, AnyChunkingKeepsWhatOneShotKeeps) {
  constexpr std::int64_t kTokens = 500;
  constexpr std::int32_t kSink = 5;
  const AnyPolicy policy = make_policy("lagkv:l32:r0.3");
  const LagKv& lag = *policy.as<LagKv>();
  const PolicyInput in(kTokens, 2 * kDim, 41, test::Input::lognormal);  // two heads side by side
  CacheConfig config;
  config.shape = {2, 2, kDim};
  LayerConfig layer;
  layer.k.codec = layer.v.codec = make_codec("f32");
  layer.n_sink = kSink;
  layer.policy = policy;
  config.layers.push_back(layer);
  config.max_tokens = kTokens;
  std::vector<Positions> one_shot;
  for (int head = 0; head < 2; ++head) {
    PolicyInput own(kTokens, kDim, 0);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      for (int c = 0; c < kDim; ++c) {
        const auto at = static_cast<std::size_t>(t * 2 * kDim + head * kDim + c);
        own.key(t, c) = in.k[at];
        own.value(t, c) = in.v[at];
      }
    }
    const LagPartitions parts = lag_partitions(kTokens, kSink, lag.lag_size);
    const std::int64_t n_judged = parts.count * lag.lag_size;
    Positions want{0, 1, 2, 3, 4};
    for (const std::int64_t t : test::kept_of(policy, own.rows(kSink, n_judged, parts.n_tail))) {
      want.push_back(kSink + t);
    }
    for (std::int64_t t = kSink + n_judged; t < kTokens; ++t) want.push_back(t);
    one_shot.push_back(want);
  }
  ASSERT_NE(one_shot[0], one_shot[1]);
  test::Random random(43);
  for (int trial = 0; trial < 50; ++trial) {
    Cache cache(config);
    const SeqId seq = cache.open();
    const std::int64_t longest = 1 + random.below(150);
    for (std::int64_t t = 0; t < kTokens;) {
      const std::int64_t n = std::min(kTokens - t, 1 + random.below(longest));
      cache.append(seq, 0, dense_rows(in.k.data() + t * 2 * kDim, n, 2, kDim),
                   dense_rows(in.v.data() + t * 2 * kDim, n, 2, kDim));
      t += n;
      ASSERT_EQ(cache.n_kept(seq, 0, 0), lag.kept_rows(t, kSink));
    }
    for (std::int32_t head = 0; head < 2; ++head) {
      ASSERT_EQ(positions_of(cache, seq, head), one_shot[static_cast<std::size_t>(head)]);
    }
  }
}

TEST(LagKv, OptionsAndTheirErrors) {
  EXPECT_EQ(LagKv::parse("").name(), "lagkv:l128:r0.5");
  EXPECT_EQ(LagKv::parse("w0.5:r0.57:l1024").name(), "lagkv:l1024:r0.57:w0.5");
  EXPECT_EQ(LagKv::parse("r0.16666666666666666").keep_ratio, 1.0 / 6.0);
  for (const std::string bad : {"l7", "l65537", "l", "r0", "r1.01", "rnan", "r-0.5", "w-1", "w1001",
                                "x", "128", ":", "l128:", "r0.5 ", "L128"}) {
    const std::string text = test::message_of<invalid_argument>([&] { (void)LagKv::parse(bad); });
    EXPECT_TRUE(test::contains(text, {"lagkv: option = ", "allowed: l<lag size>"})) << bad;
  }
  const std::string text =
      test::message_of<invalid_argument>([] { (void)LagKv::parse("l8:r0.12"); });
  EXPECT_TRUE(test::contains(text, {"r * l = 0.96", "r = 0.12", "l = 8"}));
  EXPECT_EQ(LagKv::parse("l8:r0.125").kept_per_partition(), 1);
}

TEST(LagKv, RefusesRowsItCannotJudge) {
  const AnyPolicy policy = make_policy("lagkv:l32");
  const PolicyInput in(96, kDim, 3);
  std::vector<KeepMask> keep(32);
  const auto message = [&](PolicyRows rows, std::size_t n) {
    return test::message_of<invalid_argument>([&] { policy.select(rows, {keep.data(), n}); });
  };
  EXPECT_TRUE(test::contains(message(in.rows(0, 32, 31), 32), {"32 + 31", "lag_size = 32"}));
  EXPECT_TRUE(test::contains(message(in.rows(0, 31, 65), 31), {"31 + 65"}));
  EXPECT_TRUE(test::contains(message(in.rows(0, 32, 32), 31), {"keep.size() = 31", "n_rows = 32"}));
  PolicyRows odd = in.rows(0, 32, 32);
  odd.head_dim = 65;
  EXPECT_TRUE(test::contains(message(odd, 32), {"head_dim = 65"}));
}

}  // namespace
}  // namespace kvcodec
