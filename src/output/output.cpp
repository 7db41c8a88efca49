#include "src/output/output.hpp"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "kvcodec/core/error.hpp"

namespace kvcodec::output {

namespace fs = std::filesystem;

namespace {

fs::path temporary_of(const std::string& file) {
  return file + ".tmp" + std::to_string(::getpid());
}

}  // namespace

bool can_write(const std::string& file) {
  const fs::path temporary = temporary_of(file);
  std::error_code ignored;
  const bool good = !fs::is_directory(file, ignored) && static_cast<bool>(std::ofstream(temporary));
  fs::remove(temporary, ignored);
  return good;
}

void check_writable(const std::string& file) {
  if (file.empty() || can_write(file)) return;
  throw invalid_argument(bad_value("output", "--json", file, "a file in a writable folder"));
}

void write_json(const std::string& file, const Json& value) {
  write_text(file, value.dump(2, ' ', false, Json::error_handler_t::replace) + '\n');
}

void write_text(const std::string& file, const std::string& text) {
  if (file.empty()) return;
  const fs::path temporary = temporary_of(file);
  std::error_code failed;
  {
    std::ofstream out(temporary, std::ios::binary);
    out << text;
    if (!out.flush()) failed = std::make_error_code(std::errc::io_error);
  }
  if (!failed) fs::rename(temporary, file, failed);
  if (failed) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw error(file + ": cannot be written: " + failed.message());
  }
}

std::string to_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - row[i].size(), ' ');
      line += (i == 0 ? "" : "  ") + (i == 0 ? row[i] + padding : padding + row[i]);
    }
    text += line.erase(line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

std::string format(const char* pattern, ...) {
  char text[512];
  std::va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

std::string bytes_text(std::int64_t bytes) {
  const auto n = static_cast<double>(bytes);
  if (bytes >= (std::int64_t{1} << 30)) return format("%.2f GiB", n / 0x1p30);
  if (bytes >= (1 << 20)) return format("%.2f MiB", n / 0x1p20);
  return bytes >= 1024 ? format("%.1f KiB", n / 0x1p10) : format("%.0f B", n);
}

std::string count_text(std::int64_t n) {
  std::string text = std::to_string(n);
  const std::size_t first = n < 0 ? 1 : 0;
  for (std::size_t i = text.size(); i > first + 3;) {
    i -= 3;
    text.insert(i, ",");
  }
  return text;
}

std::int64_t parse_bytes(const std::string& text) {
  const auto fail = [&] {
    return invalid_argument(bad_value(
        "memory", "budget", text, "1B to 1024TiB, a whole number with B, KiB, MiB, GiB or TiB"));
  };
  std::size_t digits = 0;
  while (digits < text.size() && std::isdigit(static_cast<unsigned char>(text[digits])) != 0) {
    ++digits;
  }
  if (digits == 0 || digits > 15) throw fail();
  const std::int64_t n = std::strtoll(text.c_str(), nullptr, 10);
  const std::string unit = text.substr(digits);
  const std::vector<std::string> units = {"B", "KiB", "MiB", "GiB", "TiB"};
  const auto found = std::find(units.begin(), units.end(), unit.empty() ? "B" : unit);
  const auto shift = 10 * (found - units.begin());
  if (found == units.end() || n < 1 || n > (std::int64_t{1} << 50 >> shift)) throw fail();
  return n << shift;
}

std::string one_line(const std::string& text, std::size_t width) {
  std::string line = text.substr(0, width);
  for (char& c : line) {
    if (c < 0x20 || c > 0x7e) c = c == '\n' ? '|' : '?';
  }
  return line;
}

std::string time_text(double seconds) {
  if (seconds < 99.5) return format("%.0f s", seconds);
  return seconds < 99.5 * 60 ? format("%.0f min", seconds / 60) : format("%.1f h", seconds / 3600);
}

double WorkEstimate::seconds_left(double share, double elapsed) const {
  constexpr double kLeastShare = 0.02;  // of the whole, below which a guess would be wild
  const double done = (done_ + part_ * share) / total_;
  if (!(total_ > 0.0) || done < kLeastShare) return -1.0;
  return std::max(0.0, elapsed * (1.0 - done) / done);
}

ProgressLine::ProgressLine()
    : terminal_(::isatty(STDERR_FILENO) != 0), start_(std::chrono::steady_clock::now()) {}

void ProgressLine::expect(double units) {
  estimate_ = WorkEstimate(units);
  expected_ = std::chrono::steady_clock::now();
}

void ProgressLine::show(const std::string& what, std::int64_t done, std::int64_t total) {
  using std::chrono::milliseconds;
  const auto now = std::chrono::steady_clock::now();
  if (!terminal_ || now - start_ < milliseconds(1000) || now - last_ < milliseconds(100)) return;
  last_ = now;
  shown_ = true;
  const int percent = total > 0 ? static_cast<int>(100 * done / total) : 0;
  const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 0.0;
  const std::chrono::duration<double> elapsed = now - expected_;
  const double left = estimate_.seconds_left(share, elapsed.count());
  const std::string tail = left < 0.0 ? "" : ", " + time_text(left) + " left";
  std::fprintf(stderr, "\r\033[K%s: %d %%%s", what.c_str(), percent, tail.c_str());
  std::fflush(stderr);
}

void ProgressLine::clear() {
  if (shown_) std::fprintf(stderr, "\r\033[K");
  shown_ = false;
}

}  // namespace kvcodec::output
