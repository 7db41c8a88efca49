#include "examples/llama/config.hpp"

#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "kvcodec/core/error.hpp"

namespace llama {
namespace {

using nlohmann::json;

constexpr std::int32_t kMaxSize = 1 << 24;

// Typed access to one JSON object. A null field counts as absent, as in Hugging Face's own reader.
class Fields {
 public:
  Fields(const json& object, std::string where) : object_(object), where_(std::move(where)) {}

  bool has(const char* name) const {
    const auto it = object_.find(name);
    return it != object_.end() && !it->is_null();
  }

  const json& at(const char* name) const { return object_.at(name); }

  [[noreturn]] void fail(const char* name, const std::string& allowed) const {
    throw kvcodec::invalid_argument(message(name, allowed));
  }

  [[noreturn]] void refuse(const char* name, const std::string& allowed) const {
    throw kvcodec::unsupported(message(name, allowed));
  }

  std::int32_t integer(const char* name, std::int32_t low, std::int32_t high = kMaxSize) const {
    const std::string allowed =
        "an integer in " + std::to_string(low) + ".." + std::to_string(high);
    if (!has(name) || !at(name).is_number_integer()) fail(name, allowed);
    // A number above int64's range reads as unsigned; both views must be in range.
    const json& v = at(name);
    const bool fits = v.is_number_unsigned()
                          ? v.get<std::uint64_t>() <= static_cast<std::uint64_t>(high)
                          : v.get<std::int64_t>() <= high;
    if (!fits || v.get<std::int64_t>() < low) fail(name, allowed);
    return static_cast<std::int32_t>(v.get<std::int64_t>());
  }

  std::int32_t integer_or(const char* name, std::int32_t low, std::int32_t value) const {
    return has(name) ? integer(name, low) : value;
  }

  // Finite and above zero.
  double positive(const char* name) const {
    const char* allowed = "a number above 0";
    if (!has(name) || !at(name).is_number()) fail(name, allowed);
    const double v = at(name).get<double>();
    if (!(v > 0.0) || v > std::numeric_limits<float>::max()) fail(name, allowed);
    return v;
  }

  bool flag_or(const char* name, bool value) const {
    if (!has(name)) return value;
    if (!at(name).is_boolean()) fail(name, "true or false");
    return at(name).get<bool>();
  }

  std::string text_or(const char* name, const std::string& value) const {
    if (!has(name)) return value;
    if (!at(name).is_string()) fail(name, "a string");
    return at(name).get<std::string>();
  }

  // A nested object.
  Fields object(const char* name) const {
    if (!at(name).is_object()) fail(name, "an object or null");
    return {at(name), where_ + ": " + name};
  }

 private:
  std::string message(const char* name, const std::string& allowed) const {
    if (!object_.contains(name)) {
      return where_ + ": field " + name + " is missing, expected: " + allowed;
    }
    return where_ + ": " + name + " = " + at(name).dump() + ", allowed: " + allowed;
  }

  const json& object_;
  std::string where_;
};

std::string read_architecture(const Fields& f) {
  const char* allowed =
      "[\"LlamaForCausalLM\"], [\"MistralForCausalLM\"] or [\"Qwen2ForCausalLM\"]";
  if (!f.has("architectures")) f.fail("architectures", allowed);
  const json& list = f.at("architectures");
  if (!list.is_array() || list.size() != 1 || !list[0].is_string()) {
    f.fail("architectures", allowed);
  }
  const std::string name = list[0].get<std::string>();
  if (name != "LlamaForCausalLM" && name != "MistralForCausalLM" && name != "Qwen2ForCausalLM") {
    f.refuse("architectures", allowed);
  }
  return name;
}

void read_scaling(const Fields& s, RopeConfig& rope) {
  // "type" is the older spelling; files that carry both repeat the same word.
  const char* key = s.has("rope_type") ? "rope_type" : "type";
  const char* allowed = "\"default\", \"linear\" or \"llama3\"";
  const std::string kind = s.text_or(key, "");
  if (kind == "default") return;
  if (kind == "linear") {
    rope.scaling = RopeScaling::linear;
    rope.factor = s.positive("factor");
    return;
  }
  if (!s.has(key)) s.fail(key, allowed);
  if (kind != "llama3") s.refuse(key, allowed);
  rope.scaling = RopeScaling::llama3;
  rope.factor = s.positive("factor");
  rope.low_freq_factor = s.positive("low_freq_factor");
  rope.high_freq_factor = s.positive("high_freq_factor");
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    s.fail("high_freq_factor", "more than low_freq_factor");
  }
  rope.original_max_position = s.integer("original_max_position_embeddings", 1);
}

RopeConfig read_rope(const Fields& f) {
  RopeConfig rope;
  if (f.has("rope_theta")) rope.theta = f.positive("rope_theta");
  if (f.has("rope_scaling")) read_scaling(f.object("rope_scaling"), rope);
  if (f.has("rope_parameters")) {  // one object for both, written by newer tools
    const Fields p = f.object("rope_parameters");
    if (p.has("rope_theta")) rope.theta = p.positive("rope_theta");
    if (p.has("rope_type") || p.has("type")) read_scaling(p, rope);
  }
  return rope;
}

// The newest tokens each layer sees: see Config::window.
std::vector<std::int32_t> read_window(const Fields& f, const Config& c) {
  std::vector<std::int32_t> window(static_cast<std::size_t>(c.n_layers), 0);
  const bool mistral = c.architecture == "MistralForCausalLM";
  const bool qwen = c.architecture == "Qwen2ForCausalLM" && f.flag_or("use_sliding_window", false);
  if ((!mistral && !qwen) || !f.has("sliding_window")) return window;
  const std::int32_t size = f.integer("sliding_window", 1);
  if (qwen && f.has("layer_types")) {
    const char* allowed = "per layer \"full_attention\" or \"sliding_attention\"";
    const json& types = f.at("layer_types");
    if (!types.is_array() || types.size() != window.size()) f.fail("layer_types", allowed);
    for (std::size_t i = 0; i < window.size(); ++i) {
      if (types[i] == "sliding_attention") {
        window[i] = size;
      } else if (types[i] != "full_attention") {
        f.refuse("layer_types", allowed);
      }
    }
    return window;
  }
  // Qwen2 counts the layers that see everything.
  const std::int32_t first = qwen ? f.integer("max_window_layers", 0) : 0;
  for (std::int32_t i = first; i < c.n_layers; ++i) window[static_cast<std::size_t>(i)] = size;
  return window;
}

void refuse_unsupported(const Fields& f) {
  if (f.text_or("hidden_act", "silu") != "silu") f.refuse("hidden_act", "\"silu\"");
  if (f.flag_or("mlp_bias", false)) f.refuse("mlp_bias", "false");
  if (f.has("quantization_config")) f.refuse("quantization_config", "null: plain weights");
  if (f.has("partial_rotary_factor") && f.positive("partial_rotary_factor") != 1.0) {
    f.refuse("partial_rotary_factor", "1");
  }
}

void read_heads(const Fields& f, Config& c) {
  c.n_q_heads = f.integer("num_attention_heads", 1);
  c.n_kv_heads = f.integer_or("num_key_value_heads", 1, c.n_q_heads);
  if (c.n_q_heads % c.n_kv_heads != 0) {
    f.fail("num_key_value_heads",
           "a divisor of num_attention_heads = " + std::to_string(c.n_q_heads));
  }
  if (!f.has("head_dim") && c.hidden_size % c.n_q_heads != 0) {
    f.fail("num_attention_heads",
           "a divisor of hidden_size = " + std::to_string(c.hidden_size) + ", or give head_dim");
  }
  c.head_dim = f.integer_or("head_dim", 2, c.hidden_size / c.n_q_heads);
  if (c.head_dim < 2 || c.head_dim % 2 != 0) f.fail("head_dim", "an even integer from 2 on");
}

}  // namespace

Config parse_config(const std::string& text, const std::string& source) {
  json root;
  try {
    root = json::parse(text);
  } catch (const json::parse_error& e) {
    throw kvcodec::corrupt_data(source + ": not valid JSON: " + e.what());
  }
  if (!root.is_object()) throw kvcodec::corrupt_data(source + ": not a JSON object");
  const Fields f(root, source);
  Config c;
  c.architecture = read_architecture(f);
  refuse_unsupported(f);
  c.hidden_size = f.integer("hidden_size", 1);
  c.n_layers = f.integer("num_hidden_layers", 1, 4096);
  read_heads(f, c);
  c.intermediate_size = f.integer("intermediate_size", 1);
  c.vocab_size = f.integer("vocab_size", 1);
  c.max_position = f.integer("max_position_embeddings", 1);
  c.rms_norm_eps = static_cast<float>(f.positive("rms_norm_eps"));
  c.tie_word_embeddings = f.flag_or("tie_word_embeddings", false);
  const bool bias = f.flag_or("attention_bias", false);
  c.qkv_bias = bias || c.architecture == "Qwen2ForCausalLM";  // Qwen2 has them without saying so
  c.o_bias = bias && c.architecture == "LlamaForCausalLM";
  c.rope = read_rope(f);
  c.window = read_window(f, c);
  return c;
}

Config read_config(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "config.json";
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    throw kvcodec::invalid_argument("model folder: cannot read " + path.string() +
                                    ", expected: a folder with config.json and model.safetensors");
  }
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  return parse_config(text, path.string());
}

}  // namespace llama
