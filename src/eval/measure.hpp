// What one plan does to one model: memory, perplexity, recall, speed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "examples/llama/eval_text.hpp"
#include "src/eval/divergence.hpp"
#include "src/eval/retrieval.hpp"
#include "src/output/output.hpp"

namespace kvcodec::eval {

using output::Json;
using output::ProgressLine;

/// Bytes of a cache, measured by filling one.
struct Memory {
  double payload_bits = 0.0;  ///< bytes of pages per value of further tokens, evicted ones included
  CacheBytes bytes;           ///< of the one sequence
  std::int64_t longest_context = 0;  ///< tokens of one sequence that fit the budget
  std::int64_t largest_batch = 0;    ///< sequences of kBatchTokens that fit the budget
};

/// Length of the sequences in Memory::largest_batch.
inline constexpr std::int64_t kBatchTokens = 4096;

/// Whether a side of any layer is in codec "codebook", whose tables depend on the values.
bool has_codebook(const CacheConfig& config);

/// Bytes of one sequence of made-up tokens whose prompt has ended. They do not depend on the values, but
/// for codebooks. Throws what the plan or the cache throws.
CacheBytes filled_bytes(const std::string& plan, const HeadShape& shape, std::int32_t n_layers,
                        std::int64_t n_tokens);

/// Fills caches of this plan and counts what they use.
Memory measure_memory(const std::string& plan, const HeadShape& shape, std::int32_t n_layers,
                      std::int64_t n_tokens, std::int64_t budget);

/// One row of the tables.
struct PlanResult {
  std::string name;
  std::string plan;
  std::string weights;
  Memory memory;
  std::int64_t n_tokens = 0;  ///< length at which memory.bytes was measured
  double perplexity = 0.0;
  double answer_bits = 0.0;  ///< bits per byte where the text determines the byte; 0 if unknown
  bool has_recall = false;
  double recall = 0.0;
  std::int64_t n_questions = 0;
  std::vector<RecallBin> by_distance, by_depth;
  std::optional<Divergence> divergence;
  double scored_per_s = 0.0;   ///< tokens per second of scoring text in chunks
  double decoded_per_s = 0.0;  ///< tokens per second of generation; 0 if nothing was generated
  std::string text;            ///< what was generated
};

/// Settings of a run over several plans.
struct MeasureOptions {
  llama::EvalOptions eval;
  std::int64_t budget = std::int64_t{1} << 30;
  std::string prompt;  ///< to be continued; empty: no generation
  std::int64_t n_generated = 0;
  /// What predictions are compared with, over the same documents and chunk size; null: nothing.
  const Baseline* baseline = nullptr;
};

/// A plan and what tables call it.
struct NamedPlan {
  std::string name;
  std::string plan;
  std::string weights = "f32";  ///< of the model, as llama::parse_weight_format reads it
};

/// Tokens that measure_plan runs, for an estimate of its time.
struct Work {
  double documents = 0.0, contexts = 0.0;
};
Work work_of(const llama::EvalData& data, const llama::EvalOptions& options);

/// Measures one plan. `what` heads the progress line. Throws what the plan, the cache or the model
/// throws.
PlanResult measure_plan(const llama::Model& model, const llama::EvalData& data,
                        const NamedPlan& plan, const MeasureOptions& options,
                        ProgressLine& progress, const std::string& what);

/// The same for documents of token ids: perplexity per token, no recall.
PlanResult measure_documents(const llama::Model& model, const Documents& documents,
                             const NamedPlan& plan, const MeasureOptions& options,
                             ProgressLine& progress, const std::string& what);

/// Plans that go by their own text.
std::vector<NamedPlan> named_plans(const std::vector<std::string>& plans);

/// Throws invalid_argument or unsupported unless every plan fits these heads and layers; called
/// before any work.
void check_plans(const std::vector<NamedPlan>& plans, const HeadShape& shape,
                 std::int32_t n_layers);

/// One JSON object per plan; what depends on other plans is left open.
Json to_json(const PlanResult& result);

/// Index of the row that others are compared with: that of plan "kv=f16", else the first whose plan
/// begins so, else the first.
std::size_t baseline_of(const Json& rows);

/// Fills times_smaller and ppl_delta_pct of every row of to_json().
void add_deltas(Json& rows);

/// The table on the terminal, of rows with deltas, with the speed of generation if there was any.
std::string results_table(const Json& rows, std::int64_t budget);

}  // namespace kvcodec::eval
