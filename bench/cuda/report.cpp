#include "bench/cuda/report.hpp"

#include <cstdio>
#include <string_view>

namespace kvcodec::bench {
namespace {

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) >= 0x20) out += c;
  }
  return out + "\"";
}

std::string number(double x, const char* format = "%.6g") {
  char text[32];
  std::snprintf(text, sizeof text, format, x);
  return text;
}

void write_json(std::ostream& out, const Row& row) {
  out << "    {\"operation\": " << quoted(row.operation) << ", \"format\": " << quoted(row.format);
  if (row.context > 0) {
    out << ", \"gqa\": " << row.gqa << ", \"context\": " << row.context
        << ", \"batch\": " << row.batch;
  }
  if (!row.note.empty()) {
    out << ", \"note\": " << quoted(row.note) << "}";
    return;
  }
  out << ", \"ms\": " << number(row.ms) << ", \"bytes\": " << number(row.bytes, "%.0f")
      << ", \"gb_per_s\": " << number(row.bytes_per_s() / 1e9)
      << ", \"share\": " << number(row.share(), "%.4f");
  if (row.vs_f16 > 0.0) out << ", \"vs_f16\": " << number(row.vs_f16);
  if (!row.peers.empty()) {
    out << ", \"vs\": {";
    const char* separator = "";
    for (const auto& [name, ratio] : row.peers) {
      out << separator << quoted(name) << ": " << number(ratio);
      separator = ", ";
    }
    out << "}";
  }
  out << "}";
}

std::string shape_of(const Row& row) {
  if (row.context == 0) return "";
  return "GQA " + std::to_string(row.gqa) + ", " + std::to_string(row.context) + " rows, batch " +
         std::to_string(row.batch);
}

}  // namespace

void write_json(std::ostream& out, const Report& report) {
  out << "{\n  \"device\": " << quoted(report.device) << ",\n  \"sm\": " << report.sm
      << ",\n  \"multiprocessors\": " << report.n_sms
      << ",\n  \"cuda_driver\": " << report.cuda_driver
      << ",\n  \"cuda_runtime\": " << report.cuda_runtime
      << ",\n  \"copy_gb_per_s\": " << number(report.copy_bytes_per_s / 1e9)
      << ",\n  \"read_gb_per_s\": " << number(report.read_bytes_per_s / 1e9)
      << ",\n  \"complete\": " << (report.complete ? "true" : "false") << ",\n  \"rows\": [";
  const char* separator = "\n";
  for (const Row& row : report.rows) {
    out << separator;
    write_json(out, row);
    separator = ",\n";
  }
  out << "\n  ]\n}\n";
}

void write_markdown(std::ostream& out, const Report& report) {
  out << "Memory bandwidth of " << report.device << " in this run: copy "
      << number(report.copy_bytes_per_s / 1e9, "%.0f") << " GB/s, read "
      << number(report.read_bytes_per_s / 1e9, "%.0f") << " GB/s.";
  if (!report.complete) out << " The time limit ended the run before its last row.";
  out << "\n\n| operation | format | shape | ms | GB/s | share | against our f16 | against others "
         "|\n"
         "|---|---|---|---|---|---|---|---|\n";
  for (const Row& row : report.rows) {
    out << "| " << row.operation << " | `" << row.format << "` | " << shape_of(row) << " | ";
    if (!row.note.empty()) {
      out << row.note << " | | | | |\n";
      continue;
    }
    out << number(row.ms, "%.4f") << " | " << number(row.bytes_per_s() / 1e9, "%.0f") << " | "
        << number(100.0 * row.share(), "%.0f") << " % | ";
    if (row.vs_f16 > 0.0) out << number(row.vs_f16, "%.2f") << "x";
    out << " | ";
    const char* separator = "";
    for (const auto& [name, ratio] : row.peers) {
      out << separator << name << " " << number(ratio, "%.2f") << "x";
      separator = ", ";
    }
    out << " |\n";
  }
}

}  // namespace kvcodec::bench
