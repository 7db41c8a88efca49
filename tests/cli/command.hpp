// Runs the built command `kvcodec` as a user would, in a folder that is removed afterwards.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace kvcodec::cli_test {

namespace fs = std::filesystem;

/// What a call left behind.
struct Outcome {
  int exit_code = -1;
  std::string out;  ///< standard output
  std::string err;  ///< standard error
};

inline std::string read_file(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class Command : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::temp_directory_path() /
              ("kvcodec-cli-" + std::to_string(::getpid()) + "-" + info->name());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  Outcome run(const std::vector<std::string>& arguments) const {
    std::string line = quoted(KVCODEC_COMMAND);
    for (const std::string& a : arguments) line += " " + quoted(a);
    const fs::path out = folder_ / "stdout.txt";
    const fs::path err = folder_ / "stderr.txt";
    const int status =
        std::system((line + " >" + quoted(out.string()) + " 2>" + quoted(err.string())).c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(out), read_file(err)};
  }

  /// Exit code 2, nothing on standard output, one message that holds `words`.
  void expect_bad_use(std::initializer_list<std::string> arguments,
                      const std::string& words) const {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(outcome.err.find("kvcodec: "), 0u) << outcome.err;
    EXPECT_NE(outcome.err.find(words), std::string::npos) << outcome.err;
  }

  nlohmann::json read_json(const std::string& name) const {
    return nlohmann::json::parse(read_file(folder_ / name));
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  static std::string repository(const std::string& path) {
    return (fs::path(KVCODEC_SOURCE_DIR) / path).string();
  }

 private:
  static std::string quoted(const std::string& text) { return "'" + text + "'"; }

  fs::path folder_;
};

}  // namespace kvcodec::cli_test
