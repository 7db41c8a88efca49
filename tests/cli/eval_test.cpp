// `kvcodec eval`: captured K, V and Q, model folders, and what it refuses.
#include <vector>

#include "examples/llama/safetensors.hpp"
#include "src/verify/npy.hpp"
#include "tests/cli/command.hpp"
#include "tests/llama/random_model.hpp"

namespace kvcodec::cli_test {
namespace {

class Eval : public Command {
 protected:
  std::string sample() const { return repository("tests/data/golden/realistic-kv/sample"); }

  void write_zeros(const char* name, const std::vector<std::int64_t>& shape) const {
    std::int64_t n = 1;
    for (const std::int64_t size : shape) n *= size;
    const std::vector<float> zeros(static_cast<std::size_t>(n), 0.5f);
    golden::write_npy(path(name), golden::make_array<float>("f4", shape, zeros));
  }
};

TEST_F(Eval, ErrorsOfCapturedArraysAreInOrder) {
  const Outcome outcome =
      run({"eval", "--kv", sample(), "--json", path("r.json"), "--plan", "kv=f16", "--plan",
           "kv=int8", "--plan", "kv=nqkv:g64", "--plan", "k=hadamard+nqkv:g64,v=nqkv:g64"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const auto json = read_json("r.json");
  const auto& plans = json.at("plans");
  ASSERT_EQ(plans.size(), 4u);
  for (const char* key :
       {"out_error_mean", "out_error_worst", "logit_error_rms", "lse_error_max"}) {
    const double f16 = plans[0].at(key), int8 = plans[1].at(key), nqkv = plans[2].at(key);
    EXPECT_LT(f16, 0.01 * int8) << key;
    EXPECT_LT(int8, nqkv) << key;
  }
  EXPECT_EQ(plans[0].at("logit_error_max"), 0.0) << "the arrays are f16";
  EXPECT_EQ(plans[0].at("bits_per_value"), 16.0);
  EXPECT_EQ(plans[1].at("bits_per_value"), 8.125);
  EXPECT_EQ(plans[2].at("bits_per_value"), 4.25);
  EXPECT_GT(plans[2].at("bits_per_value_all"), 4.25);
  // One error per layer and head; the worst is the worst of them.
  const auto& heads = plans[2].at("heads");
  ASSERT_EQ(heads.size(), 16u);
  double worst = 0.0;
  for (const auto& head : heads) worst = std::max(worst, head.at("out_error").get<double>());
  EXPECT_EQ(plans[2].at("out_error_worst"), worst);
  // Rotating the keys must not change what the scores mean, only how much they lose.
  EXPECT_LT(plans[3].at("logit_error_rms"), plans[2].at("logit_error_rms"));
}

TEST_F(Eval, ShapesThatDoNotFitAreNamed) {
  write_zeros("k.npy", {2, 70, 64});
  write_zeros("v.npy", {2, 70, 64});
  write_zeros("q.npy", {3, 4, 64});
  EXPECT_EQ(run({"eval", "--kv", path(""), "--plan", "kv=int8"}).exit_code, 0);
  write_zeros("q.npy", {3, 4, 128});
  expect_bad_use({"eval", "--kv", path("")},
                 "q.npy: shape = [3, 4, 128], allowed: [queries, n_q_heads, 64] to match k");
  write_zeros("q.npy", {3, 5, 64});
  expect_bad_use({"eval", "--kv", path("")}, "n_q_heads = 5");
  write_zeros("q.npy", {3, 4});
  expect_bad_use({"eval", "--kv", path("")}, "q.npy: shape = [3, 4], allowed: ");
  write_zeros("q.npy", {3, 4, 64});
  write_zeros("v.npy", {2, 69, 64});
  expect_bad_use({"eval", "--kv", path("")}, "v.npy: shape = [2, 69, 64], allowed: [2, 70, 64]");
  fs::remove(path("v.npy"));
  expect_bad_use({"eval", "--kv", path("")}, "v.npy: cannot be opened");
  expect_bad_use({"eval", "--kv", path("nowhere")},
                 "allowed: a folder with k.npy, v.npy and q.npy");
}

TEST_F(Eval, TokenIdsOfAnyVocabulary) {
  const std::string model = repository("tests/data/llama/random-mistral");
  std::vector<std::int32_t> ids(200);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * i % 64);
  golden::write_npy(path("ids.npy"), golden::make_array<std::int32_t>("i4", {200}, ids));
  const Outcome outcome = run({"eval", "--model", model, "--tokens", path("ids.npy"), "--plan",
                               "kv=f32", "--plan", "kv=nqkv:g64", "--json", path("r.json")});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const auto json = read_json("r.json");
  EXPECT_EQ(json.at("baseline"), "kv=f16");
  const auto& plans = json.at("plans");
  ASSERT_EQ(plans.size(), 3u) << "the baseline comes first";
  EXPECT_GT(plans[1].at("ppl"), 1.0);
  EXPECT_NE(plans[1].at("ppl"), plans[2].at("ppl")) << "the compressed cache was not used";
  EXPECT_TRUE(plans[1].at("recall").is_null());
  EXPECT_NE(outcome.out.find("KL in nats"), std::string::npos) << outcome.out;
  ids[7] = 64;
  golden::write_npy(path("ids.npy"), golden::make_array<std::int32_t>("i4", {200}, ids));
  expect_bad_use({"eval", "--model", model, "--tokens", path("ids.npy")},
                 "token = 64, allowed: 0..63");
}

/// A Qwen2 folder of two layers whose tensors are named by an index, and 300 bytes of text.
class EvalModel : public Eval {
 protected:
  void SetUp() override {
    Eval::SetUp();
    nlohmann::json config = llama::testing::small_config();
    config["architectures"][0] = "Qwen2ForCausalLM";
    llama::testing::write_random_model(path("model"), config, 3);
    const fs::path tensors = path("model/model.safetensors");
    nlohmann::json map = nlohmann::json::object();
    const llama::TensorStore store = llama::TensorStore::open_file(tensors);
    for (const auto& [name, info] : store.tensors()) {
      map[name] = "model-00001-of-00001.safetensors";
    }
    fs::rename(tensors, path("model/model-00001-of-00001.safetensors"));
    std::ofstream(path("model/model.safetensors.index.json"))
        << nlohmann::json{{"weight_map", map}};
    std::ofstream text(path("text.txt"));
    for (int i = 0; i < 300; ++i) text << static_cast<char>('a' + i * i % 26);
  }
};

TEST_F(EvalModel, ReportsPlanFilesAndGoesOn) {
  std::ofstream(path("mine.json")) << R"({"kv": "nqkv:g64", "layers": {"0": {"k": "int8"}}})";
  const Outcome outcome =
      run({"eval", "--model", path("model"), "--text", path("text.txt"), "--lengths", "64",
           "--plan", path("mine.json"), "--plan", "kv=nqkv:g64", "--report", path("out"),
           "--capture", path("captured"), "--chunk", "16"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const auto report = read_json("out/report.json");
  const auto& plans = report.at("plans");
  ASSERT_EQ(plans.size(), 3u);
  EXPECT_EQ(plans[1].at("name"), "mine.json");
  EXPECT_GT(plans[1].at("bits_per_value"), plans[2].at("bits_per_value"));
  for (const char* key : {"kl", "top1_agreement", "logit_err", "attention", "ttft_ms", "decode"}) {
    EXPECT_TRUE(plans[2].contains(key)) << key;
  }
  EXPECT_EQ(plans[0].at("kl").at("max"), 0.0);
  EXPECT_EQ(report.at("distributions").size(), 4u);
  for (const char* key : {"version", "isa", "threads", "date", "budget_bytes", "chunk_size"}) {
    EXPECT_TRUE(report.contains(key)) << key;
  }
  // What was captured is what --kv takes, and gives the same errors of attention.
  ASSERT_EQ(
      run({"eval", "--kv", path("captured"), "--plan", "kv=nqkv:g64", "--json", path("kv.json")})
          .exit_code,
      0);
  EXPECT_EQ(read_json("kv.json").at("plans")[0].at("attention"), plans[2].at("attention"));

  const Outcome changed =
      run({"eval", "--model", path("model"), "--text", path("text.txt"), "--lengths", "64",
           "--report", path("out"), "--chunk", "8", "--resume"});
  EXPECT_EQ(changed.exit_code, 2);
  EXPECT_NE(changed.err.find("chunk_size was 16, is now 8"), std::string::npos) << changed.err;
}

TEST_F(EvalModel, BadUseNamesWhatIsAllowed) {
  const std::string model = path("model"), text = path("text.txt");
  expect_bad_use({"eval", "--model", model, "--text", text, "--resume"}, "--report or --json");
  expect_bad_use({"eval", "--model", model, "--text", text, "--plan", path("no.json")},
                 "a readable file of JSON");
  std::ofstream(path("bad.json")) << R"({"kv": "nothing"})";
  expect_bad_use({"eval", "--model", model, "--text", text, "--plan", path("bad.json")}, "nothing");
  expect_bad_use({"eval", "--model", model, "--text", text, "--lengths", "512"}, "--lengths = 512");
  expect_bad_use({"eval", "--model", model, "--text", text, "--report", text}, "--report");
  std::ofstream(path("model/tokenizer.json")) << "{}";
  expect_bad_use({"eval", "--model", model, "--text", text}, "pass them by --tokens");
}

TEST_F(Eval, BadUseNamesWhatIsAllowed) {
  expect_bad_use({"eval"}, "--model DIR or --kv DIR");
  expect_bad_use({"eval", "--kv", sample(), "--plan", "kv=nothing"}, "f32, f16, bf16, int8, fp8");
  expect_bad_use({"eval", "--kv", sample(), "--plan", "kw=int8"}, "kw");
  expect_bad_use({"eval", "--kv", sample(), "--plan", "kv=nqkv:g65"}, "32, 64, 128 or 256");
  expect_bad_use({"eval", "--model", path("nowhere")}, "nowhere");
  expect_bad_use({"eval", "--model", repository("tests/data/llama/random-mistral")}, "eval.json");
  expect_bad_use({"eval", "--kv", sample(), "--threads", "-1"}, "--threads");
  expect_bad_use({"eval", "--kv", sample(), "--skip", "nothing"}, "divergence");
}

}  // namespace
}  // namespace kvcodec::cli_test
