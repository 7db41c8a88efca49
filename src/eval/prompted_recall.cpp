#include "src/eval/prompted_recall.hpp"

#include <string>
#include <utility>
#include <vector>

#include "examples/llama/sampler.hpp"
#include "examples/llama/tokenizer.hpp"
#include "kvcodec/core/error.hpp"

namespace kvcodec::eval {
namespace {

/// Context and question of every question asked.
std::vector<std::pair<const llama::RecallContext*, const llama::Question*>> choose(
    const llama::EvalData& data, std::int64_t max_questions) {
  std::vector<std::pair<const llama::RecallContext*, const llama::Question*>> all, chosen;
  for (const llama::RecallContext& c : data.recall) {
    for (const llama::Question& q : c.questions) all.emplace_back(&c, &q);
  }
  const std::int64_t n = std::ssize(all);
  if (max_questions == 0 || max_questions >= n) return all;
  for (std::int64_t i = 0; i < max_questions; ++i) {
    chosen.push_back(all[static_cast<std::size_t>(i * n / max_questions)]);
  }
  return chosen;
}

std::string answer(llama::Session& session, std::span<const float> logits, std::size_t n) {
  std::string given;
  while (true) {
    const std::int32_t token = llama::argmax(logits);
    given.push_back(static_cast<char>(token));
    if (given.size() == n) return given;
    logits = session.step(token);
  }
}

}  // namespace

PromptedRecall measure_prompted_recall(llama::Engine& engine, const llama::EvalData& data,
                                       std::int64_t max_questions, std::int64_t chunk_size,
                                       const llama::Progress& progress) {
  if (chunk_size < 1) {
    throw invalid_argument(bad_value("prompted recall", "chunk_size", chunk_size, "1 and above"));
  }
  if (max_questions < 0) {
    throw invalid_argument(
        bad_value("prompted recall", "max_questions", max_questions, "0 and above"));
  }
  const llama::ByteTokenizer tokenizer(engine.model().config().vocab_size);
  const auto chosen = choose(data, max_questions);
  PromptedRecall out;
  for (const auto& [context, question] : chosen) {
    if (question->answer.empty()) continue;
    llama::Session session = engine.open();
    const auto logits =
        session.prefill(tokenizer.encode(context->context + question->prompt), chunk_size);
    const CacheBytes bytes = engine.cache().bytes(session.id());
    if (bytes.n_values > out.bytes.n_values) out.bytes = bytes;
    out.right += answer(session, logits, question->answer.size()) == question->answer ? 1 : 0;
    ++out.asked;
    if (progress) progress(out.asked, std::ssize(chosen));
  }
  return out;
}

}  // namespace kvcodec::eval
