// spindle: budgets over the layers, window scores, one selection per query head.
#include "kvcodec/policy/spindle.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kvcodec/policy/builtin.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

constexpr double kBeta = 0.05;

double mean_ratio(double r_c, std::int32_t n_layers) {
  double sum = 0.0;
  for (std::int32_t layer = 0; layer < n_layers; ++layer) {
    sum += spindle_ratio(r_c, kBeta, layer, n_layers);
  }
  return sum / n_layers;
}

TEST(SpindleBudget, MeanOverTheLayersIsTheRatio) {
  for (const std::int32_t n_layers : {1, 2, 7, 32, 80}) {
    for (const double r_c : {0.0, 0.01, 0.05, 0.051, 0.2, 0.39, 0.525, 0.53, 0.7, 0.95, 1.0}) {
      EXPECT_NEAR(mean_ratio(r_c, n_layers), r_c, 1e-12) << n_layers;
      for (std::int32_t layer = 0; layer < n_layers; ++layer) {
        const double ratio = spindle_ratio(r_c, kBeta, layer, n_layers);
        EXPECT_GE(ratio, std::min(r_c, kBeta) - 1e-12);
        EXPECT_LE(ratio, 1.0);
        if (layer > 0) {
          EXPECT_LE(ratio, spindle_ratio(r_c, kBeta, layer - 1, n_layers));
        }
      }
    }
  }
}

// The negative control: with the sign as printed the last layer's share is negative and the mean is
// something else.
TEST(SpindleBudget, ThePrintedSignIsWrong) {
  for (const double r_c : {0.53, 0.7, 0.95}) {
    const double bottom = 1.0 - 2.0 * r_c;
    EXPECT_LT(bottom, 0.0);
    EXPECT_GT(std::abs((1.0 + bottom) / 2.0 - r_c), 1e-2);
  }
  const double alpha = (1.0 + kBeta) / 2.0;
  EXPECT_NEAR(spindle_ratio(alpha, kBeta, 31, 32), spindle_ratio(alpha + 1e-9, kBeta, 31, 32),
              1e-8);
  EXPECT_GT(std::abs(spindle_ratio(alpha, kBeta, 31, 32) - (1.0 - 2.0 * alpha)), 0.05)
      << "the printed form would jump here";
}

TEST(SpindleBudget, CountsAndTheirEdges) {
  // r_c = 0.3125 of 128 rows: top 0.575, bottom 0.05.
  const SpindlePyramid p = SpindlePyramid::parse("r0.45");
  const std::vector<std::int64_t> counts = pyramid_counts(p, 160, 8);
  EXPECT_EQ(counts.size(), 8u);
  EXPECT_EQ(counts.front(), 73);
  EXPECT_EQ(counts.back(), 6);

  EXPECT_EQ(spindle_count(320, 32, 0.1, kBeta, 3, 32), 0) << "r l = window";
  EXPECT_EQ(spindle_count(320, 32, 0.05, kBeta, 3, 32), 0) << "r l < window";
  EXPECT_EQ(spindle_count(32, 32, 0.5, kBeta, 0, 32), 0) << "no context";
  EXPECT_EQ(spindle_count(10, 32, 0.5, kBeta, 0, 32), 0);
  for (const std::int32_t layer : {0, 31}) {
    EXPECT_EQ(spindle_count(1000, 32, 1.0, kBeta, layer, 32), 968);
    EXPECT_EQ(spindle_count(1000, 32, 0.06, kBeta, layer, 32), 28) << "r_c <= beta: uniform";
  }
  EXPECT_EQ(spindle_count(1000, 32, 0.4, kBeta, 0, 1), 368) << "one layer";
  // 0.29 * 100 is 28.999999999999996 in f64; 29 - 25 rows are meant.
  EXPECT_LT(0.29 * 100.0, 29.0);
  EXPECT_EQ(spindle_count(100, 25, 0.29, 0.1, 2, 8), 4);
}

TEST(SpindleBudget, PyramidKv) {
  EXPECT_EQ(pyramidkv_count(4096, 32, 2048, 0, 32), 3932);
  EXPECT_EQ(pyramidkv_count(4096, 32, 2048, 31, 32), 119);
  const SpindlePyramid p = SpindlePyramid::parse("cap2048");
  const std::vector<std::int64_t> counts = pyramid_counts(p, 20000, 32);
  const auto sum = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  EXPECT_NEAR(static_cast<double>(sum) / 32.0, 2016.0, 16.0) << "the mean up to integer division";
  for (const std::int32_t layer : {0, 5, 31}) {
    EXPECT_EQ(pyramidkv_count(2047, 32, 2048, layer, 32), 2015) << "below the capacity: all";
    EXPECT_EQ(pyramidkv_count(4031, 32, 2048, layer, 32), 2016) << "short: the same everywhere";
    EXPECT_EQ(pyramidkv_count(20, 32, 2048, layer, 32), 0);
  }
  EXPECT_NE(pyramidkv_layer_count(4031, 32, 2048, 0, 32), 2016);
  EXPECT_EQ(pyramidkv_count(4032, 32, 2048, 0, 32), pyramidkv_layer_count(4032, 32, 2048, 0, 32));
  EXPECT_EQ(pyramidkv_count(9000, 32, 2048, 0, 1), 2016) << "one layer";
}

TEST(SpindleScores, BothForms) {
  const std::vector<float> observed = {5.0f, 0.0f, 10.0f, 0.0f, 0.0f, 0.0f, 20.0f};
  std::vector<double> score(7);
  spindle_scores(SpindleScore::pooled, 7, 3, observed.data(), score.data());
  EXPECT_EQ(score, (std::vector<double>{3.0, 3.0, 3.0, 2.0, 6.0, 4.0, 4.0}))
      << "divided by 5 at the borders too";
  spindle_scores(SpindleScore::paper, 7, 3, observed.data(), score.data());
  EXPECT_EQ(score, (std::vector<double>{0.5, 0.0, 10.0 / 8.0, 0.0, 0.0, 0.0, 5.0}));
}

/// A prompt whose rows do not matter: only the observed attention does.
struct Prompt {
  Prompt(int group, std::int64_t n_rows, std::uint64_t seed)
      : observed(static_cast<std::size_t>(group * n_rows)) {
    test::Random random(seed);
    for (float& x : observed) x = static_cast<float>(std::exp(2.0 * random.gauss()));
    rows.head_dim = 64;
    rows.gqa_group = group;
    rows.layer = 2;
    rows.n_layers = 8;
    rows.n_rows = n_rows;
    rows.n_ahead = 32;
    rows.observed = observed.data();
  }
  std::vector<KeepMask> select(const SpindlePyramid& p) const {
    std::vector<KeepMask> keep(static_cast<std::size_t>(rows.n_rows), KeepMask{0x5555});
    p.select(rows, keep);
    return keep;
  }

  std::vector<float> observed;
  PolicyRows rows;
};

std::int64_t count_of(const std::vector<KeepMask>& keep, int head) {
  return std::count_if(keep.begin(), keep.end(), [&](KeepMask m) { return (m >> head & 1) != 0; });
}

TEST(SpindleSelect, EveryQueryHeadAsIfItHadItsOwnRows) {
  for (const char* options : {"r0.45", "r0.45:paper", "cap100"}) {
    const SpindlePyramid p = SpindlePyramid::parse(options);
    for (const int group : {1, 4, 7, 16}) {
      const Prompt prompt(group, 268, 11);
      const std::vector<KeepMask> keep = prompt.select(p);
      for (int head = 0; head < group; ++head) {
        Prompt repeated(1, 268, 1);
        std::copy_n(prompt.observed.begin() + head * 268, 268, repeated.observed.begin());
        const std::vector<KeepMask> own = repeated.select(p);
        EXPECT_EQ(count_of(own, 0), p.count(300, 2, 8));
        for (std::size_t a = 0; a < keep.size(); ++a) {
          ASSERT_EQ(keep[a] >> head & 1, own[a]) << options << " head " << head << " row " << a;
        }
      }
      for (const KeepMask mask : keep) ASSERT_EQ(mask >> (group - 1) >> 1, 0);
    }
  }
}

TEST(SpindleSelect, LargestScoresByBruteForce) {
  const SpindlePyramid p = SpindlePyramid::parse("r0.3");
  const Prompt prompt(2, 500, 12);
  const std::vector<KeepMask> keep = prompt.select(p);
  std::vector<double> score(500);
  for (int head = 0; head < 2; ++head) {
    spindle_scores(p.score, 500, 32, prompt.observed.data() + head * 500, score.data());
    for (std::size_t a = 0; a < 500; ++a) {
      std::int64_t better = 0;
      for (std::size_t b = 0; b < 500; ++b) {
        better += score[b] > score[a] || (score[b] == score[a] && b < a);
      }
      ASSERT_EQ((keep[a] >> head & 1) != 0, better < p.count(532, 2, 8)) << a;
    }
  }
}

TEST(SpindleSelect, TiesGoToTheLowerRowAndNanLast) {
  Prompt prompt(1, 268, 13);
  const SpindlePyramid p = SpindlePyramid::parse("r0.45:paper");
  const auto n = static_cast<std::size_t>(p.count(300, 2, 8));
  for (std::size_t a = 0; a < 268; ++a) {
    prompt.observed[a] = static_cast<float>(300 - a);  // score 1 everywhere
  }
  const std::vector<KeepMask> keep = prompt.select(p);
  for (std::size_t a = 0; a < 268; ++a) ASSERT_EQ(keep[a], a < n ? 1 : 0);
  prompt.observed[0] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<KeepMask> shifted = prompt.select(p);
  for (std::size_t a = 0; a < 268; ++a) ASSERT_EQ(shifted[a], a >= 1 && a <= n ? 1 : 0);
}

TEST(SpindleSelect, SharedTakesTheMeanOfTheGroup) {
  const SpindlePyramid shared = SpindlePyramid::parse("r0.45:shared");
  const Prompt prompt(4, 268, 14);
  const std::vector<KeepMask> keep = prompt.select(shared);
  Prompt mean(1, 268, 1);
  for (std::size_t a = 0; a < 268; ++a) {
    double sum = 0.0;
    for (std::size_t head = 0; head < 4; ++head) {
      sum += static_cast<double>(prompt.observed[head * 268 + a]);
    }
    mean.observed[a] = static_cast<float>(sum / 4.0);
  }
  const std::vector<KeepMask> own = mean.select(SpindlePyramid::parse("r0.45"));
  for (std::size_t a = 0; a < 268; ++a) ASSERT_EQ(keep[a], own[a] != 0 ? 0xf : 0) << a;
  // Heads left to themselves keep different rows, and more of them together.
  const std::vector<KeepMask> apart = prompt.select(SpindlePyramid::parse("r0.45"));
  EXPECT_GT(std::count_if(apart.begin(), apart.end(), [](KeepMask m) { return m != 0; }),
            shared.count(300, 2, 8) * 5 / 4);
}

TEST(SpindleSelect, Extremes) {
  const Prompt prompt(4, 268, 15);
  for (const KeepMask mask : prompt.select(SpindlePyramid::parse("r1"))) ASSERT_EQ(mask, 0xf);
  for (const KeepMask mask : prompt.select(SpindlePyramid::parse("r0.01"))) ASSERT_EQ(mask, 0);
  Prompt empty(4, 0, 16);
  empty.rows.observed = nullptr;
  EXPECT_NO_THROW(empty.select(SpindlePyramid{}));
}

TEST(SpindleSelect, RefusesBadArguments) {
  const SpindlePyramid p;
  const auto refused = [&](auto change) {
    Prompt prompt(4, 268, 17);
    change(prompt.rows);
    EXPECT_THROW(prompt.select(p), invalid_argument);
  };
  refused([](PolicyRows& r) { r.gqa_group = 0; });
  refused([](PolicyRows& r) { r.gqa_group = 17; });
  refused([](PolicyRows& r) { r.layer = 8; });
  refused([](PolicyRows& r) { r.layer = -1; });
  Prompt prompt(4, 268, 17);
  std::vector<KeepMask> keep(267);
  EXPECT_THROW(p.select(prompt.rows, keep), invalid_argument);
  prompt.rows.observed = nullptr;
  try {
    prompt.select(p);
    FAIL() << "nothing was observed";
  } catch (const invalid_argument& e) {
    EXPECT_NE(std::string(e.what()).find("observe the newest 32 queries"), std::string::npos);
  }
}

TEST(Spindle, OptionsAndNames) {
  const AnyPolicy usual = make_policy("spindle");
  EXPECT_EQ(usual.name(), "spindle:r0.4");
  EXPECT_EQ(usual.chunk_rows(), 0);
  EXPECT_EQ(usual.lookahead_rows(), 32);
  EXPECT_EQ(usual.observed_rows(), 32);
  EXPECT_TRUE(usual.per_query_head());
  ASSERT_NE(usual.as<SpindlePyramid>(), nullptr);
  EXPECT_EQ(usual.as<SpindlePyramid>()->beta, 0.05);
  for (const std::string name :
       {"spindle:r0.2:beta0.1:w64:paper:shared", "spindle:cap512:w8", "spindle:r0.29"}) {
    EXPECT_EQ(make_policy(name).name(), name);
  }
  EXPECT_EQ(make_policy("spindle:w64").lookahead_rows(), 64);
  for (const std::string bad :
       {"r0", "r1.1", "r", "rnan", "w0", "w65537", "beta1", "beta-0.1", "cap32", "cap20:w32",
        "cap512:r0.4", "cap512:beta0.1", "x", ":", "r0.4:", "Paper", "0.4"}) {
    EXPECT_THROW(SpindlePyramid::parse(bad), invalid_argument) << bad;
  }
}

}  // namespace
}  // namespace kvcodec
