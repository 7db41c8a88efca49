#include "src/eval/evaluate.hpp"

#include <algorithm>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "examples/llama/tokenizer.hpp"
#include "kvcodec/attend/cpu_isa.hpp"
#include "kvcodec/core/error.hpp"
#include "kvcodec/plan/plan.hpp"
#include "src/eval/captured.hpp"
#include "src/eval/distribution.hpp"
#include "src/eval/journal.hpp"
#include "src/eval/kv_eval.hpp"

namespace kvcodec::eval {

using output::format;
using output::to_table;

namespace {

constexpr std::int64_t kDefaultLengths[] = {512, 1024, 2048};
// Tokens behind a context: questions with their answers, or those that are timed.
constexpr std::int64_t kBehindContext = 128;

/// What is scored: the folder's own material, or documents of ids.
struct Material {
  std::optional<llama::EvalData> data;
  Documents documents;
};

Material read_material(const EvaluateOptions& options, const llama::Config& config) {
  Material m;
  if (!options.tokens.empty()) {
    m.documents = read_tokens(options.tokens, config);
  } else if (!options.text.empty()) {
    m.documents = read_text(options.text, options.model, config);
  } else {
    m.data = llama::read_eval(options.model);
    const llama::ByteTokenizer tokenizer(config.vocab_size);
    for (const llama::ByteRange& d : m.data->documents) {
      m.documents.push_back(tokenizer.encode(text_of(*m.data, d)));
    }
  }
  const auto most = static_cast<std::size_t>(options.measure.eval.max_documents);
  if (most > 0 && m.documents.size() > most) m.documents.resize(most);
  if (m.documents.empty()) throw corrupt_data(options.model.string() + ": no documents to score");
  return m;
}

/// FNV-1a, 64 bits, as text: JSON numbers are no safe place for it.
std::string hash_of(const Material& material) {
  std::uint64_t hash = 14695981039346656037u;
  const auto add = [&hash](std::uint64_t value) { hash = (hash ^ value) * 1099511628211u; };
  const auto add_text = [&add](const std::string& text) {
    for (const char c : text) add(static_cast<unsigned char>(c));
    add(256);
  };
  for (const auto& document : material.documents) {
    for (const std::int32_t token : document) add(static_cast<std::uint64_t>(token));
    add(std::uint64_t{1} << 32);
  }
  if (material.data) {
    for (const llama::RecallContext& c : material.data->recall) {
      add_text(c.context);
      for (const llama::Question& q : c.questions) add_text(q.prompt + q.answer);
    }
  }
  return format("%016llx", static_cast<unsigned long long>(hash));
}

class Evaluation {
 public:
  Evaluation(const EvaluateOptions& options, const Executor& executor, ProgressLine& progress)
      : options_(options),
        progress_(progress),
        model_(llama::Model::load(options.model, executor)),
        plans_(options.plans) {
    const auto is_baseline = [](const NamedPlan& p) { return p.plan == BaselineOptions().plan; };
    if (std::none_of(plans_.begin(), plans_.end(), is_baseline)) {
      plans_.insert(plans_.begin(), named_plans({BaselineOptions().plan})[0]);
    }
    check_plans(plans_, model_.head_shape(), config().n_layers);
    material_ = read_material(options, config());
    set_lengths();
    if (material_.data && wants("retrieval")) {
      tasks_ = make_retrieval(*material_.data, retrieval_);
    }
  }

  Json run();

 private:
  const llama::Config& config() const { return model_.config(); }
  bool wants(const char* part) const { return options_.skip.count(part) == 0; }

  void set_lengths();
  Json key() const;
  Captured capture_document() const;
  double document_units() const;
  double retrieval_units() const;
  double plan_units() const;
  Json measure(const NamedPlan& plan, std::size_t index, const Baseline* baseline);
  std::vector<RetrievalScore> retrieve(const NamedPlan& plan, const std::string& what);
  Json measure_latencies();

  const EvaluateOptions& options_;
  ProgressLine& progress_;
  llama::Model model_;
  std::vector<NamedPlan> plans_;
  Material material_;
  RetrievalOptions retrieval_;
  LatencyOptions latency_;
  std::vector<RetrievalTask> tasks_;
  std::optional<Captured> captured_;
};

void Evaluation::set_lengths() {
  std::vector<std::int64_t> lengths = options_.lengths;
  if (lengths.empty()) {
    for (const std::int64_t length : kDefaultLengths) {
      if (length + kBehindContext <= config().max_position) lengths.push_back(length);
    }
  }
  for (const std::int64_t length : lengths) {
    if (length < 1 || length + kBehindContext > config().max_position) {
      throw invalid_argument(bad_value(
          "eval", "--lengths", length,
          "1.." + std::to_string(config().max_position - kBehindContext) + " for this model"));
    }
  }
  std::sort(lengths.begin(), lengths.end());
  retrieval_ = options_.retrieval;
  latency_ = options_.latency;
  retrieval_.lengths = latency_.lengths = lengths;
}

/// All that results depend on.
Json Evaluation::key() const {
  const llama::EvalOptions& eval = options_.measure.eval;
  Json key = {{"isa", cpu_isa()},
              {"chunk_size", eval.chunk_size},
              {"documents", eval.max_documents},
              {"contexts", eval.max_contexts},
              {"budget", options_.measure.budget},
              {"lengths", latency_.lengths},
              {"depths", retrieval_.depths},
              {"retrieval_contexts", retrieval_.contexts},
              {"decoded", latency_.n_decoded},
              {"skip", options_.skip},
              {"hash of text and questions", hash_of(material_)}};
  const Json files = fingerprint(options_.model);
  for (const auto& [name, mark] : files.items()) key["model file " + name] = mark;
  return key;
}

Captured Evaluation::capture_document() const {
  std::int64_t n_queries = options_.captured_queries;
  for (const NamedPlan& p : plans_) {
    const CacheConfig c = make_cache_config(p.plan, model_.head_shape(), config().n_layers, 64);
    for (const LayerConfig& layer : c.layers) {
      if (layer.policy) n_queries = std::max<std::int64_t>(n_queries, layer.policy.observed_rows());
    }
  }
  const auto& document = material_.documents.front();
  const std::int64_t n = std::min(options_.captured_tokens, std::ssize(document));
  return capture(model_, std::span(document).first(static_cast<std::size_t>(n)), n_queries);
}

/// Tokens of the documents.
double Evaluation::document_units() const {
  double n = 0.0;
  for (const auto& d : material_.documents) n += static_cast<double>(d.size());
  return n;
}

double Evaluation::retrieval_units() const {
  double n = 0.0;
  for (const RetrievalTask& task : tasks_) n += work_of(task.data, {}).contexts;
  return n;
}

/// Tokens run for one plan, without latency.
double Evaluation::plan_units() const {
  const double recall =
      material_.data ? work_of(*material_.data, options_.measure.eval).contexts : 0.0;
  return document_units() + recall + retrieval_units();
}

std::vector<RetrievalScore> Evaluation::retrieve(const NamedPlan& plan, const std::string& what) {
  llama::EvalOptions eval = options_.measure.eval;
  eval.max_contexts = 0;
  llama::CacheNeeds needs;
  for (const RetrievalTask& task : tasks_) {
    const llama::CacheNeeds own = llama::cache_needs(task.data, eval);
    needs.max_tokens = std::max(needs.max_tokens, own.max_tokens);
    needs.max_sequences = std::max(needs.max_sequences, own.max_sequences);
  }
  llama::Engine engine(model_, plan.plan, needs.max_tokens, needs.max_sequences);
  progress_.begin_part(retrieval_units());
  eval.progress = [&](std::int64_t done, std::int64_t total) {
    progress_.show(what + ", retrieval", done, total);
  };
  return measure_retrieval(engine, tasks_, eval);
}

Json Evaluation::measure(const NamedPlan& plan, std::size_t index, const Baseline* baseline) {
  const std::string what =
      "[" + std::to_string(index + 1) + "/" + std::to_string(plans_.size()) + "] " + plan.name;
  MeasureOptions measure = options_.measure;
  measure.baseline = baseline;
  measure.n_generated = 0;
  Json row =
      to_json(material_.data
                  ? measure_plan(model_, *material_.data, plan, measure, progress_, what)
                  : measure_documents(model_, material_.documents, plan, measure, progress_, what));
  row.erase("text");
  if (!tasks_.empty()) row["retrieval"] = to_json(retrieve(plan, what));
  if (wants("attention")) {
    row["attention"] =
        attention_json(eval_captured(*captured_, plan.plan, model_.executor()), *captured_);
  }
  return row;
}

/// {"plan": {"ttft_ms": ..., "decode": ...}, ...}
Json Evaluation::measure_latencies() {
  std::vector<std::string> plans;
  for (const NamedPlan& p : plans_) plans.push_back(p.plan);
  LatencyOptions latency = latency_;
  latency.progress = [&](std::int64_t done, std::int64_t total) {
    progress_.show("latency", done, total);
  };
  const auto results = measure_latency(model_, plans, material_.documents.front(), latency);
  Json out = Json::object();
  for (std::size_t i = 0; i < plans.size(); ++i) {
    out[plans[i]] = {{"ttft_ms", ttft_json(results[i])}, {"decode", decode_json(results[i])}};
  }
  return out;
}

Json Evaluation::run() {
  Journal journal =
      options_.journal.empty() ? Journal() : Journal(options_.journal, key(), options_.resume);
  const auto left = std::count_if(plans_.begin(), plans_.end(), [&](const NamedPlan& p) {
    return journal.find("plan " + p.plan) == nullptr;
  });
  // Latencies are compared, so all of them come from one run.
  std::string latency_name = "latency";
  for (const NamedPlan& p : plans_) latency_name += " | " + p.plan;
  const bool has_latency = journal.find(latency_name) != nullptr || !wants("latency");
  const double latency_units =
      has_latency ? 0.0 : static_cast<double>(latency_tokens(latency_, std::ssize(plans_)));
  const double baseline_units = left > 0 && wants("divergence") ? document_units() : 0.0;
  progress_.expect(static_cast<double>(left) * plan_units() + latency_units + baseline_units);

  if (wants("attention") || wants("distributions") || !options_.capture.empty()) {
    captured_ = capture_document();
    if (!options_.capture.empty()) write_captured(*captured_, options_.capture);
  }
  std::optional<Baseline> baseline;
  if (left > 0 && wants("divergence")) {
    progress_.begin_part(baseline_units);
    BaselineOptions own;
    own.chunk_size = options_.measure.eval.chunk_size;
    own.progress = [&](std::int64_t done, std::int64_t total) {
      progress_.show("baseline", done, total);
    };
    baseline.emplace(model_, material_.documents, own);
  }
  Json rows = Json::array();
  for (std::size_t i = 0; i < plans_.size(); ++i) {
    const std::string name = "plan " + plans_[i].plan;
    if (journal.find(name) == nullptr) {
      journal.add(name, measure(plans_[i], i, baseline ? &*baseline : nullptr));
    }
    rows.push_back(*journal.find(name));
    rows.back()["name"] = plans_[i].name;
  }
  add_deltas(rows);
  if (wants("latency")) {
    progress_.begin_part(latency_units);
    if (!has_latency) journal.add(latency_name, measure_latencies());
    for (std::size_t i = 0; i < plans_.size(); ++i) {
      rows[i].update(journal.find(latency_name)->at(plans_[i].plan));
    }
  }
  Json out = {{"baseline", rows[baseline_of(rows)]["name"]}, {"plans", rows}};
  if (wants("distributions")) out["distributions"] = to_json(distributions(*captured_));
  return out;
}

/// The number at row[a][b], or "-".
std::string cell(const Json& row, const char* pattern, const char* a, const char* b = nullptr,
                 double factor = 1.0) {
  const auto at = row.find(a);
  if (at == row.end() || at->is_null()) return "-";
  const Json& value = b == nullptr ? *at : at->at(b);
  return value.is_null() ? "-" : format(pattern, factor * value.get<double>());
}

/// "37/40" over the retrieval scores of one task.
std::string retrieval_cell(const Json& row, const std::string& task) {
  std::int64_t right = 0, asked = 0;
  for (const Json& score : row.value("retrieval", Json::array())) {
    if (score.at("task") != task) continue;
    right += score.at("right").get<std::int64_t>();
    asked += score.at("asked").get<std::int64_t>();
  }
  return asked == 0 ? "-" : std::to_string(right) + "/" + std::to_string(asked);
}

/// The last of a row's list, or null.
Json last_of(const Json& row, const char* name) {
  const auto at = row.find(name);
  return at == row.end() || at->empty() ? Json::object() : at->back();
}

}  // namespace

std::string quality_table(const Json& rows) {
  std::vector<std::vector<std::string>> table = {
      {"", "KL in nats", "", "top-1", "logits", "attention error", "", "at layer,", "needle",
       "multi-", "key-", "first", "token", "ms"},
      {"plan", "mean", "p99", "same %", "rms", "mean", "worst", "head", "", "needle", "value",
       "token ms", "p50", "p99"}};
  for (const Json& r : rows) {
    const Json decode = last_of(r, "decode");
    const std::string layer = cell(r, "%.0f", "attention", "worst_layer");
    table.push_back(
        {r.at("name").get<std::string>(), cell(r, "%.2e", "kl", "mean"),
         cell(r, "%.2e", "kl", "p99"), cell(r, "%.2f", "top1_agreement", nullptr, 100),
         cell(r, "%.3f", "logit_err", "rms"), cell(r, "%.2e", "attention", "out_err_mean"),
         cell(r, "%.2e", "attention", "out_err_worst"),
         layer == "-" ? layer : layer + ", " + cell(r, "%.0f", "attention", "worst_head"),
         retrieval_cell(r, "needle"), retrieval_cell(r, "multi_needle"),
         retrieval_cell(r, "key_value"), cell(last_of(r, "ttft_ms"), "%.0f", "ms"),
         cell(decode, "%.2f", "p50_ms"), cell(decode, "%.2f", "p99_ms")});
  }
  return to_table(table);
}

Json evaluate_model(const EvaluateOptions& options, const Executor& executor,
                    ProgressLine& progress) {
  return Evaluation(options, executor, progress).run();
}

}  // namespace kvcodec::eval
