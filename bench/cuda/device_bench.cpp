// Decode attention, scores, encoding, appending, decoding and eviction on a device, as shares of the memory bandwidth that is
// measured first in the same run. `device_bench --help` has the options.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>

#include "bench/cuda/cases.hpp"
#include "bench/cuda/device_tools.hpp"
#include "bench/cuda/report.hpp"
#include "kvcodec/cuda/memory.hpp"

namespace kvcodec::bench {
namespace {

constexpr const char* kHelp =
    "device_bench [options]\n"
    "  --json FILE       write all rows as JSON\n"
    "  --markdown FILE   write them as a Markdown table\n"
    "  --peers FILE      times of others, lines \"<gqa> <context> <batch> <name> <ms>\"\n"
    "  --quick           fewer shapes and repeats\n"
    "  --tiny            the smallest shapes: for the emulator, times mean nothing\n"
    "  --seconds N       start no row after N seconds\n"
    "  --list            print the rows without measuring\n";

struct Options {
  std::string json, markdown, peers;
  bool list = false;
  bool help = false;
  double seconds = 1e9;
  Extent extent = Extent::all;
};

/// Throws invalid_argument.
Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 == argc) throw invalid_argument("device_bench: " + arg + " needs a value");
      return argv[++i];
    };
    if (arg == "--json") o.json = value();
    else if (arg == "--markdown") o.markdown = value();
    else if (arg == "--peers") o.peers = value();
    else if (arg == "--quick") o.extent = Extent::quick;
    else if (arg == "--tiny") o.extent = Extent::tiny;
    else if (arg == "--list") o.list = true;
    else if (arg == "--help") o.help = true;
    else if (arg == "--seconds") {
      const std::string text = value();
      char* end = nullptr;
      o.seconds = std::strtod(text.c_str(), &end);
      if (text.empty() || *end != '\0' || !(o.seconds >= 0.0)) {
        throw invalid_argument(bad_value("device_bench", "--seconds", text, "a number from 0"));
      }
    } else {
      throw invalid_argument("device_bench: unknown argument " + arg + "\n" + kHelp);
    }
  }
  return o;
}

/// gqa, context, batch -> names and milliseconds.
using Peers = std::map<AttendShape, std::vector<std::pair<std::string, double>>>;

Peers read_peers(const std::string& file) {
  Peers peers;
  if (file.empty()) return peers;
  std::ifstream in(file);
  if (!in) throw invalid_argument(bad_value("device_bench", "--peers", file, "a readable file"));
  std::string line;
  while (std::getline(in, line)) {
    std::istringstream words(line);
    AttendShape shape;
    std::string name;
    double ms = 0.0;
    if (!(words >> shape.gqa >> shape.context >> shape.batch >> name >> ms) || !(ms > 0.0)) {
      throw invalid_argument("device_bench: " + file + ": not a line of peers: " + line);
    }
    peers[shape].emplace_back(name, ms);
  }
  return peers;
}

/// As much device memory as there is, at most `bytes`. Throws cuda_error for less than a sixteenth.
cuda::DeviceBuffer<std::byte> allocate_pool(std::size_t bytes) {
  for (int attempt = 0;; ++attempt) {
    try {
      return cuda::DeviceBuffer<std::byte>(bytes / 256 * 256);
    } catch (const cuda_error&) {
      if (attempt == 12) throw;
      bytes = bytes / 5 * 4;
    }
  }
}

void measure_bandwidth(cuda::DeviceBuffer<std::byte>& pool, const Plan& plan, Report& report) {
  const std::size_t half = std::min(plan.bandwidth_bytes, pool.bytes() / 2) / 256 * 256;
  cuda::DeviceBuffer<std::uint32_t> sink(1);
  pool.fill(0);
  const double copy_ms = median_ms(
      [&](std::int64_t) { copy_on_device(pool.data() + half, pool.data(), half, nullptr); },
      plan.n_samples, plan.sample_ms);
  const double read_ms =
      median_ms([&](std::int64_t) { read_on_device(pool.data(), 2 * half, sink.data(), nullptr); },
                plan.n_samples, plan.sample_ms);
  report.copy_bytes_per_s = 2.0 * static_cast<double>(half) / copy_ms * 1e3;
  report.read_bytes_per_s = 2.0 * static_cast<double>(half) / read_ms * 1e3;
  std::printf("bandwidth: copy %.0f GB/s, read %.0f GB/s\n", report.copy_bytes_per_s / 1e9,
              report.read_bytes_per_s / 1e9);
}

void print(const Row& row) {
  const std::string shape = row.context == 0 ? ""
                                             : " gqa " + std::to_string(row.gqa) + " context " +
                                                   std::to_string(row.context) + " batch " +
                                                   std::to_string(row.batch);
  if (!row.note.empty()) {
    std::printf("%s %s%s: %s\n", row.operation.c_str(), row.format.c_str(), shape.c_str(),
                row.note.c_str());
  } else {
    std::printf("%s %s%s: %.4f ms, %.0f GB/s, %.0f %%\n", row.operation.c_str(), row.format.c_str(),
                shape.c_str(), row.ms, row.bytes_per_s() / 1e9, 100.0 * row.share());
  }
  std::fflush(stdout);
}

class Run {
 public:
  Run(const Options& options, const Plan& plan, Report& report)
      : options_(options), plan_(plan), peers_(read_peers(options.peers)), report_(report) {}

  /// Whether every row was measured, or left out for a reason that is none of ours.
  bool all() {
    cuda::DeviceBuffer<std::byte> pool =
        allocate_pool(std::min(plan_.pool_bytes, cuda::describe_device(0).memory_bytes / 5 * 4));
    measure_bandwidth(pool, plan_, report_);
    each_shape("attend", plan_.attend, pool, &AttendSubject::attend);
    each_shape("score", plan_.score, pool, &AttendSubject::score);
    each_format("encode", plan_.encode_formats, pool, measure_encode);
    each_format("append", plan_.encode_formats, pool, measure_append);
    each_format("decode", plan_.decode_formats, pool, measure_decode);
    each_format("evict", plan_.policies, pool, measure_evict);
    return failures_ == 0;
  }

 private:
  bool late() {
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start_;
    if (passed.count() < options_.seconds) return false;
    report_.complete = false;
    return true;
  }

  /// Calls fn; what it throws as text. TooLarge is a reason, anything else a failure.
  template <class F>
  std::string guarded(F&& fn) {
    try {
      fn();
      return "";
    } catch (const TooLarge& e) {
      return e.what();
    } catch (const std::exception& e) {
      ++failures_;
      return std::string("failed: ") + e.what();
    }
  }

  void each_shape(const char* operation, const std::vector<FormatShapes>& cases,
                  cuda::DeviceBuffer<std::byte>& pool,
                  void (AttendSubject::*measure)(const AttendShape&, const Plan&, Row&) const) {
    for (const auto& [format, shapes] : cases) {
      if (late()) return;
      std::unique_ptr<AttendSubject> subject;
      const std::string problem =
          guarded([&] { subject = std::make_unique<AttendSubject>(format, pool); });
      for (const AttendShape& shape : shapes) {
        if (late()) return;
        Row row{operation, format, shape.gqa, shape.context, shape.batch};
        row.bandwidth = std::max(report_.copy_bytes_per_s, report_.read_bytes_per_s);
        row.note =
            problem.empty() ? guarded([&] { (*subject.*measure)(shape, plan_, row); }) : problem;
        compare(shape, row);
        add(std::move(row));
      }
    }
  }

  void each_format(const char* operation, const std::vector<std::string>& formats,
                   cuda::DeviceBuffer<std::byte>& pool,
                   void (*measure)(cuda::DeviceBuffer<std::byte>&, const Plan&, Row&)) {
    for (const std::string& format : formats) {
      if (late()) break;
      Row row{operation, format};
      row.bandwidth = report_.copy_bytes_per_s;
      row.note = guarded([&] { measure(pool, plan_, row); });
      add(std::move(row));
    }
  }

  void compare(const AttendShape& shape, Row& row) {
    if (!row.note.empty() || row.operation != "attend") return;
    if (row.format == "f16") f16_ms_[shape] = row.ms;
    if (const auto own = f16_ms_.find(shape); own != f16_ms_.end()) {
      row.vs_f16 = own->second / row.ms;
    }
    if (const auto found = peers_.find(shape); found != peers_.end()) {
      for (const auto& [name, ms] : found->second) row.peers.emplace_back(name, ms / row.ms);
    }
  }

  void add(Row row) {
    print(row);
    report_.rows.push_back(std::move(row));
  }

  const Options& options_;
  const Plan& plan_;
  Peers peers_;
  Report& report_;
  std::map<AttendShape, double> f16_ms_;
  int failures_ = 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

void list(const char* operation, const std::vector<FormatShapes>& cases) {
  for (const auto& [format, shapes] : cases) {
    for (const AttendShape& s : shapes) {
      std::printf("%s %s gqa %d context %lld batch %d\n", operation, format.c_str(), s.gqa,
                  static_cast<long long>(s.context), s.batch);
    }
  }
}

void list(const char* operation, const std::vector<std::string>& formats) {
  for (const std::string& format : formats) std::printf("%s %s\n", operation, format.c_str());
}

void list(const Plan& plan) {
  list("attend", plan.attend);
  list("score", plan.score);
  list("encode", plan.encode_formats);
  list("append", plan.encode_formats);
  list("decode", plan.decode_formats);
  list("evict", plan.policies);
}

bool write(const std::string& file, const Report& report,
           void (*writer)(std::ostream&, const Report&)) {
  if (file.empty()) return true;
  std::ofstream out(file);
  writer(out, report);
  out.flush();
  if (!out) std::fprintf(stderr, "device_bench: %s cannot be written\n", file.c_str());
  return static_cast<bool>(out);
}

/// 0: all rows measured; 1: some failed; 2: no device, or bad arguments.
int run(int argc, char** argv) {
  const Options options = parse(argc, argv);
  if (options.help) {
    std::printf("%s", kHelp);
    return 0;
  }
  const Plan plan = make_plan(options.extent);
  if (options.list) {
    list(plan);
    return 0;
  }
  if (cuda::device_count() == 0) {
    std::fprintf(stderr, "device_bench: no CUDA device, or no driver for one\n");
    return 2;
  }
  Report report;
  const cuda::DeviceInfo info = cuda::describe_device(0);
  report.device = info.name;
  report.sm = 10 * info.major + info.minor;
  report.n_sms = info.n_sms;
  report.cuda_driver = driver_version();
  report.cuda_runtime = runtime_version();
  bool good = Run(options, plan, report).all();
  good = write(options.json, report, write_json) && good;
  good = write(options.markdown, report, write_markdown) && good;
  return good ? 0 : 1;
}

}  // namespace
}  // namespace kvcodec::bench

int main(int argc, char** argv) {
  try {
    return kvcodec::bench::run(argc, argv);
  } catch (const kvcodec::invalid_argument& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "device_bench: %s\n", e.what());
    return 1;
  }
}
