// Decode attention on the CPU, measured: every format beside the machine's read bandwidth and f16.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "src/bench/machine.hpp"
#include "src/bench/participant.hpp"

namespace kvcodec::bench {

struct CpuBenchOptions {
  /// Codecs ("nqkv:g64") or plans ("k=qjl:m256,v=nqkv:g64"); empty: default_formats().
  std::vector<std::string> formats;
  std::vector<std::int64_t> keys = {4096, 16384, 65536};  ///< multiples of 1024
  std::vector<int> gqa = {1, 4, 8};                       ///< 1..16
  std::vector<int> threads = {1, 2};                      ///< 1..1024
  double seconds = 2.0;                                   ///< of measuring per shape
  /// MiB that every format, peer and the stream of reads cycle through, 0: rotated_bytes(). How much memory is
  /// in use changes its speed where addresses are translated twice (virtual machines). 0..2^20.
  std::int64_t rotate_mib = 0;
};

/// One format in one shape.
struct CpuRow {
  std::string format;
  std::string arithmetic;  ///< "f32" or "integer" (Arithmetic)
  std::string isa;
  Shape shape;
  int n_threads = 1;
  int n_rounds = 0;
  double ms = 0.0;              ///< median
  double bytes = 0.0;           ///< read per step
  double bits_per_value = 0.0;  ///< of the cached rows
  double multiply_adds_per_byte = 0.0;
  double share_of_read_bw = 0.0;  ///< of the bandwidth in the same rounds, by as many threads
  double ratio_to_f16 = 0.0;      ///< time of f16 over this; NaN without f16
  double rel_err = std::numeric_limits<double>::quiet_NaN();  ///< NaN where a policy drops rows
  std::map<std::string, double> vs_peer;                      ///< time of a peer over this
  std::string neighbour;         ///< odd shapes: what `slower_per_byte` compares with
  double slower_per_byte = 0.0;  ///< time per byte over the neighbour's
};

/// A row that could not be measured, and why.
struct SkippedRow {
  std::string format, shape, reason;
};

struct CpuReport {
  Machine machine;
  std::size_t rotated_bytes = 0;  ///< that each format, peer and the stream of reads cycle through
  std::string isa;
  std::map<int, double> read_bytes_per_s;  ///< by number of threads, median of all rounds
  std::vector<CpuRow> rows;
  std::vector<SkippedRow> skipped;
};

std::vector<std::string> default_formats();

/// Called with what is measured next, and how many of how many shapes are done.
using Progress = std::function<void(const std::string& what, int done, int total)>;

/// All formats in every shape: head_dim 128 and 8 KV heads, or 32 for gqa 1. In a round every format
/// runs once and reads memory that has left the caches since it was read last. Throws
/// invalid_argument naming an option out of range or a format that does not exist.
CpuReport run_cpu_bench(const CpuBenchOptions& options, const Progress& progress);

/// Shapes beside the usual ones: other head sizes, GQA 7, very short and very long sequences, AVX2.
/// Only formats and seconds are used.
CpuReport run_odd_shapes(const CpuBenchOptions& options, const Progress& progress);

/// Time per byte above which a shape is slow by surprise.
inline constexpr double kMostPerByte = 2.0;

nlohmann::ordered_json to_json(const CpuReport& report);

/// Header and one row of cells per CpuRow.
std::vector<std::vector<std::string>> to_cells(const CpuReport& report);

}  // namespace kvcodec::bench
