#include "src/cli/eval_synthetic.hpp"

#include <cstdio>

namespace kvcodec::cli {
namespace {

using eval::SyntheticLength;
using eval::SyntheticResult;
using eval::SyntheticScore;
using eval::TaskKind;

/// Methods, from the largest to the smallest; evictions at several ratios last.
std::vector<eval::NamedPlan> default_plans() {
  return eval::named_plans({
      "kv=f16",
      "kv=int8",
      "kv=fp8:row",
      "kv=nqkv:g64",
      "kv=hadamard+nqfit:g64",
      "k=mean+hadamard+lm:b4,v=hadamard+lm:b4",
      "kv=wkv:b3:g64",
      "k=mean+hadamard+lm:b3,v=hadamard+lm:b3",
      "kv=kivi:b2,recent=0,flush=128",
      "k=qjl:m256,v=kivi:b2,recent=0,flush=128",
      "k=qjl:m512:o8:mo128,v=kivi:b2,recent=0,flush=128",
      "kv=wkv:b2:g64:x1",
      "kv=hadamard+lm:b2",
      "k=mean+hadamard+lm:b2,v=hadamard+lm:b2",
      "k=mean+hadamard+rabitq:b2,v=hadamard+lm:b2",
      "kv=f16,policy=lagkv:l128:r0.5,sink=16",
      "kv=f16,policy=lagkv:l128:r0.25,sink=16",
      "k=mean+hadamard+lm:b4,v=hadamard+lm:b4,policy=lagkv:l128:r0.5,sink=16",
      "kv=f16,policy=snapkv:r0.5",
      "kv=f16,policy=snapkv:r0.25",
      "kv=f16,policy=keydiff:r0.5",
      "kv=f16,policy=knorm:r0.5",
      "kv=codebook:t0.9",
  });
}

/// Of one task over all depths.
SyntheticScore total(const SyntheticLength& l, TaskKind task) {
  SyntheticScore sum{task, {}, 0, 0, 0.0};
  double parts = 0.0;
  for (const SyntheticScore& s : l.scores) {
    if (s.task != task) continue;
    sum.right += s.right;
    sum.asked += s.asked;
    sum.mass += s.mass;
    parts += 1.0;
  }
  if (parts > 0.0) sum.mass /= parts;  // parts of the depth are asked equally often
  return sum;
}

Json retrieval_json(const SyntheticResult& r) {
  Json rows = Json::array();
  for (const SyntheticLength& l : r.lengths) {
    for (const SyntheticScore& s : l.scores) {
      Json row = {{"task", to_string(s.task)}, {"length", l.length}, {"depth", nullptr},
                  {"right", s.right},          {"asked", s.asked},   {"mass", s.mass}};
      if (s.depth) row["depth"] = *s.depth;
      rows.push_back(row);
    }
  }
  return rows;
}

/// Bytes and errors are those of the longest context that was run.
Json to_json(const SyntheticResult& r, bool exact) {
  Json lengths = Json::array();
  const SyntheticLength* longest = nullptr;
  for (const SyntheticLength& l : r.lengths) {
    if (!l.run) continue;
    if (longest == nullptr || l.length > longest->length) longest = &l;
    Json row = {
        {"length", l.length}, {"out_err_mean", l.out_err_mean}, {"out_err_worst", l.out_err_worst}};
    if (!exact) {
      row["kv_bytes"] = l.bytes;
      row["bits_per_value"] = l.payload_bits;
      row["bits_per_value_all"] = l.bits_all;
    }
    lengths.push_back(row);
  }
  Json j = {{"name", r.name}, {"plan", exact ? Json() : Json(r.plan)}};
  if (longest != nullptr && !exact) {
    j["bits_per_value"] = longest->payload_bits;
    j["bits_per_value_all"] = longest->bits_all;
    j["kv_tokens"] = longest->length;
    j["kv_bytes"] = longest->bytes;
  }
  j["retrieval"] = retrieval_json(r);
  if (longest != nullptr) {
    j["attention"] = {{"out_err_mean", longest->out_err_mean},
                      {"out_err_worst", longest->out_err_worst}};
  }
  j["by_length"] = lengths;
  return j;
}

std::string percent(const SyntheticScore& s) {
  return format("%.0f", 100.0 * static_cast<double>(s.right) / static_cast<double>(s.asked));
}

std::string length_table(const std::vector<SyntheticResult>& results, std::size_t at) {
  std::vector<std::vector<std::string>> rows = {
      {"", "bits/value", "with", "", "retrieved in %", "", "", "mass on", "output error", ""},
      {"plan", "in pages", "window", "bytes", "needle", "multi", "key-value", "key-value", "mean",
       "worst"}};
  for (const SyntheticResult& r : results) {
    const SyntheticLength& l = r.lengths[at];
    if (!l.run) {
      rows.push_back({r.name, "not run"});
      continue;
    }
    const bool exact = l.bytes == 0;
    const SyntheticScore pairs = total(l, TaskKind::key_value);
    rows.push_back({r.name, exact ? "-" : format("%.2f", l.payload_bits),
                    exact ? "-" : format("%.2f", l.bits_all), exact ? "-" : bytes_text(l.bytes),
                    percent(total(l, TaskKind::needle)), percent(total(l, TaskKind::multi_needle)),
                    percent(pairs), format("%.2f", pairs.mass), format("%.3f", l.out_err_mean),
                    format("%.3f", l.out_err_worst)});
  }
  return to_table(rows);
}

}  // namespace

void add_synthetic(CLI::App& eval, SyntheticCommand& command) {
  CLI::Option* on = eval.add_flag("--synthetic", command.on,
                                  "no model: facts planted in keys and values made by a formula");
  eval.add_option("--kv-model", command.options.kv_model,
                  "what synthetic keys look like: " + eval::kv_model_names())
      ->needs(on)
      ->capture_default_str();
  eval.add_option("--synthetic-contexts", command.options.contexts, "synthetic contexts per length")
      ->needs(on)
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  eval.add_option("--seed", command.options.seed, "of synthetic contexts")
      ->needs(on)
      ->capture_default_str();
}

Json run(const SyntheticCommand& command, const Executor& executor) {
  eval::SyntheticOptions options = command.options;
  ProgressLine progress;
  options.progress = [&](std::int64_t done, std::int64_t all) {
    progress.show("synthetic", done, all);
  };
  const std::vector<SyntheticResult> results = eval::run_synthetic(
      command.plans.empty() ? default_plans() : command.plans, options, executor);
  progress.clear();
  Json rows = Json::array();
  for (const SyntheticResult& r : results) rows.push_back(to_json(r, &r == &results.front()));
  for (std::size_t at = 0; at < options.lengths.size(); ++at) {
    std::printf("%s tokens, keys \"%s\"\n\n%s\n", count_text(options.lengths[at]).c_str(),
                options.kv_model.c_str(), length_table(results, at).c_str());
  }
  return {{"seed", options.seed},
          {"contexts", options.contexts},
          {"lengths", options.lengths},
          {"baseline", "exact"},
          {"plans", rows}};
}

}  // namespace kvcodec::cli
