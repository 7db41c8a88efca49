// The table of all plans.
#include <algorithm>
#include <functional>

#include "src/report/section.hpp"
#include "src/report/text.hpp"

namespace kvcodec::report {
namespace {

// A column of the table of plans: where its number stands and how it is written.
struct Measure {
  const char* heading;
  const char* unit;
  const char* object;  // the member that holds it, or nullptr
  const char* name;
  double scale;
  int decimals;  // -1: three significant digits
};

const std::vector<Measure>& measures() {
  static const std::vector<Measure> all = {
      {"Bits per value", "", nullptr, "bits_per_value", 1, 2},
      {"Bits with window", "", nullptr, "bits_per_value_all", 1, 2},
      {"KV cache", "KiB", nullptr, "kv_bytes", 1.0 / 1024, 1},
      {"At", "tokens", nullptr, "kv_tokens", 1, 0},
      {"Times smaller", "", nullptr, "times_smaller", 1, 2},
      {"Perplexity", "", nullptr, "ppl", 1, 4},
      {"Change", "%", nullptr, "ppl_delta_pct", 1, 2},
      {"KL mean", "nats", "kl", "mean", 1, -1},
      {"KL p99", "nats", "kl", "p99", 1, -1},
      {"KL max", "nats", "kl", "max", 1, -1},
      {"Same top token", "%", nullptr, "top1_agreement", 100, 2},
      {"Logit error", "rms", "logit_err", "rms", 1, -1},
      {"Logit error", "max", "logit_err", "max", 1, -1},
      {"Answers", "bits per byte", nullptr, "answer_bits_per_byte", 1, -1},
      {"Recall", "%", nullptr, "recall", 100, 1},
      {"Questions", "", nullptr, "questions", 1, 0},
      {"Output error", "mean", "attention", "out_err_mean", 1, -1},
      {"Output error", "worst", "attention", "out_err_worst", 1, -1},
      {"Longest context", "tokens", nullptr, "longest_context", 1, 0},
      {"Largest batch", "sequences", nullptr, "largest_batch", 1, 0},
      {"Scored", "tokens/s", nullptr, "scored_tokens_per_s", 1, 1},
      {"Decoded", "tokens/s", nullptr, "tokens_per_s", 1, 1}};
  return all;
}

Cell cell_of(const Json& plan, const Measure& m) {
  std::optional<double> value = number(m.object ? member(plan, m.object) : plan, m.name);
  if (!value) return {};
  *value *= m.scale;
  // Digits beyond the point say nothing about a diverged model.
  const bool brief = m.decimals < 0 || *value >= 1e6;
  return {brief ? short_number(*value) : fixed(*value, m.decimals), value};
}

// Adds a column unless no plan has a value for it; says whether it did.
bool add_column(Table& table, const Column& column, const std::vector<Cell>& cells) {
  const bool empty =
      std::all_of(cells.begin(), cells.end(), [](const Cell& cell) { return cell.text.empty(); });
  if (empty) return false;
  table.columns.push_back(column);
  for (std::size_t i = 0; i < cells.size(); ++i) table.rows[i].cells.push_back(cells[i]);
  return true;
}

// The entry with the largest `key`, where latencies are read off.
Cell at_longest(const Json& plan, const char* name, const char* key, const char* value) {
  const Json* longest = nullptr;
  for (const Json& entry : list(plan, name)) {
    if (!number(entry, key) || !number(entry, value)) continue;
    if (!longest || *number(entry, key) > *number(*longest, key)) longest = &entry;
  }
  if (!longest) return {};
  const double ms = *number(*longest, value);
  return {short_number(ms), ms};
}

void add_latencies(Table& table, const std::vector<Plan>& plans,
                   std::vector<std::string>& missing) {
  struct Latency {
    const char* heading;
    const char* list;
    const char* key;
    const char* value;
  };
  for (const Latency& l : {Latency{"First token", "ttft_ms", "tokens", "ms"},
                           Latency{"Decode p50", "decode", "context", "p50_ms"},
                           Latency{"Decode p99", "decode", "context", "p99_ms"}}) {
    std::vector<Cell> cells;
    for (const Plan& plan : plans) cells.push_back(at_longest(*plan.data, l.list, l.key, l.value));
    if (!add_column(table, {l.heading, "ms"}, cells)) missing.push_back(l.heading);
  }
}

}  // namespace

std::vector<Plan> plans_of(const Json& report) {
  std::vector<Plan> plans;
  const std::string baseline = text(report, "baseline");
  for (const Json& data : list(report, "plans")) {
    Plan plan;
    plan.style = static_cast<int>(plans.size());
    plan.name = text(data, "name");
    if (plan.name.empty()) plan.name = text(data, "plan");
    if (plan.name.empty()) plan.name = "plan " + std::to_string(plan.style + 1);
    plan.data = &data;
    plan.baseline = !baseline.empty() && plan.name == baseline;
    plans.push_back(plan);
  }
  return plans;
}

Section plan_section(const std::vector<Plan>& plans) {
  Section section{
      "plans",
      "Plans",
      "A click on a heading sorts. Latencies are those of the longest context measured.",
      {},
      {},
      {}};
  Table table{"plan-table", "All plans", {{"Plan", "", true}}, {}, false};
  const std::vector<int> front = front_of(plans);
  bool plain = true;  // names are the plans themselves
  std::vector<Cell> texts;
  std::vector<Cell> weights;
  for (const Plan& plan : plans) {
    Row row;
    row.cells.push_back({plan.name, {}});
    if (plan.baseline) row.badges.push_back("baseline");
    if (std::find(front.begin(), front.end(), plan.style) != front.end()) {
      row.badges.push_back("front");
    }
    table.rows.push_back(row);
    texts.push_back({text(*plan.data, "plan"), {}});
    weights.push_back({text(*plan.data, "weights"), {}});
    plain = plain && (texts.back().text.empty() || texts.back().text == plan.name);
  }
  for (const Measure& m : measures()) {
    std::vector<Cell> cells;
    for (const Plan& plan : plans) cells.push_back(cell_of(*plan.data, m));
    const std::string unit = m.unit;
    if (!add_column(table, {m.heading, unit}, cells)) {
      section.missing.push_back(m.heading + (unit.empty() ? "" : " (" + unit + ")"));
    }
    if (std::string(m.name) == "questions") {
      cells.clear();
      for (const Plan& plan : plans) {
        const auto share = retrieval_share(*plan.data);
        cells.push_back(share ? Cell{fixed(100 * *share, 1), share} : Cell{});
      }
      if (!add_column(table, {"Retrieval", "%"}, cells)) section.missing.push_back("Retrieval (%)");
    }
  }
  add_latencies(table, plans, section.missing);
  add_column(table, {"Weights", "", true}, weights);
  if (!plain) add_column(table, {"Setting", "", true}, texts);
  section.tables.push_back(table);
  return section;
}

}  // namespace kvcodec::report
