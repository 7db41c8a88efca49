// `kvcodec calibrate` on a random model: the file, the JSON, the table, and what it refuses.
#include "kvcodec/plan/calibration.hpp"
#include "tests/cli/command.hpp"
#include "tests/llama/random_model.hpp"

namespace kvcodec::cli_test {
namespace {

class Calibrate : public Command {
 protected:
  std::string model() const {
    llama::testing::write_random_model(path("tiny"), llama::testing::small_config(), 3);
    return path("tiny");
  }
};

TEST_F(Calibrate, WritesAFileThatFitsTheModelAndReportsEveryLayer) {
  const Outcome outcome = run({"calibrate",    "--model",  model(),       "-o",
                               path("c.json"), "--bits",   "2",           "--group",
                               "64",           "--k",      "1",           "--tokens",
                               "96",           "--length", "64",          "--alpha-grid",
                               "0,1",          "--seed",   "5",           "--weights",
                               "w4:g32",       "--json",   path("r.json")});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const Calibration c = read_calibration(path("c.json"));
  EXPECT_NO_THROW(check_fits(c, {4, 2, 64}, 2));
  EXPECT_EQ(c.model, "tiny");
  EXPECT_EQ(c.k.bits, 2);
  EXPECT_EQ(c.v.group, 64);
  EXPECT_EQ(c.weights, "w4:g32");
  for (const char* part : {"96 tokens", "seed 5", "1 behind"}) {
    EXPECT_NE(c.made_by.find(part), std::string::npos) << c.made_by;
  }
  EXPECT_NE(outcome.out.find(c.made_by), std::string::npos);
  const auto json = read_json("r.json");
  EXPECT_EQ(json.at("n_tokens"), 96);
  ASSERT_EQ(json.at("layers").size(), 2u);
  for (const auto& layer : json.at("layers")) {
    EXPECT_LE(layer.at("loss_found"), layer.at("loss_start"));
    EXPECT_GT(layer.at("loss_plain"), 0.0);
    const double alpha = layer.at("k").at("alpha");
    EXPECT_TRUE(alpha == 0.0 || alpha == 1.0);
  }
  for (const char* name : {"plain", "start", "found"}) {
    EXPECT_GT(json.at(name).at("hidden_error"), 0.0) << name;
    EXPECT_GT(json.at(name).at("kl_bits"), 0.0) << name;
  }
}

TEST_F(Calibrate, WithoutSearchTheStartIsTheResult) {
  ASSERT_EQ(run({"calibrate", "--model", model(), "-o", path("c.json"), "--no-crr", "--tokens",
                 "32", "--json", path("r.json")})
                .exit_code,
            0);
  const auto json = read_json("r.json");  // outlives the loop over a part of it
  for (const auto& layer : json.at("layers")) {
    EXPECT_EQ(layer.at("loss_found"), layer.at("loss_start"));
  }
  EXPECT_NE(read_calibration(path("c.json")).made_by.find("without a search"), std::string::npos);
}

TEST_F(Calibrate, BadUseNamesWhatIsAllowed) {
  const std::string folder = model();
  const auto expect_bad = [&](std::initializer_list<std::string> more, const std::string& words) {
    std::vector<std::string> all = {"calibrate", "--model", folder, "-o", path("c.json")};
    all.insert(all.end(), more.begin(), more.end());
    expect_bad_use({all[0], all[1], all[2], all[3], all[4], all[5], all[6]}, words);
    EXPECT_FALSE(fs::exists(path("c.json")));
  };
  expect_bad({"--bits", "5"}, "2, 3, 4 or 8");
  expect_bad({"--group", "48"}, "32, 64 or 128");
  expect_bad({"--alpha-grid", "0.5,x"}, "numbers in 0..1");
  expect_bad({"--weights", "w3"}, "w4:g128");
  expect_bad({"--start-token", "256"}, "0..255");
  expect_bad({"--json", path("gone/r.json")}, "--json");
  expect_bad_use({"calibrate", "--model", path("nowhere"), "-o", path("c.json")}, "nowhere");
  expect_bad_use({"calibrate", "--model", folder, "-o", path("gone/c.json")}, "-o");
  expect_bad_use({"calibrate", "--model", folder}, "--out");
}

}  // namespace
}  // namespace kvcodec::cli_test
