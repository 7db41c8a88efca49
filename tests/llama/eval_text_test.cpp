#include "examples/llama/eval_text.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "examples/llama/tokenizer.hpp"
#include "kvcodec/core/error.hpp"
#include "tests/llama/random_model.hpp"

namespace llama {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class EvalText : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / (std::string("eval_") + test->name());
    testing::write_random_model(folder_, testing::small_config(), 5);
  }
  void TearDown() override { fs::remove_all(folder_); }

  // Two documents, two contexts; any text does, as the model is random.
  static json eval_json() {
    const auto question = [](const char* prompt, const char* answer) {
      return json{{"key", "K"}, {"prompt", prompt}, {"answer", answer}, {"distance", 90}};
    };
    const json questions = {question("AB?", "12"), question("C?", "3456"), question("DEF?", "7")};
    return {{"heldout", "heldout.txt"},
            {"documents", {{0, 150}, {150, 260}}},
            {"filler_ranges", {{0, 40}, {200, 210}}},
            {"answer_ranges", {{50, 54}}},
            {"recall",
             {{{"context", text(130)}, {"questions", questions}},
              {{"context", text(70)}, {"questions", questions}}}},
            {"generation", {"hello", {{"name", "x"}, {"prompt", text(90)}, {"bytes", 12}}}},
            {"floor", {{"filler", 0.5}}}};
  }

  static std::string text(std::size_t n) {
    std::string out;
    for (std::size_t i = 0; i < n; ++i) out.push_back(static_cast<char>('a' + i * i % 23));
    return out;
  }

  EvalData write(const json& eval) const {
    std::ofstream(folder_ / "eval.json") << eval.dump();
    std::ofstream(folder_ / "heldout.txt") << text(260);
    return read_eval(folder_);
  }

  void expect_corrupt(const json& eval, const std::string& part) const {
    try {
      write(eval);
      FAIL() << "accepted " << eval.dump();
    } catch (const kvcodec::corrupt_data& e) {
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
  }

  fs::path folder_;
};

TEST_F(EvalText, ReadsEvalData) {
  EXPECT_THROW(read_eval(folder_), kvcodec::invalid_argument);
  const EvalData data = write(eval_json());
  EXPECT_EQ(data.heldout, text(260));
  ASSERT_EQ(data.documents.size(), 2u);
  EXPECT_EQ(data.documents[1].begin, 150);
  EXPECT_EQ(data.documents[1].end, 260);
  EXPECT_EQ(data.filler.size(), 2u);
  EXPECT_EQ(data.answers.size(), 1u);
  ASSERT_EQ(data.recall.size(), 2u);
  EXPECT_EQ(data.recall[0].questions[1].answer, "3456");
  EXPECT_EQ(data.recall[0].questions[1].distance, 90);
  ASSERT_EQ(data.generation.size(), 2u);
  EXPECT_EQ(data.generation[0].prompt, "hello");
  EXPECT_EQ(data.generation[1].n_bytes, 12);
  EXPECT_DOUBLE_EQ(data.floor.at("filler"), 0.5);
}

TEST_F(EvalText, ReadsTheEvalDataThatAnotherFolderShares) {
  write(eval_json());
  const fs::path other = folder_ / "other";
  fs::create_directories(other);
  const auto point_to = [&](const std::string& target) {
    std::ofstream(other / "eval.json") << json{{"shared", target}};
  };
  point_to("../eval.json");
  EXPECT_EQ(read_eval(other).heldout, text(260));
  point_to("eval.json");
  EXPECT_THROW(read_eval(other), kvcodec::corrupt_data);
  point_to("../nowhere.json");
  EXPECT_THROW(read_eval(other), kvcodec::invalid_argument);
}

TEST_F(EvalText, RefusesDamagedEvalData) {
  const auto with = [](const json& change) {
    json j = eval_json();
    j.merge_patch(change);
    return j;
  };
  expect_corrupt("text", "eval.json");
  expect_corrupt(with({{"documents", {{0, 300}}}}), "documents has [0,300]");
  expect_corrupt(with({{"documents", {{10, 20}, {5, 30}}}}), "documents has [5,30]");
  expect_corrupt(with({{"documents", {{10}}}}), "eval.json");
  expect_corrupt(with({{"recall", {{{"context", ""}, {"questions", json::array()}}}}}), "context");
  expect_corrupt(with({{"recall", {{{"context", "a"}}}}}), "questions");
  expect_corrupt(with({{"generation", {""}}}), "generation");
  expect_corrupt(with({{"floor", {{"filler", "low"}}}}), "eval.json");
}

TEST_F(EvalText, PerplexityWithExactCacheEqualsNoCache) {
  const EvalData data = write(eval_json());
  const Model model = Model::load(folder_);
  const EvalOptions options{.chunk_size = 33};
  const CacheNeeds needs = cache_needs(data, options);
  Engine engine(model, "kv=f32", needs.max_tokens, needs.max_sequences);
  const Perplexity cached = measure_perplexity(engine, data, options);
  const Perplexity dense = measure_perplexity(model, data, options);
  EXPECT_EQ(cached.all.n, 260 - 2);
  EXPECT_EQ(cached.filler.n, 40 - 1 + 10);  // the first byte of a document is given
  EXPECT_EQ(cached.answers.n, 4);
  EXPECT_EQ(cached.cost.n_tokens, 258);
  EXPECT_GT(cached.cost.seconds, 0.0);
  EXPECT_NEAR(cached.all.bits, dense.all.bits, 1e-3);
  EXPECT_NEAR(cached.filler.bits, dense.filler.bits, 1e-3);
  EXPECT_NEAR(cached.answers.bits, dense.answers.bits, 1e-3);
  EXPECT_EQ(cached.n_top1, dense.n_top1);
  EXPECT_EQ(cached.bytes.n_values, 149 * 2 * 2 * 64 * 2);  // layers, heads, channels, K and V
  EXPECT_DOUBLE_EQ(cached.perplexity(), std::exp2(cached.all.bits / 258.0));
}

// The first document by hand: sum of -log2 p(next byte).
TEST_F(EvalText, PerplexityMatchesItsDefinition) {
  const EvalData data = write(eval_json());
  const Model model = Model::load(folder_);
  const Perplexity got = measure_perplexity(model, data, {.max_documents = 1});
  const auto tokens = ByteTokenizer(256).encode(data.heldout.substr(0, 150));
  const auto logits = model.forward_dense(tokens);
  double bits = 0.0;
  for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
    double sum = 0.0;
    for (std::size_t j = 0; j < 256; ++j) {
      sum += std::exp(static_cast<double>(logits[i * 256 + j]));
    }
    const auto next = static_cast<std::size_t>(tokens[i + 1]);
    bits -= std::log2(std::exp(static_cast<double>(logits[i * 256 + next])) / sum);
  }
  EXPECT_EQ(got.all.n, 149);
  EXPECT_NEAR(got.all.bits, bits, 1e-6 * bits);
}

TEST_F(EvalText, RecallDoesNotDependOnBatchAndCountsExactAnswers) {
  json eval = eval_json();
  EvalData data = write(eval);
  const Model model = Model::load(folder_);
  const auto ask = [&](std::int32_t batch) {
    const EvalOptions options{.chunk_size = 50, .batch = batch};
    const CacheNeeds needs = cache_needs(data, options);
    Engine engine(model, "kv=nqkv:g64,recent=8", needs.max_tokens, needs.max_sequences);
    return measure_recall(engine, data, options);
  };
  const Recall one = ask(1), all = ask(24);
  ASSERT_EQ(one.answers.size(), 6u);
  ASSERT_EQ(all.answers.size(), 6u);
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(one.answers[i].given, all.answers[i].given);
    EXPECT_EQ(one.answers[i].given.size(), one.answers[i].question.answer.size());
    EXPECT_EQ(one.answers[i].context, static_cast<std::int32_t>(i / 3));
  }
  EXPECT_EQ(one.prefill.n_tokens, 200);
  // Make the model's own words the right answers to all questions but one.
  for (std::size_t i = 0; i < 6; ++i) {
    data.recall[i / 3].questions[i % 3].answer = one.answers[i].given;
  }
  data.recall[1].questions[1].answer += "x";
  const Recall right = ask(2);
  EXPECT_EQ(right.n_correct, 5);
  EXPECT_DOUBLE_EQ(right.accuracy(), 5.0 / 6.0);
}

TEST_F(EvalText, GenerationWithExactCacheEqualsNoCache) {
  const EvalData data = write(eval_json());
  const Model model = Model::load(folder_);
  Engine engine(model, "kv=f32", 256);
  const auto prompt = ByteTokenizer(256).encode(data.generation[1].prompt);
  for (const float temperature : {0.0f, 1.0f}) {
    const Sampler sampler({.temperature = temperature, .seed = 4});
    const Generated a = generate(engine, prompt, 30, sampler, 32);
    const Generated b = generate(model, prompt, 30, sampler);
    EXPECT_EQ(a.tokens.size(), 30u);
    EXPECT_EQ(a.tokens, b.tokens);
    EXPECT_EQ(a.prefill.n_tokens, 90);
    EXPECT_EQ(a.decode.n_tokens, 29);
  }
  EXPECT_THROW(generate(engine, {}, 3, Sampler()), kvcodec::invalid_argument);
}

}  // namespace
}  // namespace llama
