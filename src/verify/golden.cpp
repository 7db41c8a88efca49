#include "src/verify/golden.hpp"

#include <algorithm>
#include <array>
#include <exception>

#include "src/verify/runners.hpp"

namespace kvcodec::golden {
namespace {

namespace fs = std::filesystem;

/// Who runs which cases: the first entry whose family matches and whose `kind` starts the case's.
struct Entry {
  const char* family;
  const char* kind;
  std::string (*run)(const Case&);
};

constexpr std::array kRunners = {
    Entry{"nf4", "table", run_nf4_table},
    Entry{"nf4", "", run_nf4_groups},
    Entry{"attention", "merge-state", run_attention_merge},
    Entry{"attention", "accumulation-ones", run_attention_ones},
    Entry{"attention", "d", run_attention_decode},
    Entry{"realistic-kv", "", run_realistic_kv},
    Entry{"hadamard", "", run_hadamard},
    Entry{"lagkv-inputs", "", run_lagkv_inputs},
    Entry{"lagkv-oneshot", "lengths", run_lagkv_lengths},
    Entry{"lagkv-oneshot", "threshold", run_lagkv_threshold},
    Entry{"lagkv-oneshot", "constant-channel", run_lagkv_constant},
    Entry{"lagkv-oneshot", "", run_lagkv_oneshot},
    Entry{"lagkv-stream", "", run_lagkv_stream},
    Entry{"kvpress-scores", "short-prompt", run_kvpress_short},
    Entry{"kvpress-scores", "", run_kvpress_scores},
    Entry{"spindle", "budgets", run_spindle_budgets},
    Entry{"spindle", "tiny-exact", run_spindle_tiny},
    Entry{"spindle", "", run_spindle_layer},
    Entry{"wkvquant", "", run_wkvquant},
    Entry{"kivi", "b", run_kivi},
    Entry{"kivi", "edge", run_kivi_edge},
    Entry{"lloyd-max", "", run_lloyd_max},
    Entry{"turboquant", "", run_turboquant},
    Entry{"rabitq", "", run_rabitq},
    Entry{"qjl-inputs", "", run_qjl_inputs},
    Entry{"qjl", "append-", run_qjl_append},
    Entry{"qjl", "d", run_qjl_scores},
};

const Entry* runner_of(const Case& c) noexcept {
  for (const Entry& e : kRunners) {
    if (c.family() == e.family && c.kind().starts_with(e.kind)) return &e;
  }
  return nullptr;
}

std::string families() {
  std::string text;
  for (const Entry& e : kRunners) {
    if (text.find(e.family) == std::string::npos)
      text += (text.empty() ? "" : ", ") + std::string(e.family);
  }
  return text;
}

}  // namespace

const char* to_string(Outcome outcome) noexcept {
  return outcome == Outcome::passed ? "passed" : outcome == Outcome::failed ? "failed" : "skipped";
}

std::string to_text(const Result& result) {
  const std::string head = std::string(to_string(result.outcome)) + " " + result.name;
  return result.detail.empty() ? head : head + ": " + result.detail;
}

std::string to_text(const Totals& t) {
  return std::to_string(t.passed) + " passed, " + std::to_string(t.failed) + " failed, " +
         std::to_string(t.skipped) + " skipped";
}

std::vector<fs::path> find_cases(const fs::path& folder) {
  if (!fs::is_directory(folder)) {
    throw invalid_argument("verify: folder = \"" + folder.string() +
                           "\", allowed: an existing folder with golden cases");
  }
  std::vector<fs::path> cases;
  if (fs::exists(folder / "case.json")) cases.push_back(folder);
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_directory() && fs::exists(entry.path() / "case.json"))
      cases.push_back(entry.path());
  }
  if (cases.empty()) {
    throw invalid_argument("verify: folder = \"" + folder.string() +
                           "\" holds no case, allowed: a folder with <family>/<case>/case.json");
  }
  std::sort(cases.begin(), cases.end());
  return cases;
}

Result run_case(const fs::path& folder) {
  Result result{folder.generic_string(), Outcome::failed, ""};
  try {
    const Case c(folder);
    result.name = c.name();
    const Entry* entry = runner_of(c);
    if (entry == nullptr) {
      result.outcome = Outcome::skipped;
      result.detail = "no check for this kind of case in this build, which has " + families();
      return result;
    }
    result.detail = entry->run(c);
    result.outcome = Outcome::passed;
  } catch (const std::exception& e) {
    result.detail = e.what();
    std::replace(result.detail.begin(), result.detail.end(), '\n', ' ');
  }
  return result;
}

Totals run_cases(const fs::path& folder, const std::function<void(const Result&)>& report) {
  Totals totals;
  for (const fs::path& path : find_cases(folder)) {
    const Result result = run_case(path);
    (result.outcome == Outcome::passed   ? totals.passed
     : result.outcome == Outcome::failed ? totals.failed
                                         : totals.skipped) += 1;
    report(result);
  }
  return totals;
}

}  // namespace kvcodec::golden
