// Code shown in a page is cut from an example that is compiled and run: the fence below
// `<!-- snippet: examples/01_x.cpp name -->` equals the text between `// [name]` and `// [/name]`.
#include <gtest/gtest.h>

#include "tests/docs/scan.hpp"

namespace kvcodec::docs_test {
namespace {

std::string trimmed(const std::string& text) {
  const std::size_t first = text.find_first_not_of(" \t");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

// Joins lines after taking off the indentation they have in common.
std::string dedented(const std::vector<std::string>& lines) {
  std::size_t indent = std::string::npos;
  for (const std::string& line : lines) {
    indent = std::min(indent, line.find_first_not_of(' '));
  }
  std::string text;
  for (const std::string& line : lines) {
    if (!trimmed(line).empty()) text += line.substr(indent);
    text += "\n";
  }
  return text;
}

// Lines of the named part of a file. False when a marker is missing or stands twice.
bool read_part(const fs::path& path, const std::string& name, std::vector<std::string>& part) {
  int opened = 0;
  int closed = 0;
  for (const std::string& line : read_lines(path)) {
    if (trimmed(line) == "// [" + name + "]") {
      ++opened;
    } else if (trimmed(line) == "// [/" + name + "]") {
      ++closed;
    } else if (opened == 1 && closed == 0) {
      part.push_back(line);
    }
  }
  return opened == 1 && closed == 1;
}

// What is wrong with the snippet whose marker stands in lines[at]; empty when nothing is.
std::string snippet_mistake(const fs::path& root, const std::vector<std::string>& lines,
                            std::size_t at, const std::string& file, const std::string& name) {
  if (!fs::is_regular_file(root / file)) return file + " does not exist";
  std::vector<std::string> part;
  if (!read_part(root / file, name, part)) {
    return file + " needs one // [" + name + "] and one // [/" + name + "]";
  }
  std::size_t i = at + 1;
  while (i < lines.size() && trimmed(lines[i]).empty()) ++i;
  if (i == lines.size() || !lines[i].starts_with("```")) return "no code fence below the marker";
  std::vector<std::string> shown;
  for (++i; i < lines.size() && !lines[i].starts_with("```"); ++i) shown.push_back(lines[i]);
  if (i == lines.size()) return "the code fence does not end";
  if (dedented(shown) != dedented(part)) return "differs from [" + name + "] in " + file;
  return "";
}

Findings snippet_mistakes(const fs::path& root) {
  const std::string open = "<!-- snippet: ";
  Findings findings;
  for (const std::string& page : pages(root)) {
    const std::vector<std::string> lines = read_lines(root / page);
    bool fenced = false;
    for (std::size_t i = 0; i < lines.size(); ++i) {
      if (lines[i].starts_with("```")) fenced = !fenced;
      const std::string line = trimmed(lines[i]);
      if (fenced || !line.starts_with(open)) continue;
      const std::size_t space = line.find(' ', open.size());
      const std::size_t close = line.find(" -->", open.size());
      if (close == std::string::npos || space >= close) {
        findings.push_back({page, static_cast<int>(i) + 1, "marker needs a file and a name"});
        continue;
      }
      const std::string file = line.substr(open.size(), space - open.size());
      const std::string name = line.substr(space + 1, close - space - 1);
      const std::string mistake = snippet_mistake(root, lines, i, file, name);
      if (!mistake.empty()) findings.push_back({page, static_cast<int>(i) + 1, mistake});
    }
  }
  return findings;
}

TEST(Snippets, InPagesEqualTheExamples) { EXPECT_EQ(to_text(snippet_mistakes(repository())), ""); }

TEST(Snippets, IgnoreIndentation) {
  const TempTree tree;
  tree.write("examples/01_x.cpp",
             "int f() {\n  // [body]\n  int a;\n\n    a = 1;\n  // [/body]\n}\n");
  tree.write("README.md",
             "<!-- snippet: examples/01_x.cpp body -->\n\n```cpp\nint a;\n\n  a = 1;\n```\n"
             "```\n<!-- snippet: shown, not meant -->\n```\n");
  EXPECT_EQ(to_text(snippet_mistakes(tree.root())), "");
}

TEST(Snippets, FindPlantedViolations) {
  const TempTree tree;
  tree.write("examples/01_x.cpp", "// [a]\nint a;\n// [/a]\n// [b]\n");
  tree.write("docs/p.md",
             "<!-- snippet: examples/01_x.cpp a -->\n```cpp\nint b;\n```\n"
             "<!-- snippet: examples/01_x.cpp b -->\n"
             "<!-- snippet: examples/02_y.cpp a -->\n"
             "<!-- snippet: examples/01_x.cpp -->\n"
             "<!-- snippet: examples/01_x.cpp a -->\ntext\n"
             "<!-- snippet: examples/01_x.cpp a -->\n```\nint a;\n");
  EXPECT_EQ(to_text(snippet_mistakes(tree.root())),
            "docs/p.md:1: differs from [a] in examples/01_x.cpp\n"
            "docs/p.md:5: examples/01_x.cpp needs one // [b] and one // [/b]\n"
            "docs/p.md:6: examples/02_y.cpp does not exist\n"
            "docs/p.md:7: marker needs a file and a name\n"
            "docs/p.md:8: no code fence below the marker\n"
            "docs/p.md:10: the code fence does not end\n");
}

}  // namespace
}  // namespace kvcodec::docs_test
