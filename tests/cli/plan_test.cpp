// `kvcodec plan` on a random model: the file loads, the choice is the best that was measured, budgets
// hold, bad use is refused.
#include "kvcodec/plan/plan.hpp"

#include <limits>

#include "src/eval/measure.hpp"
#include "tests/cli/command.hpp"
#include "tests/llama/random_model.hpp"

namespace kvcodec::cli_test {
namespace {

const HeadShape kShape{4, 2, 64};

class Plan : public Command {
 protected:
  std::string model() const {
    llama::testing::write_random_model(path("tiny"), llama::testing::small_config(), 3);
    return path("tiny");
  }

  /// Runs with few candidates on short documents.
  Outcome plan(const std::vector<std::string>& more, const char* out = "plan.json",
               const char* length = "160") const {
    std::vector<std::string> all = {"plan",         "--documents", "2",        "--length", length,
                                    "--refine",     "3",           "--recent", "16",       "--json",
                                    path("r.json"), "-o",          path(out)};
    for (const char* k : {"hadamard+lm:b2", "hadamard+lm:b4", "qjl:m128"}) {
      all.insert(all.end(), {"--k", k});
    }
    for (const char* v : {"hadamard+lm:b2", "hadamard+lm:b3", "int8"}) {
      all.insert(all.end(), {"--v", v});
    }
    all.insert(all.end(), more.begin(), more.end());
    return run(all);
  }

  std::string plan_text(const char* name = "plan.json") const { return read_json(name).dump(); }
};

/// The least sum of losses of two layers within a budget, from what the run says it measured.
double best_sum(const nlohmann::json& report, double budget) {
  struct Side {
    double bits, kl;
  };
  std::vector<Side> sides[4];
  for (const auto& s : report.at("sensitivities")) {
    if (s.at("kl").is_null()) continue;
    const auto slot = 2 * s.at("layer").get<std::size_t>() + (s.at("side") == "v" ? 1 : 0);
    sides[slot].push_back({s.at("bits"), s.at("kl")});
  }
  double best = std::numeric_limits<double>::infinity();
  for (const Side& a : sides[0]) {
    for (const Side& b : sides[1]) {
      for (const Side& c : sides[2]) {
        for (const Side& d : sides[3]) {
          if ((a.bits + b.bits + c.bits + d.bits) / 4.0 > budget) continue;
          best = std::min(best, a.kl + b.kl + (c.kl + d.kl));
        }
      }
    }
  }
  return best;
}

TEST_F(Plan, WritesTheBestOfWhatWasMeasuredWithinTheBudget) {
  const Outcome outcome = plan({"--model", model(), "--budget-bits", "4.5"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const auto report = read_json("r.json");
  EXPECT_NEAR(report.at("sum_of_parts").get<double>(), best_sum(report, 4.5), 1e-12);
  EXPECT_EQ(report.at("solver_exact"), true);
  EXPECT_LE(report.at("bits_per_value"), 4.5);
  EXPECT_LE(report.at("kl_refined"), report.at("kl_other_documents"));
  EXPECT_GT(report.at("kl_same_documents"), 0.0);
  EXPECT_EQ(report.at("chosen"), read_json("plan.json"));
  const eval::Memory m = eval::measure_memory(plan_text(), kShape, 2, 1024, 1);
  EXPECT_NEAR(m.payload_bits, report.at("bits_per_value").get<double>(), 1e-9);
  const CacheConfig config = make_cache_config(plan_text(), kShape, 2, 1024);
  EXPECT_EQ(config.layers[1].n_recent, 16);
  for (const auto& u : report.at("uniform")) {
    EXPECT_LE(u.at("bits"), 4.5);
    EXPECT_LE(report.at("kl_refined"), u.value("kl", nlohmann::json()).is_null()
                                           ? std::numeric_limits<double>::infinity()
                                           : u.at("kl").get<double>());
  }
  EXPECT_NE(outcome.out.find("k=qjl:m128"), std::string::npos);
  ASSERT_EQ(plan({"--model", path("tiny"), "--budget-bits", "4.5"}, "again.json").exit_code, 0);
  EXPECT_EQ(plan_text("again.json"), plan_text()) << "the same run twice";
}

TEST_F(Plan, BytesCountWindowsAndEvictionIsAChoice) {
  const Outcome outcome =
      plan({"--model", model(), "--budget", "420KiB", "--context", "2048", "--recent", "0,64",
            "--sink", "0,4", "--evict", "--policy", "lagkv:l32:r0.5"},
           "plan.json", "400");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const eval::Memory m = eval::measure_memory(plan_text(), kShape, 2, 2048, 1);
  EXPECT_LE(m.bytes.total(), 420 * 1024);
  EXPECT_EQ(read_json("r.json").at("kv_bytes"), m.bytes.total());
  bool measured = false;
  const auto report = read_json("r.json");  // outlives the loop over a part of it
  for (const auto& s : report.at("sensitivities")) {
    measured = measured || (s.at("side") == "policy" && s.at("kl") > 0.0 && s.at("bits") < 0.6);
  }
  EXPECT_TRUE(measured);
}

TEST_F(Plan, AQualityFloorHoldsAsAWhole) {
  const std::string folder = model();
  ASSERT_EQ(plan({"--model", folder, "--max-kl", "1e-4"}, "strict.json").exit_code, 0);
  const auto strict = read_json("r.json");
  EXPECT_LE(strict.at("kl_same_documents"), 1e-4);
  EXPECT_LE(strict.at("kl_other_documents"), 1e-4);
  ASSERT_EQ(plan({"--model", folder, "--max-kl", "1e-30"}, "all.json").exit_code, 0);
  EXPECT_EQ(read_json("r.json").at("bits_per_value"), 16.0) << "nothing else loses nothing";
  ASSERT_EQ(plan({"--model", folder, "--max-kl", "1"}).exit_code, 0);
  EXPECT_LT(read_json("r.json").at("bits_per_value"), strict.at("bits_per_value"));
  EXPECT_NEAR(read_json("r.json").at("bits_per_value").get<double>(), 2.25, 0.13);
}

TEST_F(Plan, CapturedRowsAreEnough) {
  const std::string sample = repository("tests/data/golden/realistic-kv/sample");
  const Outcome outcome = plan({"--kv", sample, "--budget-bits", "4"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const CacheConfig config = make_cache_config(plan_text(), {8, 2, 128}, 2, 1024);
  EXPECT_LE(read_json("r.json").at("bits_per_value"), 4.0);
  EXPECT_EQ(config.layers.size(), 2u);
}

TEST_F(Plan, BadUseNamesWhatIsAllowed) {
  const std::string folder = model();
  const auto expect_bad = [&](const std::vector<std::string>& more, const std::string& words) {
    const Outcome outcome = plan(more);
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_NE(outcome.err.find(words), std::string::npos) << outcome.err;
    EXPECT_FALSE(fs::exists(path("plan.json")));
  };
  expect_bad({"--model", folder}, "--budget-bits, --budget and --max-kl");
  expect_bad({"--model", folder, "--budget-bits", "3", "--max-kl", "1"}, "--max-kl");
  expect_bad({"--model", folder, "--budget-bits", "1.5"}, "2.25");
  expect_bad({"--model", folder, "--budget-bits", "-1"}, "above 0 to 32");
  expect_bad({"--model", folder, "--budget", "1KiB"}, "--budget = 1024");
  expect_bad({"--model", folder, "--budget-bits", "4", "--sink", "0,4"},
             "several only with --budget");
  expect_bad({"--model", folder, "--budget-bits", "4", "--context", "3"}, "--context = 3");
  expect_bad({"--model", path("nowhere"), "--budget-bits", "4"}, "nowhere");
  expect_bad({"--kv", path("nowhere"), "--budget-bits", "4"}, "nowhere");
  expect_bad({"--budget-bits", "4"}, "--model DIR or --kv DIR");
}

}  // namespace
}  // namespace kvcodec::cli_test
