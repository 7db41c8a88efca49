// Names that pages promise exist: subcommands of the command, and codecs of the table in README.md,
// which in turn leaves out no built-in family.
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <sstream>

#include "kvcodec/codec/make_codec.hpp"
#include "tests/docs/scan.hpp"

namespace kvcodec::docs_test {
namespace {

bool is_lower_word(const std::string& text) {
  return !text.empty() && std::islower(static_cast<unsigned char>(text[0])) != 0 &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return std::islower(c) != 0 || std::isdigit(c) != 0 || c == '-';
         });
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

// The subcommands that the command line parser in src/cli/ defines.
std::set<std::string> subcommands(const fs::path& root) {
  const std::string call = "add_subcommand(\"";
  std::set<std::string> names;
  for (const std::string& file : files_under(root, {"src/cli"})) {
    for (const std::string& line : read_lines(root / file)) {
      const std::size_t at = line.find(call);
      if (at == std::string::npos) continue;
      const std::size_t begin = at + call.size();
      names.insert(line.substr(begin, line.find('"', begin) - begin));
    }
  }
  return names;
}

// The words that follow the command's name in a piece of shell.
std::vector<std::string> called_subcommands(const std::string& shell) {
  std::vector<std::string> called;
  const std::vector<std::string> words = words_of(shell);
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    const bool command = words[i] == "kvcodec" || words[i].ends_with("/bin/kvcodec");
    if (command && is_lower_word(words[i + 1])) called.push_back(words[i + 1]);
  }
  return called;
}

Findings unknown_subcommands(const fs::path& root) {
  const std::set<std::string> known = subcommands(root);
  Findings findings;
  for (const std::string& page : pages(root)) {
    std::string fence;  // the opening line of the fence around the current line
    const std::vector<std::string> lines = read_lines(root / page);
    for (std::size_t i = 0; i < lines.size(); ++i) {
      std::vector<std::string> pieces;
      if (lines[i].starts_with("```")) {
        fence = fence.empty() ? lines[i] : "";
      } else if (fence.empty()) {
        pieces = code_spans(lines[i]);
      } else if (fence == "```" || fence == "```sh" || fence == "```bash" ||
                 fence == "```console") {
        pieces = {lines[i]};
      }
      for (const std::string& piece : pieces) {
        for (const std::string& name : called_subcommands(piece)) {
          if (known.contains(name)) continue;
          findings.push_back({page, static_cast<int>(i) + 1, "no subcommand " + name});
        }
      }
    }
  }
  return findings;
}

// First cell of a Markdown table row without its outer spaces; empty for any other line.
std::string first_cell(const std::string& line) {
  if (!line.starts_with("|")) return "";
  const std::string cell = line.substr(1, line.find('|', 1) - 1);
  const std::size_t first = cell.find_first_not_of(' ');
  return first == std::string::npos ? ""
                                    : cell.substr(first, cell.find_last_not_of(' ') - first + 1);
}

// Tables of README.md whose first column is headed "codec": every code span of that column is a
// codec that `exists`, and together they name all of `families`.
Findings codec_table_mistakes(const fs::path& root, const std::vector<std::string>& families,
                              const std::function<bool(const std::string&)>& exists) {
  if (!fs::exists(root / "README.md")) return {{"README.md", 0, "does not exist"}};
  Findings findings;
  std::set<std::string> named;
  bool in_table = false;
  const std::vector<std::string> lines = read_lines(root / "README.md");
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string cell = first_cell(lines[i]);
    if (cell.empty()) in_table = false;
    if (cell == "codec" || cell == "Codec") in_table = true;
    if (!in_table) continue;
    for (const std::string& span : code_spans(cell)) {
      const std::string spec = span.substr(0, span.find_first_of("[<"));  // `family[:option]`
      named.insert(spec.substr(0, spec.find(':')));
      if (!exists(spec))
        findings.push_back({"README.md", static_cast<int>(i) + 1, "no codec " + span});
    }
  }
  for (const std::string& family : families) {
    if (!named.contains(family)) {
      findings.push_back({"README.md", 0, "no table row for codec " + family});
    }
  }
  return findings;
}

TEST(Names, SubcommandsInPagesExist) { EXPECT_EQ(to_text(unknown_subcommands(repository())), ""); }

TEST(Names, ReadmeTableListsTheBuiltinCodecs) {
  std::vector<std::string> families;
  BuiltinCodecs::for_each([&]<class C>() { families.push_back(C::family); });
  const auto exists = [](const std::string& spec) {
    try {
      return static_cast<bool>(make_codec(spec));
    } catch (const error&) {
      return false;
    }
  };
  EXPECT_EQ(to_text(codec_table_mistakes(repository(), families, exists)), "");
}

TEST(Names, AcceptsWhatExists) {
  const TempTree tree;
  tree.write("src/cli/main.cpp", "app.add_subcommand(\"demo\", \"x\");\n");
  tree.write("README.md",
             "`kvcodec demo --json x`, kvcodec keeps the cache, `kvcodec --version`\n"
             "```sh\nbuild/release/bin/kvcodec demo\n```\n"
             "```cpp\nauto kvcodec other;\n```\n"
             "| Codec | bits |\n|---|---|\n| `a`, `a:g64` | 4 |\n| `b[:x]` | 3 |\n\n"
             "| word | `c` |\n|---|---|\n| `d` | e |\n");
  const auto exists = [](const std::string& s) { return s == "a" || s == "a:g64" || s == "b"; };
  EXPECT_EQ(to_text(unknown_subcommands(tree.root())), "");
  EXPECT_EQ(to_text(codec_table_mistakes(tree.root(), {"a", "b"}, exists)), "");
}

TEST(Names, FindsPlantedViolations) {
  const TempTree tree;
  tree.write("src/cli/main.cpp", "app.add_subcommand(\"demo\", \"x\");\n");
  tree.write("docs/a.md", "`kvcodec bench`\n```\nbuild/release/bin/kvcodec plan --x\n```\n");
  tree.write("README.md", "| codec | bits |\n|---|---|\n| `a` | 4 |\n| `c:g64` | 3 |\n");
  const auto exists = [](const std::string& s) { return s == "a" || s == "b"; };
  EXPECT_EQ(to_text(unknown_subcommands(tree.root())),
            "docs/a.md:1: no subcommand bench\n"
            "docs/a.md:3: no subcommand plan\n");
  EXPECT_EQ(to_text(codec_table_mistakes(tree.root(), {"a", "b"}, exists)),
            "README.md:4: no codec c:g64\n"
            "README.md:0: no table row for codec b\n");
  EXPECT_EQ(to_text(codec_table_mistakes(tree.root() / "nowhere", {}, exists)),
            "README.md:0: does not exist\n");
}

}  // namespace
}  // namespace kvcodec::docs_test
