// The laws of policy.hpp, for every built-in policy and some of their options.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>

#include "tests/support/codecs.hpp"
#include "tests/support/policy_tools.hpp"

namespace kvcodec {
namespace {

using test::PolicyInput;

// A family that is not named here runs with its defaults.
const std::map<std::string, std::vector<std::string>>& option_variants() {
  static const std::map<std::string, std::vector<std::string>> variants = {
      {"lagkv", {"l8:r0.125", "l32:r0.3:w0.5", "l128"}},
      {"kvpress-lagkv", {"l32:r0.4", "l16:r0.6:s0", "l32:cross", "l128"}},
      {"snapkv", {"r0.5", "r0.4:w16:p1", "r0.9:w8:p7"}},
      {"keydiff", {"r0.1", "r1"}},
      {"knorm", {"r0.3"}},
  };
  return variants;
}

std::vector<std::string> policy_specs() {
  std::vector<std::string> specs;
  BuiltinPolicies::for_each([&]<class P>() {
    const auto found = option_variants().find(P::family);
    if (found == option_variants().end()) {
      specs.push_back(P::family);
      return;
    }
    for (const std::string& options : found->second) {
      specs.push_back(std::string(P::family) + ":" + options);
    }
  });
  return specs;
}

class PolicyLaws : public ::testing::TestWithParam<std::string> {
 protected:
  AnyPolicy policy() const { return make_policy(GetParam()); }
  bool streams() const { return policy().chunk_rows() > 0; }
  std::int64_t n_rows() const { return streams() ? policy().chunk_rows() : 300; }
  std::int64_t n_ahead() const { return policy().lookahead_rows(); }

  /// Rows to be judged, after `before` others; with what a policy may observe of them.
  PolicyInput input(std::uint64_t seed, test::Input kind = test::Input::gauss,
                    std::int64_t before = 0, std::int64_t behind = 0) const {
    PolicyInput in(before + n_rows() + n_ahead() + behind, 64, seed, kind);
    in.gqa_group = 4;
    test::Random random(seed + 2);
    for (std::int64_t i = 0; i < in.gqa_group * n_rows(); ++i) {
      in.observed.push_back(static_cast<float>(random.uniform()));
    }
    return in;
  }
};

TEST_P(PolicyLaws, NameParsesBackToTheSamePolicy) {
  const AnyPolicy own = policy();
  const AnyPolicy again = make_policy(own.name());
  EXPECT_EQ(again.name(), own.name());
  EXPECT_EQ(again.chunk_rows(), own.chunk_rows());
  EXPECT_EQ(again.lookahead_rows(), own.lookahead_rows());
  EXPECT_EQ(again.observed_rows(), own.observed_rows());
  const PolicyInput in = input(1);
  EXPECT_EQ(test::masks_of(again, in.rows(0, n_rows(), n_ahead())),
            test::masks_of(own, in.rows(0, n_rows(), n_ahead())));
}

TEST_P(PolicyLaws, ResultsDependOnTheRowsAlone) {
  const AnyPolicy p = policy();
  const PolicyInput in = input(3);
  const std::vector<KeepMask> first = test::masks_of(p, in.rows(0, n_rows(), n_ahead()));
  (void)test::masks_of(p, input(4).rows(0, n_rows(), n_ahead()));
  EXPECT_EQ(test::masks_of(p, in.rows(0, n_rows(), n_ahead())), first);
}

// The same rows between neighbours that would show in any sum.
TEST_P(PolicyLaws, OnlyTheRowsAndThoseAheadAreRead) {
  const AnyPolicy p = policy();
  const PolicyInput alone = input(5);
  PolicyInput between = input(5, test::Input::gauss, 7, 9);
  for (std::vector<float>* x : {&between.k, &between.v}) {
    std::fill(x->begin(), x->end(), std::numeric_limits<float>::quiet_NaN());
    const std::vector<float>& from = x == &between.k ? alone.k : alone.v;
    std::copy(from.begin(), from.end(), x->begin() + 7 * between.head_dim);
  }
  between.observed = alone.observed;
  EXPECT_EQ(test::masks_of(p, between.rows(7, n_rows(), n_ahead())),
            test::masks_of(p, alone.rows(0, n_rows(), n_ahead())));
}

TEST_P(PolicyLaws, EveryInputOfOneSizeKeepsTheSameNumberOfRows) {
  const AnyPolicy p = policy();
  std::vector<std::size_t> counts;
  for (const test::Input kind : test::kAllInputs) {
    for (const std::uint64_t seed : {11u, 12u, 13u}) {
      const PolicyInput in = input(seed, kind);
      const std::vector<KeepMask> masks = test::masks_of(p, in.rows(0, n_rows(), n_ahead()));
      if (p.per_query_head()) {
        for (int head = 0; head < in.gqa_group; ++head) {
          counts.push_back(static_cast<std::size_t>(std::count_if(
              masks.begin(), masks.end(), [&](KeepMask m) { return (m >> head & 1) != 0; })));
        }
        continue;
      }
      std::size_t n = 0;
      for (const KeepMask mask : masks) {
        ASSERT_TRUE(mask == 0 || mask == kKeptByAll) << mask;
        n += mask != 0 ? 1 : 0;
      }
      counts.push_back(n);
    }
  }
  EXPECT_EQ(*std::min_element(counts.begin(), counts.end()),
            *std::max_element(counts.begin(), counts.end()));
  EXPECT_GT(counts[0], 0u);
}

TEST_P(PolicyLaws, TiesInAChunkGoToTheLowerPosition) {
  if (!streams()) return;  // what ties there depends on the policy: prompt_test.cpp
  const PolicyInput in = input(0, test::Input::constant);
  const std::vector<KeepMask> masks = test::masks_of(policy(), in.rows(0, n_rows(), n_ahead()));
  EXPECT_TRUE(std::is_sorted(masks.rbegin(), masks.rend()));
}

TEST_P(PolicyLaws, NothingToJudgeIsFine) {
  const PolicyInput in(n_ahead() + 1, 64, 1);
  EXPECT_TRUE(test::masks_of(policy(), in.rows(0, 0, n_ahead())).empty());
}

TEST_P(PolicyLaws, HelpAndSizesMakeSense) {
  const AnyPolicy p = policy();
  EXPECT_GE(p.chunk_rows(), 0);
  EXPECT_GE(p.lookahead_rows(), 0);
  EXPECT_GE(p.observed_rows(), 0);
  EXPECT_THROW(make_policy(GetParam() + ":nonsense"), invalid_argument);
}

INSTANTIATE_TEST_SUITE_P(Builtin, PolicyLaws, ::testing::ValuesIn(policy_specs()),
                         test::name_of_param);

TEST(MakePolicy, NoneKeepsEveryRow) {
  const AnyPolicy none = make_policy("none");
  EXPECT_FALSE(none);
  EXPECT_EQ(none.name(), "none");
}

TEST(MakePolicy, UnknownFamiliesAreListed) {
  for (const std::string bad : {"", "lag", "none:", "LAGKV", "lagkv "}) {
    const std::string text = test::message_of<invalid_argument>([&] { (void)make_policy(bad); });
    EXPECT_TRUE(test::contains(text, {"policy: name = ", "lagkv", "snapkv", "keydiff"})) << bad;
  }
}

TEST(MakePolicy, VariantsBelongToFamilies) {
  for (const auto& [family, options] : option_variants()) {
    EXPECT_NE(family_names<BuiltinPolicies>().find(family), std::string::npos) << family;
    EXPECT_FALSE(options.empty());
  }
}

}  // namespace
}  // namespace kvcodec
