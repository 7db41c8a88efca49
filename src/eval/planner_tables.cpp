// The built-in candidates, checks of options, and results as JSON and text.
#include <cmath>

#include "kvcodec/core/error.hpp"
#include "src/eval/planner.hpp"

namespace kvcodec::eval {

void check(const PlannerOptions& o) {
  const int n =
      int{o.budget_bits.has_value()} + int{o.budget_bytes.has_value()} + int{o.max_kl.has_value()};
  if (n != 1) {
    throw invalid_argument("plan: needs one of --budget-bits, --budget and --max-kl");
  }
  if (o.budget_bits && !(*o.budget_bits > 0.0 && *o.budget_bits <= 32.0)) {
    throw invalid_argument(bad_value("plan", "--budget-bits", *o.budget_bits, "above 0 to 32"));
  }
  if (o.max_kl && !(*o.max_kl > 0.0 && std::isfinite(*o.max_kl))) {
    throw invalid_argument(bad_value("plan", "--max-kl", *o.max_kl, "numbers above 0"));
  }
  if (o.context < kTileRows || o.context > (std::int64_t{1} << 30)) {
    throw invalid_argument(bad_value("plan", "--context", o.context, "64..1073741824"));
  }
  if (o.recent.empty() || o.sink.empty() ||
      (!o.budget_bytes && (o.recent.size() > 1 || o.sink.size() > 1))) {
    throw invalid_argument(
        "plan: --recent and --sink take one number each; several only with --budget, which counts "
        "windows");
  }
}

std::vector<std::string> default_candidates(Side side) {
  std::vector<std::string> all = {"hadamard+lm:b1",
                                  "hadamard+lm:b2",
                                  "hadamard+lm:b3",
                                  "hadamard+lm:b4",
                                  "wkv:b2:g64",
                                  "wkv:b3:g64",
                                  "wkv:b4:g64",
                                  "kivi:b2:g32",
                                  "kivi:b4:g64",
                                  "nqfit:g64:search",
                                  "hadamard+nqfit:g64:search",
                                  "nqkv:g64",
                                  "int8",
                                  "fp8:row"};
  const std::vector<std::string> keys = {"mean+hadamard+lm:b1",
                                         "mean+hadamard+lm:b2",
                                         "mean+hadamard+lm:b3",
                                         "mean+hadamard+lm:b4",
                                         "hadamard+rabitq:b2",
                                         "hadamard+rabitq:b3",
                                         "mean+hadamard+rabitq:b2",
                                         "qjl:m128",
                                         "qjl:m256",
                                         "qjl:m128:o4:mo64:fixed",
                                         "qjl:m192:o8:mo64:fixed"};
  const std::vector<std::string> values = {"lm:b2", "lm:b3", "lm:b4", "nqsym:g64"};
  const std::vector<std::string>& more = side == Side::key ? keys : values;
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

std::vector<std::string> default_policies() {
  return {"lagkv:l32:r0.75", "lagkv:l32:r0.5", "lagkv:l32:r0.25"};
}

Json to_json(const PlannerResult& r) {
  Json parts = Json::array();
  for (const Sensitivity& s : r.sensitivities) {
    Json row = {{"layer", s.layer},           {"side", s.side},
                {"choice", s.spec},           {"bits", s.bits},
                {"attention_error", s.error}, {"kl", nullptr}};
    if (s.kl) row["kl"] = *s.kl;
    parts.push_back(row);
  }
  Json uniform = Json::array();
  for (const UniformSetting& u : r.uniform) {
    Json row = {{"plan", u.plan}, {"bits", u.bits}, {"predicted", u.predicted}, {"kl", nullptr}};
    if (u.kl) row["kl"] = *u.kl;
    uniform.push_back(row);
  }
  return {{"chosen", r.plan},
          {"bits_per_value", r.bits},
          {"kv_bytes", r.bytes},
          {"solver_exact", r.exact},
          {"sum_of_parts", r.predicted},
          {"kl_same_documents", r.measured},
          {"kl_other_documents", r.solver_second},
          {"kl_refined", r.second},
          {"runs", r.n_runs},
          {"changes", r.n_moves},
          {"sensitivities", parts},
          {"uniform", uniform},
          {"left_out", r.left_out}};
}

std::string sensitivity_table(const PlannerResult& r) {
  std::vector<std::vector<std::string>> rows = {{"choice", "bits"}};
  std::string last;
  for (const Sensitivity& s : r.sensitivities) {
    const std::string name = s.side + "=" + s.spec;
    if (name != last) rows.push_back({name, output::format("%.2f", s.bits)});
    last = name;
    rows.back().push_back(s.kl ? output::format("%.2e", *s.kl) : "-");
    if (rows.size() == 2) rows[0].push_back("layer " + std::to_string(s.layer));
  }
  return output::to_table(rows);
}

}  // namespace kvcodec::eval
