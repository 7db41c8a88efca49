// kvcodec plan: what to store how within a budget, from what each choice was measured to lose.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "examples/llama/calibration.hpp"
#include "kvcodec/attend/cpu_isa.hpp"
#include "src/cli/commands.hpp"
#include "src/eval/documents.hpp"
#include "src/eval/evaluate.hpp"
#include "src/eval/planner.hpp"

namespace kvcodec::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string model, kv, text, tokens, out, json, budget;
  double budget_bits = 0.0, max_kl = 0.0;
  eval::PlannerOptions planner;
  bool evict = false;
  bool no_compare = false;
  std::int64_t n_documents = 4;
  std::int64_t length = 2048;
  std::int64_t captured_queries = 64;
  std::uint64_t seed = 1;
  int threads = 0;
};

eval::PlannerOptions planner_options(const Options& o) {
  eval::PlannerOptions p = o.planner;
  if (p.k.empty()) p.k = eval::default_candidates(Side::key);
  if (p.v.empty()) p.v = eval::default_candidates(Side::value);
  if (o.evict && p.policies.empty()) p.policies = eval::default_policies();
  if (o.budget_bits != 0.0) p.budget_bits = o.budget_bits;
  if (o.max_kl != 0.0) p.max_kl = o.max_kl;
  if (!o.budget.empty()) p.budget_bytes = parse_bytes(o.budget);
  return p;
}

/// At least two documents: the first half measures, the others decide.
eval::Documents documents_of(const Options& o, const llama::Model& model) {
  const llama::Config& config = model.config();
  const std::int64_t length = std::min<std::int64_t>(o.length, config.max_position);
  eval::Documents documents;
  if (!o.tokens.empty()) {
    documents = eval::read_tokens(o.tokens, config);
  } else if (!o.text.empty()) {
    documents = eval::read_text(o.text, o.model, config);
  } else {
    documents = llama::sample_text(
        model, {.n_tokens = o.n_documents * length,
                .length = length,
                .start_token = std::min<std::int32_t>('\n', config.vocab_size - 1),
                .seed = o.seed});
  }
  if (std::ssize(documents) > o.n_documents) {
    documents.resize(static_cast<std::size_t>(o.n_documents));
  }
  if (documents.size() < 2) {
    throw invalid_argument(bad_value("plan", "documents", documents.size(),
                                     "2 and more: a longer text, or a smaller --length"));
  }
  return documents;
}

void print_plan(const eval::PlannerResult& r) {
  std::vector<std::vector<std::string>> rows = {{"layer", "k", "v", "policy"}};
  for (const auto& [layer, choice] : r.plan["layers"].items()) {
    rows.push_back({layer, choice["k"], choice["v"], choice.value("policy", std::string("-"))});
  }
  std::printf("%s\n%.3f bits per value in pages, %s for one sequence of the context\n",
              to_table(rows).c_str(), r.bits, bytes_text(r.bytes).c_str());
}

/// Of those that were measured as a whole, the four that diverge least.
std::vector<eval::UniformSetting> best_uniform(const eval::PlannerResult& r) {
  std::vector<eval::UniformSetting> best;
  for (const eval::UniformSetting& u : r.uniform) {
    if (u.kl) best.push_back(u);
  }
  std::stable_sort(best.begin(), best.end(),
                   [](const auto& a, const auto& b) { return *a.kl < *b.kl; });
  best.resize(std::min<std::size_t>(best.size(), 4));
  return best;
}

void print_losses(const eval::PlannerResult& r) {
  std::printf(
      "\nKL in nats per token\n  sum of the parts          %.3e\n  whole, same documents     %.3e\n"
      "  whole, other documents    %.3e\n  after %3lld changes         %.3e\n",
      r.predicted, r.measured, r.solver_second, static_cast<long long>(r.n_moves), r.second);
  for (const eval::UniformSetting& u : best_uniform(r)) {
    std::printf("  uniform %s   %.3e\n", u.plan.c_str(), *u.kl);
  }
}

/// The plan, the best uniform settings and the median one, on the model's own evaluation set, which no
/// choice has seen.
Json compare(const Options& o, const eval::PlannerResult& r, const Executor& executor,
             ProgressLine& progress) {
  eval::EvaluateOptions e;
  e.model = o.model;
  e.skip = {"retrieval", "attention", "latency", "distributions"};
  e.plans = eval::named_plans({"kv=f16"});
  e.plans.push_back({fs::path(o.out).filename().string(), r.plan.dump()});
  for (const eval::UniformSetting& u : best_uniform(r)) e.plans.push_back({u.plan, u.plan});
  if (!r.uniform.empty()) {
    const std::string& median = r.uniform[r.uniform.size() / 2].plan;
    e.plans.push_back({"median: " + median, median});
  }
  Json rows = eval::evaluate_model(e, executor, progress)["plans"];
  progress.clear();
  std::printf("\non %s\n\n%s\n%s", (fs::path(o.model) / "eval.json").string().c_str(),
              eval::results_table(rows, e.measure.budget).c_str(),
              eval::quality_table(rows).c_str());
  return rows;
}

int plan(const Options& o) {
  check_writable(o.out);
  check_writable(o.json);
  const eval::PlannerOptions planner = planner_options(o);
  ThreadPool pool(o.threads);
  const Executor executor = pool.executor();
  ProgressLine progress;
  Json report = {{"command", "plan"},
                 {"version", KVCODEC_VERSION},
                 {"isa", cpu_isa()},
                 {"threads", pool.n_threads()}};
  eval::PlannerResult result;
  if (!o.kv.empty()) {
    report["kv"] = o.kv;
    result = eval::plan_captured(planner, eval::read_captured(o.kv), executor, progress);
  } else {
    report["model"] = o.model;
    const llama::Model model = llama::Model::load(o.model, executor);
    progress.show("documents", 0, 1);
    eval::Documents documents = documents_of(o, model);
    const auto half = documents.begin() + std::ssize(documents) / 2;
    const eval::Captured captured = eval::capture(model, documents.front(), o.captured_queries);
    const eval::Baseline second(model, {half, documents.end()});
    documents.erase(half, documents.end());
    const eval::Baseline first(model, std::move(documents));
    result = eval::plan_model(planner, first, second, captured, executor, progress);
  }
  progress.clear();
  write_json(o.out, result.plan);
  std::printf("%s\n", eval::sensitivity_table(result).c_str());
  print_plan(result);
  if (!o.model.empty()) print_losses(result);
  for (const std::string& left : result.left_out) std::printf("left out: %s\n", left.c_str());
  report.update(eval::to_json(result));
  if (!o.model.empty() && !o.no_compare && fs::exists(fs::path(o.model) / "eval.json")) {
    report["plans"] = compare(o, result, executor, progress);
  }
  write_json(o.json, report);
  return 0;
}

void add_material(CLI::App* sub, Options& o) {
  CLI::Option* model = sub->add_option("--model", o.model, "model folder");
  sub->add_option("--kv", o.kv, "captured K, V and Q instead: a folder or a .safetensors file")
      ->excludes(model);
  CLI::Option* text = sub->add_option(
      "--text", o.text, "text to measure on (default: text that the model writes itself)");
  text->needs(model);
  sub->add_option("--tokens", o.tokens, "token ids to measure on, a .npy of integers")
      ->needs(model)
      ->excludes(text);
  sub->add_option("--documents", o.n_documents, "to measure on; half of them decide")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  sub->add_option("--length", o.length, "tokens of a document that the model writes")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  sub->add_option("--seed", o.seed, "of the model's own text")->capture_default_str();
}

void add_choices(CLI::App* sub, Options& o) {
  CLI::Option* bits =
      sub->add_option("--budget-bits", o.budget_bits, "bits per value in pages, scales and all");
  CLI::Option* bytes = sub->add_option(
      "--budget", o.budget, "bytes of one sequence of --context tokens, windows and all");
  CLI::Option* kl = sub->add_option("--max-kl", o.max_kl,
                                    "the smallest plan that diverges by no "
                                    "more nats per token");
  bits->excludes(bytes)->excludes(kl);
  bytes->excludes(kl);
  sub->add_option("--context", o.planner.context, "tokens that bytes are counted at")
      ->capture_default_str();
  sub->add_option("--k", o.planner.k, "a candidate for keys instead of the built-in ones; repeat");
  sub->add_option("--v", o.planner.v, "the same for values");
  CLI::Option* evict = sub->add_flag("--evict", o.evict, "layers may also evict tokens (LagKV)");
  sub->add_option("--policy", o.planner.policies,
                  "candidates for --evict instead of the built-in "
                  "ones; repeat")
      ->needs(evict);
  sub->add_option("--recent", o.planner.recent, "newest tokens that stay raw; with --budget a list")
      ->delimiter(',')
      ->check(CLI::Range(0, 65536))
      ->capture_default_str();
  sub->add_option("--sink", o.planner.sink, "first tokens that stay raw; with --budget a list")
      ->delimiter(',')
      ->check(CLI::Range(0, 65536))
      ->capture_default_str();
  sub->add_option("--refine", o.planner.n_refine, "changes to measure at the end")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
}

}  // namespace

void add_plan(CLI::App& app, Run& run) {
  const auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("plan", "Chooses codecs per layer and side within a budget");
  add_material(sub, *options);
  add_choices(sub, *options);
  sub->add_option("-o,--out", options->out,
                  "plan file to write, for eval --plan and "
                  "make_cache_config")
      ->required();
  sub->add_option("--json", options->json, "also write what was measured to this file");
  sub->add_flag("--no-compare", options->no_compare,
                "do not measure the plan and uniform settings on the model's eval.json");
  sub->add_option("--threads", options->threads, "0: one per hardware thread")
      ->check(CLI::Range(0, 1024));
  sub->callback([options, &run] {
    if (options->model.empty() == options->kv.empty()) {
      throw CLI::ValidationError("plan", "needs --model DIR or --kv DIR");
    }
    run = [options] { return plan(*options); };
  });
}

}  // namespace kvcodec::cli
