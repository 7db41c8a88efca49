// kvcodec eval: plans on a model folder, or on captured keys, values and queries.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "kvcodec/attend/cpu_isa.hpp"
#include "kvcodec/plan/plan.hpp"
#include "src/cli/commands.hpp"
#include "src/cli/eval_synthetic.hpp"
#include "src/cli/kv_eval.hpp"
#include "src/cli/measure.hpp"
#include "src/verify/npy.hpp"

namespace kvcodec::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string model;
  std::string kv;
  std::string text;
  std::string tokens;
  std::string budget = "1GiB";
  std::string json;
  std::vector<std::string> plans;
  llama::EvalOptions eval;
  int threads = 0;
};

std::vector<NamedPlan> plans_of(const Options& options) {
  if (!options.plans.empty()) return named_plans(options.plans);
  return named_plans({"kv=f16", "kv=int8", "kv=nqkv:g64", "kv=nqsym:g64", "kv=hadamard+nqkv:g64"});
}

/// The bytes of a file as held-out text, in documents as long as the model allows, up to 2048.
llama::EvalData text_data(const std::string& file, const llama::Config& config) {
  std::ifstream in(file, std::ios::binary);
  if (!in || fs::is_directory(file)) {
    throw invalid_argument(bad_value("eval", "--text", file, "a readable file"));
  }
  llama::EvalData data;
  data.heldout.assign(std::istreambuf_iterator<char>(in), {});
  const auto size = static_cast<std::int64_t>(data.heldout.size());
  if (size < 2) throw invalid_argument("eval: --text " + file + " holds less than 2 bytes");
  const std::int64_t longest = std::min<std::int64_t>(2048, config.max_position);
  for (std::int64_t begin = 0; begin + 1 < size; begin += longest) {
    data.documents.push_back({begin, std::min(size, begin + longest)});
  }
  return data;
}

int eval_model(const Options& options) {
  MeasureOptions measure;
  measure.eval = options.eval;
  measure.budget = parse_bytes(options.budget);
  ThreadPool pool(options.threads);
  const llama::Model model = llama::Model::load(options.model, pool.executor());
  const std::vector<NamedPlan> plans = plans_of(options);
  check_plans(plans, model.head_shape(), model.config().n_layers);
  ProgressLine progress;
  std::vector<PlanResult> results;
  llama::EvalData data;
  std::vector<std::int32_t> ids;
  if (!options.tokens.empty()) {
    ids = read_tokens(options.tokens, model.config());
  } else {
    data = options.text.empty() ? llama::read_eval(options.model)
                                : text_data(options.text, model.config());
  }
  for (const NamedPlan& plan : plans) {
    results.push_back(ids.empty() ? measure_plan(model, data, plan, measure, progress, plan.name)
                                  : measure_tokens(model, ids, plan, measure, progress, plan.name));
  }
  progress.clear();
  std::printf("%s\n", results_table(results, measure.budget).c_str());
  Json rows = Json::array();
  for (const PlanResult& r : results) rows.push_back(to_json(r, baseline_of(results)));
  write_json(options.json, {{"command", "eval"},
                            {"version", KVCODEC_VERSION},
                            {"model", options.model},
                            {"isa", cpu_isa()},
                            {"threads", pool.n_threads()},
                            {"budget_bytes", measure.budget},
                            {"chunk_size", measure.eval.chunk_size},
                            {"plans", rows}});
  return 0;
}

int eval_kv(const Options& options) {
  ThreadPool pool(options.threads);
  const Captured data = read_captured(options.kv);
  const std::vector<NamedPlan> plans = plans_of(options);
  check_plans(plans, data.shape, static_cast<std::int32_t>(data.n_layers));
  ProgressLine progress;
  std::vector<KvResult> results;
  Json rows = Json::array();
  for (const NamedPlan& p : plans) {
    progress.show(p.plan, std::ssize(results), std::ssize(plans));
    results.push_back(eval_captured(data, p.plan, pool.executor()));
    rows.push_back(to_json(results.back(), data));
  }
  progress.clear();
  std::printf("%s: %lld layers, %d KV heads, %d query heads of %d, %lld tokens, %lld queries\n\n%s",
              options.kv.c_str(), static_cast<long long>(data.n_layers), data.shape.n_kv_heads,
              data.shape.n_q_heads, data.shape.head_dim, static_cast<long long>(data.n_tokens),
              static_cast<long long>(data.n_queries), results_table(results, data).c_str());
  write_json(options.json, {{"command", "eval"},
                            {"version", KVCODEC_VERSION},
                            {"kv", options.kv},
                            {"isa", cpu_isa()},
                            {"layers", data.n_layers},
                            {"kv_heads", data.shape.n_kv_heads},
                            {"query_heads", data.shape.n_q_heads},
                            {"head_dim", data.shape.head_dim},
                            {"tokens", data.n_tokens},
                            {"queries", data.n_queries},
                            {"plans", rows}});
  return 0;
}

}  // namespace

void add_eval(CLI::App& app, Run& run) {
  const auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("eval", "Measures plans on a model or on captured K, V and Q");
  CLI::Option* model = sub->add_option("--model", options->model,
                                       "model folder (config.json, safetensors) with an eval.json");
  CLI::Option* kv = sub->add_option("--kv", options->kv, "folder with k.npy, v.npy and q.npy");
  kv->excludes(model);
  sub->add_option("--plan", options->plans, "may be repeated\n" + plan_help());
  CLI::Option* text =
      sub->add_option("--text", options->text, "text to score instead of eval.json (byte models)");
  text->needs(model);
  sub->add_option("--tokens", options->tokens, "token ids to score, a .npy of integers")
      ->needs(model)
      ->excludes(text);
  sub->add_option("--chunk", options->eval.chunk_size,
                  "tokens per pass; they see each other exactly")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  sub->add_option("--documents", options->eval.max_documents, "of eval.json; 0: all")
      ->check(CLI::Range(0, 1 << 30));
  sub->add_option("--contexts", options->eval.max_contexts, "for recall, of eval.json; 0: all")
      ->check(CLI::Range(0, 1 << 30));
  sub->add_option("--budget", options->budget, "memory for context and batch")
      ->capture_default_str();
  sub->add_option("--threads", options->threads, "0: one per hardware thread")
      ->check(CLI::Range(0, 1024));
  sub->add_option("--json", options->json, "also write the results to this file");
  const auto synthetic = add_synthetic(*sub);
  sub->callback([options, synthetic, &run] {
    if (synthetic->on) {
      run = [options, synthetic] {
        return eval_synthetic(*synthetic, options->plans, options->threads, options->json);
      };
      return;
    }
    if (options->model.empty() == options->kv.empty()) {
      throw CLI::ValidationError("eval", "needs --model DIR or --kv DIR or --synthetic");
    }
    run = [options] {
      check_writable(options->json);
      return options->kv.empty() ? eval_model(*options) : eval_kv(*options);
    };
  });
}

}  // namespace kvcodec::cli
