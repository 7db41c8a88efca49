// Words and characters: one noun that means three things in this field is not used at all (say
// page, tile or group), and sources are ASCII.
#include <gtest/gtest.h>

#include "tests/docs/scan.hpp"

namespace kvcodec::docs_test {
namespace {

// The word, put together so that this file does not contain it.
const std::string kWord = std::string("blo") + "ck";

// A line with this marker may use the word: a third party's identifier that cannot be avoided.
const std::string kAllowed = "third-party-word";

const std::vector<std::string>& text_folders() {
  static const std::vector<std::string> folders = {
      "include", "src",     "cuda",    "tests",     "bench",        "examples",
      "docs",    "scripts", ".ci/run", "README.md", "CHANGELOG.md", "CMakeLists.txt"};
  return folders;
}

const std::vector<std::string>& text_extensions() {
  static const std::vector<std::string> extensions = {
      ".hpp", ".h", ".cpp", ".cu", ".cuh", ".cmake", ".in", ".txt", ".md", ".sh", ".py", ""};
  return extensions;
}

// Letters, digits and the underscore, so that identifiers such as thread_x are one word.
bool in_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

bool has_banned_word(std::string line) {
  std::transform(line.begin(), line.end(), line.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (std::size_t at = line.find(kWord); at != std::string::npos; at = line.find(kWord, at + 1)) {
    std::size_t end = at + kWord.size();
    if (end < line.size() && line[end] == 's') ++end;
    const bool starts = at == 0 || !in_word(line[at - 1]);
    const bool ends = end == line.size() || !in_word(line[end]);
    if (starts && ends) return true;
  }
  return false;
}

Findings banned_words(const fs::path& root) {
  Findings findings;
  for (const std::string& file : files_under(root, text_folders())) {
    if (!has_extension(file, text_extensions())) continue;
    const std::vector<std::string> lines = read_lines(root / file);
    for (std::size_t i = 0; i < lines.size(); ++i) {
      if (has_banned_word(lines[i]) && lines[i].find(kAllowed) == std::string::npos) {
        findings.push_back({file, static_cast<int>(i) + 1, "say page, tile or group: " + lines[i]});
      }
    }
  }
  return findings;
}

Findings non_ascii_lines(const fs::path& root) {
  Findings findings;
  for (const std::string& file : files_under(root, text_folders())) {
    if (!has_extension(file, text_extensions())) continue;
    const std::vector<std::string> lines = read_lines(root / file);
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const bool ascii = std::all_of(lines[i].begin(), lines[i].end(), [](unsigned char c) {
        return c == '\t' || (c >= 0x20 && c < 0x7f);
      });
      if (!ascii) findings.push_back({file, static_cast<int>(i) + 1, "not printable ASCII"});
    }
  }
  return findings;
}

TEST(Words, BannedWordIsNotInTheRepository) { EXPECT_EQ(to_text(banned_words(repository())), ""); }

TEST(Words, SourcesAreAscii) { EXPECT_EQ(to_text(non_ascii_lines(repository())), ""); }

TEST(Words, IdentifiersOtherPeoplesBytesAndMarkedLinesAreLeftAlone) {
  const TempTree tree;
  tree.write("cuda/a.cu",
             kWord + "Dim.x + " + kWord + "_table + un" + kWord + " + " + kWord + "ed\n");
  tree.write("src/b.cpp", "using peer::" + kWord + ";  // third-party-word\n");
  tree.write("tests/data/c.txt", "a " + kWord + " \xc3\xa9\n");
  tree.write("examples/models/x.json", "\"a " + kWord + "\"\n");
  EXPECT_EQ(to_text(banned_words(tree.root())), "");
  EXPECT_EQ(to_text(non_ascii_lines(tree.root())), "");
}

TEST(Words, FindPlantedViolations) {
  const TempTree tree;
  tree.write("include/a.hpp", "int x;  // one " + kWord + "\n");
  tree.write("docs/b.md", "\n" + kWord + "s.\n");
  tree.write("README.md", "B" + kWord.substr(1) + "\n");
  tree.write("src/c.cpp", "// caf\xc3\xa9\n");
  tree.write("src/d.cpp", "int y;\r\n");
  EXPECT_EQ(to_text(banned_words(tree.root())),
            "include/a.hpp:1: say page, tile or group: int x;  // one " + kWord + "\n" +
                "docs/b.md:2: say page, tile or group: " + kWord + "s.\n" +
                "README.md:1: say page, tile or group: B" + kWord.substr(1) + "\n");
  EXPECT_EQ(to_text(non_ascii_lines(tree.root())),
            "src/c.cpp:1: not printable ASCII\n"
            "src/d.cpp:1: not printable ASCII\n");
}

}  // namespace
}  // namespace kvcodec::docs_test
