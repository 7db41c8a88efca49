// What kvcodec needs to know of a Hugging Face `config.json`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace llama {

/// How positions are stretched beyond the length a model was trained on.
enum class RopeScaling : std::uint8_t {
  none,
  linear,  ///< every frequency divided by `factor`
  llama3,  ///< only low frequencies divided; see rope_frequencies()
};

/// Rotary position embedding in the `rotate_half` convention: channel pairs (i, i + head_dim / 2).
struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::none;
  double factor = 1.0;                     ///< linear, llama3
  double low_freq_factor = 1.0;            ///< llama3
  double high_freq_factor = 4.0;           ///< llama3
  std::int32_t original_max_position = 0;  ///< llama3: length in training, in tokens
};

/// One model, checked: every field is in range and every combination is supported.
struct Config {
  std::string architecture;  ///< "LlamaForCausalLM", "MistralForCausalLM" or "Qwen2ForCausalLM"
  std::int32_t hidden_size = 0;
  std::int32_t n_layers = 0;
  std::int32_t n_q_heads = 0;
  std::int32_t n_kv_heads = 0;
  std::int32_t head_dim = 0;  ///< even; a KV cache asks for more, see kvcodec::HeadShape
  std::int32_t intermediate_size = 0;
  std::int32_t vocab_size = 0;
  std::int32_t max_position = 0;  ///< longest sequence, in tokens
  float rms_norm_eps = 0.0f;
  bool tie_word_embeddings = false;  ///< the embedding table is the output matrix too
  bool qkv_bias = false;             ///< q, k and v projections have biases
  bool o_bias = false;               ///< the output projection of attention has one
  RopeConfig rope;
  /// [n_layers] newest tokens a query sees, itself included; 0: all of them.
  std::vector<std::int32_t> window;
};

/// Reads the text of a `config.json`; `source` names it in messages.
///
/// Throws corrupt_data if it is not JSON, invalid_argument if a field is missing, has the wrong
/// type or is out of range, unsupported for a model that this engine cannot run.
Config parse_config(const std::string& text, const std::string& source = "config.json");

/// Reads folder/config.json.
Config read_config(const std::filesystem::path& folder);

}  // namespace llama
