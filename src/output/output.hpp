// What tools write: JSON files, tables, a progress line.
#pragma once

#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace kvcodec::output {

using Json = nlohmann::ordered_json;

/// Writes `text` to `file` as a whole or not at all: a temporary file beside it takes its name. An empty
/// name writes nothing. Throws error naming the file.
void write_text(const std::string& file, const std::string& text);

/// The same of a JSON value. Text that is no UTF-8 is written with replacement characters.
void write_json(const std::string& file, const Json& value);

/// Whether write_text() could write `file` now: a file in a writable folder.
bool can_write(const std::string& file);

/// Throws invalid_argument unless `file` can be created; called before long work, not after it.
void check_writable(const std::string& file);

/// Rows of cells as aligned text: the first column to the left, the others to the right.
std::string to_table(const std::vector<std::vector<std::string>>& rows);

/// printf into a string.
[[gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...);

/// "1.25 MiB"
std::string bytes_text(std::int64_t bytes);

/// "97,280"
std::string count_text(std::int64_t n);

/// Parses "1GiB", "512MiB", "4096". Throws invalid_argument naming what is allowed.
std::int64_t parse_bytes(const std::string& text);

/// `text` on one line of printable ASCII, at most `width` characters.
std::string one_line(const std::string& text, std::size_t width);

/// "40 s", "12 min", "3.5 h"
std::string time_text(double seconds);

/// Time left of work that is counted in units of the caller's.
class WorkEstimate {
 public:
  explicit WorkEstimate(double total = 0.0) : total_(total) {}

  /// The part before is done; the next one is so many units.
  void begin_part(double units) {
    done_ += part_;
    part_ = units;
  }

  /// Seconds left with a share of 0..1 of the part done, `elapsed` seconds after the start; below 0
  /// where it is too early to say, or no total is known.
  double seconds_left(double share, double elapsed) const;

 private:
  double total_, done_ = 0.0, part_ = 0.0;
};

/// One line on the terminal that is rewritten in place; silent unless stderr is a terminal and
/// the work has taken a second.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  /// All work to come, from now on; lines then end in the time left.
  void expect(double units);
  /// The next lines are about a part of so many units, and the part before is done.
  void begin_part(double units) { estimate_.begin_part(units); }

  void show(const std::string& what, std::int64_t done, std::int64_t total);
  void clear();

 private:
  bool terminal_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point start_, last_, expected_;
  WorkEstimate estimate_;
};

}  // namespace kvcodec::output
