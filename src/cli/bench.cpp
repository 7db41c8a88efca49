// kvcodec bench: the speed of this build on this machine.
#include <cstdio>
#include <memory>
#include <string>

#include "src/bench/cpu_bench.hpp"
#include "src/cli/commands.hpp"
#include "src/output/output.hpp"

namespace kvcodec::cli {
namespace {

struct Options {
  bench::CpuBenchOptions cpu;
  bool on_cpu = false;
  std::string shapes = "usual";
  std::string json;
};

int bench(const Options& options) {
  check_writable(options.json);
  ProgressLine line;
  const auto progress = [&](const std::string& what, int done, int total) {
    line.show("measuring " + what, done, total);
  };
  const bench::CpuReport report = options.shapes == "odd"
                                      ? bench::run_odd_shapes(options.cpu, progress)
                                      : bench::run_cpu_bench(options.cpu, progress);
  line.clear();
  std::printf("%s\n", to_table(bench::to_cells(report)).c_str());
  for (const auto& [n, bytes] : report.read_bytes_per_s) {
    std::printf("read bandwidth, %d thread%s: %.1f GB/s\n", n, n == 1 ? "" : "s", bytes / 1e9);
  }
  for (const bench::SkippedRow& row : report.skipped) {
    std::printf("not measured: %s, %s: %s\n", row.format.c_str(), row.shape.c_str(),
                row.reason.c_str());
  }
  Json json = {{"command", "bench"}, {"version", KVCODEC_VERSION}};
  json.update(bench::to_json(report));
  write_json(options.json, json);
  return 0;
}

}  // namespace

void add_bench(CLI::App& app, Run& run) {
  const auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("bench", "Measures decode attention on this machine");
  sub->add_flag("--cpu", options->on_cpu, "attention on the CPU, the only one there is")
      ->required();
  sub->add_option("--json", options->json, "also write the results to this file");
  // Options of qjl, and plans, hold commas: formats are separated by spaces.
  sub->add_option("--formats", options->cpu.formats,
                  "codecs or plans, separated by spaces (default: one of every kind)");
  sub->add_option("--keys", options->cpu.keys, "cached tokens")->delimiter(',');
  sub->add_option("--gqa", options->cpu.gqa, "query heads per KV head")->delimiter(',');
  sub->add_option("--threads", options->cpu.threads, "threads")->delimiter(',');
  sub->add_option("--seconds", options->cpu.seconds, "of measuring per shape");
  sub->add_option(
      "--rotate", options->cpu.rotate_mib,
      "MiB that each format cycles through (default: together four times the last-level cache)");
  sub->add_option("--shapes", options->shapes, "usual, or odd: head sizes, batches, lengths, AVX2")
      ->check(CLI::IsMember({"usual", "odd"}));
  sub->callback([options, &run] { run = [options] { return bench(*options); }; });
}

}  // namespace kvcodec::cli
