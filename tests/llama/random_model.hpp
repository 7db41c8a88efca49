// A model folder with random weights, for tests that need a model but not its text.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

namespace llama::testing {

/// Two layers, hidden 64, four query heads over two KV heads of 64, vocabulary 256.
inline nlohmann::json small_config() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"hidden_size", 64},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 64},
          {"intermediate_size", 100},
          {"vocab_size", 256},
          {"rms_norm_eps", 1e-5},
          {"max_position_embeddings", 512},
          {"tie_word_embeddings", true}};
}

/// Collects tensors and writes them as one model.safetensors in F32.
class TensorWriter {
 public:
  explicit TensorWriter(std::uint64_t seed) : random_(seed) {}

  void add(const std::string& name, std::vector<std::int64_t> shape, float mean, float spread) {
    std::int64_t n = 1;
    for (const std::int64_t size : shape) n *= size;
    header_[name] = {
        {"dtype", "F32"},
        {"shape", shape},
        {"data_offsets", {data_.size(), data_.size() + 4 * static_cast<std::size_t>(n)}}};
    std::normal_distribution<float> normal(mean, spread);
    for (std::int64_t i = 0; i < n; ++i) {
      const float value = normal(random_);
      char raw[sizeof(float)];
      std::memcpy(raw, &value, sizeof raw);
      data_.append(raw, sizeof raw);
    }
  }

  void add_linear(const std::string& name, std::int64_t n_out, std::int64_t n_in, bool bias) {
    // Gains above 1 keep attention far from uniform, so that a wrong row shows.
    add(name + ".weight", {n_out, n_in}, 0.0f, 1.5f / std::sqrt(static_cast<float>(n_in)));
    if (bias) add(name + ".bias", {n_out}, 0.0f, 1.0f);
  }

  void write(const std::filesystem::path& path) const {
    const std::string header = header_.dump();
    std::ofstream out(path, std::ios::binary);
    for (int i = 0; i < 8; ++i) out.put(static_cast<char>((header.size() >> (8 * i)) & 255u));
    out << header << data_;
  }

 private:
  std::mt19937_64 random_;
  nlohmann::json header_;
  std::string data_;
};

/// Writes config.json and model.safetensors for `config` into `folder`.
inline void write_random_model(const std::filesystem::path& folder, const nlohmann::json& config,
                               std::uint64_t seed) {
  const auto size = [&](const char* name) { return config.at(name).get<std::int64_t>(); };
  const std::int64_t hidden = size("hidden_size"), inner = size("intermediate_size");
  const std::int64_t q = size("num_attention_heads") * size("head_dim");
  const std::int64_t kv = size("num_key_value_heads") * size("head_dim");
  const bool bias = config.at("architectures")[0] == "Qwen2ForCausalLM";
  TensorWriter tensors(seed);
  tensors.add("model.embed_tokens.weight", {size("vocab_size"), hidden}, 0.0f, 0.5f);
  for (std::int64_t i = 0; i < size("num_hidden_layers"); ++i) {
    const std::string p = "model.layers." + std::to_string(i) + ".";
    tensors.add(p + "input_layernorm.weight", {hidden}, 1.0f, 0.2f);
    tensors.add(p + "post_attention_layernorm.weight", {hidden}, 1.0f, 0.2f);
    tensors.add_linear(p + "self_attn.q_proj", q, hidden, bias);
    tensors.add_linear(p + "self_attn.k_proj", kv, hidden, bias);
    tensors.add_linear(p + "self_attn.v_proj", kv, hidden, bias);
    tensors.add_linear(p + "self_attn.o_proj", hidden, q, false);
    tensors.add_linear(p + "mlp.gate_proj", inner, hidden, false);
    tensors.add_linear(p + "mlp.up_proj", inner, hidden, false);
    tensors.add_linear(p + "mlp.down_proj", hidden, inner, false);
  }
  tensors.add("model.norm.weight", {hidden}, 1.0f, 0.2f);
  if (!config.value("tie_word_embeddings", false)) {
    tensors.add_linear("lm_head", size("vocab_size"), hidden, false);
  }
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << config.dump();
  tensors.write(folder / "model.safetensors");
}

}  // namespace llama::testing
