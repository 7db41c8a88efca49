// observe_attention against float64 softmax, its causal edge and its independence of grouping.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kvcodec/policy/observe.hpp"
#include "tests/support/codecs.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

constexpr int kDim = 80;

std::vector<double> reference(std::int64_t n_queries, const std::vector<float>& q,
                              std::int64_t n_keys, const std::vector<float>& k, double sm_scale) {
  std::vector<double> sums(static_cast<std::size_t>(n_keys));
  for (std::int64_t j = 0; j < n_queries; ++j) {
    std::vector<double> weight;
    double total = 0.0;
    for (std::int64_t i = 0; i <= n_keys - n_queries + j; ++i) {
      double dot = 0.0;
      for (int c = 0; c < kDim; ++c) {
        dot += static_cast<double>(q[static_cast<std::size_t>(j * kDim + c)]) *
               static_cast<double>(k[static_cast<std::size_t>(i * kDim + c)]);
      }
      weight.push_back(std::exp(sm_scale * dot));
      total += weight.back();
    }
    for (std::size_t i = 0; i < weight.size(); ++i) sums[i] += weight[i] / total;
  }
  return sums;
}

TEST(Observe, AddsTheSoftmaxWeightsOfEveryQuery) {
  for (const auto& [n_queries, n_keys] :
       {std::pair<std::int64_t, std::int64_t>{1, 1}, {1, 100}, {4, 4}, {7, 90}, {64, 300}}) {
    const std::vector<float> q = test::gauss_rows(n_queries, kDim, 3);
    const std::vector<float> k = test::gauss_rows(n_keys, kDim, 4);
    std::vector<float> sums(static_cast<std::size_t>(n_keys), 0.25f);  // added to
    observe_attention(kDim, n_queries, q.data(), n_keys, k.data(), 0.11f, sums.data());
    const std::vector<double> want = reference(n_queries, q, n_keys, k, 0.11);
    double total = 0.0;
    for (std::size_t i = 0; i < sums.size(); ++i) {
      EXPECT_NEAR(static_cast<double>(sums[i]) - 0.25, want[i], 2e-6 * (1.0 + want[i])) << i;
      total += static_cast<double>(sums[i]) - 0.25;
    }
    EXPECT_NEAR(total, static_cast<double>(n_queries), 1e-4);
  }
}

TEST(Observe, AQuerySeesNoLaterKey) {
  const std::int64_t n_keys = 20;
  std::vector<float> k = test::gauss_rows(n_keys, kDim, 5);
  const std::vector<float> q = test::gauss_rows(3, kDim, 6);
  std::vector<float> before(n_keys);
  observe_attention(kDim, 1, q.data(), 18, k.data(), 0.1f, before.data());
  // The first of three queries, alone: keys 18 and 19 are there, and very large.
  for (std::size_t i = 18 * kDim; i < k.size(); ++i) k[i] *= 1e4f;
  std::vector<float> all(n_keys);
  std::vector<float> rest(n_keys);
  observe_attention(kDim, 3, q.data(), n_keys, k.data(), 0.1f, all.data());
  observe_attention(kDim, 2, q.data() + kDim, n_keys, k.data(), 0.1f, rest.data());
  for (std::size_t i = 0; i < n_keys; ++i) EXPECT_NEAR(all[i] - rest[i], before[i], 1e-6f) << i;
  EXPECT_GT(rest[18] + rest[19], 0.5f) << "the large keys do not matter even where they are seen";
}

// One call or several, four at a time or alone: the same bits.
TEST(Observe, DoesNotDependOnHowQueriesAreGrouped) {
  const std::int64_t n_keys = 70;
  const std::vector<float> k = test::gauss_rows(n_keys, kDim, 7);
  const std::vector<float> q = test::gauss_rows(9, kDim, 8);
  std::vector<float> together(n_keys);
  std::vector<float> apart(n_keys);
  std::vector<float> scratch(3, std::numeric_limits<float>::quiet_NaN());
  observe_attention(kDim, 9, q.data(), n_keys, k.data(), 0.1f, together.data(), scratch);
  for (std::int64_t j = 0; j < 9; ++j) {
    observe_attention(kDim, 1, q.data() + j * kDim, n_keys - 8 + j, k.data(), 0.1f, apart.data(),
                      scratch);
  }
  EXPECT_EQ(together, apart);
}

TEST(Observe, LargeLogitsDoNotOverflow) {
  std::vector<float> k = test::gauss_rows(10, kDim, 9);
  for (float& x : k) x *= 1e3f;
  std::vector<float> sums(10);
  observe_attention(kDim, 4, k.data() + 6 * kDim, 10, k.data(), 1.0f, sums.data());
  for (std::size_t i = 0; i < 10; ++i) EXPECT_NEAR(sums[i], i < 6 ? 0.0f : 1.0f, 1e-6f) << i;
}

TEST(Observe, RefusesMoreQueriesThanKeys) {
  const std::vector<float> k = test::gauss_rows(4, kDim, 1);
  std::vector<float> sums(3, 0.5f);
  for (const std::int64_t n : {-1, 4}) {
    const std::string text = test::message_of<invalid_argument>(
        [&] { observe_attention(kDim, n, k.data(), 3, k.data(), 1.0f, sums.data()); });
    EXPECT_TRUE(test::contains(text, {"n_queries = " + std::to_string(n), "n_keys = 3"}));
  }
  EXPECT_EQ(sums, std::vector<float>(3, 0.5f));
}

}  // namespace
}  // namespace kvcodec
