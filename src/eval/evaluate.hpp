// Everything that `kvcodec eval --model` measures, in the form of report.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "kvcodec/core/executor.hpp"
#include "src/eval/latency.hpp"
#include "src/eval/measure.hpp"
#include "src/eval/retrieval.hpp"
#include "src/output/output.hpp"

namespace kvcodec::eval {

/// Parts of an evaluation that can be left out.
inline const std::vector<std::string>& parts() {
  static const std::vector<std::string> names = {"divergence", "retrieval", "attention", "latency",
                                                 "distributions"};
  return names;
}

struct EvaluateOptions {
  std::filesystem::path model;
  /// Files to score instead of the folder's eval.json: text, or token ids as .npy; at most one.
  std::filesystem::path text, tokens;
  std::vector<NamedPlan> plans;  ///< kv=f16 is put in front if it is not among them
  MeasureOptions measure;        ///< `baseline` and the generation are not looked at
  /// Lengths of retrieval and latency, in tokens; empty: 512, 1024 and 2048, as far as the model
  /// goes.
  std::vector<std::int64_t> lengths;
  RetrievalOptions retrieval;
  LatencyOptions latency;
  std::int64_t captured_tokens = 2048;  ///< of the first document, for attention errors
  std::int64_t captured_queries = 64;
  std::set<std::string> skip;     ///< of parts()
  std::filesystem::path capture;  ///< folder for the captured K, V and Q; empty: not written
  std::filesystem::path journal;  ///< file that results are stored in as they come; empty: none
  bool resume = false;            ///< go on from the journal
};

/// "baseline", "plans" and "distributions" of report.json. Throws what the model, the plans and the
/// material throw, before any work where it can be known.
output::Json evaluate_model(const EvaluateOptions& options, const Executor& executor,
                            ProgressLine& progress);

/// The second table on the terminal: what plans do to predictions, attention, retrieval and time.
std::string quality_table(const output::Json& rows);

}  // namespace kvcodec::eval
