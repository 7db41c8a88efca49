// What one plan does to one model: memory, perplexity, recall, speed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "examples/llama/eval_text.hpp"
#include "src/cli/output.hpp"

namespace kvcodec::cli {

/// Bytes of a cache, measured by filling one.
struct Memory {
  double payload_bits = 0.0;  ///< bytes of pages per value of further tokens, evicted ones included
  CacheBytes bytes;           ///< of the one sequence
  std::int64_t longest_context = 0;  ///< tokens of one sequence that fit the budget
  std::int64_t largest_batch = 0;    ///< sequences of kBatchTokens that fit the budget
};

/// Length of the sequences in Memory::largest_batch.
inline constexpr std::int64_t kBatchTokens = 4096;

/// Fills a cache of this plan and counts what it uses. Bytes do not depend on the values.
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
};

/// A plan and what tables call it.
struct NamedPlan {
  std::string name;
  std::string plan;
  std::string weights = "f32";  ///< of the model, as llama::parse_weight_format reads it
};

/// Measures one plan. `what` heads the progress line. Throws what the plan, the cache or the model
/// throws.
PlanResult measure_plan(const llama::Model& model, const llama::EvalData& data,
                        const NamedPlan& plan, const MeasureOptions& options,
                        ProgressLine& progress, const std::string& what);

/// Token ids of a .npy file of integers. Throws corrupt_data, or invalid_argument naming an id that
/// the model has not or a length beyond what it was made for.
std::vector<std::int32_t> read_tokens(const std::string& file, const llama::Config& config);

/// The same as measure_plan for one sequence of token ids: perplexity per token, no recall.
PlanResult measure_tokens(const llama::Model& model, const std::vector<std::int32_t>& tokens,
                          const NamedPlan& plan, const MeasureOptions& options,
                          ProgressLine& progress, const std::string& what);

/// Plans that go by their own text.
std::vector<NamedPlan> named_plans(const std::vector<std::string>& plans);

/// Throws invalid_argument or unsupported unless every plan fits these heads and layers; called
/// before any work.
void check_plans(const std::vector<NamedPlan>& plans, const HeadShape& shape,
                 std::int32_t n_layers);

/// The result that others are compared with: the one whose plan is exactly 16 bits, else the first.
const PlanResult& baseline_of(const std::vector<PlanResult>& results);

/// One JSON object per plan; `baseline` is what deltas refer to.
Json to_json(const PlanResult& result, const PlanResult& baseline);

/// The table on the terminal, with the speed of generation if there was any.
std::string results_table(const std::vector<PlanResult>& results, std::int64_t budget);

}  // namespace kvcodec::cli
