// Every golden case of tests/data/golden through the runner that `kvcodec verify` uses, and proof
// that the runner notices damage.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <unistd.h>

#include "kvcodec/attend/cpu_isa.hpp"
#include "src/verify/case.hpp"
#include "src/verify/golden.hpp"

namespace kvcodec::golden {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = fs::path(KVCODEC_SOURCE_DIR) / "tests/data/golden";

// A copy of one case, and of the arrays it borrows from others, that a test may damage.
class CaseCopy {
 public:
  explicit CaseCopy(const std::string& name) {
    static std::atomic<int> count{0};
    root_ = fs::temp_directory_path() / ("kvcodec-golden-" + std::to_string(::getpid()) + "-" +
                                         std::to_string(count.fetch_add(1)));
    folder_ = root_ / name;
    fs::create_directories(folder_.parent_path());
    fs::copy(kGolden / name, folder_, fs::copy_options::recursive);
    const Case c(folder_);
    for (const std::string& input : c.arrays_of("input")) {
      const fs::path to = folder_ / c.file_of(input);
      if (fs::exists(to)) continue;
      fs::create_directories(to.lexically_normal().parent_path());
      fs::copy(kGolden / name / c.file_of(input), to.lexically_normal());
    }
  }
  ~CaseCopy() {
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }
  CaseCopy(const CaseCopy&) = delete;
  CaseCopy& operator=(const CaseCopy&) = delete;

  const fs::path& folder() const { return folder_; }

  std::string read(const std::string& file) const {
    std::ifstream in(folder_ / file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void write(const std::string& file, const std::string& bytes) const {
    std::ofstream(folder_ / file, std::ios::binary) << bytes;
  }
  void replace(const std::string& file, const std::string& from, const std::string& to) const {
    std::string text = read(file);
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    write(file, text.replace(at, from.size(), to));
  }

  // The text of the failure, or what happened instead.
  std::string failure() const {
    const Result result = run_case(folder_);
    return result.outcome == Outcome::failed ? result.detail : "not failed: " + to_text(result);
  }

 private:
  fs::path root_;
  fs::path folder_;
};

TEST(Golden, EveryCasePassesOnEveryInstructionSet) {
  const std::string before = cpu_isa();
  for (const std::string& isa : available_cpu_isas()) {
    force_cpu_isa(isa);
    ASSERT_EQ(cpu_isa(), isa);
    const Totals totals = run_cases(kGolden, [&](const Result& result) {
      EXPECT_EQ(result.outcome, Outcome::passed) << isa << ": " << to_text(result);
    });
    EXPECT_EQ(totals.passed, static_cast<int>(find_cases(kGolden).size()));
  }
  force_cpu_isa(before);
}

// The negative control: a runner that compares nothing would pass everything above.
TEST(Golden, EveryExpectedArrayIsCompared) {
  int n = 0;
  for (const fs::path& folder : find_cases(kGolden)) {
    const Case c(folder);
    EXPECT_EQ(to_text(run_case(CaseCopy(c.name()).folder())).find("passed"), 0u) << c.name();
    for (const std::string& name : c.arrays_of("output")) {
      const CaseCopy copy(c.name());
      std::string bytes = copy.read(c.file_of(name));
      // Bit 6 of a number's highest byte: a float changes by orders of magnitude, an index leaves
      // its range.
      bytes.back() = static_cast<char>(bytes.back() ^ 0x40);
      copy.write(c.file_of(name), bytes);
      EXPECT_EQ(run_case(copy.folder()).outcome, Outcome::failed) << c.name() << " " << name;
      ++n;
    }
  }
  EXPECT_GE(n, 95);
}

TEST(Golden, TruncatedArrayIsNamed) {
  const CaseCopy copy("attention/d64-g1");
  const std::string bytes = copy.read("v.npy");
  copy.write("v.npy", bytes.substr(0, bytes.size() - 1));
  EXPECT_NE(copy.failure().find("v.npy: data bytes = "), std::string::npos) << copy.failure();
}

TEST(Golden, MissingArrayIsNamed) {
  const CaseCopy copy("attention/d64-g1");
  fs::remove(copy.folder() / "q.npy");
  EXPECT_NE(copy.failure().find("q.npy: cannot be opened"), std::string::npos) << copy.failure();
}

TEST(Golden, WrongTypeIsNamed) {
  const CaseCopy copy("attention/d64-g1");
  copy.replace("seq_start.npy", "<i4", "<f4");
  EXPECT_NE(copy.failure().find("dtype = f4, allowed: i4"), std::string::npos) << copy.failure();
}

TEST(Golden, WrongShapeIsNamed) {
  const CaseCopy copy("attention/d64-g1");
  copy.replace("q.npy", "(4, 2, 64)", "(2, 4, 64)");
  EXPECT_NE(copy.failure().find("shape = [2, 4, 64], allowed: [4, 2, 64]"), std::string::npos)
      << copy.failure();
}

TEST(Golden, DamagedDescriptionIsNamed) {
  const CaseCopy copy("nf4/table");
  copy.write("case.json", "{\"case\": ");
  EXPECT_NE(copy.failure().find("case.json"), std::string::npos) << copy.failure();
  copy.write("case.json", R"({"case": "nf4/a/b", "arrays": [], "tolerances": []})");
  EXPECT_NE(copy.failure().find("allowed: <family>/<case>"), std::string::npos) << copy.failure();
}

TEST(Golden, UnknownFamiliesAreSkippedByName) {
  const CaseCopy copy("nf4/table");
  copy.replace("case.json", "\"nf4/table\"", "\"another/table\"");
  const Result result = run_case(copy.folder());
  EXPECT_EQ(result.outcome, Outcome::skipped);
  EXPECT_EQ(to_text(result).find("skipped another/table: no check for this kind"), 0u)
      << to_text(result);
  copy.write("case.json", R"({"case": "another-inputs", "arrays": [], "tolerances": []})");
  EXPECT_EQ(run_case(copy.folder()).outcome, Outcome::skipped) << "a family of one case";
}

TEST(Golden, FoldersWithoutCasesAreRefused) {
  EXPECT_THROW(find_cases(kGolden / "no-such-folder"), invalid_argument);
  const fs::path empty =
      fs::temp_directory_path() / ("kvcodec-empty-" + std::to_string(::getpid()));
  fs::create_directory(empty);
  EXPECT_THROW(find_cases(empty), invalid_argument);
  fs::remove(empty);
}

}  // namespace
}  // namespace kvcodec::golden
