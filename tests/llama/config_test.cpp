#include "examples/llama/config.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>

#include "examples/llama/rope.hpp"
#include "kvcodec/core/error.hpp"

namespace llama {
namespace {

using nlohmann::json;

json good() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"hidden_size", 256},
          {"num_hidden_layers", 4},
          {"num_attention_heads", 8},
          {"num_key_value_heads", 2},
          {"intermediate_size", 640},
          {"vocab_size", 300},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 500000.0},
          {"max_position_embeddings", 4096},
          {"hidden_act", "silu"}};
}

json with(const json& change) {
  json j = good();
  j.merge_patch(change);
  return j;
}

// merge_patch drops null fields, which is what is wanted for "missing"; this one sets them.
json with_null(const char* name) {
  json j = good();
  j[name] = nullptr;
  return j;
}

// Expects parse_config to throw exactly E with a message that holds every text.
template <class E>
void expect_error(const json& j, const std::vector<std::string>& texts) {
  try {
    parse_config(j.dump());
    FAIL() << "accepted " << j.dump();
  } catch (const kvcodec::error& e) {
    EXPECT_EQ(typeid(e), typeid(E)) << e.what();
    for (const std::string& text : texts) {
      EXPECT_NE(std::string(e.what()).find(text), std::string::npos)
          << "\"" << text << "\" is not in: " << e.what();
    }
  }
}

TEST(LlamaConfig, ReadsAllFields) {
  const Config c = parse_config(good().dump());
  EXPECT_EQ(c.architecture, "LlamaForCausalLM");
  EXPECT_EQ(c.hidden_size, 256);
  EXPECT_EQ(c.n_layers, 4);
  EXPECT_EQ(c.n_q_heads, 8);
  EXPECT_EQ(c.n_kv_heads, 2);
  EXPECT_EQ(c.head_dim, 32);
  EXPECT_EQ(c.intermediate_size, 640);
  EXPECT_EQ(c.vocab_size, 300);
  EXPECT_EQ(c.max_position, 4096);
  EXPECT_FLOAT_EQ(c.rms_norm_eps, 1e-5f);
  EXPECT_DOUBLE_EQ(c.rope.theta, 500000.0);
  EXPECT_EQ(c.rope.scaling, RopeScaling::none);
  EXPECT_FALSE(c.tie_word_embeddings || c.qkv_bias || c.o_bias);
  EXPECT_EQ(c.window, std::vector<std::int32_t>(4, 0));
}

TEST(LlamaConfig, DefaultsFollowHuggingFace) {
  json j = with({{"num_key_value_heads", nullptr}, {"rope_theta", nullptr}});
  j["head_dim"] = nullptr;
  j["rope_scaling"] = nullptr;
  const Config c = parse_config(j.dump());
  EXPECT_EQ(c.n_kv_heads, 8);
  EXPECT_EQ(c.head_dim, 32);
  EXPECT_DOUBLE_EQ(c.rope.theta, 10000.0);
}

TEST(LlamaConfig, BiasDependsOnArchitecture) {
  const Config llama = parse_config(with({{"attention_bias", true}}).dump());
  EXPECT_TRUE(llama.qkv_bias && llama.o_bias);
  const Config qwen = parse_config(with({{"architectures", {"Qwen2ForCausalLM"}}}).dump());
  EXPECT_TRUE(qwen.qkv_bias);
  EXPECT_FALSE(qwen.o_bias);
}

TEST(LlamaConfig, SlidingWindowDependsOnArchitecture) {
  const json size = {{"sliding_window", 64}};
  const auto window = [](json j) { return parse_config(j.dump()).window; };
  EXPECT_EQ(window(with(size))[0], 0) << "Llama has no window";
  json j = with({{"architectures", {"MistralForCausalLM"}}});
  j["sliding_window"] = nullptr;
  EXPECT_EQ(window(j)[0], 0);
  j["sliding_window"] = 64;
  EXPECT_EQ(window(j), std::vector<std::int32_t>(4, 64));
  j["architectures"][0] = "Qwen2ForCausalLM";
  EXPECT_EQ(window(j)[0], 0) << "Qwen2 only with use_sliding_window";
  j["use_sliding_window"] = true;
  j["max_window_layers"] = 3;
  EXPECT_EQ(window(j), (std::vector<std::int32_t>{0, 0, 0, 64}));
  j["layer_types"] = {"sliding_attention", "full_attention", "full_attention", "full_attention"};
  EXPECT_EQ(window(j), (std::vector<std::int32_t>{64, 0, 0, 0}));
}

TEST(LlamaConfig, ReadsBothSpellingsOfRopeScaling) {
  const json linear = {{"rope_scaling", {{"type", "linear"}, {"factor", 4.0}}}};
  const Config a = parse_config(with(linear).dump());
  EXPECT_EQ(a.rope.scaling, RopeScaling::linear);
  EXPECT_DOUBLE_EQ(a.rope.factor, 4.0);
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  const Config b = parse_config(with({{"rope_scaling", llama3}}).dump());
  EXPECT_EQ(b.rope.scaling, RopeScaling::llama3);
  EXPECT_EQ(b.rope.original_max_position, 8192);
  const json newer = {{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e6}}}};
  const Config c = parse_config(with(newer).dump());
  EXPECT_EQ(c.rope.scaling, RopeScaling::none);
  EXPECT_DOUBLE_EQ(c.rope.theta, 1e6);
}

TEST(LlamaConfig, Llama3FrequenciesKeepHighBlendMiddleStretchLow) {
  RopeConfig plain{.theta = 500000.0};
  RopeConfig scaled{.theta = 500000.0,
                    .scaling = RopeScaling::llama3,
                    .factor = 8.0,
                    .low_freq_factor = 1.0,
                    .high_freq_factor = 4.0,
                    .original_max_position = 8192};
  const auto f = rope_frequencies(plain, 128);
  const auto g = rope_frequencies(scaled, 128);
  EXPECT_DOUBLE_EQ(g[0], 1.0);
  EXPECT_DOUBLE_EQ(g[63], f[63] / 8.0);
  // Pair 32: 8192 * 500000^-0.5 / 2 pi = 1.84381 turns, so (1.84381 - 1) / 3 of it is kept.
  const double keep = (8192.0 * f[32] / (2.0 * 3.14159265358979323846) - 1.0) / 3.0;
  EXPECT_NEAR(keep, 0.28127, 1e-4);
  EXPECT_NEAR(g[32], f[32] * (keep + (1.0 - keep) / 8.0), 1e-15);
}

TEST(LlamaConfig, RefusesDamagedText) {
  EXPECT_THROW(parse_config("{\"hidden_size\": 25"), kvcodec::corrupt_data);
  EXPECT_THROW(parse_config(""), kvcodec::corrupt_data);
  EXPECT_THROW(parse_config("[1]"), kvcodec::corrupt_data);
  EXPECT_THROW(read_config("/nonexistent"), kvcodec::invalid_argument);
}

TEST(LlamaConfig, NamesMissingFields) {
  for (const char* name :
       {"architectures", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "intermediate_size", "vocab_size", "rms_norm_eps", "max_position_embeddings"}) {
    json j = good();
    j.erase(name);
    expect_error<kvcodec::invalid_argument>(j, {std::string("field ") + name + " is missing"});
    expect_error<kvcodec::invalid_argument>(with_null(name), {std::string(name) + " = null"});
  }
}

TEST(LlamaConfig, NamesBadValues) {
  using Bad = kvcodec::invalid_argument;
  expect_error<Bad>(with({{"hidden_size", "256"}}), {"hidden_size = \"256\"", "1..16777216"});
  expect_error<Bad>(with({{"hidden_size", 256.5}}), {"hidden_size = 256.5"});
  expect_error<Bad>(with({{"hidden_size", -1}}), {"hidden_size = -1"});
  expect_error<Bad>(with({{"vocab_size", 0}}), {"vocab_size = 0"});
  expect_error<Bad>(with({{"vocab_size", 18446744073709551615u}}), {"vocab_size = 18446744"});
  expect_error<Bad>(with({{"num_hidden_layers", 1000000}}), {"num_hidden_layers = 1000000"});
  expect_error<Bad>(with({{"num_key_value_heads", 3}}),
                    {"num_key_value_heads = 3", "divisor of num_attention_heads = 8"});
  expect_error<Bad>(with({{"hidden_size", 250}}), {"num_attention_heads = 8", "hidden_size = 250"});
  expect_error<Bad>(with({{"head_dim", 33}}), {"head_dim = 33", "even"});
  expect_error<Bad>(with({{"rms_norm_eps", 0}}), {"rms_norm_eps = 0", "above 0"});
  expect_error<Bad>(with({{"rope_theta", "big"}}), {"rope_theta = \"big\""});
  expect_error<Bad>(with({{"tie_word_embeddings", 1}}),
                    {"tie_word_embeddings = 1", "true or false"});
  expect_error<Bad>(with({{"architectures", "LlamaForCausalLM"}}), {"architectures = "});
  expect_error<Bad>(with({{"rope_scaling", 2}}), {"rope_scaling = 2", "object"});
  expect_error<Bad>(with({{"rope_scaling", {{"factor", 2.0}}}}),
                    {"rope_scaling", "type is missing"});
  expect_error<Bad>(with({{"rope_scaling", {{"type", "linear"}}}}),
                    {"rope_scaling", "factor is missing"});
  expect_error<Bad>(with({{"architectures", {"MistralForCausalLM"}}, {"sliding_window", 0}}),
                    {"sliding_window = 0"});
}

TEST(LlamaConfig, NamesWhatIsUnsupported) {
  using No = kvcodec::unsupported;
  expect_error<No>(with({{"architectures", {"GPT2LMHeadModel"}}}),
                   {"GPT2LMHeadModel", "MistralForCausalLM"});
  expect_error<No>(with({{"hidden_act", "gelu"}}), {"hidden_act = \"gelu\"", "silu"});
  expect_error<No>(with({{"mlp_bias", true}}), {"mlp_bias = true"});
  expect_error<No>(with({{"quantization_config", {{"bits", 4}}}}), {"quantization_config"});
  expect_error<No>(with({{"partial_rotary_factor", 0.5}}), {"partial_rotary_factor = 0.5"});
  for (const char* kind : {"dynamic", "yarn", "longrope"}) {
    for (const char* key : {"type", "rope_type"}) {
      expect_error<No>(with({{"rope_scaling", {{key, kind}, {"factor", 2.0}}}}),
                       {"rope_scaling", std::string(key) + " = \"" + kind, "llama3"});
    }
  }
}

}  // namespace
}  // namespace llama
