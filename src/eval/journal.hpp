// Results of a long run, stored as they come, so that the run can go on where it ended.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "src/output/output.hpp"

namespace kvcodec::eval {

/// Sizes and times of last change of config.json and the safetensors files of a model folder, by name:
/// cheap to compare, and different once a model is. Throws error where they cannot be read.
output::Json fingerprint(const std::filesystem::path& folder);

/// A file of one JSON object per line: first the key, all that results depend on, then results by
/// name. Every line is written at once and flushed; a last line that was cut short is dropped.
class Journal {
 public:
  /// Keeps nothing.
  Journal() = default;

  /// Starts `file` anew; or, with `resume` and where it exists, reads it and goes on behind its end.
  /// Throws invalid_argument naming the first part of `key` (an object) that is not as it was,
  /// corrupt_data for a file that is no journal, error where it cannot be written.
  Journal(std::filesystem::path file, const output::Json& key, bool resume);

  /// The result stored under a name; null: none.
  const output::Json* find(const std::string& name) const;
  /// Stores a result. Throws error if it cannot be written.
  void add(const std::string& name, const output::Json& result);

 private:
  bool read(const output::Json& key);
  void write_line(const output::Json& line);

  std::filesystem::path file_;
  std::map<std::string, output::Json> results_;
};

}  // namespace kvcodec::eval
