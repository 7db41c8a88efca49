// Runs golden cases: known inputs and results, checked through the library's public interface on
// the instruction set in use.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace kvcodec::golden {

enum class Outcome : std::uint8_t { passed, failed, skipped };

/// "passed", "failed" or "skipped"; static storage.
const char* to_string(Outcome outcome) noexcept;

/// What became of one case.
struct Result {
  std::string name;  ///< "attention/d64-g1"; the folder's path if case.json cannot be read
  Outcome outcome = Outcome::failed;
  std::string detail;  ///< measured errors, or the reason; one line
};

/// One line: "passed nf4/table", with ": " and the detail where there is one.
std::string to_text(const Result& result);

struct Totals {
  int passed = 0;
  int failed = 0;
  int skipped = 0;
};

/// "N passed, N failed, N skipped"
std::string to_text(const Totals& totals);

/// Folders at or below `folder` that hold a case.json, sorted. Throws invalid_argument if `folder`
/// is not a folder or holds no case.
std::vector<std::filesystem::path> find_cases(const std::filesystem::path& folder);

/// Runs the case in `folder`; never throws for what the folder holds.
Result run_case(const std::filesystem::path& folder);

/// Runs every case below `folder` and hands each result to `report`. Throws as find_cases.
Totals run_cases(const std::filesystem::path& folder,
                 const std::function<void(const Result&)>& report);

}  // namespace kvcodec::golden
