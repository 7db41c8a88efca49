// The online softmax step on every instruction set.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "src/cpu/kernels.hpp"
#include "tests/support/isa_guard.hpp"

namespace kvcodec {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kHeadDim = 80;
constexpr std::uint64_t kAll = ~std::uint64_t{0};

/// State of one query and the tile of scores it meets.
struct Step {
  std::vector<float> scores = std::vector<float>(kTileRows);
  float m = -kInfinity;
  float l = 0.0f;
  std::vector<float> acc = std::vector<float>(kHeadDim);

  void run(std::uint64_t visible, float sm_scale = 1.0f, float soft_cap = 0.0f) {
    cpu::Ahead nothing;
    cpu::kernels().softmax_tile(1, kHeadDim, sm_scale, soft_cap, &visible, nothing, scores.data(),
                                &m, &l, acc.data());
  }
};

class Softmax : public testing::TestWithParam<std::string> {
 protected:
  test::IsaGuard guard_{GetParam()};
};

TEST_P(Softmax, FollowsTheDefinitionOverSeveralTiles) {
  std::mt19937 engine(11);
  std::normal_distribution<float> normal(0.0f, 30.0f);
  for (const float soft_cap : {0.0f, 5.0f, 50.0f}) {
    for (const std::uint64_t visible :
         {kAll, kAll >> 1, std::uint64_t{1} << 63, kAll << 17, std::uint64_t{0x5555aaaa0ff01234}}) {
      Step step;
      step.acc.assign(kHeadDim, 1.0f);
      double m = -INFINITY, l = 0.0, acc = 1.0;
      for (int tile = 0; tile < 5; ++tile) {
        std::vector<double> logits(kTileRows);
        double top = m;
        for (std::size_t r = 0; r < kTileRows; ++r) {
          step.scores[r] = normal(engine);
          const double x = 0.125 * double{step.scores[r]};
          logits[r] = soft_cap > 0.0f ? double{soft_cap} * std::tanh(x / double{soft_cap}) : x;
          if ((visible >> r & 1) != 0) top = std::max(top, logits[r]);
        }
        const double shrink = std::exp(m - top);
        l *= shrink;
        if (tile > 0) acc *= shrink;
        else acc = 0.0;  // exp(-inf)
        m = top;
        step.run(visible, 0.125f, soft_cap);
        for (std::size_t r = 0; r < kTileRows; ++r) {
          const double expected = (visible >> r & 1) != 0 ? std::exp(logits[r] - m) : 0.0;
          l += expected;
          EXPECT_NEAR(double{step.scores[r]}, expected, 6e-6 * expected) << "row " << r;
        }
        EXPECT_NEAR(double{step.m}, m, 1e-6 * std::abs(m) + 1e-7);
        EXPECT_NEAR(double{step.l}, l, 6e-6 * l);
        for (const float a : step.acc) EXPECT_NEAR(double{a}, acc, 2e-5 * acc);
      }
    }
  }
}

TEST_P(Softmax, QueryWithoutRowsKeepsItsStateBitForBit) {
  Step step;
  step.m = 1.2345f;
  step.l = 6.7f;
  step.acc.assign(kHeadDim, -0.0f);
  step.scores.assign(kTileRows, NAN);
  step.run(0);
  EXPECT_EQ(step.m, 1.2345f);
  EXPECT_EQ(step.l, 6.7f);
  for (const float a : step.acc) EXPECT_TRUE(a == 0.0f && std::signbit(a));
  for (const float s : step.scores) EXPECT_EQ(s, 0.0f);
  Step fresh;  // nothing seen yet: still nothing
  fresh.run(0);
  EXPECT_EQ(fresh.m, -kInfinity);
  EXPECT_EQ(fresh.l, 0.0f);
}

TEST_P(Softmax, InvisibleRowsDoNotCountWhateverTheyHold) {
  for (const float junk : {NAN, kInfinity, -kInfinity, 1e30f}) {
    Step step;
    for (std::size_t r = 0; r < kTileRows; ++r) step.scores[r] = r % 3 == 0 ? 0.5f : junk;
    std::uint64_t visible = 0;
    for (int r = 0; r < kTileRows; r += 3) visible |= std::uint64_t{1} << r;
    step.run(visible);
    EXPECT_EQ(step.m, 0.5f);
    EXPECT_EQ(step.l, 22.0f);
    for (std::size_t r = 0; r < kTileRows; ++r) {
      EXPECT_EQ(step.scores[r], r % 3 == 0 ? 1.0f : 0.0f) << "row " << r;
    }
  }
}

TEST_P(Softmax, NullMaskMeansAllRowsAndTheMaximumWeighsOne) {
  Step masked, open;
  for (std::size_t r = 0; r < kTileRows; ++r) {
    masked.scores[r] = open.scores[r] = 0.37f * static_cast<float>(r % 19);
  }
  masked.run(kAll);
  cpu::Ahead nothing;
  cpu::kernels().softmax_tile(1, kHeadDim, 1.0f, 0.0f, nullptr, nothing, open.scores.data(),
                              &open.m, &open.l, open.acc.data());
  EXPECT_EQ(masked.scores, open.scores);
  EXPECT_EQ(masked.l, open.l);
  EXPECT_EQ(open.scores[18], 1.0f);
}

TEST_P(Softmax, SmallerMaximumLeavesTheAccumulatorAlone) {
  Step step;
  step.m = 3.0f;
  step.l = 2.0f;
  step.acc.assign(kHeadDim, 0.1f);
  step.run(kAll);  // 64 scores of 0
  EXPECT_EQ(step.m, 3.0f);
  EXPECT_NEAR(step.l, 2.0f + 64.0f * std::exp(-3.0f), 1e-5f);
  for (const float a : step.acc) EXPECT_EQ(a, 0.1f);
}

TEST_P(Softmax, ExpIsAccurateAndVanishesFarDown) {
  double worst = 0.0;
  for (int tile = 0; tile < 1500; ++tile) {
    Step step;
    step.m = 0.0f;
    std::vector<float> x(kTileRows);
    for (std::size_t r = 0; r < kTileRows; ++r) {
      x[r] = step.scores[r] =
          -87.0f * static_cast<float>(tile * kTileRows + static_cast<int>(r)) / 96000.0f;
    }
    step.run(kAll);
    for (std::size_t r = 0; r < kTileRows; ++r) {
      const double expected = std::exp(double{x[r]});
      worst = std::max(worst, std::abs(double{step.scores[r]} - expected) / expected);
    }
  }
  EXPECT_LE(worst, 3e-7);
  Step step;
  step.m = 0.0f;
  step.scores.assign(kTileRows, -104.5f);
  step.scores[1] = -1000.0f;
  step.scores[2] = -3e38f;
  step.scores[3] = -kInfinity;
  step.run(kAll);
  for (const float s : step.scores) EXPECT_EQ(s, 0.0f);
  EXPECT_EQ(step.l, 0.0f);
}

TEST_P(Softmax, SoftCapIsAccurate) {
  double worst = 0.0;
  for (int i = -4000; i <= 4000; ++i) {
    Step step;
    const float x = static_cast<float>(i) * 0.004f;
    step.scores[5] = x;
    step.run(std::uint64_t{1} << 5, 1.0f, 1.0f);
    worst = std::max(worst, std::abs(double{step.m} - std::tanh(double{x})));
    EXPECT_EQ(step.scores[5], 1.0f);
  }
  EXPECT_LE(worst, 3e-7);
  Step step;
  step.scores[5] = 1e30f;
  step.run(std::uint64_t{1} << 5, 1.0f, 50.0f);
  EXPECT_EQ(step.m, 50.0f);
}

TEST_P(Softmax, QueriesAreIndependent) {
  constexpr int kQueries = 21;
  std::mt19937 engine(12);
  std::normal_distribution<float> normal;
  std::vector<float> scores(kQueries * kTileRows), m(kQueries, 0.5f), l(kQueries, 1.0f);
  std::vector<float> acc(kQueries * kHeadDim);
  for (float& s : scores) s = normal(engine);
  for (float& a : acc) a = normal(engine);
  const std::uint64_t patterns[5] = {kAll, 0, 1, kAll << 33, 0xff00ff00ff00ff00};
  std::uint64_t visible[kQueries];
  for (std::size_t i = 0; i < kQueries; ++i) visible[i] = patterns[i % 5];
  m[2] = m[19] = 9.0f;  // above all scores
  std::vector<Step> alone(kQueries);
  for (std::size_t i = 0; i < kQueries; ++i) {
    std::memcpy(alone[i].scores.data(), &scores[i * kTileRows], kTileRows * sizeof(float));
    std::memcpy(alone[i].acc.data(), &acc[i * kHeadDim], kHeadDim * sizeof(float));
    alone[i].m = m[i];
    alone[i].l = l[i];
    alone[i].run(visible[i], 0.7f);
  }
  cpu::Ahead nothing;
  cpu::kernels().softmax_tile(kQueries, kHeadDim, 0.7f, 0.0f, visible, nothing, scores.data(),
                              m.data(), l.data(), acc.data());
  for (std::size_t i = 0; i < kQueries; ++i) {
    EXPECT_EQ(m[i], alone[i].m);
    EXPECT_EQ(l[i], alone[i].l);
    EXPECT_EQ(std::memcmp(&scores[i * kTileRows], alone[i].scores.data(), kTileRows * 4), 0);
    EXPECT_EQ(std::memcmp(&acc[i * kHeadDim], alone[i].acc.data(), kHeadDim * 4), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, Softmax, testing::ValuesIn(available_cpu_isas()),
                         [](const auto& isa) { return isa.param; });

}  // namespace
}  // namespace kvcodec
