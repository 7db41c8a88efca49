// Tests of the stand-in for GoogleTest. Those of suite Fails and of Params .../3 must fail: a stand-in
// that cannot fail would pass everything. CTest compares the totals.
#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

namespace {

using testing::AssertionFailure;
using testing::AssertionResult;

TEST(Passes, EveryComparison) {
  EXPECT_EQ(2, 2) << "never told";
  EXPECT_NE(std::vector<int>{1}, std::vector<int>{2});
  EXPECT_LT(1, 2);
  EXPECT_LE(2, 2);
  EXPECT_GT(2.5, 2);
  EXPECT_GE(2, 2);
  EXPECT_NEAR(1.0, 1.1, 0.2);
  EXPECT_TRUE(testing::AssertionSuccess());
  EXPECT_FALSE(false);
  if (true) EXPECT_EQ(1, 1);
  else EXPECT_EQ(1, 2);
}

TEST(Fails, Equal) { EXPECT_EQ(std::byte{1}, std::byte{2}) << "told"; }
TEST(Fails, NotEqual) { EXPECT_NE(1, 1); }
TEST(Fails, Less) {
  EXPECT_LT(2, 2);
  if (!HasFailure()) std::printf("NOT REACHED\n");
}
TEST(Fails, AtMost) { EXPECT_LE(3, 2); }
TEST(Fails, Greater) { EXPECT_GT(2, 2); }
TEST(Fails, AtLeast) { EXPECT_GE(1, 2); }
TEST(Fails, Near) { EXPECT_NEAR(1.0, std::nan(""), 0.2); }
TEST(Fails, True) {
  SCOPED_TRACE("a trace");
  EXPECT_TRUE(AssertionFailure() << "a reason");
}
TEST(Fails, False) { EXPECT_FALSE(true); }
TEST(Fails, Thrown) { throw std::runtime_error("thrown"); }
TEST(Fails, AssertLeaves) {
  if (HasFailure()) std::printf("NOT REACHED\n");
  ASSERT_EQ(1, 2);
  std::printf("NOT REACHED\n");
}

class SkippedInSetUp : public testing::Test {
 protected:
  void SetUp() override { GTEST_SKIP() << "a reason"; }
};
TEST_F(SkippedInSetUp, Body) { ADD_FAILURE() << "NOT REACHED"; }

class Params : public testing::TestWithParam<std::string> {};
TEST_P(Params, AreAllGiven) { EXPECT_NE(GetParam(), "3"); }
INSTANTIATE_TEST_SUITE_P(One, Params, testing::Values("1", "3"),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Two, Params, testing::ValuesIn(std::vector<std::string>{"4"}));

}  // namespace
