// Every repository path that a page names in backticks or links to exists.
#include <gtest/gtest.h>

#include "tests/docs/scan.hpp"

namespace kvcodec::docs_test {
namespace {

bool looks_like_a_path(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.' || c == '/' || c == '+';
  });
}

// The paths a code span may mean, of which one must exist; empty when it names no path of ours.
// Patterns (`tests/<folder>/x`, `docs/*.md`) and built files (`build/...`) are not paths.
std::vector<std::string> meant_paths(const std::string& span) {
  const std::string word = span.substr(0, span.find(' '));
  if (!looks_like_a_path(word)) return {};
  const std::size_t slash = word.find('/');
  if (slash == std::string::npos) {
    if (word.ends_with(".md") && word != ".md") return {word, "docs/" + word};
    return {};
  }
  if (word.starts_with("kvcodec/")) return {"include/" + word};
  static const std::vector<std::string> top = {"include",  "src",  "cuda",    "tests", "bench",
                                               "examples", "docs", "scripts", ".ci"};
  if (std::find(top.begin(), top.end(), word.substr(0, slash)) == top.end()) return {};
  return {word};
}

// Targets of the Markdown links of a line that stay in the repository, without their anchors.
std::vector<std::string> link_targets(const std::string& line) {
  std::vector<std::string> targets;
  for (std::size_t at = line.find("]("); at != std::string::npos; at = line.find("](", at + 2)) {
    const std::size_t close = line.find(')', at);
    if (close == std::string::npos) break;
    std::string target = line.substr(at + 2, close - at - 2);
    if (target.find("://") != std::string::npos || target.starts_with("mailto:")) continue;
    target = target.substr(0, target.find('#'));
    if (!target.empty()) targets.push_back(target);
  }
  return targets;
}

Findings missing_paths(const fs::path& root) {
  Findings findings;
  for (const std::string& page : pages(root)) {
    bool fenced = false;
    const std::vector<std::string> lines = read_lines(root / page);
    for (std::size_t i = 0; i < lines.size(); ++i) {
      if (lines[i].starts_with("```")) fenced = !fenced;
      if (fenced || lines[i].starts_with("```")) continue;
      const int number = static_cast<int>(i) + 1;
      for (const std::string& span : code_spans(lines[i])) {
        const std::vector<std::string> meant = meant_paths(span);
        const bool found = std::any_of(meant.begin(), meant.end(), [&](const std::string& path) {
          return fs::exists(root / path);
        });
        if (!meant.empty() && !found) {
          findings.push_back({page, number, "names `" + span + "`, which does not exist"});
        }
      }
      for (const std::string& target : link_targets(lines[i])) {
        if (!fs::exists((root / page).parent_path() / target)) {
          findings.push_back({page, number, "links to " + target + ", which does not exist"});
        }
      }
    }
  }
  return findings;
}

TEST(Paths, NamedInPagesExist) {
  EXPECT_FALSE(pages(repository()).empty());
  EXPECT_EQ(to_text(missing_paths(repository())), "");
}

TEST(Paths, AcceptsPathsPatternsAndOtherPeoplesLinks) {
  const TempTree tree;
  tree.write("scripts/demo.sh", "");
  tree.write("include/kvcodec/core/a.hpp", "");
  tree.write("docs/formats.md", "");
  tree.write(
      "docs/a.md",
      "`scripts/demo.sh --json x` `kvcodec/core/a.hpp` `include/kvcodec/core/` `formats.md`\n"
      "`tests/<folder>/x.cpp` `docs/*.md` `build/release/bin/x` `a/b` [x](formats.md#y)\n"
      "[web](https://example.org/docs/z.md) [here](#there)\n"
      "```\n`docs/in-a-fence.md`\n```\n");
  EXPECT_EQ(to_text(missing_paths(tree.root())), "");
}

TEST(Paths, FindsPlantedViolations) {
  const TempTree tree;
  tree.write("README.md", "see `scripts/gone.sh --all` and\n[page](docs/gone.md#part)\n");
  tree.write("docs/a.md", "`kvcodec/core/gone.hpp`\n\n`gone.md`, `.ci/gone`\n");
  EXPECT_EQ(to_text(missing_paths(tree.root())),
            "README.md:1: names `scripts/gone.sh --all`, which does not exist\n"
            "README.md:2: links to docs/gone.md, which does not exist\n"
            "docs/a.md:1: names `kvcodec/core/gone.hpp`, which does not exist\n"
            "docs/a.md:3: names `gone.md`, which does not exist\n"
            "docs/a.md:3: names `.ci/gone`, which does not exist\n");
}

}  // namespace
}  // namespace kvcodec::docs_test
