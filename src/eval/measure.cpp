#include "src/eval/measure.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "examples/llama/tokenizer.hpp"
#include "kvcodec/codec/codebook.hpp"
#include "kvcodec/plan/plan.hpp"

namespace kvcodec::eval {

using output::bytes_text;
using output::count_text;
using output::format;
using output::to_table;

namespace {

/// A plan's configuration for made-up tokens: any frequencies will do.
CacheConfig config_of(const std::string& plan, const HeadShape& shape, std::int32_t n_layers,
                      std::int64_t max_tokens) {
  CacheConfig config = make_cache_config(plan, shape, n_layers, max_tokens);
  if (config.rope_frequencies.empty()) {
    config.rope_frequencies.assign(static_cast<std::size_t>(shape.head_dim / 2), 1.0);
  }
  return config;
}

/// Compares logits with a baseline's, if there is one.
class Comparison {
 public:
  explicit Comparison(const Baseline* baseline) : baseline_(baseline) {
    if (baseline != nullptr) reader_.emplace(*baseline);
  }

  /// logits [n, vocab_size] that follow tokens first..first+n-1.
  void add(std::size_t document, std::int64_t first, std::span<const float> logits) {
    if (!reader_) return;
    const llama::Model& model = baseline_->model();
    const std::int32_t vocab = model.config().vocab_size;
    sum_.add(reader_->rows(document, first, std::ssize(logits) / vocab), logits, vocab,
             model.executor());
  }

  std::optional<Divergence> result() const {
    return reader_ ? std::optional(sum_.result()) : std::nullopt;
  }

 private:
  const Baseline* baseline_;
  std::optional<BaselineReader> reader_;
  DivergenceSum sum_;
};

/// What a plan needs, with `bytes` as measured on the longest sequence that was run.
void fill_memory(const llama::Engine& engine, const CacheBytes& bytes, std::int64_t budget,
                 PlanResult& r) {
  const llama::Config& config = engine.model().config();
  const HeadShape shape = engine.model().head_shape();
  r.n_tokens =
      bytes.n_values / (std::int64_t{2} * config.n_layers * shape.n_kv_heads * shape.head_dim);
  r.memory =
      measure_memory(r.plan, shape, config.n_layers, std::max<std::int64_t>(1, r.n_tokens), budget);
  r.memory.bytes = bytes;
  if (!has_codebook(engine.cache().config())) return;
  // Tables depend on the values, so made-up ones say nothing.
  r.memory.payload_bits =
      8.0 * static_cast<double>(bytes.payload) / static_cast<double>(bytes.n_values);
  r.memory.longest_context = budget * r.n_tokens / bytes.total();
  r.memory.largest_batch = r.memory.longest_context / kBatchTokens;
}

/// Continues the prompt. Generation is short, so its speed is the best of several runs.
void generate_text(llama::Engine& engine, const MeasureOptions& options, PlanResult& r) {
  constexpr int kRuns = 3;
  const llama::ByteTokenizer tokenizer(engine.model().config().vocab_size);
  const std::vector<std::int32_t> prompt = tokenizer.encode(options.prompt);
  for (int run = 0; run < kRuns; ++run) {
    const llama::Generated g = llama::generate(engine, prompt, options.n_generated,
                                               llama::Sampler(), options.eval.chunk_size);
    r.text = tokenizer.decode(g.tokens);
    r.decoded_per_s = std::max(r.decoded_per_s, g.decode.tokens_per_second());
  }
}

}  // namespace

bool has_codebook(const CacheConfig& config) {
  for (const LayerConfig& l : config.layers) {
    if (l.k.codec.as<Codebook>() != nullptr || l.v.codec.as<Codebook>() != nullptr) return true;
  }
  return false;
}

CacheBytes filled_bytes(const std::string& plan, const HeadShape& shape, std::int32_t n_layers,
                        std::int64_t n_tokens) {
  constexpr std::int64_t kChunk = 1024;
  Cache cache(config_of(plan, shape, n_layers, n_tokens));
  const SeqId seq = cache.open();
  const std::int64_t width = std::int64_t{shape.n_kv_heads} * shape.head_dim;
  const std::vector<float> ones(static_cast<std::size_t>(kChunk * width), 1.0f);
  for (std::int32_t layer = 0; layer < n_layers; ++layer) {
    for (std::int64_t done = 0; done < n_tokens; done += kChunk) {
      const auto rows = dense_rows(ones.data(), std::min(kChunk, n_tokens - done), shape.n_kv_heads,
                                   shape.head_dim);
      cache.append(seq, layer, rows, rows);
    }
    const std::int64_t seen = std::min<std::int64_t>(n_tokens, cache.observed_rows(layer));
    const std::vector<float> q(static_cast<std::size_t>(seen * shape.n_q_heads * shape.head_dim));
    cache.observe(seq, layer, dense_rows(q.data(), seen, shape.n_q_heads, shape.head_dim), 1.0f);
  }
  cache.end_prompt(seq);
  return cache.bytes(seq);
}

Memory measure_memory(const std::string& plan, const HeadShape& shape, std::int32_t n_layers,
                      std::int64_t n_tokens, std::int64_t budget) {
  Memory m;
  m.bytes = filled_bytes(plan, shape, n_layers, n_tokens);
  const CacheBytes one = filled_bytes(plan, shape, n_layers, kBatchTokens);
  const CacheBytes two = filled_bytes(plan, shape, n_layers, 2 * kBatchTokens);
  // The difference of two lengths is payload alone: windows and what does not grow cancel out.
  const std::int64_t grown = two.total() - one.total();
  m.payload_bits = 8.0 * static_cast<double>(two.payload - one.payload) /
                   static_cast<double>(two.n_values - one.n_values);
  m.largest_batch = budget / one.total();
  // Lengths are whole tiles; a budget below the reserved window holds nothing.
  const std::int64_t fixed = one.total() - grown;
  constexpr std::int64_t kMostTokens = std::numeric_limits<std::int32_t>::max();
  if (budget <= fixed) {
    m.longest_context = 0;
  } else if (grown * kMostTokens / kBatchTokens <= budget - fixed) {
    m.longest_context = kMostTokens;  // a policy that keeps a fixed number of tokens
  } else {
    m.longest_context = (budget - fixed) * kBatchTokens / grown / kTileRows * kTileRows;
  }
  return m;
}

std::vector<NamedPlan> named_plans(const std::vector<std::string>& plans) {
  std::vector<NamedPlan> named;
  for (const std::string& plan : plans) named.push_back({plan, plan, "f32"});
  return named;
}

void check_plans(const std::vector<NamedPlan>& plans, const HeadShape& shape,
                 std::int32_t n_layers) {
  for (const NamedPlan& p : plans) {
    const Cache cache(config_of(p.plan, shape, n_layers, kTileRows));
  }
}

PlanResult measure_plan(const llama::Model& model, const llama::EvalData& data,
                        const NamedPlan& plan, const MeasureOptions& options,
                        ProgressLine& progress, const std::string& what) {
  PlanResult r;
  r.name = plan.name;
  r.plan = plan.plan;
  r.weights = plan.weights;
  llama::EvalOptions eval = options.eval;
  const auto report = [&](const char* part) {
    return [&progress, head = what + ", " + part](std::int64_t done, std::int64_t total) {
      progress.show(head, done, total);
    };
  };
  const llama::CacheNeeds needs = llama::cache_needs(data, eval);
  const auto prompt_size = static_cast<std::int64_t>(options.prompt.size());
  llama::Engine engine(model, plan.plan,
                       std::max(needs.max_tokens, prompt_size + options.n_generated),
                       needs.max_sequences);
  Comparison comparison(options.baseline);
  eval.logits = [&](std::size_t document, std::int64_t first, std::span<const float> logits) {
    comparison.add(document, first, logits);
  };
  eval.progress = report("perplexity");
  progress.begin_part(work_of(data, eval).documents);
  const llama::Perplexity p = llama::measure_perplexity(engine, data, eval);
  r.perplexity = p.perplexity();
  r.answer_bits = p.answers.bits_per_byte();
  r.scored_per_s = p.cost.tokens_per_second();
  r.divergence = comparison.result();
  CacheBytes longest = p.bytes;
  if (!data.recall.empty()) {
    eval.progress = report("recall");
    progress.begin_part(work_of(data, eval).contexts);
    const llama::Recall recall = llama::measure_recall(engine, data, eval);
    r.has_recall = true;
    r.recall = recall.accuracy();
    r.n_questions = std::ssize(recall.answers);
    r.by_distance = recall_by_distance(recall);
    r.by_depth = recall_by_depth(recall, data);
    if (recall.bytes.n_values > longest.n_values) longest = recall.bytes;
  }
  if (options.n_generated > 0) generate_text(engine, options, r);
  fill_memory(engine, longest, options.budget, r);
  return r;
}

Work work_of(const llama::EvalData& data, const llama::EvalOptions& options) {
  const auto limit = [](std::size_t n, std::int64_t most) {
    return most > 0 ? std::min(n, static_cast<std::size_t>(most)) : n;
  };
  Work work;
  for (std::size_t i = 0; i < limit(data.documents.size(), options.max_documents); ++i) {
    work.documents += static_cast<double>(data.documents[i].end - data.documents[i].begin);
  }
  for (std::size_t i = 0; i < limit(data.recall.size(), options.max_contexts); ++i) {
    work.contexts += static_cast<double>(data.recall[i].context.size());
  }
  return work;
}

PlanResult measure_documents(const llama::Model& model, const Documents& documents,
                             const NamedPlan& plan, const MeasureOptions& options,
                             ProgressLine& progress, const std::string& what) {
  PlanResult r;
  r.name = plan.name;
  r.plan = plan.plan;
  std::int64_t total = 0, longest = 1;
  for (const auto& tokens : documents) {
    total += std::ssize(tokens) - 1;
    longest = std::max(longest, std::ssize(tokens));
  }
  llama::Engine engine(model, plan.plan, longest);
  progress.begin_part(static_cast<double>(total));
  Comparison comparison(options.baseline);
  const auto vocab = static_cast<std::size_t>(model.config().vocab_size);
  llama::Surprise surprise;
  llama::Cost cost;
  CacheBytes bytes;
  for (std::size_t i = 0; i < documents.size(); ++i) {
    llama::DocumentPasses passes(engine, documents[i], options.eval.chunk_size);
    while (!passes.done()) {
      const std::int64_t first = passes.position();
      const std::span<const float> logits = passes.next();
      for (std::int64_t at = first; at < passes.position(); ++at) {
        surprise.bits += llama::surprise_bits(
            logits.subspan(static_cast<std::size_t>(at - first) * vocab, vocab),
            documents[i][static_cast<std::size_t>(at + 1)]);
        ++surprise.n;
      }
      comparison.add(i, first, logits);
      progress.show(what, surprise.n, total);
    }
    cost.n_tokens += passes.cost().n_tokens;
    cost.seconds += passes.cost().seconds;
    if (passes.bytes().n_values > bytes.n_values) bytes = passes.bytes();
  }
  r.divergence = comparison.result();
  r.perplexity = std::exp2(surprise.bits_per_byte());
  r.scored_per_s = cost.tokens_per_second();
  fill_memory(engine, bytes, options.budget, r);
  return r;
}

Json to_json(const PlanResult& r) {
  Json j = {{"name", r.name},
            {"plan", r.plan},
            {"weights", r.weights},
            {"bits_per_value", r.memory.payload_bits},
            {"bits_per_value_all", r.memory.bytes.bits_per_value()},
            {"kv_tokens", r.n_tokens},
            {"kv_bytes", r.memory.bytes.total()},
            {"times_smaller", nullptr},
            {"ppl", r.perplexity},
            {"ppl_delta_pct", nullptr},
            {"answer_bits_per_byte", r.answer_bits},
            {"recall", nullptr},
            {"questions", r.n_questions},
            {"tokens_per_s", nullptr},
            {"scored_tokens_per_s", r.scored_per_s},
            {"longest_context", r.memory.longest_context},
            {"largest_batch", r.memory.largest_batch},
            {"text", r.text}};
  if (r.divergence) {
    const Divergence& d = *r.divergence;
    j["kl"] = {{"mean", d.kl_mean}, {"p99", d.kl_p99}, {"max", d.kl_max}};
    j["top1_agreement"] = d.top1_agreement;
    j["logit_err"] = {{"rms", d.logit_rms}, {"max", d.logit_max}};
  }
  if (r.has_recall) {
    j["recall"] = r.recall;
    j["recall_by_distance"] = to_json(r.by_distance);
    j["recall_by_depth"] = to_json(r.by_depth);
  }
  if (r.decoded_per_s > 0.0) j["tokens_per_s"] = r.decoded_per_s;
  return j;
}

std::size_t baseline_of(const Json& rows) {
  std::size_t found = rows.size();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto plan = rows[i].at("plan").get<std::string>();
    if (plan == "kv=f16") return i;
    if (found == rows.size() && plan.starts_with("kv=f16")) found = i;
  }
  return found == rows.size() ? 0 : found;
}

void add_deltas(Json& rows) {
  const Json base = rows.at(baseline_of(rows));
  for (Json& row : rows) {
    row["times_smaller"] = base.at("kv_bytes").get<double>() / row.at("kv_bytes").get<double>();
    row["ppl_delta_pct"] =
        100.0 * (row.at("ppl").get<double>() / base.at("ppl").get<double>() - 1.0);
  }
}

std::string results_table(const Json& rows, std::int64_t budget) {
  const Json& base = rows.at(baseline_of(rows));
  const bool generated = !base.at("tokens_per_s").is_null();
  const auto number = [](const Json& row, const char* pattern, const char* name) {
    return format(pattern, row.at(name).get<double>());
  };
  const auto whole = [](const Json& row, const char* name) {
    return row.at(name).get<std::int64_t>();
  };
  std::vector<std::vector<std::string>> table = {
      {"", "bits/value", "with", "KV at", "times", "perplex-", "change", "recall", "context in",
       "batch in", generated ? "decoded" : "scored"},
      {"plan", "measured", "window", count_text(whole(base, "kv_tokens")), "smaller", "ity", "in %",
       "in %", bytes_text(budget), count_text(kBatchTokens), "per s"}};
  for (const Json& r : rows) {
    table.push_back(
        {r.at("name").get<std::string>(), number(r, "%.2f", "bits_per_value"),
         number(r, "%.2f", "bits_per_value_all"), bytes_text(whole(r, "kv_bytes")),
         number(r, "%.2f", "times_smaller"),
         number(r, r.at("ppl").get<double>() < 1e5 ? "%.4f" : "%.4g", "ppl"),
         number(r, "%+.2f", "ppl_delta_pct"),
         r.at("recall").is_null() ? "-" : format("%.1f", 100.0 * r.at("recall").get<double>()),
         count_text(whole(r, "longest_context")), count_text(whole(r, "largest_batch")),
         number(r, "%.0f",
                r.at("tokens_per_s").is_null() ? "scored_tokens_per_s" : "tokens_per_s")});
  }
  return to_table(table);
}

}  // namespace kvcodec::eval
