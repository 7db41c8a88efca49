// kvcodec eval: plans on a model folder, or on captured keys, values and queries.
#include <cstdio>
#include <ctime>
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
#include "src/eval/distribution.hpp"
#include "src/eval/evaluate.hpp"
#include "src/eval/kv_eval.hpp"
#include "src/report/report.hpp"

namespace kvcodec::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string kv;
  std::string report;
  std::string json;
  std::string budget = "1GiB";
  std::vector<std::string> plans;
  std::vector<std::string> skip;
  eval::EvaluateOptions eval;
  SyntheticCommand synthetic;
  int threads = 0;
};

/// A plan by its own text, or the contents of a file of JSON by the file's name.
eval::NamedPlan read_plan(const std::string& plan) {
  if (!plan.ends_with(".json")) return {plan, plan};
  std::ifstream in(plan, std::ios::binary);
  if (!in || fs::is_directory(plan)) {
    throw invalid_argument(bad_value("eval", "--plan", plan, "a readable file of JSON"));
  }
  return {fs::path(plan).filename().string(), {std::istreambuf_iterator<char>(in), {}}};
}

std::vector<eval::NamedPlan> plans_of(const Options& options) {
  if (options.plans.empty()) {
    return eval::named_plans(
        {"kv=f16", "kv=int8", "kv=nqkv:g64", "kv=nqsym:g64", "kv=hadamard+nqkv:g64"});
  }
  std::vector<eval::NamedPlan> plans;
  for (const std::string& plan : options.plans) plans.push_back(read_plan(plan));
  return plans;
}

std::string now() {
  const std::time_t seconds = std::time(nullptr);
  char text[32];
  std::tm utc{};
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", ::gmtime_r(&seconds, &utc));
  return text;
}

/// What heads the JSON of both kinds of evaluation.
Json envelope(const char* source, const std::string& name, const ThreadPool& pool) {
  return {{"command", "eval"}, {"version", KVCODEC_VERSION},  {source, name},
          {"isa", cpu_isa()},  {"threads", pool.n_threads()}, {"date", now()}};
}

/// Writes the results where they are wanted.
void write_results(const Options& options, const Json& results) {
  write_json(options.json, results);
  if (options.report.empty()) return;
  write_json((fs::path(options.report) / "report.json").string(), results);
  report::write_report(results, options.report);
}

/// Makes the folder of the report and checks that results can be written, before any work.
void prepare_output(const Options& options) {
  check_writable(options.json);
  if (options.report.empty()) return;
  try {
    report::check_folder(options.report);
  } catch (const invalid_argument&) {
    throw invalid_argument(
        bad_value("eval", "--report", options.report, "a folder, or the name of a new one"));
  }
  check_writable((fs::path(options.report) / "report.json").string());
}

/// Where results are kept as they come: in the folder of the report, or beside the JSON file.
fs::path journal_of(const Options& options) {
  if (!options.report.empty()) return fs::path(options.report) / "journal.jsonl";
  return options.json.empty() ? fs::path() : fs::path(options.json + ".journal.jsonl");
}

int eval_model(const Options& options) {
  eval::EvaluateOptions own = options.eval;
  own.measure.budget = parse_bytes(options.budget);
  own.plans = plans_of(options);
  own.skip = {options.skip.begin(), options.skip.end()};
  own.journal = journal_of(options);
  if (own.resume && own.journal.empty()) {
    throw invalid_argument("eval: --resume needs the --report or --json of the run it continues");
  }
  ThreadPool pool(options.threads);
  ProgressLine progress;
  const Json measured = eval::evaluate_model(own, pool.executor(), progress);
  progress.clear();
  const Json& rows = measured["plans"];
  std::printf("%s\n%s", eval::results_table(rows, own.measure.budget).c_str(),
              eval::quality_table(rows).c_str());
  Json results = envelope("model", own.model.string(), pool);
  results["budget_bytes"] = own.measure.budget;
  results["chunk_size"] = own.measure.eval.chunk_size;
  results.update(measured);
  write_results(options, results);
  return 0;
}

int eval_kv(const Options& options) {
  ThreadPool pool(options.threads);
  const eval::Captured data = eval::read_captured(options.kv);
  const std::vector<eval::NamedPlan> plans = plans_of(options);
  eval::check_plans(plans, data.shape, static_cast<std::int32_t>(data.n_layers));
  ProgressLine progress;
  progress.expect(static_cast<double>(plans.size()));
  std::vector<eval::KvResult> results;
  Json rows = Json::array();
  for (const eval::NamedPlan& p : plans) {
    progress.begin_part(1.0);
    progress.show(p.name, 0, 1);
    results.push_back(eval::eval_captured(data, p.plan, pool.executor()));
    results.back().plan = p.name;
    rows.push_back(eval::to_json(results.back(), data));
    rows.back()["name"] = p.name;
    rows.back()["plan"] = p.plan;
  }
  progress.clear();
  std::printf("%s: %lld layers, %d KV heads, %d query heads of %d, %lld tokens, %lld queries\n\n%s",
              options.kv.c_str(), static_cast<long long>(data.n_layers), data.shape.n_kv_heads,
              data.shape.n_q_heads, data.shape.head_dim, static_cast<long long>(data.n_tokens),
              static_cast<long long>(data.n_queries), eval::results_table(results, data).c_str());
  Json out = envelope("kv", options.kv, pool);
  out.update({{"layers", data.n_layers},
              {"kv_heads", data.shape.n_kv_heads},
              {"query_heads", data.shape.n_q_heads},
              {"head_dim", data.shape.head_dim},
              {"tokens", data.n_tokens},
              {"queries", data.n_queries},
              {"plans", rows},
              {"distributions", eval::to_json(eval::distributions(data))}});
  write_results(options, out);
  return 0;
}

int eval_synthetic(const Options& options) {
  SyntheticCommand command = options.synthetic;
  if (!options.eval.lengths.empty()) command.options.lengths = options.eval.lengths;
  if (!options.plans.empty()) command.plans = plans_of(options);
  ThreadPool pool(options.threads);
  Json results = envelope("synthetic", command.options.kv_model, pool);
  results.update(run(command, pool.executor()));
  write_results(options, results);
  return 0;
}

void add_source(CLI::App* sub, Options& o) {
  CLI::Option* model =
      sub->add_option("--model", o.eval.model,
                      "model folder (config.json, safetensors), with an eval.json or --text");
  sub->add_option("--kv", o.kv, "folder with k.npy, v.npy and q.npy, or a .safetensors file")
      ->excludes(model);
  CLI::Option* text = sub->add_option("--text", o.eval.text, "text to score instead of eval.json");
  text->needs(model);
  sub->add_option("--tokens", o.eval.tokens, "token ids to score, a .npy of integers")
      ->needs(model)
      ->excludes(text);
  sub->add_option("--capture", o.eval.capture,
                  "also write K, V and Q of the first document to this folder, for --kv")
      ->needs(model);
}

void add_work(CLI::App* sub, Options& o) {
  llama::EvalOptions& eval = o.eval.measure.eval;
  sub->add_option("--chunk", eval.chunk_size, "tokens per pass; they see each other exactly")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  sub->add_option("--documents", eval.max_documents, "to score; 0: all")
      ->check(CLI::Range(0, 1 << 30));
  sub->add_option("--contexts", eval.max_contexts, "for recall, of eval.json; 0: all")
      ->check(CLI::Range(0, 1 << 30));
  sub->add_option("--lengths", o.eval.lengths,
                  "tokens of retrieval and latency (default: 512,1024,2048 as far as it goes)")
      ->delimiter(',');
  sub->add_option("--depths", o.eval.retrieval.depths, "of needles, 0: start, 1: end")
      ->delimiter(',')
      ->capture_default_str();
  sub->add_option("--repeats", o.eval.retrieval.contexts, "retrieval contexts per length and depth")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  sub->add_option("--skip", o.skip, "leave out parts")
      ->delimiter(',')
      ->check(CLI::IsMember(eval::parts()));
}

}  // namespace

void add_eval(CLI::App& app, Run& run) {
  const auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("eval", "Measures plans on a model or on captured K, V and Q");
  add_source(sub, *options);
  sub->add_option("--plan", options->plans,
                  "may be repeated; or a plan file *.json\n" + plan_help());
  add_work(sub, *options);
  sub->add_option("--budget", options->budget, "memory for context and batch")
      ->capture_default_str();
  sub->add_option("--threads", options->threads, "0: one per hardware thread")
      ->check(CLI::Range(0, 1024));
  sub->add_option("--json", options->json, "also write the results to this file");
  sub->add_option("--report", options->report, "also write a report to this folder");
  sub->add_flag("--resume", options->eval.resume, "go on with an interrupted run of this report");
  add_synthetic(*sub, options->synthetic);
  sub->callback([options, &run] {
    const int n_sources =
        int{!options->eval.model.empty()} + int{!options->kv.empty()} + int{options->synthetic.on};
    if (n_sources != 1) {
      throw CLI::ValidationError("eval", "needs --model DIR or --kv DIR or --synthetic");
    }
    run = [options] {
      prepare_output(*options);
      if (options->synthetic.on) return eval_synthetic(*options);
      return options->kv.empty() ? eval_model(*options) : eval_kv(*options);
    };
  });
}

}  // namespace kvcodec::cli
