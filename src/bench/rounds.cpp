#include "src/bench/rounds.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "kvcodec/attend/cpu_isa.hpp"

namespace kvcodec::bench {
namespace {

constexpr int kFewestRounds = 5;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

AttendOptions attend_options(int head_dim, Arithmetic arithmetic) {
  AttendOptions options;
  options.sm_scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  options.arithmetic = arithmetic;
  return options;
}

bool is_codebook(const std::string& format) { return format.find("codebook") != std::string::npos; }

}  // namespace

double median(std::vector<double> x) {
  if (x.empty()) return std::numeric_limits<double>::quiet_NaN();
  const auto middle = x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2);
  std::nth_element(x.begin(), middle, x.end());
  return *middle;
}

double median_ratio(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratio;
  for (std::size_t i = 0; i < a.size(); ++i) ratio.push_back(a[i] / b[i]);
  return median(std::move(ratio));
}

std::vector<std::vector<double>> measure(const std::vector<Participant*>& all,
                                         const Executor& executor, double seconds) {
  std::vector<std::vector<double>> times(all.size());
  for (Participant* p : all) p->step(executor);
  std::this_thread::sleep_for(std::chrono::duration<double>(all.back()->seconds_awake()));
  const Clock::time_point start = Clock::now();
  for (int round = 0; round < kFewestRounds || seconds_since(start) < seconds; ++round) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      const Clock::time_point begin = Clock::now();
      all[i]->step(executor);
      times[i].push_back(seconds_since(begin));
      std::this_thread::sleep_for(std::chrono::duration<double>(all[i]->seconds_awake()));
    }
  }
  return times;
}

bool has_arithmetic(const Pages& pages, Arithmetic arithmetic) {
  if (arithmetic == Arithmetic::f32) return true;
  const int d = pages.view().format.head_dim;
  return attends_in_integers(pages.view().k_codec, Side::key, d) ||
         attends_in_integers(pages.view().v_codec, Side::value, d);
}

Entry make_entry(const std::string& format, Pages& pages, const UniqueRows& rows,
                 const Shape& shape, Arithmetic arithmetic, const std::vector<float>& q) {
  Entry e;
  const AttendOptions options = attend_options(shape.head_dim, arithmetic);
  e.attention = std::make_unique<PagedAttention>(pages, shape, q, options);
  e.row.format = format;
  e.row.arithmetic = arithmetic == Arithmetic::integer ? "integer" : "f32";
  e.row.isa = cpu_isa();
  e.row.shape = shape;
  e.row.bytes = e.attention->bytes();
  const double n_values = 2.0 * static_cast<double>(shape.n_seq) * shape.n_kv_heads *
                          static_cast<double>(shape.n_tokens) * shape.head_dim;
  e.row.bits_per_value = 8.0 * e.row.bytes / n_values;
  e.row.multiply_adds_per_byte = n_values / static_cast<double>(shape.n_tokens) *
                                 static_cast<double>(pages.encoded_rows(shape.n_tokens)) *
                                 shape.gqa / e.row.bytes;
  e.attention->step({});
  if (!pages.drops_rows()) {
    e.row.rel_err = sample_error(rows, shape, q, options.sm_scale, e.attention->output());
  }
  return e;
}

Formats::Formats(const std::vector<std::string>& names, int head_dim, int n_kv_heads,
                 std::int64_t n_tokens, int n_seq, std::size_t rotated_bytes, CpuReport& report) {
  const std::int64_t n = std::clamp<std::int64_t>(n_tokens, 2 * kTileRows, kUnique);
  rows = UniqueRows::gaussian(n, n_kv_heads, head_dim);
  clustered = UniqueRows::clustered(n, n_kv_heads, head_dim);
  for (const std::string& name : names) {
    try {
      pages.push_back({name, std::make_unique<Pages>(plan_of(name), rows_of(name), rotated_bytes,
                                                     n_tokens, n_seq)});
    } catch (const unsupported& e) {
      report.skipped.push_back({name, "head_dim " + std::to_string(head_dim), e.what()});
    }
  }
}

const UniqueRows& Formats::rows_of(const std::string& name) const {
  return is_codebook(name) ? clustered : rows;
}

void check(const CpuBenchOptions& options) {
  for (const std::int64_t keys : options.keys) {
    if (keys < kUnique || keys > (std::int64_t{1} << 22) || keys % kUnique != 0) {
      throw invalid_argument(
          bad_value("bench", "--keys", keys, "1024..4194304, multiples of 1024"));
    }
  }
  for (const int gqa : options.gqa) {
    if (gqa < 1 || gqa > kMaxGqaGroup) {
      throw invalid_argument(bad_value("bench", "--gqa", gqa, "1..16"));
    }
  }
  for (const int n : options.threads) {
    if (n < 1 || n > 1024) throw invalid_argument(bad_value("bench", "--threads", n, "1..1024"));
  }
  if (!(options.seconds > 0.0 && options.seconds <= 600.0)) {
    throw invalid_argument(bad_value("bench", "--seconds", options.seconds, "above 0, up to 600"));
  }
  if (options.rotate_mib < 0 || options.rotate_mib > (std::int64_t{1} << 20)) {
    throw invalid_argument(bad_value("bench", "--rotate", options.rotate_mib, "0..1048576 MiB"));
  }
}

std::vector<std::string> formats_of(const CpuBenchOptions& options) {
  return options.formats.empty() ? default_formats() : options.formats;
}

CpuReport new_report(const CpuBenchOptions& options, std::size_t n_buffers) {
  CpuReport report;
  report.machine = this_machine();
  report.isa = cpu_isa();
  report.rotated_bytes = options.rotate_mib > 0 ? static_cast<std::size_t>(options.rotate_mib) << 20
                                                : rotated_bytes(report.machine, n_buffers);
  return report;
}

}  // namespace kvcodec::bench
