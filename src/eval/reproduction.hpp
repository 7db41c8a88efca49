// The headline results of the papers, measured on the shipped models: docs/reproduction.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "kvcodec/core/executor.hpp"
#include "src/output/output.hpp"

namespace kvcodec::eval {

/// A claim of a paper and what was measured for it.
struct Claim {
  std::string title;
  std::string claim;                            ///< the paper's, in our words
  std::string how;                              ///< what the columns are and how they were measured
  std::vector<std::vector<std::string>> table;  ///< header, then rows
  std::string measured;                         ///< one sentence with the deciding numbers
  bool met = false;
  std::string
      shortfall;  ///< where it falls short of the paper, or of what can be told here, and why
};

struct ReproductionOptions {
  std::vector<std::filesystem::path> models;    ///< folders with an eval.json, at least one
  std::int64_t budget = std::int64_t{1} << 30;  ///< bytes, for contexts and batches
  /// Parts of the material, for a quick look: documents, contexts, prompts with a question. 0: all of
  /// them; prompts 0: 48.
  std::int64_t max_documents = 0;
  std::int64_t max_contexts = 0;
  std::int64_t max_prompts = 0;
};

/// Measures every claim. Deterministic but for times. Throws what the models and plans throw.
std::vector<Claim> reproduce(const ReproductionOptions& options, const Executor& executor,
                             output::ProgressLine& progress);

/// The page without its head.
std::string to_markdown(const std::vector<Claim>& claims);

}  // namespace kvcodec::eval
