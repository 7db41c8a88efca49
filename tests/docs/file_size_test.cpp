// Nobody can review what nobody can read in one go: a public header ends at 500 lines, any other
// C++ or CUDA file at 600.
#include <gtest/gtest.h>

#include "tests/docs/scan.hpp"

namespace kvcodec::docs_test {
namespace {

constexpr std::size_t kMaxHeaderLines = 500;
constexpr std::size_t kMaxSourceLines = 600;

Findings oversized_files(const fs::path& root) {
  Findings findings;
  for (const std::string& file :
       files_under(root, {"include", "src", "cuda", "tests", "bench", "examples"})) {
    if (!has_extension(file, {".hpp", ".h", ".cpp", ".cu", ".cuh"})) continue;
    const std::size_t limit = file.starts_with("include/") ? kMaxHeaderLines : kMaxSourceLines;
    const std::size_t lines = read_lines(root / file).size();
    if (lines > limit) {
      findings.push_back(
          {file, 0, std::to_string(lines) + " lines, allowed: " + std::to_string(limit)});
    }
  }
  return findings;
}

std::string lines_of_text(std::size_t n) {
  std::string text;
  for (std::size_t i = 0; i < n; ++i) text += "//\n";
  return text;
}

TEST(FileSize, HoldsInTheRepository) { EXPECT_EQ(to_text(oversized_files(repository())), ""); }

TEST(FileSize, FindsPlantedViolations) {
  const TempTree tree;
  tree.write("include/kvcodec/core/fits.hpp", lines_of_text(500));
  tree.write("include/kvcodec/core/long.hpp", lines_of_text(501));
  tree.write("src/cpu/fits.hpp", lines_of_text(600));
  tree.write("src/cpu/long.cpp", lines_of_text(601));
  tree.write("tests/data/long.hpp", lines_of_text(601));
  EXPECT_EQ(to_text(oversized_files(tree.root())),
            "include/kvcodec/core/long.hpp:0: 501 lines, allowed: 500\n"
            "src/cpu/long.cpp:0: 601 lines, allowed: 600\n");
}

}  // namespace
}  // namespace kvcodec::docs_test
