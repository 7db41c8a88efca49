// Recall by how far back and how deep a fact lies, and retrieval tasks of chosen lengths and depths
// written in the style of a model's own evaluation text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "examples/llama/eval_text.hpp"
#include "src/output/output.hpp"

namespace kvcodec::eval {

/// Questions whose distance (tokens) or depth (0: start of the context, 1: its end) lies in
/// from..to, `to` not included.
struct RecallBin {
  double from = 0.0, to = 0.0;
  std::int64_t right = 0, asked = 0;
};

/// Bins without questions are left out.
std::vector<RecallBin> recall_by_distance(const llama::Recall& recall);
/// Five bins. `data` is what was asked.
std::vector<RecallBin> recall_by_depth(const llama::Recall& recall, const llama::EvalData& data);

struct RetrievalOptions {
  std::vector<std::int64_t> lengths = {512, 1024, 2048};  ///< bytes of a context
  std::vector<double> depths = {0.0, 0.25, 0.5, 0.75, 1.0};
  std::int32_t needles = 8;   ///< facts of a multi-needle context
  std::int32_t pairs = 24;    ///< questions of a key-value context, evenly over its depth
  std::int32_t contexts = 4;  ///< of each kind, length and depth, each with other text
  std::uint64_t seed = 1;
};

/// The contexts of one kind, length and depth, to be asked by llama::measure_recall.
struct RetrievalTask {
  /// needle: one fact in filler, at one depth. multi_needle: several facts evenly over the filler.
  /// key_value: nothing but facts.
  std::string task;
  std::int64_t length = 0;
  std::optional<double> depth;  ///< of a needle
  llama::EvalData data;
};

/// Contexts of every kind and length. Facts are written as those of data.recall, "KEY=VALUE.", with
/// fresh keys and values from the same letters; filler are sentences of data.filler. Empty where the
/// material has no such facts or no filler. Throws invalid_argument for a length that does not hold
/// the facts, or a depth or count out of range.
std::vector<RetrievalTask> make_retrieval(const llama::EvalData& data,
                                          const RetrievalOptions& options);

struct RetrievalScore {
  std::string task;
  std::int64_t length = 0;
  std::optional<double> depth;  ///< of a needle; of a key-value question the middle of its bin
  std::int64_t right = 0, asked = 0;
};

/// Asks all of them. The cache must have the room that cache_needs() says for each task.
std::vector<RetrievalScore> measure_retrieval(llama::Engine& engine,
                                              const std::vector<RetrievalTask>& tasks,
                                              const llama::EvalOptions& options);

output::Json to_json(const std::vector<RecallBin>& bins);
output::Json to_json(const std::vector<RetrievalScore>& scores);

}  // namespace kvcodec::eval
