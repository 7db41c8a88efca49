// RoPE tables against f64 angles, at small and at very large positions.
#include "kvcodec/transform/rope.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "examples/llama/config.hpp"
#include "examples/llama/rope.hpp"
#include "tests/support/compare.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

constexpr std::int32_t kMany = 1 << 20;

std::vector<double> frequencies(int head_dim, double theta = 10000.0) {
  std::vector<double> f;
  for (int i = 0; i < head_dim / 2; ++i) f.push_back(std::pow(theta, -2.0 * i / head_dim));
  return f;
}

/// The definition, in f64.
std::vector<double> turned(const std::vector<double>& f, double pos, const std::vector<float>& x) {
  const std::size_t half = f.size();
  std::vector<double> y(x.size());
  for (std::size_t i = 0; i < half; ++i) {
    const double a = static_cast<double>(x[i]);
    const double b = static_cast<double>(x[half + i]);
    y[i] = a * std::cos(pos * f[i]) - b * std::sin(pos * f[i]);
    y[half + i] = a * std::sin(pos * f[i]) + b * std::cos(pos * f[i]);
  }
  return y;
}

std::vector<std::int32_t> some_positions(std::int32_t n) {
  std::vector<std::int32_t> positions = {0, 1, 255, 256, 257, 511, 4095, 65535, 65536, n - 1};
  test::Random random(7);
  for (int i = 0; i < 200; ++i) positions.push_back(static_cast<std::int32_t>(random.below(n)));
  return positions;
}

TEST(Rope, MatchesF64AtAnyPosition) {
  for (const int head_dim : {64, 96, 128, 256}) {
    for (const double theta : {10000.0, 500000.0}) {
      const std::vector<double> f = frequencies(head_dim, theta);
      const RopeTable table(f, kMany);
      const std::vector<float> x = test::gauss_rows(1, head_dim, 3);
      for (const std::int32_t pos : some_positions(kMany)) {
        std::vector<float> y = x;
        table.rotate(pos, y.data());
        ASSERT_TRUE(test::close(y, turned(f, pos, x), y.size(), {2e-6, 0.0},
                                "position " + std::to_string(pos)));
      }
    }
  }
}

// The negative control: angles in f32 are what the two tables avoid.
TEST(Rope, AnglesInF32WouldBeSeen) {
  const std::vector<double> f = frequencies(64);
  double worst = 0.0;
  for (const std::int32_t pos : some_positions(kMany)) {
    for (const double frequency : f) {
      const float angle = static_cast<float>(pos) * static_cast<float>(frequency);
      worst = std::max(worst, std::abs(static_cast<double>(std::cos(angle)) -
                                       std::cos(static_cast<double>(pos) * frequency)));
    }
  }
  EXPECT_GT(worst, 1e-3);
}

TEST(Rope, UnrotateUndoesRotate) {
  const RopeTable table(frequencies(128), kMany);
  const std::vector<float> x = test::gauss_rows(1, 128, 4);
  for (const std::int32_t pos : some_positions(kMany)) {
    std::vector<float> y = x;
    table.rotate(pos, y.data());
    if (pos == 1) {
      EXPECT_FALSE(test::close(y, x, 128, {1e-3, 0.0}, "not the identity"));
    }
    table.unrotate(pos, y.data());
    ASSERT_TRUE(test::close(y, x, 128, {3e-6, 0.0}, "position " + std::to_string(pos)));
  }
}

TEST(Rope, ProductsDependOnDistanceOnly) {
  const RopeTable table(frequencies(64), kMany);
  const std::vector<float> q = test::gauss_rows(1, 64, 5);
  const std::vector<float> k = test::gauss_rows(1, 64, 6);
  const auto score = [&](std::int32_t q_pos, std::int32_t k_pos) {
    std::vector<float> a = q, b = k;
    table.rotate(q_pos, a.data());
    table.rotate(k_pos, b.data());
    double sum = 0.0;
    for (std::size_t i = 0; i < 64; ++i)
      sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    return sum;
  };
  for (const std::int32_t distance : {0, 1, 100, 5000}) {
    const double near = score(distance, 0);
    for (const std::int32_t pos : {3, 256, 1000000}) {
      EXPECT_NEAR(score(pos + distance, pos), near, 1e-4);
    }
  }
  EXPECT_GT(std::abs(score(100, 0) - score(0, 0)), 1e-2);
}

// The engine's own rotation, with the frequencies of every kind of scaling it has.
TEST(Rope, AgreesWithTheExampleEngine) {
  llama::RopeConfig config;
  for (const auto scaling :
       {llama::RopeScaling::none, llama::RopeScaling::linear, llama::RopeScaling::llama3}) {
    config.scaling = scaling;
    config.factor = 8.0;
    config.low_freq_factor = 1.0;
    config.high_freq_factor = 4.0;
    config.original_max_position = 8192;
    const std::vector<double> f = llama::rope_frequencies(config, 64);
    const RopeTable table(f, 20000);
    const std::vector<float> x = test::gauss_rows(1, 64, 8);
    for (const std::int32_t pos : {0, 1, 300, 19999}) {
      std::vector<float> angles(64), want(64), got = x;
      llama::rope_angles(f, {&pos, 1}, angles.data());
      llama::rope_rotate(x.data(), angles.data(), 64, want.data());
      table.rotate(pos, got.data());
      EXPECT_TRUE(test::close(got, want, 64, {2e-6, 0.0}, "position " + std::to_string(pos)));
    }
  }
}

TEST(Rope, PositionsOutsideAreTakenForTheNearest) {
  const RopeTable table(frequencies(64), 300);
  const std::vector<float> x = test::gauss_rows(1, 64, 9);
  const auto at = [&](std::int32_t pos) {
    std::vector<float> y = x;
    table.rotate(pos, y.data());
    return y;
  };
  EXPECT_EQ(at(-5), at(0));
  EXPECT_EQ(at(300), at(299));
  EXPECT_EQ(at(std::numeric_limits<std::int32_t>::max()), at(299));
  EXPECT_NE(at(299), at(298));
}

TEST(Rope, SmallTables) {
  const RopeTable table(frequencies(128), kMany);
  EXPECT_EQ(table.head_dim(), 128);
  EXPECT_EQ(table.n_positions(), kMany);
  EXPECT_LT(table.bytes(), 2400000);
  EXPECT_FALSE(RopeView{});
  EXPECT_TRUE(table.view());
}

TEST(Rope, RefusesBadArguments) {
  const std::vector<double> f = frequencies(64);
  EXPECT_THROW(RopeTable({}, 10), invalid_argument);
  EXPECT_THROW(RopeTable(std::vector<double>(129, 0.1), 10), invalid_argument);
  EXPECT_THROW(RopeTable(f, 0), invalid_argument);
  EXPECT_THROW(RopeTable(std::vector<double>{1.0, std::nan("")}, 10), invalid_argument);
}

}  // namespace
}  // namespace kvcodec
