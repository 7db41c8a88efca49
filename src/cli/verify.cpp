// kvcodec verify: runs golden cases against this build on this machine.
#include <cstdio>
#include <memory>
#include <string>

#include "kvcodec/attend/cpu_isa.hpp"
#include "src/cli/commands.hpp"
#include "src/output/output.hpp"
#include "src/verify/golden.hpp"

namespace kvcodec::cli {
namespace {

struct Options {
  std::string folder;
  std::string json;
};

int verify(const Options& options) {
  check_writable(options.json);
  Json cases = Json::array();
  const golden::Totals totals =
      golden::run_cases(options.folder, [&](const golden::Result& result) {
        std::printf("%s\n", to_text(result).c_str());
        std::fflush(stdout);
        cases.push_back({{"name", result.name},
                         {"outcome", to_string(result.outcome)},
                         {"detail", result.detail}});
      });
  std::printf("%s\n", to_text(totals).c_str());
  write_json(options.json, {{"isa", cpu_isa()},
                            {"passed", totals.passed},
                            {"failed", totals.failed},
                            {"skipped", totals.skipped},
                            {"cases", cases}});
  return totals.failed == 0 ? 0 : 1;
}

}  // namespace

void add_verify(CLI::App& app, Run& run) {
  const auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("verify", "Runs golden cases: known inputs and results");
  sub->add_option("folder", options->folder, "a case, a family of cases, or a folder of families")
      ->required();
  sub->add_option("--json", options->json, "also write the results to this file");
  sub->callback([options, &run] { run = [options] { return verify(*options); }; });
}

}  // namespace kvcodec::cli
