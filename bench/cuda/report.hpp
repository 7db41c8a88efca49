// Rows of the device benchmark, as JSON and as Markdown.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace kvcodec::bench {

/// One measured operation.
struct Row {
  std::string operation;  ///< attend, score, encode, append, decode, evict
  std::string format;     ///< as in a plan, without "kv="; a policy for evict
  int gqa = 0;            ///< attend and score only, as the two below
  std::int64_t context = 0;
  int batch = 0;
  double ms = 0.0;
  double bytes = 0.0;    ///< that must pass through memory: compressed bytes, rows written and read
  double bandwidth = 0;  ///< bytes per second that `share` is a share of
  double vs_f16 = 0.0;   ///< time of our f16 over this one; 0: not known
  std::vector<std::pair<std::string, double>> peers = {};  ///< name, its time over this one
  std::string note = {};                                   ///< why there is no time

  double bytes_per_s() const { return ms > 0.0 ? bytes / ms * 1e3 : 0.0; }
  double share() const { return bandwidth > 0.0 ? bytes_per_s() / bandwidth : 0.0; }
};

struct Report {
  std::string device;
  int sm = 0;  ///< 90 for 9.0
  int n_sms = 0;
  int cuda_driver = 0;
  int cuda_runtime = 0;
  double copy_bytes_per_s = 0.0;  ///< read and written, both counted
  double read_bytes_per_s = 0.0;
  bool complete = true;  ///< false: the time limit ended it
  std::vector<Row> rows;
};

void write_json(std::ostream& out, const Report& report);
void write_markdown(std::ostream& out, const Report& report);

}  // namespace kvcodec::bench
