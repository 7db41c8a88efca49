// Recall where the question is the end of the prompt, as in the papers' own evaluations: policies that
// judge by the newest queries of a prompt then judge by the question.
#pragma once

#include <cstdint>

#include "examples/llama/eval_text.hpp"

namespace kvcodec::eval {

struct PromptedRecall {
  std::int64_t right = 0, asked = 0;
  CacheBytes bytes;  ///< of the longest prompt behind its end
  double accuracy() const noexcept {
    return asked == 0 ? 0.0 : static_cast<double>(right) / static_cast<double>(asked);
  }
};

/// Runs context and question as one prompt, then answers greedily. `max_questions` are taken evenly
/// from all of data.recall; 0: all. `chunk_size` tokens per pass; the last pass holds at least the tokens
/// that policies observe. Needs room for one sequence of the longest context, question and answer.
/// Throws invalid_argument for a chunk_size below 1 or a negative max_questions, and what the engine
/// throws.
PromptedRecall measure_prompted_recall(llama::Engine& engine, const llama::EvalData& data,
                                       std::int64_t max_questions, std::int64_t chunk_size,
                                       const llama::Progress& progress = {});

}  // namespace kvcodec::eval
