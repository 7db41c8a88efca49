// Divergence from a baseline: by hand on rows of three logits, and on a random model's cache.
#include "src/eval/divergence.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "kvcodec/core/error.hpp"
#include "tests/eval/model_fixture.hpp"

namespace kvcodec::eval {
namespace {

TEST(DivergenceSum, IsWhatTheDefinitionSays) {
  // P = (1/2, 1/4, 1/4) and Q = (1/3, 1/3, 1/3), each shifted by a constant of its own; then rows
  // that agree.
  const auto ln = [](double x) { return static_cast<float>(std::log(x)); };
  const std::vector<float> base = {ln(0.5) + 3, ln(0.25) + 3, ln(0.25) + 3, 1, 2, 0};
  const std::vector<float> plan = {7, 7, 7, 0, 1, -1};
  DivergenceSum sum;
  sum.add(base, plan, 3, {});
  const Divergence d = sum.result();
  const double kl = 0.5 * std::log(1.5) + 0.5 * std::log(0.75);
  EXPECT_EQ(d.n_tokens, 2);
  EXPECT_NEAR(d.kl_mean, kl / 2, 1e-6);
  EXPECT_NEAR(d.kl_max, kl, 1e-6);
  EXPECT_NEAR(d.kl_p99, kl, 1e-6);
  EXPECT_EQ(d.top1_agreement, 1.0) << "of equal logits the first one counts";
  // Centred, the first row differs by (2, -1, -1) / 3 ln 2 and the second not at all.
  EXPECT_NEAR(d.logit_max, 2.0 / 3.0 * std::log(2.0), 1e-6);
  EXPECT_NEAR(d.logit_rms, std::sqrt((4.0 + 1.0 + 1.0) / 9.0 / 6.0) * std::log(2.0), 1e-6);
}

TEST(DivergenceSum, TakesRanksOverAllTokensHoweverTheyCome) {
  // Row i has the divergence of logits (0, i / 100); the last two are apart in their best token.
  std::vector<float> base, plan;
  for (int i = 0; i < 200; ++i) {
    const float x = static_cast<float>(i) / 100;
    base.insert(base.end(), {x, i < 198 ? 0.0f : x + 1});
    plan.insert(plan.end(), {2 * x, i < 198 ? 0.0f : x + 1});
  }
  DivergenceSum whole, parts;
  whole.add(base, plan, 2, {});
  for (std::size_t row = 0; row < 200; row += 50) {
    parts.add(std::span(base).subspan(2 * row, 100), std::span(plan).subspan(2 * row, 100), 2, {});
  }
  EXPECT_EQ(whole.result().kl_mean, parts.result().kl_mean);
  EXPECT_EQ(whole.result().kl_p99, parts.result().kl_p99);
  EXPECT_EQ(whole.result().top1_agreement, 0.99);
  EXPECT_LT(whole.result().kl_p99, whole.result().kl_max);
  EXPECT_GT(whole.result().kl_p99, whole.result().kl_mean);
  EXPECT_EQ(DivergenceSum().result().n_tokens, 0);
  EXPECT_THROW(whole.add(base, std::span(plan).first(398), 2, {}), invalid_argument);
  EXPECT_THROW(whole.add(base, plan, 3, {}), invalid_argument);
}

class BaselineTest : public RandomModel {
 protected:
  static Documents documents() { return {tokens(150, 3), tokens(90, 5)}; }
};

TEST_F(BaselineTest, ItselfIsNoDifferenceAndFewerBitsAreMore) {
  const Baseline baseline(model(), documents(), {.chunk_size = 16});
  EXPECT_EQ(baseline.n_kept(), 2u);
  EXPECT_EQ(baseline.max_tokens(), 150);
  const Divergence same = baseline.score("kv=f16");
  EXPECT_EQ(same.n_tokens, 149 + 89);
  EXPECT_EQ(same.kl_max, 0.0);
  EXPECT_EQ(same.logit_max, 0.0);
  EXPECT_EQ(same.top1_agreement, 1.0);
  const Divergence int8 = baseline.score("kv=int8,recent=0");
  const Divergence four = baseline.score("kv=nqkv:g64,recent=0");
  EXPECT_GT(int8.kl_mean, 0.0);
  EXPECT_GT(four.kl_mean, 4 * int8.kl_mean);
  EXPECT_GT(four.logit_rms, 4 * int8.logit_rms);
  EXPECT_LT(four.top1_agreement, 1.0);
}

TEST_F(BaselineTest, KeptOrRunInStepIsTheSame) {
  const std::int64_t first_only = 149 * 256 * 4;
  const Baseline kept(model(), documents(), {.chunk_size = 16});
  const Baseline mixed(model(), documents(), {.chunk_size = 16, .max_bytes = first_only});
  const Baseline in_step(model(), documents(), {.chunk_size = 16, .max_bytes = 0});
  EXPECT_EQ(mixed.n_kept(), 1u);
  EXPECT_EQ(in_step.n_kept(), 0u);
  const Divergence a = kept.score("kv=nqkv:g64"), b = mixed.score("kv=nqkv:g64"),
                   c = in_step.score("kv=nqkv:g64");
  EXPECT_GT(a.kl_mean, 0.0);
  EXPECT_EQ(a.kl_mean, b.kl_mean);
  EXPECT_EQ(a.kl_mean, c.kl_mean);
  EXPECT_EQ(a.kl_p99, c.kl_p99);
  EXPECT_EQ(a.logit_max, c.logit_max);
  BaselineReader reader(in_step);
  EXPECT_EQ(reader.rows(0, 0, 16).size(), 16u * 256u);
  EXPECT_THROW(reader.rows(0, 32, 16), invalid_argument) << "a chunk was left out";
}

TEST_F(BaselineTest, BadInputIsNamed) {
  EXPECT_THROW(Baseline(model(), {{1}}), invalid_argument);
  EXPECT_THROW(Baseline(model(), {{256, 1}}), invalid_argument);
  EXPECT_THROW(Baseline(model(), documents(), {.chunk_size = 0}), invalid_argument);
  EXPECT_THROW(Baseline(model(), documents(), {.plan = "kv=nothing"}), error);
  EXPECT_THROW(Baseline(model(), documents()).score("kv=nothing"), error);
}

}  // namespace
}  // namespace kvcodec::eval
