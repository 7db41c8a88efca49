// kvcodec bench: what it reports, and what it refuses. Speeds are not judged here.
#include "tests/cli/command.hpp"

namespace kvcodec::cli_test {
namespace {

using Bench = Command;

TEST_F(Bench, ReportsEveryFormatInEveryShape) {
  const Outcome outcome = run({"bench",
                               "--cpu",
                               "--formats",
                               "f16",
                               "nqkv:g64",
                               "k=qjl:m256,v=nqkv:g64",
                               "kv=codebook:norope",
                               "kv=int8,policy=lagkv:l128:r0.5",
                               "--keys",
                               "1024,2048",
                               "--gqa",
                               "4",
                               "--threads",
                               "1,2",
                               "--seconds",
                               "0.01",
                               "--rotate",
                               "16",
                               "--json",
                               path("r.json")});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("read bandwidth, 2 threads"), std::string::npos) << outcome.out;
  const auto json = read_json("r.json");
  EXPECT_EQ(json.at("command"), "bench");
  EXPECT_EQ(json.at("date").get<std::string>().size(), 10u);
  EXPECT_GT(json.at("machine").at("l3_bytes"), 0);
  EXPECT_GT(json.at("machine").at("memory_bytes"), 1e8);
  EXPECT_EQ(json.at("rotated_bytes"), 16 << 20);
  EXPECT_GT(json.at("read_bytes_per_s").at("1"), 1e8);
  int n_f32 = 0;
  double f16_error = 1.0, lagkv_bytes = 0.0, int8_bytes = 8.125 / 8 * 2 * 2048 * 8 * 128;
  for (const auto& row : json.at("rows")) {
    n_f32 += row.at("arithmetic") == "f32" ? 1 : 0;
    EXPECT_GT(row.at("ms"), 0.0);
    EXPECT_GE(row.at("rounds"), 5);
    EXPECT_GT(row.at("share_of_read_bw"), 0.0);
    EXPECT_GT(row.at("ratio_to_f16"), 0.0);
    if (row.at("format") == "f16") {
      f16_error = row.at("rel_err");
      EXPECT_EQ(row.at("bytes"), row.at("keys").get<double>() * 2 * 8 * 128 * 2);
      EXPECT_EQ(row.at("multiply_adds_per_byte"), 2.0);
      EXPECT_EQ(row.at("ratio_to_f16"), 1.0);
    } else if (row.at("format") == "nqkv:g64") {
      EXPECT_EQ(row.at("bits_per_value"), 4.25);
      EXPECT_LT(row.at("rel_err"), 0.3);
      EXPECT_GT(row.at("rel_err"), 0.05);
    } else if (row.at("format") == "kv=int8,policy=lagkv:l128:r0.5") {
      EXPECT_TRUE(row.at("rel_err").is_null());
      if (row.at("keys") == 2048) lagkv_bytes = row.at("bytes");
    }
  }
  EXPECT_EQ(n_f32, 5 * 2 * 2);
  EXPECT_LT(f16_error, 1e-3);
  // Half the tokens, and a raw tail.
  EXPECT_GT(lagkv_bytes, 0.4 * int8_bytes);
  EXPECT_LT(lagkv_bytes, 0.9 * int8_bytes);
}

TEST_F(Bench, OddShapesHaveANeighbour) {
  const Outcome outcome = run({"bench", "--cpu", "--shapes", "odd", "--formats", "lm:b2",
                               "kv=int8,policy=lagkv:l128:r0.5", "--seconds", "0.01", "--rotate",
                               "16", "--json", path("r.json")});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const auto json = read_json("r.json");
  bool seen_one_token = false;
  for (const auto& row : json.at("rows")) {
    EXPECT_GT(row.at("slower_per_byte"), 0.0) << row.at("shape");
    EXPECT_TRUE(row.at("slow_by_surprise").is_boolean());
    if (row.at("format") == "lm:b2") {
      EXPECT_LT(row.at("rel_err"), 1.5) << row.at("shape");
    }
    seen_one_token = seen_one_token || (row.at("keys") == 1 && row.at("sequences") == 256);
  }
  EXPECT_TRUE(seen_one_token);
}

TEST_F(Bench, RefusesBadUse) {
  expect_bad_use({"bench"}, "--cpu is required");
  expect_bad_use({"bench", "--cpu", "--formats", "abacus"}, "abacus");
  expect_bad_use({"bench", "--cpu", "--rotate", "-1"}, "--rotate = -1, allowed: ");
  expect_bad_use({"bench", "--cpu", "--keys", "1000"}, "--keys = 1000, allowed: ");
  expect_bad_use({"bench", "--cpu", "--gqa", "17"}, "--gqa = 17, allowed: 1..16");
  expect_bad_use({"bench", "--cpu", "--threads", "0"}, "--threads = 0, allowed: 1..1024");
  expect_bad_use({"bench", "--cpu", "--seconds", "0"}, "--seconds = 0.0");
  expect_bad_use({"bench", "--cpu", "--shapes", "round"}, "--shapes");
}

}  // namespace
}  // namespace kvcodec::cli_test
