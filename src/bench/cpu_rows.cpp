// A CpuReport as JSON and as a table.
#include <cmath>
#include <cstdio>

#include "src/bench/cpu_bench.hpp"

namespace kvcodec::bench {
namespace {

using Json = nlohmann::ordered_json;

Json number(double x) { return std::isfinite(x) ? Json(x) : Json(nullptr); }

std::string text(const char* pattern, double x) {
  if (!std::isfinite(x)) return "-";
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, pattern, x);
  return buffer;
}

bool is_odd(const CpuRow& row) { return !row.neighbour.empty(); }

Json row_json(const CpuRow& row) {
  Json json = {{"format", row.format},
               {"arithmetic", row.arithmetic},
               {"isa", row.isa},
               {"head_dim", row.shape.head_dim},
               {"kv_heads", row.shape.n_kv_heads},
               {"gqa", row.shape.gqa},
               {"keys", row.shape.n_tokens},
               {"sequences", row.shape.n_seq},
               {"threads", row.n_threads},
               {"rounds", row.n_rounds},
               {"ms", number(row.ms)},
               {"bytes", row.bytes},
               {"bits_per_value", number(row.bits_per_value)},
               {"multiply_adds_per_byte", number(row.multiply_adds_per_byte)},
               {"rel_err", number(row.rel_err)}};
  if (is_odd(row)) {
    json["shape"] = row.neighbour;
    json["slower_per_byte"] = number(row.slower_per_byte);
    json["slow_by_surprise"] = row.slower_per_byte > kMostPerByte;
  } else {
    json["share_of_read_bw"] = number(row.share_of_read_bw);
    json["ratio_to_f16"] = number(row.ratio_to_f16);
  }
  if (!row.vs_peer.empty()) {
    Json peers = Json::object();
    for (const auto& [name, ratio] : row.vs_peer) peers[name] = number(ratio);
    json["vs_peer"] = peers;
  }
  return json;
}

}  // namespace

Json to_json(const CpuReport& report) {
  Json rows = Json::array();
  for (const CpuRow& row : report.rows) rows.push_back(row_json(row));
  Json skipped = Json::array();
  for (const SkippedRow& row : report.skipped) {
    skipped.push_back({{"format", row.format}, {"shape", row.shape}, {"reason", row.reason}});
  }
  Json read = Json::object();
  for (const auto& [n, bytes] : report.read_bytes_per_s) read[std::to_string(n)] = number(bytes);
  return {{"date", today()},
          {"machine",
           {{"processor", report.machine.processor},
            {"threads", report.machine.n_threads},
            {"l3_bytes", report.machine.l3_bytes},
            {"memory_bytes", report.machine.memory_bytes}}},
          {"rotated_bytes", report.rotated_bytes},
          {"isa", report.isa},
          {"read_bytes_per_s", read},
          {"rows", rows},
          {"skipped", skipped}};
}

std::vector<std::vector<std::string>> to_cells(const CpuReport& report) {
  const bool odd = !report.rows.empty() && is_odd(report.rows[0]);
  std::vector<std::vector<std::string>> cells;
  cells.push_back(
      {"format", "arithmetic", "keys", "GQA", "threads", "ms", "MiB", "bits", "MA/byte"});
  if (odd) cells[0].insert(cells[0].end(), {"shape / neighbour", "per byte", ""});
  else cells[0].insert(cells[0].end(), {"of read", "x f16"});
  cells[0].emplace_back("rel. error");
  for (const CpuRow& row : report.rows) {
    std::vector<std::string> line = {row.format,
                                     row.arithmetic,
                                     std::to_string(row.shape.n_tokens),
                                     std::to_string(row.shape.gqa),
                                     std::to_string(row.n_threads),
                                     text("%.3f", row.ms),
                                     text("%.1f", row.bytes / (1024.0 * 1024.0)),
                                     text("%.3f", row.bits_per_value),
                                     text("%.1f", row.multiply_adds_per_byte)};
    if (odd) {
      line.insert(line.end(), {row.neighbour, text("%.2f", row.slower_per_byte),
                               row.slower_per_byte > kMostPerByte ? "slow" : ""});
    } else {
      line.insert(line.end(),
                  {text("%.0f %%", 100.0 * row.share_of_read_bw), text("%.2f", row.ratio_to_f16)});
    }
    line.push_back(text("%.4f", row.rel_err));
    for (const auto& [name, ratio] : row.vs_peer) line.push_back(name + text(" %.1f", ratio));
    cells.push_back(std::move(line));
  }
  return cells;
}

}  // namespace kvcodec::bench
