// What mathematics says about the QJL estimate, with the constants corrected: mean, variance, law,
// moments, tails, and what orthogonal rows change. Every check has a negative control: a constant
// that is wrong, as in the paper or in ports, must fail it.
//
// A draw is (S, q, k) with |q| = |k| = 1 and q.k = rho, directions random. Where a piece of S is
// orthogonal its rotation is random anyway, so several pairs share one S. Counts are such that the
// tolerance is at least four standard errors; seeds are fixed. With Gaussian rows nothing depends on
// head_dim, so it is small there.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kvcodec/codec/qjl_projection.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

const double kPi = std::acos(-1.0);
const double kRootHalfPi = std::sqrt(kPi / 2.0);

struct Pair {
  std::vector<float> q;
  std::vector<float> k;
};

/// Unit vectors with q.k = rho.
Pair random_pair(test::Random& random, int d, double rho) {
  std::vector<double> q(static_cast<std::size_t>(d));
  std::vector<double> k(q.size());
  double qq = 0.0;
  double qk = 0.0;
  double rest = 0.0;
  for (double& x : q) {
    x = random.gauss();
    qq += x * x;
  }
  for (std::size_t c = 0; c < q.size(); ++c) {
    q[c] /= std::sqrt(qq);
    k[c] = random.gauss();
    qk += q[c] * k[c];
  }
  for (std::size_t c = 0; c < q.size(); ++c) {
    k[c] -= qk * q[c];
    rest += k[c] * k[c];
  }
  Pair pair;
  for (std::size_t c = 0; c < q.size(); ++c) {
    pair.q.push_back(static_cast<float>(q[c]));
    pair.k.push_back(static_cast<float>(rho * q[c] + std::sqrt((1.0 - rho * rho) / rest) * k[c]));
  }
  return pair;
}

/// S x, all rows.
std::vector<float> project(const QjlProjection& s, const std::vector<float>& x) {
  const auto m = static_cast<std::size_t>(s.sketch_dim());
  std::vector<float> sum(m, 0.0f);
  for (std::size_t c = 0; c < x.size(); ++c) {
    const float* column = s.tables().columns + c * m;
    for (std::size_t i = 0; i < m; ++i) sum[i] += x[c] * column[i];
  }
  return sum;
}

/// sum over i < m of (s_i.q) sign(s_i.k), or of sign(s_i.q) sign(s_i.k).
double signed_sum(const std::vector<float>& sq, const std::vector<float>& sk, int m,
                  bool both_signs = false) {
  double sum = 0.0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(m); ++i) {
    const double term = both_signs ? (sq[i] > 0.0f ? 1.0 : -1.0) : static_cast<double>(sq[i]);
    sum += sk[i] > 0.0f ? term : -term;
  }
  return sum;
}

/// Mean, variance and standard error of draws.
struct Statistics {
  std::vector<double> draws;

  double mean() const {
    double sum = 0.0;
    for (const double x : draws) sum += x;
    return sum / static_cast<double>(draws.size());
  }
  double variance() const {
    const double center = mean();
    double sum = 0.0;
    for (const double x : draws) sum += (x - center) * (x - center);
    return sum / static_cast<double>(draws.size() - 1);
  }
  double error() const { return std::sqrt(variance() / static_cast<double>(draws.size())); }
  /// |mean - value| in standard errors.
  double distance(double value) const { return std::abs(mean() - value) / error(); }
};

struct Setup {
  QjlKind kind;
  int d;
  int m;
  double rho;
  int n_projections;
  int n_pairs;
};

/// Estimates of q.k for unit vectors.
Statistics estimates(const Setup& s, std::uint32_t seed) {
  Statistics result;
  test::Random random(seed);
  for (int i = 0; i < s.n_projections; ++i) {
    const auto number = seed * 100000u + static_cast<std::uint32_t>(i);
    const QjlProjection projection = QjlProjection::generate(number, s.m, s.d, s.kind);
    for (int j = 0; j < s.n_pairs; ++j) {
      const Pair pair = random_pair(random, s.d, s.rho);
      const double sum = signed_sum(project(projection, pair.q), project(projection, pair.k), s.m);
      result.draws.push_back(kRootHalfPi / s.m * sum);
    }
  }
  return result;
}

double gauss_variance(double rho, int m) { return (kPi / 2.0 - rho * rho) / m; }
double orthogonal_variance(double rho, int m) { return (kPi / 2.0 - 1.0 - 0.5 * rho * rho) / m; }

bool within(double value, double expected, double share) {
  return std::abs(value / expected - 1.0) <= share;
}

// T1, U1, U9: 2000 independent S each.
TEST(QjlTheory, MeanIsTheProduct) {
  constexpr int kD = 32;
  constexpr int kM = 48;  // one whole piece and a narrower one
  for (const QjlKind kind : {QjlKind::gauss, QjlKind::orthogonal}) {
    const double rhos[] = {0.0, 0.3, 0.7, 1.0};
    Statistics good[4];
    Statistics short_rows[4];
    Statistics both_signs[4];
    test::Random random(11);
    for (std::uint32_t seed = 0; seed < 2000; ++seed) {
      const QjlProjection s = QjlProjection::generate(seed, kM, kD, kind);
      for (int r = 0; r < 4; ++r) {
        const Pair pair = random_pair(random, kD, rhos[r]);
        const std::vector<float> sq = project(s, pair.q);
        const std::vector<float> sk = project(s, pair.k);
        const double estimate = kRootHalfPi / kM * signed_sum(sq, sk, kM);
        good[r].draws.push_back(estimate);
        short_rows[r].draws.push_back(estimate / std::sqrt(static_cast<double>(kD)));
        both_signs[r].draws.push_back(kRootHalfPi / kM * signed_sum(sq, sk, kM, true));
      }
    }
    const double bias = kind == QjlKind::gauss ? 1.0 : qjl_bias(kD);
    for (int r = 0; r < 4; ++r) {
      EXPECT_LT(good[r].distance(bias * rhos[r]), 5.0) << "rho " << rhos[r];
      if (rhos[r] == 0.0) continue;
      // Controls: rows of norm 1 in place of sqrt(d); a query that is quantized as well.
      EXPECT_GT(short_rows[r].distance(bias * rhos[r]), 5.0) << "rho " << rhos[r];
      EXPECT_GT(both_signs[r].distance(bias * rhos[r]), 5.0) << "rho " << rhos[r];
    }
  }
}

// T2, U2, U3: 10,000 draws, 2500 S; the standard error of a variance is 1.4 % or a little more.
TEST(QjlTheory, VarianceWithGaussianRows) {
  for (const double rho : {0.0, 0.5, 0.9, 1.0}) {
    const Statistics x = estimates({QjlKind::gauss, 16, 64, rho, 2500, 4}, 2);
    EXPECT_TRUE(within(x.variance(), gauss_variance(rho, 64), 0.1))
        << "rho " << rho << ": " << 64 * x.variance();
    if (rho < 0.9) continue;
    EXPECT_FALSE(within(x.variance(), kPi / 2.0 / 64, 0.1)) << "control: without -rho^2";
  }
  const Statistics half = estimates({QjlKind::gauss, 16, 64, 0.3, 2500, 4}, 3);
  const Statistics full = estimates({QjlKind::gauss, 16, 128, 0.3, 2500, 4}, 4);
  EXPECT_TRUE(within(half.variance() / full.variance(), 2.0, 0.1));
}

/// Kolmogorov-Smirnov statistic times sqrt(n) of draws against N(0, variance).
double kolmogorov(std::vector<double> draws, double variance) {
  std::sort(draws.begin(), draws.end());
  const auto n = static_cast<double>(draws.size());
  double worst = 0.0;
  for (std::size_t i = 0; i < draws.size(); ++i) {
    const double f = 0.5 * std::erfc(-draws[i] / std::sqrt(2.0 * variance));
    worst = std::max({worst, f - static_cast<double>(i) / n, static_cast<double>(i + 1) / n - f});
  }
  return worst * std::sqrt(n);
}

// T3: 10,000 draws from 5000 S; 1.95 is passed with probability 0.999.
TEST(QjlTheory, OrthogonalKeysGiveExactlyANormalLaw) {
  for (const int m : {1, 5, 64}) {
    const Statistics x = estimates({QjlKind::gauss, 16, m, 0.0, 5000, 2}, 5);
    EXPECT_LT(kolmogorov(x.draws, kPi / (2.0 * m)), 1.95) << m;
    EXPECT_GT(kolmogorov(x.draws, 4.0 / (6.0 * m)), 1.95) << "control: 4/3 in place of pi";
    EXPECT_GT(kolmogorov(x.draws, 0.8 * kPi / (2.0 * m)), 1.95) << "control: 20 % off";
  }
}

// T4: 160,000 terms; the fourth moment has a standard error of 0.8 %.
TEST(QjlTheory, AbsoluteMomentsOfATerm) {
  test::Random random(6);
  double sums[5] = {};
  double n = 0.0;
  for (std::uint32_t seed = 0; seed < 250; ++seed) {
    const QjlProjection s = QjlProjection::generate(seed, 64, 64, QjlKind::gauss);
    for (int j = 0; j < 10; ++j) {
      const Pair pair = random_pair(random, 64, 0.4);
      for (const float projected : project(s, pair.q)) {
        const double term = kRootHalfPi * std::abs(static_cast<double>(projected));
        for (int l = 1; l <= 4; ++l) sums[l] += std::pow(term, l);
        n += 1.0;
      }
    }
  }
  for (int l = 1; l <= 4; ++l) {
    const double gamma = std::tgamma(0.5 * (l + 1)) / std::sqrt(kPi);
    EXPECT_TRUE(within(sums[l] / n, std::pow(kPi, 0.5 * l) * gamma, 0.05)) << l;
    EXPECT_FALSE(within(sums[l] / n, std::pow(4.0 / 3.0, 0.5 * l) * gamma, 0.05))
        << "control: 4/3 in place of pi, l = " << l;
  }
}

// T5, U4: 6000 independent S of 452 rows; their first 212 rows are S of 212 rows.
TEST(QjlTheory, TailsFollowTheCorrectedBoundAndRefuteThePapers) {
  constexpr double kEps = 0.2;
  constexpr double kDelta = 0.01;
  constexpr int kDraws = 6000;
  constexpr int kD = 8;
  const auto paper = static_cast<int>(
      std::ceil(4.0 / 3.0 * (1.0 + kEps) / (kEps * kEps) * std::log(2.0 / kDelta)));
  const auto corrected = static_cast<int>(
      std::ceil((kPi + 4.0 * kEps / 3.0) / (kEps * kEps) * std::log(2.0 / kDelta)));
  ASSERT_EQ(paper, 212);
  ASSERT_EQ(corrected, 452);
  test::Random random(7);
  int failures[2][2] = {};  // [rho][m]
  const double rhos[] = {0.0, 0.6};
  for (std::uint32_t seed = 0; seed < kDraws; ++seed) {
    const QjlProjection s = QjlProjection::generate(seed, corrected, kD, QjlKind::gauss);
    for (int r = 0; r < 2; ++r) {
      const Pair pair = random_pair(random, kD, rhos[r]);
      const std::vector<float> sq = project(s, pair.q);
      const std::vector<float> sk = project(s, pair.k);
      for (int i = 0; i < 2; ++i) {
        const int m = i == 0 ? paper : corrected;
        const double estimate = kRootHalfPi / m * signed_sum(sq, sk, m);
        if (std::abs(estimate - rhos[r]) > kEps) ++failures[r][i];
      }
    }
  }
  for (int r = 0; r < 2; ++r) {
    for (int i = 0; i < 2; ++i) {
      const int m = i == 0 ? paper : corrected;
      const double rate = static_cast<double>(failures[r][i]) / kDraws;
      EXPECT_LE(rate, 2.0 * std::exp(-m * kEps * kEps / (kPi + 4.0 * kEps / 3.0)));
      if (r != 0) continue;
      const double exact = std::erfc(kEps * std::sqrt(m / kPi));
      EXPECT_LT(std::abs(rate - exact), 5.0 * std::sqrt(exact * (1.0 - exact) / kDraws)) << m;
    }
  }
  const double at_paper = static_cast<double>(failures[0][0]) / kDraws;
  EXPECT_GT(at_paper - kDelta, 4.0 * std::sqrt(at_paper / kDraws))
      << "control: Lemma 3.5 promises " << kDelta << ", measured " << at_paper;
  EXPECT_LT(static_cast<double>(failures[0][1]) / kDraws, kDelta);
}

// T6: the error of a logit q.k / sqrt(d), and what Theorem 3.6 takes from it. The estimate is linear
// in both norms, so draws for unit vectors are scaled to |q| = |k| = r.
TEST(QjlTheory, LogitErrorGrowsWithTheProductOfNorms) {
  constexpr int kD = 64;
  constexpr double kR = 4.0;
  constexpr double kEps = 0.5;
  // The theorem's m for 10 keys of norm r: all softmax weights within 1 +- 3 eps, nearly always.
  const auto m = static_cast<int>(std::ceil(2.0 * kR * kR / (kEps * kEps) * std::log(10.0)));
  ASSERT_EQ(m, 295);
  const Statistics unit = estimates({QjlKind::gauss, kD, m, 0.5, 200, 25}, 8);
  Statistics logits;
  int n_wrong = 0;
  for (const double x : unit.draws) {
    const double error = kR * kR * (x - 0.5);  // the paper has no factor 1 / sqrt(d)
    logits.draws.push_back(error / std::sqrt(static_cast<double>(kD)));
    if (std::exp(error) > 1.0 + 3.0 * kEps || std::exp(error) < 1.0 - 3.0 * kEps) ++n_wrong;
  }
  const double predicted = kR * kR * std::sqrt((kPi / 2.0 - 0.25) / m / kD);
  EXPECT_TRUE(within(std::sqrt(logits.variance()), predicted, 0.1));
  EXPECT_FALSE(within(std::sqrt(logits.variance()), predicted / kR, 0.1))
      << "control: an error that grows with r, as m ~ r^2 would need";
  EXPECT_GT(n_wrong, static_cast<int>(unit.draws.size()) / 10) << "the theorem's m is too small";
}

// T7: 10,000 draws where the variance is smallest; the bias is more than 10 standard errors.
TEST(QjlTheory, OrthogonalRowsHaveTheBiasCd) {
  const struct {
    int d;
    double c;
  } table[] = {{64, 1.003914}, {80, 1.003130}, {96, 1.002608}, {128, 1.001955}, {256, 1.000977}};
  for (const auto& [d, c] : table) EXPECT_NEAR(qjl_bias(d), c, 6e-7) << d;
  for (const auto& [d, m] : {std::pair{64, 64}, {128, 256}}) {
    const Statistics x = estimates({QjlKind::orthogonal, d, m, 1.0, 50, 200}, 9);
    EXPECT_LT(x.distance(qjl_bias(d)), 4.0) << d << ": " << x.mean();
    EXPECT_GT(x.distance(1.0), 8.0) << "control: no bias, d " << d;
  }
}

// T8: 10,000 draws from 50 S.
TEST(QjlTheory, OrthogonalRowsHaveASmallerVariance) {
  constexpr int kM = 256;
  for (const double rho : {0.0, 0.5, 1.0}) {
    const Statistics x = estimates({QjlKind::orthogonal, 128, kM, rho, 50, 200}, 10);
    EXPECT_TRUE(within(x.variance(), orthogonal_variance(rho, kM), 0.1))
        << "rho " << rho << ": " << kM * x.variance();
    EXPECT_FALSE(within(x.variance(), gauss_variance(rho, kM), 0.1)) << "control, rho " << rho;
  }
}

// T9: half a piece lies between the two, where the closed form says.
TEST(QjlTheory, ANarrowPieceLiesBetween) {
  constexpr int kD = 128;
  constexpr int kW = 64;
  const double shared = (kW - 1.0) / (kD - 1.0);
  for (const double rho : {0.0, 0.5}) {
    const Statistics x = estimates({QjlKind::orthogonal, kD, kW, rho, 100, 100}, 11);
    const double predicted = (kPi / 2.0 - rho * rho - shared * (1.0 - 0.5 * rho * rho)) / kW;
    EXPECT_TRUE(within(x.variance(), predicted, 0.1)) << "rho " << rho << ": " << kW * x.variance();
    EXPECT_FALSE(within(x.variance(), orthogonal_variance(rho, kW), 0.1)) << "control";
    EXPECT_FALSE(within(x.variance(), gauss_variance(rho, kW), 0.1)) << "control";
  }
}

}  // namespace
}  // namespace kvcodec
