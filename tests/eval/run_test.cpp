// A whole evaluation: the journal it can go on from, latencies, the estimate of time left.
#include <chrono>
#include <fstream>
#include <iterator>

#include "kvcodec/core/error.hpp"
#include "src/eval/evaluate.hpp"
#include "src/eval/journal.hpp"
#include "src/eval/percentile.hpp"
#include "tests/eval/model_fixture.hpp"

namespace kvcodec::eval {
namespace {

namespace fs = std::filesystem;
using output::Json;

std::string read(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// The message of what `call` throws.
template <class F>
std::string message_of(F&& call) {
  try {
    call();
  } catch (const error& e) {
    return e.what();
  }
  return "nothing was thrown";
}

class Run : public RandomModel {
 protected:
  void SetUp() override { fs::remove(file()); }
  static fs::path file() { return folder().string() + "-journal.jsonl"; }
  static void TearDownTestSuite() {
    fs::remove(file());
    RandomModel::TearDownTestSuite();
  }

  /// Scores 200 bytes, with everything a random model can show.
  static EvaluateOptions options() {
    const fs::path text = folder() / "text.txt";
    if (!fs::exists(text)) {
      std::ofstream out(text);
      for (const std::int32_t t : tokens(200, 3)) out << static_cast<char>(t % 96 + 32);
    }
    EvaluateOptions o;
    o.model = folder();
    o.text = text;
    o.plans = named_plans({"kv=int8", "kv=nqkv:g64"});
    o.measure.eval.chunk_size = 16;
    o.lengths = {32, 64};
    o.latency.n_decoded = 5;
    o.journal = file();
    return o;
  }
};

TEST_F(Run, MeasuresEveryPartAgainstTheBaseline) {
  output::ProgressLine progress;
  const Json out = evaluate_model(options(), {}, progress);
  EXPECT_EQ(out.at("baseline"), "kv=f16");
  const Json& plans = out.at("plans");
  ASSERT_EQ(plans.size(), 3u);
  EXPECT_EQ(plans[0].at("plan"), "kv=f16");
  EXPECT_EQ(plans[0].at("kl").at("max"), 0.0);
  EXPECT_EQ(plans[0].at("ppl_delta_pct"), 0.0);
  EXPECT_EQ(plans[0].at("times_smaller"), 1.0);
  EXPECT_GT(plans[1].at("kl").at("mean"), 0.0);
  EXPECT_GT(plans[2].at("kl").at("mean"), plans[1].at("kl").at("mean"));
  EXPECT_GT(plans[2].at("attention").at("out_err_worst"),
            plans[1].at("attention").at("out_err_worst"));
  EXPECT_GT(plans[2].at("times_smaller"), plans[1].at("times_smaller"));
  for (const Json& p : plans) {
    ASSERT_EQ(p.at("ttft_ms").size(), 2u);
    ASSERT_EQ(p.at("decode").size(), 2u);
    EXPECT_EQ(p.at("decode")[1].at("context"), 64);
    EXPECT_GT(p.at("decode")[1].at("p50_ms"), 0.0);
    EXPECT_GE(p.at("decode")[1].at("p99_ms"), p.at("decode")[1].at("p50_ms"));
    EXPECT_TRUE(p.at("recall").is_null());
    EXPECT_FALSE(p.contains("retrieval")) << "a text without facts";
  }
  EXPECT_EQ(out.at("distributions").size(), 4u);
  EXPECT_NE(quality_table(plans).find("kv=nqkv:g64"), std::string::npos);
}

TEST_F(Run, PartsCanBeLeftOut) {
  EvaluateOptions o = options();
  o.skip = {parts().begin(), parts().end()};
  output::ProgressLine progress;
  const Json out = evaluate_model(o, {}, progress);
  EXPECT_FALSE(out.contains("distributions"));
  for (const char* name : {"kl", "attention", "decode", "ttft_ms"}) {
    EXPECT_FALSE(out.at("plans")[1].contains(name)) << name;
  }
  EXPECT_GT(out.at("plans")[1].at("ppl"), 1.0);
  EXPECT_NE(quality_table(out.at("plans")).find('-'), std::string::npos);
}

TEST_F(Run, GoesOnFromTheJournal) {
  EvaluateOptions o = options();
  o.skip = {"latency"};
  output::ProgressLine progress;
  const Json whole = evaluate_model(o, {}, progress);
  const std::string journal = read(file());
  // As if it had ended while the last plan was written.
  const std::size_t last = journal.rfind('\n', journal.size() - 2) + 1;
  std::ofstream(file(), std::ios::binary) << journal.substr(0, last + 30);
  o.resume = true;
  Json again = evaluate_model(o, {}, progress);
  for (std::size_t i = 0; i < 3; ++i) {
    // Speed is the only thing that differs, and only where it was measured again.
    const Json speed = again["plans"][i]["scored_tokens_per_s"];
    EXPECT_EQ(speed == whole["plans"][i]["scored_tokens_per_s"], i < 2) << i;
    again["plans"][i]["scored_tokens_per_s"] = whole["plans"][i]["scored_tokens_per_s"];
  }
  EXPECT_EQ(again, whole);
  // Further plans may be added; what is there is not run again.
  o.plans.push_back({"more", "kv=nqsym:g64"});
  const Json more = evaluate_model(o, {}, progress);
  ASSERT_EQ(more.at("plans").size(), 4u);
  EXPECT_EQ(more.at("plans")[3].at("name"), "more");
  EXPECT_EQ(more.at("plans")[1].at("scored_tokens_per_s"),
            whole.at("plans")[1].at("scored_tokens_per_s"));

  o.measure.eval.chunk_size = 8;
  const std::string changed = message_of([&] { evaluate_model(o, {}, progress); });
  EXPECT_NE(changed.find("chunk_size was 16, is now 8"), std::string::npos) << changed;
  o.measure.eval.chunk_size = 16;
  const fs::path config = folder() / "config.json";
  const auto then = fs::last_write_time(config);
  fs::last_write_time(config, then + std::chrono::seconds(1));
  const std::string other = message_of([&] { evaluate_model(o, {}, progress); });
  EXPECT_NE(other.find("model file config.json was"), std::string::npos) << other;
  fs::last_write_time(config, then);
  std::ofstream(file()) << "no journal\n";
  EXPECT_THROW(evaluate_model(o, {}, progress), corrupt_data);
  o.resume = false;
  EXPECT_EQ(evaluate_model(o, {}, progress).at("plans").size(), 4u);
}

TEST_F(Run, LengthsBeyondTheModelAreNamed) {
  EvaluateOptions o = options();
  o.lengths = {500};
  output::ProgressLine progress;
  EXPECT_NE(message_of([&] { evaluate_model(o, {}, progress); }).find("--lengths = 500"),
            std::string::npos);
}

TEST(Percentile, IsTheNearestRank) {
  EXPECT_EQ(percentile({3, 1, 2, 4}, 0.5), 2.0);
  EXPECT_EQ(percentile({3, 1, 2, 4}, 0.99), 4.0);
  EXPECT_EQ(percentile({3, 1, 2, 4}, 0.0), 1.0);
}

TEST(WorkEstimate, FollowsTheUnits) {
  output::WorkEstimate work(100.0);
  EXPECT_LT(work.seconds_left(0.5, 10.0), 0.0) << "nothing has begun";
  work.begin_part(20.0);
  EXPECT_DOUBLE_EQ(work.seconds_left(0.5, 10.0), 90.0);
  work.begin_part(60.0);
  EXPECT_DOUBLE_EQ(work.seconds_left(0.5, 30.0), 30.0);
  work.begin_part(20.0);
  EXPECT_DOUBLE_EQ(work.seconds_left(1.0, 30.0), 0.0);
  EXPECT_LT(output::WorkEstimate().seconds_left(1.0, 30.0), 0.0) << "no total";
  EXPECT_EQ(output::time_text(40), "40 s");
  EXPECT_EQ(output::time_text(721), "12 min");
  EXPECT_EQ(output::time_text(12600), "3.5 h");
}

}  // namespace
}  // namespace kvcodec::eval
