// Chooses what to store how, layer by layer and side by side, from measured losses.
//
// 1. Screen: with one candidate on one side of all layers, the error of every layer's attention output on
//    captured rows. Candidates that another one beats by more than `slack` at no more bits are dropped,
//    layer by layer.
// 2. Sensitivities: for each that is left, the divergence of the model (nats per token) with this
//    candidate on this side of this layer and f16 everywhere else; the same for eviction policies.
// 3. allocate_for_budget or allocate_for_loss, the losses of a layer's sides and policy added up.
// 4. On other documents: the solution, the best uniform settings, and then changes of one or two sides
//    that keep within the budget, in the order of their predicted gain; what measures better stays.
//
// Losses add up only roughly, so step 4 trusts nothing but measurements of whole plans.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/eval/captured.hpp"
#include "src/eval/divergence.hpp"
#include "src/eval/measure.hpp"

namespace kvcodec::eval {

struct PlannerOptions {
  std::vector<std::string> k, v;      ///< candidates, [transform+...]codec; f16 is always one
  std::vector<std::string> policies;  ///< beside keeping every token; empty: no eviction
  std::int32_t policy_sink = 16;      ///< sinks of layers that evict
  /// Exactly one of the three.
  std::optional<double> budget_bits;  ///< of pages per value, scales and all
  std::optional<std::int64_t>
      budget_bytes;              ///< of one sequence of `context` tokens, windows and all
  std::optional<double> max_kl;  ///< nats per token
  std::int64_t context = 4096;
  std::vector<std::int32_t> recent = {32}, sink = {0};  ///< more than one only with budget_bytes
  double slack = 1.3;
  std::int32_t n_uniform = 12;  ///< best uniform settings that are measured as a whole
  std::int32_t n_refine = 24;   ///< measurements of changes
};

/// Throws invalid_argument naming the option that is out of range or contradicts another.
void check(const PlannerOptions& options);

/// Candidates for heads of any size: those that do not fit a model are left out.
std::vector<std::string> default_candidates(Side side);
std::vector<std::string> default_policies();

/// One choice for one slot.
struct Sensitivity {
  std::int32_t layer = 0;
  std::string side;  ///< "k", "v" or "policy"
  std::string spec;
  double bits = 0.0;   ///< per value of the side; of a policy: share of the tokens kept
  double error = 0.0;  ///< of attention outputs, root of the mean square over heads; 0 for policies
  std::optional<double> kl;  ///< absent: dropped by the screen
};

/// The same for all layers.
struct UniformSetting {
  std::string plan;
  double bits = 0.0;
  double predicted = 0.0;    ///< sum of the losses of its sides and policy, each measured alone
  std::optional<double> kl;  ///< of the whole, on the second documents, where measured
};

struct PlannerResult {
  Json plan;  ///< what Cache loads
  double bits = 0.0;
  bool exact = true;           ///< of the solver
  double predicted = 0.0;      ///< sum of the parts of the solver's plan
  double measured = 0.0;       ///< the solver's plan as a whole on the same documents
  double solver_second = 0.0;  ///< and on the second documents
  double second = 0.0;         ///< the refined plan on the second documents
  std::int64_t bytes = 0;      ///< of one sequence of the context
  std::int64_t n_runs = 0;     ///< plans measured on documents
  std::int64_t n_moves = 0;    ///< changes kept
  std::vector<Sensitivity> sensitivities;
  std::vector<UniformSetting> uniform;  ///< within the budget, best predicted first
  std::vector<std::string> left_out;    ///< candidates that do not fit the model
};

/// Plans a model. `first` and `second` are baselines of plan kv=f16 on different documents of the
/// same model; `captured` holds rows of that model. Throws invalid_argument naming the option that is
/// out of range, or the smallest budget or divergence there is.
PlannerResult plan_model(const PlannerOptions& options, const Baseline& first,
                         const Baseline& second, const Captured& captured, const Executor& executor,
                         ProgressLine& progress);

/// The same from captured rows alone: losses are mean squares of relative errors of attention
/// outputs, and nothing is refined. max_kl is refused.
PlannerResult plan_captured(const PlannerOptions& options, const Captured& captured,
                            const Executor& executor, ProgressLine& progress);

Json to_json(const PlannerResult& result);
/// Sensitivities: one line per candidate and side, one column per layer.
std::string sensitivity_table(const PlannerResult& result);

}  // namespace kvcodec::eval
