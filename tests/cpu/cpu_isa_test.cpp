// Choosing an instruction set: by name, by the environment, and what happens to wrong names.
#include "kvcodec/attend/cpu_isa.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "kvcodec/core/error.hpp"
#include "src/cpu/kernels.hpp"
#include "tests/support/isa_guard.hpp"

namespace kvcodec {
namespace {

constexpr const char* kVariable = "KVCODEC_FORCE_ISA";

TEST(CpuIsa, ForcedOneRuns) {
  const std::vector<std::string> names = available_cpu_isas();
  ASSERT_FALSE(names.empty());
  EXPECT_EQ(names.front(), "scalar");
  const std::string before = cpu_isa();
  for (const std::string& name : names) {
    const test::IsaGuard guard(name);
    EXPECT_EQ(cpu_isa(), name);
    EXPECT_EQ(cpu::kernels().isa, name);
    if (name != "scalar") {
      EXPECT_NE(cpu::kernels().softmax_tile, cpu::scalar_kernels().softmax_tile);
      EXPECT_NE(cpu::kernels().score_rows[0], cpu::scalar_kernels().score_rows[0]);
    }
  }
  EXPECT_EQ(cpu_isa(), before);
}

TEST(CpuIsa, UnknownNameIsRefusedWithTheAvailableOnes) {
  const std::string before = cpu_isa();
  try {
    force_cpu_isa("avx9000");
    FAIL() << "accepted";
  } catch (const invalid_argument& e) {
    const std::string text = e.what();
    EXPECT_NE(text.find("avx9000"), std::string::npos) << text;
    for (const std::string& name : available_cpu_isas()) {
      EXPECT_NE(text.find(name), std::string::npos) << text;
    }
  }
  EXPECT_EQ(cpu_isa(), before);
}

/// Right for any value of the environment: the test below runs it in processes of its own.
TEST(CpuIsaEnvironment, IsRespected) {
  const char* value = std::getenv(kVariable);
  const std::vector<std::string> names = available_cpu_isas();
  if (value == nullptr || *value == '\0') {
    EXPECT_EQ(cpu_isa(), names.back()) << "the best one should be in use";
    EXPECT_EQ(cpu_isa_problem(), "");
    return;
  }
  for (const std::string& name : names) {
    if (name != value) continue;
    EXPECT_EQ(cpu_isa(), name);
    EXPECT_EQ(cpu_isa_problem(), "");
    return;
  }
  EXPECT_STREQ(cpu_isa(), "scalar");
  const std::string problem = cpu_isa_problem();
  EXPECT_NE(problem.find(kVariable), std::string::npos) << problem;
  EXPECT_NE(problem.find(value), std::string::npos) << problem;
  for (const std::string& name : names) EXPECT_NE(problem.find(name), std::string::npos) << problem;
}

TEST(CpuIsa, EnvironmentForcesOne) {
  std::error_code failed;
  const std::string self = std::filesystem::read_symlink("/proc/self/exe", failed).string();
  if (failed) GTEST_SKIP() << "this system does not tell a program its own path";
  std::vector<std::string> values = available_cpu_isas();
  values.insert(values.end(), {"avx9000", "AVX2", ""});
  for (const std::string& value : values) {
    const std::string command = std::string(kVariable) + "='" + value + "' '" + self +
                                "' --gtest_filter=CpuIsaEnvironment.IsRespected >/dev/null";
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
  }
}

}  // namespace
}  // namespace kvcodec
