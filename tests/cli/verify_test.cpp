// The command as a whole, and `kvcodec verify`: exit codes and messages.
#include "tests/cli/command.hpp"

namespace kvcodec::cli_test {
namespace {

using Verify = Command;

std::string last_line(const std::string& text) {
  const std::size_t end = text.find_last_not_of('\n');
  const std::size_t begin = text.find_last_of('\n', end);
  return text.substr(begin + 1, end - begin);
}

TEST_F(Verify, SubcommandsAreNamedWhenOneIsWrong) {
  expect_bad_use({"frobnicate"},
                 "subcommand = \"frobnicate\", allowed: bench, calibrate, demo, eval,");
  expect_bad_use({}, "allowed: bench, calibrate, demo, eval,");
  expect_bad_use({"verify", "x", "--frobnicate"}, "--frobnicate");
}

TEST_F(Verify, HelpAndVersionSucceed) {
  EXPECT_EQ(run({"--help"}).exit_code, 0);
  EXPECT_EQ(run({"verify", "--help"}).exit_code, 0);
  const Outcome version = run({"--version"});
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_NE(version.out.find('.'), std::string::npos) << version.out;
}

// Two families through the command; all of them go through the same runner in verify_golden_test.
TEST_F(Verify, GoldenCasesPass) {
  const auto put = [&](const char* family) {
    fs::copy(repository("tests/data/golden/") + family, path("golden/") + family,
             fs::copy_options::recursive);
  };
  fs::create_directories(path("golden"));
  put("nf4");
  put("hadamard");
  const Outcome outcome = run({"verify", path("golden"), "--json", path("r.json")});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
  std::size_t n_cases = 0;
  for (const auto& entry : fs::recursive_directory_iterator(path("golden"))) {
    n_cases += entry.path().filename() == "case.json" ? 1 : 0;
  }
  EXPECT_EQ(last_line(outcome.out), std::to_string(n_cases) + " passed, 0 failed, 0 skipped");
  EXPECT_NE(outcome.out.find("passed nf4/table"), std::string::npos) << outcome.out;
  const auto json = read_json("r.json");
  EXPECT_EQ(json.at("passed"), n_cases);
  EXPECT_EQ(json.at("cases").size(), n_cases);
}

TEST_F(Verify, DamageIsAFailedCheck) {
  fs::copy(repository("tests/data/golden/nf4"), path("nf4"), fs::copy_options::recursive);
  const std::string file = path("nf4/table/levels.npy");
  std::string bytes = read_file(file);
  bytes.back() = static_cast<char>(bytes.back() ^ 0x40);
  std::ofstream(file, std::ios::binary) << bytes;
  fs::create_directories(path("nf4/other"));
  std::ofstream(path("nf4/other/case.json"))
      << R"({"case": "kivi/other", "arrays": [], "tolerances": []})";
  const Outcome outcome = run({"verify", path("nf4")});
  EXPECT_EQ(outcome.exit_code, 1) << outcome.out;
  EXPECT_EQ(last_line(outcome.out), "4 passed, 1 failed, 1 skipped");
  EXPECT_NE(outcome.out.find("failed nf4/table: levels[15]"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("skipped kivi/other"), std::string::npos) << outcome.out;
}

TEST_F(Verify, FoldersWithoutCasesAreBadUse) {
  expect_bad_use({"verify", path("nowhere")}, "allowed: an existing folder with golden cases");
  expect_bad_use({"verify", path("")}, "holds no case, allowed: ");
  expect_bad_use({"verify"}, "folder is required");
}

TEST_F(Verify, UnknownInstructionSetsAreBadUse) {
  ASSERT_EQ(::setenv("KVCODEC_FORCE_ISA", "abacus", 1), 0);
  expect_bad_use({"verify", repository("tests/data/golden")}, "abacus");
  ASSERT_EQ(::setenv("KVCODEC_FORCE_ISA", "scalar", 1), 0);
  EXPECT_EQ(run({"verify", repository("tests/data/golden"), "--json", path("r.json")}).exit_code,
            0);
  EXPECT_EQ(read_json("r.json").at("isa"), "scalar");
  ::unsetenv("KVCODEC_FORCE_ISA");
}

TEST_F(Verify, UnwritableJsonIsRefusedBeforeTheWork) {
  expect_bad_use({"verify", repository("tests/data/golden"), "--json", path("no/such/folder.json")},
                 "allowed: a file in a writable folder");
}

}  // namespace
}  // namespace kvcodec::cli_test
