// What the measurements of cpu_bench.hpp share: rounds, and formats made ready for them.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "src/bench/cpu_bench.hpp"
#include "src/bench/pages.hpp"

namespace kvcodec::bench {

/// Different rows of K and V; more tokens repeat them.
inline constexpr std::int64_t kUnique = 1024;

/// NaN of nothing.
double median(std::vector<double> x);

/// Median of a / b, round by round.
double median_ratio(const std::vector<double>& a, const std::vector<double>& b);

/// Seconds of every participant in every round.
std::vector<std::vector<double>> measure(const std::vector<Participant*>& all,
                                         const Executor& executor, double seconds);

/// One of our formats at work, and its row.
struct Entry {
  std::unique_ptr<PagedAttention> attention;
  CpuRow row;
};

/// Whether attention over the pages has an arithmetic of its own: f32 always.
bool has_arithmetic(const Pages& pages, Arithmetic arithmetic);

/// Attends once, for the error.
Entry make_entry(const std::string& format, Pages& pages, const UniqueRows& rows,
                 const Shape& shape, Arithmetic arithmetic, const std::vector<float>& q);

/// Pages of all formats that share heads and their size.
struct Formats {
  /// Formats that do not support head_dim become report.skipped.
  Formats(const std::vector<std::string>& names, int head_dim, int n_kv_heads,
          std::int64_t n_tokens, int n_seq, std::size_t rotated_bytes, CpuReport& report);

  const UniqueRows& rows_of(const std::string& name) const;

  UniqueRows rows, clustered;
  std::vector<std::pair<std::string, std::unique_ptr<Pages>>> pages;
};

/// Throws invalid_argument naming an option out of range.
void check(const CpuBenchOptions& options);

std::vector<std::string> formats_of(const CpuBenchOptions& options);

/// A report of this machine for n_buffers that rotate.
CpuReport new_report(const CpuBenchOptions& options, std::size_t n_buffers);

}  // namespace kvcodec::bench
