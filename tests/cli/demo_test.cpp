// `kvcodec demo` on the shipped model: the fields of its JSON and what they must say at the least.
#include "tests/cli/command.hpp"

namespace kvcodec::cli_test {
namespace {

using Demo = Command;

TEST_F(Demo, JsonHoldsEveryFieldOfEveryPlan) {
  const Outcome outcome =
      run({"demo", "--plans", "kv=f32|kv=f16|kv=nqkv:g64", "--json", path("r.json")});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const auto json = read_json("r.json");
  EXPECT_GT(json.at("uncached_tokens_per_s"), 0.0);
  const auto& plans = json.at("plans");
  ASSERT_EQ(plans.size(), 3u);
  for (const auto& plan : plans) {
    for (const char* key : {"bits_per_value", "bits_per_value_all", "kv_bytes", "ppl", "recall",
                            "tokens_per_s", "longest_context", "largest_batch"}) {
      ASSERT_TRUE(plan.at(key).is_number()) << key;
      EXPECT_GE(plan.at(key), 0.0) << key;
    }
    EXPECT_TRUE(plan.at("ppl_delta_pct").is_number());
    EXPECT_GE(plan.at("text").get<std::string>().size(), 16u);
    EXPECT_NE(outcome.out.find(plan.at("plan").get<std::string>()), std::string::npos);
  }
  EXPECT_EQ(plans[0].at("bits_per_value"), 32.0);
  EXPECT_EQ(plans[1].at("bits_per_value"), 16.0);
  EXPECT_EQ(plans[1].at("ppl_delta_pct"), 0.0);
  EXPECT_EQ(plans[2].at("bits_per_value"), 4.25);
  EXPECT_LT(std::abs(plans[0].at("ppl_delta_pct").get<double>()), 0.1)
      << "f16 keeps what f32 keeps";
  EXPECT_GT(plans[1].at("recall"), 0.5) << "the model cannot tell a good cache from a bad one";
  EXPECT_GT(plans[2].at("longest_context"), 3.5 * plans[1].at("longest_context").get<double>());
}

TEST_F(Demo, BadUseNamesWhatIsAllowed) {
  expect_bad_use({"demo", "--plans", "kv=f16|kv=nothing"}, "f32, f16, bf16, int8, fp8");
  expect_bad_use({"demo", "--budget", "lots"}, "KiB, MiB, GiB or TiB");
  expect_bad_use({"demo", "--model", path("nowhere")}, "nowhere");
}

}  // namespace
}  // namespace kvcodec::cli_test
