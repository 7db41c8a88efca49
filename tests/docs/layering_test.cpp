// Data flows one way: a public header includes only from its own folder or from folders to its
// left, and nothing in include/ reaches into src/ or cuda/.
#include <gtest/gtest.h>

#include "tests/docs/scan.hpp"

namespace kvcodec::docs_test {
namespace {

const std::vector<std::string>& folder_order() {
  static const std::vector<std::string> order = {"core", "transform", "codec",  "policy",
                                                 "page", "cache",     "attend", "meter",
                                                 "plan", "store",     "cuda"};
  return order;
}

// Place of the folder of "kvcodec/<folder>/..." in the order; its length for a file directly in
// kvcodec/, which may include everything and which no folder may include; -1 for other folders.
int place(const std::string& path) {
  const std::string rest = path.substr(std::string("kvcodec/").size());
  const std::size_t slash = rest.find('/');
  if (slash == std::string::npos) return static_cast<int>(folder_order().size());
  const auto it = std::find(folder_order().begin(), folder_order().end(), rest.substr(0, slash));
  return it == folder_order().end() ? -1 : static_cast<int>(it - folder_order().begin());
}

// The path of an include line, with either kind of delimiter; empty for any other line.
std::string included_path(const std::string& line) {
  std::size_t at = line.find_first_not_of(" \t");
  if (at == std::string::npos || line[at] != '#') return "";
  at = line.find_first_not_of(" \t", at + 1);
  if (at == std::string::npos || line.compare(at, 7, "include") != 0) return "";
  const std::size_t open = line.find_first_of("<\"", at);
  if (open == std::string::npos) return "";
  const std::size_t close = line.find_first_of(">\"", open + 1);
  return close == std::string::npos ? "" : line.substr(open + 1, close - open - 1);
}

Findings layering_violations(const fs::path& root) {
  Findings findings;
  for (const std::string& file : files_under(root, {"include"})) {
    if (!file.starts_with("include/kvcodec/")) {
      findings.push_back({file, 0, "every public header lies under include/kvcodec/"});
      continue;
    }
    const int own = place(file.substr(std::string("include/").size()));
    if (own < 0) findings.push_back({file, 0, "its folder is not in the order"});
    const std::vector<std::string> lines = read_lines(root / file);
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const std::string path = included_path(lines[i]);
      const int number = static_cast<int>(i) + 1;
      if (path.starts_with("src/") || path.starts_with("cuda/") || path.starts_with("tests/") ||
          path.find("..") != std::string::npos) {
        findings.push_back({file, number, "a public header includes " + path});
      } else if (path.starts_with("kvcodec/") && place(path) > own) {
        findings.push_back({file, number, "includes " + path + ", which stands to its right"});
      } else if (path.starts_with("kvcodec/") && !fs::exists(root / "include" / path)) {
        findings.push_back({file, number, "includes " + path + ", which does not exist"});
      }
    }
  }
  return findings;
}

TEST(Layering, HoldsInTheRepository) {
  EXPECT_FALSE(files_under(repository(), {"include"}).empty());
  EXPECT_EQ(to_text(layering_violations(repository())), "");
}

TEST(Layering, AcceptsTheOwnFolderAndFoldersToTheLeft) {
  const TempTree tree;
  tree.write("include/kvcodec/core/a.hpp", "#include <vector>\n");
  tree.write("include/kvcodec/codec/b.hpp", "#include <kvcodec/core/a.hpp>\n");
  tree.write("include/kvcodec/codec/c.hpp", "#  include \"kvcodec/codec/b.hpp\"  // bodies\n");
  tree.write("include/kvcodec/kvcodec.hpp", "#include \"kvcodec/codec/c.hpp\"\n");
  EXPECT_EQ(to_text(layering_violations(tree.root())), "");
}

TEST(Layering, FindsPlantedViolations) {
  const TempTree tree;
  tree.write("include/kvcodec/core/a.hpp", "#pragma once\n#include \"kvcodec/codec/b.hpp\"\n");
  tree.write("include/kvcodec/codec/b.hpp", "#include \"src/cpu/x.hpp\"\n");
  tree.write("include/kvcodec/page/c.hpp", "#include \"../../../cuda/y.hpp\"\n");
  tree.write("include/kvcodec/page/d.hpp", "#include <kvcodec/kvcodec.hpp>\n");
  tree.write("include/kvcodec/page/e.hpp", "#include <kvcodec/core/gone.hpp>\n");
  tree.write("include/kvcodec/kvcodec.hpp", "\n");
  tree.write("include/kvcodec/elsewhere/f.hpp", "\n");
  tree.write("include/loose.hpp", "\n");
  EXPECT_EQ(
      to_text(layering_violations(tree.root())),
      "include/kvcodec/codec/b.hpp:1: a public header includes src/cpu/x.hpp\n"
      "include/kvcodec/core/a.hpp:2: includes kvcodec/codec/b.hpp, which stands to its right\n"
      "include/kvcodec/elsewhere/f.hpp:0: its folder is not in the order\n"
      "include/kvcodec/page/c.hpp:1: a public header includes ../../../cuda/y.hpp\n"
      "include/kvcodec/page/d.hpp:1: includes kvcodec/kvcodec.hpp, which stands to its right\n"
      "include/kvcodec/page/e.hpp:1: includes kvcodec/core/gone.hpp, which does not exist\n"
      "include/loose.hpp:0: every public header lies under include/kvcodec/\n");
}

}  // namespace
}  // namespace kvcodec::docs_test
