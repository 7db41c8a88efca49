#include "src/cli/measure.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <span>

#include "examples/llama/tokenizer.hpp"
#include "kvcodec/codec/codebook.hpp"
#include "kvcodec/plan/plan.hpp"
#include "src/verify/npy.hpp"

namespace kvcodec::cli {
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

/// A cache that holds one sequence of `n_tokens` made-up tokens.
class FilledCache {
 public:
  FilledCache(const std::string& plan, const HeadShape& shape, std::int32_t n_layers,
              std::int64_t n_tokens)
      : cache_(config_of(plan, shape, n_layers, n_tokens)), seq_(cache_.open()) {
    constexpr std::int64_t kChunk = 1024;
    const std::int64_t width = std::int64_t{shape.n_kv_heads} * shape.head_dim;
    const std::vector<float> ones(static_cast<std::size_t>(kChunk * width), 1.0f);
    for (std::int32_t layer = 0; layer < n_layers; ++layer) {
      for (std::int64_t done = 0; done < n_tokens; done += kChunk) {
        const auto rows = dense_rows(ones.data(), std::min(kChunk, n_tokens - done),
                                     shape.n_kv_heads, shape.head_dim);
        cache_.append(seq_, layer, rows, rows);
      }
      const std::int64_t seen = std::min<std::int64_t>(n_tokens, cache_.observed_rows(layer));
      const std::vector<float> q(static_cast<std::size_t>(seen * shape.n_q_heads * shape.head_dim));
      cache_.observe(seq_, layer, dense_rows(q.data(), seen, shape.n_q_heads, shape.head_dim),
                     1.0f);
    }
    cache_.end_prompt(seq_);
  }

  CacheBytes bytes() const { return cache_.bytes(seq_); }

 private:
  Cache cache_;
  SeqId seq_;
};

bool has_codebook(const CacheConfig& config) {
  for (const LayerConfig& l : config.layers) {
    if (l.k.codec.as<Codebook>() != nullptr || l.v.codec.as<Codebook>() != nullptr) return true;
  }
  return false;
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

Memory measure_memory(const std::string& plan, const HeadShape& shape, std::int32_t n_layers,
                      std::int64_t n_tokens, std::int64_t budget) {
  Memory m;
  m.bytes = FilledCache(plan, shape, n_layers, n_tokens).bytes();
  const FilledCache one(plan, shape, n_layers, kBatchTokens);
  const FilledCache two(plan, shape, n_layers, 2 * kBatchTokens);
  // The difference of two lengths is payload alone: windows and what does not grow cancel out.
  const std::int64_t grown = two.bytes().total() - one.bytes().total();
  m.payload_bits = 8.0 * static_cast<double>(two.bytes().payload - one.bytes().payload) /
                   static_cast<double>(two.bytes().n_values - one.bytes().n_values);
  m.largest_batch = budget / one.bytes().total();
  // Lengths are whole tiles; a budget below the reserved window holds nothing.
  const std::int64_t fixed = one.bytes().total() - grown;
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
  eval.progress = report("perplexity");
  const llama::Perplexity p = llama::measure_perplexity(engine, data, eval);
  r.perplexity = p.perplexity();
  r.answer_bits = p.answers.bits_per_byte();
  r.scored_per_s = p.cost.tokens_per_second();
  CacheBytes longest = p.bytes;
  if (!data.recall.empty()) {
    eval.progress = report("recall");
    const llama::Recall recall = llama::measure_recall(engine, data, eval);
    r.has_recall = true;
    r.recall = recall.accuracy();
    r.n_questions = std::ssize(recall.answers);
    if (recall.bytes.n_values > longest.n_values) longest = recall.bytes;
  }
  if (options.n_generated > 0) generate_text(engine, options, r);
  const HeadShape shape = model.head_shape();
  r.n_tokens = longest.n_values /
               (std::int64_t{2} * model.config().n_layers * shape.n_kv_heads * shape.head_dim);
  r.memory = measure_memory(plan.plan, shape, model.config().n_layers,
                            std::max<std::int64_t>(1, r.n_tokens), options.budget);
  r.memory.bytes = longest;
  if (has_codebook(engine.cache().config())) {
    // Tables depend on the values, so made-up ones say nothing.
    r.memory.payload_bits =
        8.0 * static_cast<double>(longest.payload) / static_cast<double>(longest.n_values);
    r.memory.longest_context = options.budget * r.n_tokens / longest.total();
    r.memory.largest_batch = r.memory.longest_context / kBatchTokens;
  }
  return r;
}

std::vector<std::int32_t> read_tokens(const std::string& file, const llama::Config& config) {
  const golden::Array array = golden::read_npy(file);
  std::vector<std::int32_t> tokens;
  for (const std::int64_t id : array.integers()) {
    if (id < 0 || id >= config.vocab_size) {
      throw invalid_argument(
          bad_value(file.c_str(), "token", id, "0.." + std::to_string(config.vocab_size - 1)));
    }
    tokens.push_back(static_cast<std::int32_t>(id));
  }
  if (std::ssize(tokens) < 2 || std::ssize(tokens) > config.max_position) {
    throw invalid_argument(bad_value(
        file.c_str(), "tokens", std::ssize(tokens),
        "2.." + std::to_string(config.max_position) + ", the longest sequence of the model"));
  }
  return tokens;
}

PlanResult measure_tokens(const llama::Model& model, const std::vector<std::int32_t>& tokens,
                          const NamedPlan& plan, const MeasureOptions& options,
                          ProgressLine& progress, const std::string& what) {
  PlanResult r;
  r.name = plan.name;
  r.plan = plan.plan;
  r.n_tokens = std::ssize(tokens) - 1;  // the last one predicts nothing that is known
  llama::Engine engine(model, plan.plan, r.n_tokens);
  const llama::Session session = engine.open();
  const auto vocab = static_cast<std::size_t>(model.config().vocab_size);
  const auto start = std::chrono::steady_clock::now();
  double bits = 0.0;
  for (std::int64_t at = 0; at < r.n_tokens; at += options.eval.chunk_size) {
    const auto rows = static_cast<std::size_t>(std::min(options.eval.chunk_size, r.n_tokens - at));
    const auto first = static_cast<std::size_t>(at);
    const llama::Chunk chunk{session.id(), std::span(tokens).subspan(first, rows)};
    const std::span<const float> logits = engine.run({&chunk, 1}, llama::Logits::all);
    for (std::size_t row = 0; row < rows; ++row) {
      bits += llama::surprise_bits(logits.subspan(row * vocab, vocab), tokens[first + row + 1]);
    }
    progress.show(what, at, r.n_tokens);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  r.perplexity = std::exp2(bits / static_cast<double>(r.n_tokens));
  r.scored_per_s = static_cast<double>(r.n_tokens) / seconds.count();
  r.memory = measure_memory(plan.plan, model.head_shape(), model.config().n_layers, r.n_tokens,
                            options.budget);
  return r;
}

const PlanResult& baseline_of(const std::vector<PlanResult>& results) {
  for (const PlanResult& r : results) {
    if (r.plan.starts_with("kv=f16")) return r;
  }
  return results.front();
}

Json to_json(const PlanResult& r, const PlanResult& baseline) {
  Json j = {{"name", r.name},
            {"plan", r.plan},
            {"weights", r.weights},
            {"bits_per_value", r.memory.payload_bits},
            {"bits_per_value_all", r.memory.bytes.bits_per_value()},
            {"kv_tokens", r.n_tokens},
            {"kv_bytes", r.memory.bytes.total()},
            {"times_smaller", static_cast<double>(baseline.memory.bytes.total()) /
                                  static_cast<double>(r.memory.bytes.total())},
            {"ppl", r.perplexity},
            {"ppl_delta_pct", 100.0 * (r.perplexity / baseline.perplexity - 1.0)},
            {"answer_bits_per_byte", r.answer_bits},
            {"recall", nullptr},
            {"questions", r.n_questions},
            {"tokens_per_s", nullptr},
            {"scored_tokens_per_s", r.scored_per_s},
            {"longest_context", r.memory.longest_context},
            {"largest_batch", r.memory.largest_batch},
            {"text", r.text}};
  if (r.has_recall) j["recall"] = r.recall;
  if (r.decoded_per_s > 0.0) j["tokens_per_s"] = r.decoded_per_s;
  return j;
}

std::string results_table(const std::vector<PlanResult>& results, std::int64_t budget) {
  const PlanResult& base = baseline_of(results);
  const bool generated = base.decoded_per_s > 0.0;
  std::vector<std::vector<std::string>> rows = {
      {"", "bits/value", "with", "KV at", "times", "perplex-", "change", "recall", "context in",
       "batch in", generated ? "decoded" : "scored"},
      {"plan", "measured", "window", count_text(base.n_tokens), "smaller", "ity", "in %", "in %",
       bytes_text(budget), count_text(kBatchTokens), "per s"}};
  for (const PlanResult& r : results) {
    const auto& bytes = r.memory.bytes;
    rows.push_back({r.name, format("%.2f", r.memory.payload_bits),
                    format("%.2f", bytes.bits_per_value()), bytes_text(bytes.total()),
                    format("%.2f", static_cast<double>(base.memory.bytes.total()) /
                                       static_cast<double>(bytes.total())),
                    format(r.perplexity < 1e5 ? "%.4f" : "%.4g", r.perplexity),
                    format("%+.2f", 100.0 * (r.perplexity / base.perplexity - 1)),
                    r.has_recall ? format("%.1f", 100.0 * r.recall) : "-",
                    count_text(r.memory.longest_context), count_text(r.memory.largest_batch),
                    format("%.0f", r.decoded_per_s > 0.0 ? r.decoded_per_s : r.scored_per_s)});
  }
  return to_table(rows);
}

}  // namespace kvcodec::cli
