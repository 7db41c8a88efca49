// kvcodec demo: the shipped model on several plans, in one table.
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>

#include "examples/llama/tokenizer.hpp"
#include "examples/llama/weight_format.hpp"
#include "kvcodec/attend/cpu_isa.hpp"
#include "kvcodec/core/options.hpp"
#include "src/cli/commands.hpp"
#include "src/cli/shipped_model.hpp"
#include "src/eval/measure.hpp"

namespace kvcodec::cli {
namespace {

using eval::check_plans;
using eval::kBatchTokens;
using eval::MeasureOptions;
using eval::NamedPlan;
using eval::PlanResult;

namespace fs = std::filesystem;

struct Options {
  std::string model;
  std::string plans;
  std::string budget = "1GiB";
  std::string json;
  bool all = false;
  int threads = 0;
};

/// Tokens generated without a cache: enough to time, few enough to wait for.
constexpr std::int64_t kUncachedTokens = 4;

std::vector<NamedPlan> default_plans() {
  return {{"f32", "kv=f32"},
          {"f16", "kv=f16"},
          {"int8", "kv=int8"},
          {"NQKV g64", "kv=nqkv:g64"},
          {"NQKV symmetric g64", "kv=nqsym:g64"},
          {"Hadamard, NQKV g64", "kv=hadamard+nqkv:g64"},
          {"Hadamard, V symmetric", "k=hadamard+nqkv:g64,v=nqsym:g64"}};
}

/// Every method; `folder` is the model's, whose calibration WKVQuant uses if it has one.
std::vector<NamedPlan> all_plans(const fs::path& folder) {
  std::vector<NamedPlan> plans = default_plans();
  const fs::path calibration = folder / "calibration.json";
  const std::string wkv = fs::exists(calibration)
                              ? "kv=affine+wkv:b4:g128,recent=1,calibration=" + calibration.string()
                              : "kv=wkv:b4:g128,recent=1";
  const std::string residual = ",recent=0,flush=128";
  for (const NamedPlan& plan : std::initializer_list<NamedPlan>{
           {"fp8", "kv=fp8"},
           {"nvfp4", "kv=nvfp4"},
           {"mxfp4", "kv=mxfp4"},
           {"WKVQuant W4", "kv=f16", "w4:g128"},
           {"WKVQuant KV4", wkv},
           {"WKVQuant W4+KV4", wkv, "w4:g128"},
           {"KIVI 4", "kv=kivi:b4" + residual},
           {"KIVI 2", "kv=kivi:b2" + residual},
           {"lm4+rot", "kv=hadamard+lm:b4"},
           {"lm3+rot", "kv=hadamard+lm:b3"},
           {"lm2+rot", "kv=hadamard+lm:b2"},
           {"mean+rot+lm4", "kv=mean+hadamard+lm:b4"},
           {"nqfit g64", "kv=nqfit:g64:search"},
           {"nqfit g64+rot", "kv=hadamard+nqfit:g64:search"},
           {"K int8, V nqfit g64", "k=int8,v=nqfit:g64:search"},
           {"QJL 3.87", "qjl-3.87"},
           {"QJL 3.03", "qjl-3.03"},
           {"lm2+rot unbiased K, V 2 bits", "k=hadamard+lm:b2:unbiased,v=kivi:b2" + residual},
           {"rabitq2+rot K, V 2 bits", "k=hadamard+rabitq:b2,v=kivi:b2" + residual},
           {"LagKV 2x", "kv=f16,policy=lagkv:l128:r0.5,sink=16"},
           {"LagKV 4x", "kv=f16,policy=lagkv:l128:r0.25,sink=16"},
           {"LagKV 2x, NQKV", "kv=nqkv:g64,policy=lagkv:l128:r0.5,sink=16"},
           {"LagKV 2x lag 32, nqfit+rot",
            "kv=hadamard+nqfit:g64:search,policy=lagkv:l32:r0.5,sink=16"},
           {"LagKV 2x lag 32, lm3+rot", "kv=hadamard+lm:b3,policy=lagkv:l32:r0.5,sink=16"},
           {"SnapKV 2x", "kv=f16,policy=snapkv:r0.5"},
           {"KeyDiff 2x", "kv=f16,policy=keydiff:r0.5,sink=4"},
           {"sinks + window 1024", "kv=f16,policy=window:n1024,sink=4"},
           {"PyramidKV 50 %", "kv=f16,policy=spindle:r0.5"},
           {"SpindleKV", "k=codebook:t0.98,v=codebook:t0.95,policy=spindle:r0.5"},
           {"Spindle eviction, NQKV", "kv=nqkv:g64,policy=spindle:r0.5"}}) {
    plans.push_back(plan);
  }
  return plans;
}

std::vector<NamedPlan> plans_of(const Options& options, const fs::path& folder) {
  if (!options.plans.empty()) return eval::named_plans(split_options(options.plans, '|'));
  return options.all ? all_plans(folder) : default_plans();
}

/// The model with other weights, loaded when first asked for.
class Models {
 public:
  Models(fs::path folder, Executor executor) : folder_(std::move(folder)), executor_(executor) {}

  const llama::Model& with(const std::string& weights) {
    const auto found = models_.find(weights);
    if (found != models_.end()) return found->second;
    return models_
        .emplace(weights,
                 llama::Model::load(folder_, executor_, llama::parse_weight_format(weights)))
        .first->second;
  }

 private:
  fs::path folder_;
  Executor executor_;
  std::map<std::string, llama::Model> models_;
};

/// Generation that computes the whole text anew for every token.
struct Uncached {
  std::string text;
  double tokens_per_s = 0.0;
};

Uncached without_cache(const llama::Model& model, const std::string& prompt) {
  const llama::ByteTokenizer tokenizer(model.config().vocab_size);
  const llama::Generated g =
      llama::generate(model, tokenizer.encode(prompt), kUncachedTokens, llama::Sampler());
  return {tokenizer.decode(g.tokens), g.decode.tokens_per_second()};
}

void print_texts(const llama::GenerationPrompt& prompt, const std::vector<PlanResult>& results) {
  const std::size_t tail = std::min<std::size_t>(prompt.prompt.size(), 64);
  std::printf("\nContinuations of ...%s",
              one_line(prompt.prompt.substr(prompt.prompt.size() - tail), tail).c_str());
  if (!prompt.expected_start.empty()) std::printf("   (right: %s)", prompt.expected_start.c_str());
  std::printf("\n");
  std::vector<std::vector<std::string>> rows;
  for (const PlanResult& r : results) rows.push_back({r.name, one_line(r.text, 72)});
  for (auto& row : rows) row[1].resize(72, ' ');
  std::printf("%s", to_table(rows).c_str());
}

/// Raw f32 rows give what computing everything anew gives. Returns whether that held.
bool check_uncached(const Uncached& uncached, const std::vector<PlanResult>& results) {
  for (const PlanResult& r : results) {
    if (r.plan != "kv=f32" || r.text.starts_with(uncached.text)) continue;
    std::fprintf(stderr, "kvcodec: plan %s continues \"%s\", without a cache it is \"%s\"\n",
                 r.plan.c_str(), one_line(r.text, uncached.text.size()).c_str(),
                 one_line(uncached.text, 64).c_str());
    return false;
  }
  return true;
}

int demo(const Options& options) {
  const auto start = std::chrono::steady_clock::now();
  check_writable(options.json);
  MeasureOptions measure;
  measure.budget = parse_bytes(options.budget);
  ThreadPool pool(options.threads);
  const fs::path folder =
      options.model.empty() ? shipped_model("tiny-llama") : fs::path(options.model);
  Models models(folder, pool.executor());
  const llama::Model& model = models.with("f32");
  const llama::EvalData data = llama::read_eval(folder);
  if (data.generation.empty()) {
    throw corrupt_data((folder / "eval.json").string() + ": generation has no prompt");
  }
  const std::vector<NamedPlan> plans = plans_of(options, folder);
  check_plans(plans, model.head_shape(), model.config().n_layers);
  const llama::GenerationPrompt& prompt = data.generation[0];
  measure.prompt = prompt.prompt;
  measure.n_generated = prompt.n_bytes;

  ProgressLine progress;
  std::vector<PlanResult> results;
  for (std::size_t i = 0; i < plans.size(); ++i) {
    const std::string what =
        "[" + std::to_string(i + 1) + "/" + std::to_string(plans.size()) + "] " + plans[i].name;
    results.push_back(
        eval::measure_plan(models.with(plans[i].weights), data, plans[i], measure, progress, what));
  }
  const Uncached uncached = without_cache(model, prompt.prompt);
  progress.clear();

  std::printf("%s: %s parameters, %d layers, %d KV heads of %d; %d threads, %s\n\n",
              folder.filename().c_str(), count_text(model.n_parameters()).c_str(),
              model.config().n_layers, model.config().n_kv_heads, model.config().head_dim,
              pool.n_threads(), cpu_isa());
  Json rows = Json::array();
  for (const PlanResult& r : results) rows.push_back(eval::to_json(r));
  eval::add_deltas(rows);
  std::printf("%s", eval::results_table(rows, measure.budget).c_str());
  std::printf("without any KV cache: %.1f tokens per s\n", uncached.tokens_per_s);
  std::printf("times smaller and change are against %s\n",
              rows[eval::baseline_of(rows)]["name"].get<std::string>().c_str());
  print_texts(prompt, results);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("\n%.0f s\n", seconds.count());

  write_json(options.json, {{"command", "demo"},
                            {"version", KVCODEC_VERSION},
                            {"model", folder.string()},
                            {"parameters", model.n_parameters()},
                            {"isa", cpu_isa()},
                            {"threads", pool.n_threads()},
                            {"budget_bytes", measure.budget},
                            {"batch_tokens", kBatchTokens},
                            {"chunk_size", measure.eval.chunk_size},
                            {"prompt", prompt.prompt},
                            {"expected_start", prompt.expected_start},
                            {"uncached_tokens_per_s", uncached.tokens_per_s},
                            {"uncached_text", uncached.text},
                            {"seconds", seconds.count()},
                            {"plans", rows}});
  return check_uncached(uncached, results) ? 0 : 1;
}

}  // namespace

void add_demo(CLI::App& app, Run& run) {
  const auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("demo", "Compares plans on the shipped model");
  sub->add_option("--model", options->model, "another model folder with an eval.json");
  sub->add_option("--plans", options->plans, "plans to compare, separated by |");
  sub->add_flag("--all", options->all, "every method instead of the short table");
  sub->add_option("--threads", options->threads, "0: one per hardware thread")
      ->check(CLI::Range(0, 1024));
  sub->add_option("--budget", options->budget, "memory for context and batch")
      ->capture_default_str();
  sub->add_option("--json", options->json, "also write the results to this file");
  sub->callback([options, &run] { run = [options] { return demo(*options); }; });
}

}  // namespace kvcodec::cli
