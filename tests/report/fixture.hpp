// A report as `kvcodec eval` writes it, with every part and with names that try to break out.
#pragma once

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "src/report/report.hpp"

namespace kvcodec::report_test {

namespace fs = std::filesystem;
using report::Json;

inline constexpr int kLayers = 6;
inline constexpr int kHeads = 8;
inline constexpr int kBins = 40;

/// Bits per value and how wrong the plan is (0: not at all), by name.
struct FixturePlan {
  std::string name;
  double bits;
  double error;
};

inline const std::vector<FixturePlan>& fixture_plans() {
  static const std::vector<FixturePlan> plans = {
      {"kv=f16", 16, 0},
      {"kv=int8", 8.25, 0.004},
      {"kv=nqkv:g64", 4.25, 0.09},
      {"kv=hadamard+nqkv:g64", 4.25, 0.05},
      {"k=qjl:m256,v=kivi:2", 3.03, 0.3},
      {"kv=lm:3b sink=4 recent=128", 3.25, 0.16},
      {"<script>window.broken = 1</script>", 2.25, 0.9},
      {"\"quotes\" & 'ticks' ]]> \xc3\xa9", 5.5, 0.2},
      {"a plan with a name that is longer than any place where a plot could want to write it", 6,
       0.02}};
  return plans;
}

/// -1..1, the same on every machine.
inline double wobble(int seed) { return std::sin(12.9898 * seed + 1.7); }

inline Json answers(double from, double to, double share) {
  return {{"from", from}, {"to", to}, {"right", std::round(48 * share)}, {"asked", 48}};
}

inline Json plan_json(const FixturePlan& p, int seed) {
  const double error = p.error;
  Json plan = {{"name", p.name},
               {"plan", p.name},
               {"weights", "f32"},
               {"bits_per_value", p.bits},
               {"bits_per_value_all", p.bits + 0.4},
               {"kv_tokens", 2048},
               {"kv_bytes", std::round(131072 * p.bits)},
               {"times_smaller", 16 / p.bits},
               {"ppl", 3.1 * (1 + 0.08 * error)},
               {"ppl_delta_pct", 8 * error},
               {"answer_bits_per_byte", 0.01 + 0.2 * error},
               {"kl", {{"mean", 0.08 * error * error}, {"p99", error * error}, {"max", 3 * error}}},
               {"top1_agreement", 1 - 0.1 * error},
               {"logit_err", {{"rms", 0.3 * error}, {"max", 4 * error}}},
               {"recall", 1 - 0.5 * error * error},
               {"questions", 192},
               {"longest_context", std::round(16e6 / p.bits)},
               {"largest_batch", std::round(4096 / p.bits)},
               {"scored_tokens_per_s", 900 + 40 * wobble(seed)},
               {"tokens_per_s", 210 + 9 * p.bits}};
  for (int i = 0; i < 6; ++i) {
    const double far = error * (0.3 + 0.14 * i);
    plan["recall_by_distance"].push_back(answers(16 << i, (32 << i) - 1, 1 - far * far));
    const double share = 1 - 0.3 * error * (1 + wobble(i));
    plan["recall_by_depth"].push_back(answers(i / 6.0, (i + 1) / 6.0, share));
    plan["ttft_ms"].push_back({{"tokens", 128 << i}, {"ms", (9 + error) * (1 << i)}});
    const double p50 = 4.2 + (0.03 + p.bits * 0.01) * (1 << i);
    plan["decode"].push_back({{"context", 128 << i}, {"p50_ms", p50}, {"p99_ms", p50 * 1.3 + 0.2}});
  }
  for (const char* task : {"needle", "multi_needle", "key_value"}) {
    for (int length = 0; length < 5; ++length) {
      for (int depth = 0; depth <= 4; ++depth) {
        const double share = 1 - error * (0.1 * length + 0.1 * std::abs(wobble(depth + length)));
        plan["retrieval"].push_back({{"task", task},
                                     {"length", 4096 << length},
                                     {"depth", depth / 4.0},
                                     {"right", std::round(20 * std::max(0.0, share))},
                                     {"asked", 20}});
      }
    }
  }
  Json heads = Json::array();
  for (int layer = 0; layer < kLayers; ++layer) {
    Json row = Json::array();
    for (int head = 0; head < kHeads; ++head) {
      row.push_back((0.0004 + 0.3 * error) * std::exp(wobble(100 * seed + 10 * layer + head)));
    }
    heads.push_back(row);
  }
  plan["attention"] = {{"out_err_mean", 0.3 * error},
                       {"out_err_worst", 0.9 * error},
                       {"worst_layer", 2},
                       {"worst_head", 3},
                       {"heads", heads}};
  return plan;
}

inline Json distribution_json(int layer, const char* side) {
  const double deviation = side[0] == 'k' ? 1.4 + 0.2 * layer : 0.35;
  const double lo = -5 * deviation;
  const double hi = 5 * deviation;
  Json counts = Json::array();
  for (int i = 0; i < kBins; ++i) {
    const double z = -5 + 10 * (i + 0.5) / kBins;
    const double heavy = 0.06 * layer / (1 + z * z);
    counts.push_back(std::round(1e5 * (std::exp(-z * z / 2) * (1 - 0.05 * layer) + heavy)));
  }
  return {{"layer", layer},
          {"side", side},
          {"lo", lo},
          {"hi", hi},
          {"counts", counts},
          {"mean", 0.02},
          {"stddev", deviation},
          {"skew", 0.1 * wobble(layer)},
          {"kurtosis", 3 + 0.4 * layer},
          {"normal_share", side[0] == 'k' ? 0.94 - 0.05 * layer : 0.95 - 0.01 * layer},
          {"normal_share_pooled", side[0] == 'k' ? 0.5 - 0.06 * layer : 0.81 - 0.02 * layer}};
}

inline Json full_report() {
  Json report = {
      {"command", "eval"},       {"version", "0.1.0"}, {"model", "models/<tiny> & \"co\""},
      {"isa", "avx2"},           {"threads", 2},       {"date", "2026-01-31"},
      {"budget_bytes", 1 << 30}, {"chunk_size", 128},  {"baseline", "kv=f16"}};
  int seed = 0;
  for (const FixturePlan& plan : fixture_plans())
    report["plans"].push_back(plan_json(plan, ++seed));
  for (int layer = 0; layer < kLayers; ++layer) {
    report["distributions"].push_back(distribution_json(layer, "k"));
    report["distributions"].push_back(distribution_json(layer, "v"));
  }
  return report;
}

/// A folder that is removed at the end.
class TempFolder {
 public:
  explicit TempFolder(const std::string& name)
      : path_(fs::temp_directory_path() / ("kvcodec-" + name + "-" + std::to_string(::getpid()))) {
    fs::create_directories(path_);
  }
  ~TempFolder() { fs::remove_all(path_); }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

inline std::string read_file(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline int count(const std::string& text, const std::string& what) {
  int n = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

}  // namespace kvcodec::report_test
