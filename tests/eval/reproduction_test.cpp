// The parts behind `kvcodec reproduce`: WKVQuant part by part, questions inside the prompt, the page.
#include <cmath>
#include <fstream>

#include "examples/llama/eval_text.hpp"
#include "kvcodec/core/error.hpp"
#include "src/eval/prompted_recall.hpp"
#include "src/eval/reproduction.hpp"
#include "src/eval/wkv_parts.hpp"
#include "tests/eval/model_fixture.hpp"

namespace kvcodec::eval {
namespace {

class Reproduction : public RandomModel {
 protected:
  static llama::EvalData data() {
    llama::EvalData d;
    for (const std::int32_t t : tokens(160, 5)) d.heldout.push_back(static_cast<char>(t));
    d.documents = {{0, 100}, {100, 160}};
    return d;
  }

  /// A context and what the model itself continues it by, so that the answer is known.
  static llama::EvalData asked() {
    llama::EvalData d;
    for (const int step : {3, 7, 11}) {
      llama::RecallContext c;
      for (const std::int32_t t : tokens(150, step)) c.context.push_back(static_cast<char>(t));
      llama::Question q;
      q.prompt = "XY?";
      llama::Engine engine(model(), "kv=f32", 512);
      std::vector<std::int32_t> prompt;
      for (const char ch : c.context + q.prompt) {
        prompt.push_back(static_cast<unsigned char>(ch));
      }
      for (const std::int32_t t : llama::generate(engine, prompt, 4, llama::Sampler(), 64).tokens) {
        q.answer.push_back(static_cast<char>(t));
      }
      c.questions = {q};
      d.recall.push_back(c);
    }
    return d;
  }

  static Calibration identity(std::int32_t bits) {
    const HeadShape shape = model().head_shape();
    Calibration c;
    c.n_layers = model().config().n_layers;
    c.n_kv_heads = shape.n_kv_heads;
    c.head_dim = shape.head_dim;
    const auto n = static_cast<std::size_t>(c.n_layers * c.n_kv_heads * c.head_dim);
    for (SideCalibration* side : {&c.k, &c.v}) {
      side->bits = bits;
      side->shift.assign(n, 0.0f);
      side->scale.assign(n, 1.0f);
      side->clip.assign(static_cast<std::size_t>(c.n_layers), 1.0f);
    }
    return c;
  }
};

TEST_F(Reproduction, ExactRowsDivergeByNothing) {
  const WkvScore score = WkvScorer(model(), data()).score(model(), {.quantize = false});
  EXPECT_EQ(score.divergence.n_tokens, 99 + 59);
  EXPECT_EQ(score.divergence.logit_max, 0.0);
  llama::EvalOptions options;
  EXPECT_NEAR(score.perplexity, llama::measure_perplexity(model(), data(), options).perplexity(),
              1e-6 * score.perplexity);
}

TEST_F(Reproduction, EveryPartOfWkvCounts) {
  const WkvScorer scorer(model(), data());
  const auto kl = [&](const WkvParts& parts) {
    return scorer.score(model(), parts).divergence.kl_mean;
  };
  const double four = kl({.bits = 4});
  EXPECT_GT(four, 0.0);
  EXPECT_GT(kl({.bits = 2}), 4.0 * four);
  EXPECT_LT(kl({.bits = 8}), four / 4.0);
  EXPECT_GT(kl({.past_only = false, .bits = 4}), four);
  const Calibration nothing = identity(4);
  EXPECT_EQ(kl({.calibration = &nothing, .bits = 4}), four);
  Calibration scaled = identity(4);
  for (std::size_t i = 0; i < scaled.k.scale.size(); i += 2) scaled.k.scale[i] = 64.0f;
  EXPECT_GT(kl({.calibration = &scaled, .bits = 4}), 2.0 * four)
      << "every other channel of the keys is crushed to a few codes";
}

TEST_F(Reproduction, CalibrationOfAnotherModelIsRefused) {
  Calibration other = identity(4);
  other.n_layers = 7;
  EXPECT_THROW(WkvScorer(model(), data()).score(model(), {.calibration = &other}),
               invalid_argument);
}

TEST_F(Reproduction, QuestionsInsideThePromptAreAnsweredAsGenerationDoes) {
  const llama::EvalData d = asked();
  llama::Engine engine(model(), "kv=f32", 512);
  const PromptedRecall all = measure_prompted_recall(engine, d, 0, 64);
  EXPECT_EQ(all.asked, 3);
  EXPECT_EQ(all.right, 3);
  EXPECT_EQ(measure_prompted_recall(engine, d, 2, 64).asked, 2);
  llama::EvalData wrong = d;
  wrong.recall[1].questions[0].answer[3] ^= 1;
  EXPECT_EQ(measure_prompted_recall(engine, wrong, 0, 64).right, 2);
  // A policy that evicts inside the prompt frees rows, and the sequence can go on.
  llama::Engine evicting(model(), "kv=f32,policy=snapkv:r0.4:w16,recent=0", 512);
  const PromptedRecall fewer = measure_prompted_recall(evicting, d, 0, 64);
  EXPECT_EQ(fewer.asked, 3);
  EXPECT_LT(fewer.bytes.payload, all.bytes.payload);
}

TEST_F(Reproduction, BadArgumentsAreNamed) {
  llama::Engine engine(model(), "kv=f32", 512);
  EXPECT_THROW(measure_prompted_recall(engine, asked(), 0, 0), invalid_argument);
  EXPECT_THROW(measure_prompted_recall(engine, asked(), -1, 64), invalid_argument);
  ReproductionOptions none;
  output::ProgressLine progress;
  EXPECT_THROW(reproduce(none, {}, progress), invalid_argument);
}

TEST(ReproductionPage, HoldsEveryClaimAndRow) {
  Claim c;
  c.title = "Title";
  c.claim = "It is so.";
  c.how = "By measuring.";
  c.table = {{"a", "b"}, {"1", "2"}, {"3", "4"}};
  c.measured = "It was 2.";
  c.shortfall = "Little.";
  const std::string text = to_markdown({c});
  EXPECT_EQ(text,
            "\n## Title\n\n**Claim.** It is so. **Not in full.** It was 2.\n\nBy measuring.\n\n"
            "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |\n\n"
            "**Where it falls short.** Little.\n");
  c.met = true;
  EXPECT_NE(to_markdown({c}).find("**Reproduced.**"), std::string::npos);
}

}  // namespace
}  // namespace kvcodec::eval
