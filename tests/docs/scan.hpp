// What the scans of this folder share. A scan is a function from a root folder to findings, so that
// a test can run it on the repository and on a small tree with a planted mistake.
#pragma once

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <unistd.h>

namespace kvcodec::docs_test {

namespace fs = std::filesystem;

/// One mistake: where (relative to the root, line from 1, 0 = the file as a whole) and what.
struct Finding {
  std::string file;
  int line = 0;
  std::string text;
};

using Findings = std::vector<Finding>;

/// One finding per line, as compilers print them.
inline std::string to_text(const Findings& findings) {
  std::string text;
  for (const Finding& f : findings) {
    text += f.file + ":" + std::to_string(f.line) + ": " + f.text + "\n";
  }
  return text;
}

/// The repository this test was built from.
inline fs::path repository() { return KVCODEC_SOURCE_DIR; }

/// Lines of a text file without their ends.
inline std::vector<std::string> read_lines(const fs::path& path) {
  std::ifstream in(path);
  if (!in) throw std::runtime_error("cannot read " + path.string());
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

/// Regular files under the given folders or files of `root`, as paths relative to `root`, sorted
/// within each folder. What does not exist is skipped, and so is tests/data, which holds other
/// people's bytes.
inline std::vector<std::string> files_under(const fs::path& root,
                                            const std::vector<std::string>& folders) {
  std::vector<std::string> all;
  for (const std::string& folder : folders) {
    std::vector<std::string> files;
    if (fs::is_regular_file(root / folder)) files.push_back(folder);
    if (fs::is_directory(root / folder)) {
      for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
        if (!entry.is_regular_file()) continue;
        files.push_back(entry.path().lexically_relative(root).generic_string());
      }
    }
    std::erase_if(files, [](const std::string& f) { return f.starts_with("tests/data/"); });
    std::sort(files.begin(), files.end());
    all.insert(all.end(), files.begin(), files.end());
  }
  return all;
}

/// README.md and docs/*.md: the pages whose statements are checked.
inline std::vector<std::string> pages(const fs::path& root) {
  std::vector<std::string> all = files_under(root, {"README.md", "docs"});
  std::erase_if(all, [](const std::string& file) { return !file.ends_with(".md"); });
  return all;
}

/// True when the extension of `file` is one of `extensions` (".hpp", ...).
inline bool has_extension(const std::string& file, const std::vector<std::string>& extensions) {
  const std::string own = fs::path(file).extension().string();
  return std::find(extensions.begin(), extensions.end(), own) != extensions.end();
}

/// Text between each pair of single backticks of a line.
inline std::vector<std::string> code_spans(std::string_view line) {
  std::vector<std::string> spans;
  for (std::size_t open = line.find('`'); open != std::string_view::npos;) {
    const std::size_t close = line.find('`', open + 1);
    if (close == std::string_view::npos) break;
    spans.emplace_back(line.substr(open + 1, close - open - 1));
    open = line.find('`', close + 1);
  }
  return spans;
}

/// An empty folder that lives as long as the object: the tree in which a test plants a mistake.
class TempTree {
 public:
  TempTree() {
    static std::atomic<int> count{0};
    root_ = fs::temp_directory_path() / ("kvcodec-scan-" + std::to_string(::getpid()) + "-" +
                                         std::to_string(count.fetch_add(1)));
    fs::create_directories(root_);
  }
  ~TempTree() {
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }
  TempTree(const TempTree&) = delete;
  TempTree& operator=(const TempTree&) = delete;

  /// Writes a file, with the folders it needs.
  void write(const std::string& file, const std::string& text) const {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }

  const fs::path& root() const { return root_; }

 private:
  fs::path root_;
};

}  // namespace kvcodec::docs_test
