// Plans: parsing, printing.
#include "kvcodec/plan/plan.hpp"

#include <algorithm>
#include <cmath>
#if !defined(KVCODEC_NO_JSON)
#include <nlohmann/json.hpp>
#endif

#include "kvcodec/codec/make_codec.hpp"
#include "kvcodec/core/options.hpp"
#include "kvcodec/plan/calibration.hpp"
#include "kvcodec/plan/named_plans.hpp"
#include "kvcodec/policy/builtin.hpp"
#include "kvcodec/transform/builtin.hpp"

namespace kvcodec {
namespace {

constexpr const char* kKeys =
    "k, v, kv, sink, recent, flush, rollback, policy, kraw, vraw, raw, page, rope, calibration";
constexpr const char* kMeanHelp = "n<rows>: 1..1000000 (default 256)";

[[noreturn]] void fail(const std::string& what) { throw invalid_argument("plan: " + what); }

std::string trim(const std::string& text) {
  const std::size_t first = text.find_first_not_of(" \t\n");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\n") - first + 1);
}

std::int32_t parse_count(const std::string& key, const std::string& value, long low, long high) {
  long n = 0;
  if (!parse_int(value, low, high, n)) {
    fail(key + " = \"" + value + "\", allowed: " + std::to_string(low) + ".." +
         std::to_string(high));
  }
  return static_cast<std::int32_t>(n);
}

DType parse_dtype(const std::string& key, const std::string& value) {
  for (const DType t : {DType::f32, DType::f16, DType::bf16}) {
    if (value == to_string(t)) return t;
  }
  fail(key + " = \"" + value + "\", allowed: f32, f16, bf16");
}

/// Sets the center of a side from "mean[:n<rows>]"; false if the part is something else.
bool set_center(SideConfig& side, const std::string& part) {
  const std::size_t colon = part.find(':');
  if (part.substr(0, colon) != "mean") return false;
  if (side.center.kind != Centering::Kind::none) fail("\"mean\" stands twice in one side");
  side.center.kind = Centering::Kind::prompt;
  if (colon == std::string::npos) return true;
  const std::string options = part.substr(colon + 1);
  long n = 0;
  if (options.empty() || options[0] != 'n' || !parse_int(options.substr(1), 1, 1000000, n)) {
    throw invalid_argument(bad_value("mean", "options", options, kMeanHelp));
  }
  side.center.n_rows = static_cast<std::int32_t>(n);
  return true;
}

void set_side(SideConfig& side, const std::string& value) {
  std::vector<std::string> parts = split_options(value, '+');
  if (parts.empty()) parts.emplace_back();
  side.transform = {};
  side.center = {};
  for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
    const std::string part = trim(parts[i]);
    if (!set_center(side, part)) side.transform.append(make_transform(part));
  }
  side.codec = make_codec<CacheCodecs>(trim(parts.back()));
}

/// theta^(-2 i / head_dim), the usual ones; an engine with others sets them itself.
std::vector<double> rope_frequencies(const std::string& value, std::int32_t head_dim) {
  float theta = 0.0f;
  if (!parse_float(value, 1.0f, 1e9f, theta)) {
    fail("rope = \"" + value + "\", allowed: a base of 1..1e9, such as 10000");
  }
  std::vector<double> f;
  for (std::int32_t i = 0; i < head_dim / 2; ++i) {
    f.push_back(std::pow(static_cast<double>(theta), -2.0 * i / head_dim));
  }
  return f;
}

void set_key(CacheConfig& config, LayerConfig& layer, const std::string& key,
             const std::string& value) {
  if (key == "k" || key == "kv") set_side(layer.k, value);
  if (key == "v" || key == "kv") set_side(layer.v, value);
  if (key == "kraw" || key == "raw") layer.k.raw_dtype = parse_dtype(key, value);
  if (key == "vraw" || key == "raw") layer.v.raw_dtype = parse_dtype(key, value);
  if (key == "sink") layer.n_sink = parse_count(key, value, 0, 65536);
  if (key == "recent") layer.n_recent = parse_count(key, value, 0, 65536);
  if (key == "flush") layer.flush_rows = parse_count(key, value, kTileRows, 65536);
  if (key == "policy") layer.policy = make_policy(value);
  if (key == "rollback") layer.rollback_rows = parse_count(key, value, 0, 65536);
  if (key == "rope") config.rope_frequencies = rope_frequencies(value, config.shape.head_dim);
  if (key == "calibration") config.calibration = value;
  if (key == "page") config.page_size = parse_count(key, value, kTileRows, 65536);
}

void check_key(const std::string& key, bool all_layers) {
  const auto keys = split_options(kKeys, ',');
  const bool known =
      std::any_of(keys.begin(), keys.end(), [&](const std::string& k) { return trim(k) == key; });
  if (!known) fail("unknown key \"" + key + "\", allowed: " + kKeys);
  if ((key == "page" || key == "rope" || key == "calibration") && !all_layers) {
    fail("key " + key + " is for all layers, not for some of them");
  }
}

struct LayerRange {
  std::size_t first;
  std::size_t last;
};

LayerRange parse_layers(const std::string& text, std::size_t n_layers) {
  const std::size_t dash = text.find('-');
  const long highest = static_cast<long>(n_layers) - 1;
  long first = 0;
  long last = highest;
  const bool good =
      parse_int(text.substr(0, dash), 0, highest, first) &&
      (dash == std::string::npos
           ? (last = first, true)
           : dash + 1 == text.size() || parse_int(text.substr(dash + 1), first, highest, last));
  if (!good) {
    fail("layers = \"" + text + "\", allowed: n, a-b or a- within 0.." + std::to_string(highest));
  }
  return {static_cast<std::size_t>(first), static_cast<std::size_t>(last)};
}

void apply(CacheConfig& config, LayerRange range, bool all_layers, const std::string& key,
           const std::string& value) {
  check_key(key, all_layers);
  for (std::size_t l = range.first; l <= range.last; ++l) {
    set_key(config, config.layers[l], key, value);
  }
}

void apply_text(CacheConfig& config, const std::string& plan) {
  for (const std::string& part : split_options(plan, ';')) {
    std::string section = trim(part);
    LayerRange range{0, config.layers.size() - 1};
    const bool some_layers = !section.empty() && section[0] >= '0' && section[0] <= '9';
    if (some_layers) {
      const std::size_t colon = section.find(':');
      if (colon == std::string::npos)
        fail("section \"" + section + "\" has no \":\" after its layers");
      range = parse_layers(trim(section.substr(0, colon)), config.layers.size());
      section = section.substr(colon + 1);
    }
    for (const std::string& setting : split_options(section, ',')) {
      const std::size_t equals = setting.find('=');
      if (equals == std::string::npos) {
        fail("setting \"" + trim(setting) + "\" is not key=value, keys: " + kKeys);
      }
      apply(config, range, !some_layers, trim(setting.substr(0, equals)),
            trim(setting.substr(equals + 1)));
    }
  }
}

#if defined(KVCODEC_NO_JSON)
void apply_json(CacheConfig&, const std::string&) { fail("this build reads no JSON"); }
#else
void apply_object(CacheConfig& config, LayerRange range, bool all_layers,
                  const nlohmann::json& object) {
  for (const auto& [key, value] : object.items()) {
    if (all_layers && key == "layers") continue;
    if (!value.is_string() && !value.is_number_integer()) {
      fail("JSON key \"" + key + "\" = " + value.dump() + ", allowed: a string or a whole number");
    }
    apply(config, range, all_layers, key,
          value.is_string() ? value.get<std::string>() : value.dump());
  }
}

void apply_json(CacheConfig& config, const std::string& plan) {
  const nlohmann::json object = nlohmann::json::parse(plan, nullptr, false);
  if (!object.is_object()) fail("the text starts with \"{\" but is not a JSON object");
  apply_object(config, {0, config.layers.size() - 1}, true, object);
  if (!object.contains("layers")) return;
  if (!object["layers"].is_object())
    fail("JSON key \"layers\" must be an object: {\"0-1\": {...}}");
  for (const auto& [layers, settings] : object["layers"].items()) {
    if (!settings.is_object()) fail("JSON layers \"" + layers + "\" must hold an object");
    apply_object(config, parse_layers(layers, config.layers.size()), false, settings);
  }
}
#endif  // KVCODEC_NO_JSON

/// Names alone do not bind static scales.
void check_bound(SideConfig side, std::size_t layer) {
  side.transform.for_each([&](const AnyTransform& t) {
    const auto* affine = t.as<ChannelAffine>();
    if (affine == nullptr || affine->bound()) return;
    fail("layer " + std::to_string(layer) +
         ": transform affine needs the plan key calibration=FILE (see kvcodec calibrate)");
  });
}

std::string side_text(const SideConfig& side) {
  std::string text;
  if (side.center.kind == Centering::Kind::prompt) {
    text += "mean:n" + std::to_string(side.center.n_rows) + "+";
  }
  if (!side.transform.is_identity()) text += side.transform.name() + "+";
  return text + side.codec.name();
}

std::string layer_text(const LayerConfig& layer) {
  std::string text = "k=" + side_text(layer.k) + ",v=" + side_text(layer.v) +
                     ",recent=" + std::to_string(layer.n_recent) +
                     ",sink=" + std::to_string(layer.n_sink);
  if (layer.flush_rows != kTileRows) text += ",flush=" + std::to_string(layer.flush_rows);
  if (layer.policy) text += ",policy=" + layer.policy.name();
  if (layer.rollback_rows != 0) text += ",rollback=" + std::to_string(layer.rollback_rows);
  if (layer.k.raw_dtype) text += std::string(",kraw=") + to_string(*layer.k.raw_dtype);
  if (layer.v.raw_dtype) text += std::string(",vraw=") + to_string(*layer.v.raw_dtype);
  return text;
}

}  // namespace

CacheConfig make_cache_config(const std::string& plan, const HeadShape& shape,
                              std::int32_t n_layers, std::int64_t max_tokens,
                              std::int32_t max_sequences) {
  if (n_layers < 1 || n_layers > 65536) {
    throw invalid_argument(bad_value("make_cache_config", "n_layers", n_layers, "1..65536"));
  }
  CacheConfig config;
  config.shape = shape;
  config.max_tokens = max_tokens;
  config.max_sequences = max_sequences;
  config.layers.resize(static_cast<std::size_t>(n_layers));
  for (LayerConfig& layer : config.layers) layer.n_recent = kDefaultRecent;
  std::string text = trim(plan);
  if (is_named_plan(text)) text = named_plan(text, n_layers);
  if (!text.empty() && text[0] == '{') apply_json(config, text);
  else apply_text(config, text);
  if (!config.calibration.empty()) {
    apply_calibration(config,
                      std::make_shared<const Calibration>(read_calibration(config.calibration)));
  }
  for (std::size_t l = 0; l < config.layers.size(); ++l) {
    const LayerConfig& layer = config.layers[l];
    check_bound(layer.k, l);
    check_bound(layer.v, l);
    if (layer.k.codec && layer.v.codec) continue;
    fail("layer " + std::to_string(l) + " has no codec for " + (layer.k.codec ? "v" : "k") +
         ", codecs: " + codec_families<CacheCodecs>());
  }
  return config;
}

std::string to_plan(const CacheConfig& config) {
  std::string text;
  for (std::size_t l = 0; l < config.layers.size();) {
    const std::string settings = layer_text(config.layers[l]);
    std::size_t end = l + 1;
    while (end < config.layers.size() && layer_text(config.layers[end]) == settings) ++end;
    if (!text.empty()) text += ";";
    if (l != 0 || end != config.layers.size()) {
      text += std::to_string(l) + "-" + std::to_string(end - 1) + ":";
    }
    text += settings;
    l = end;
  }
  if (!config.calibration.empty()) text += ";calibration=" + config.calibration;
  if (config.page_size != kTileRows) text += ";page=" + std::to_string(config.page_size);
  return text;
}

std::string plan_help() {
  std::string text = "codecs:\n";
  CacheCodecs::for_each(
      [&]<class C>() { text += std::string("  ") + C::family + "  " + C::options_help + "\n"; });
  text += "transforms (in front of a codec, with +):\n";
  BuiltinTransforms::for_each(
      [&]<class T>() { text += std::string("  ") + T::family + "  " + T::options_help + "\n"; });
  text +=
      std::string("  mean  channel mean of the first rows, removed exactly; ") + kMeanHelp + "\n";
  text += "policies (policy=...):\n  none  every token stays\n";
  BuiltinPolicies::for_each(
      [&]<class P>() { text += std::string("  ") + P::family + "  " + P::options_help + "\n"; });
  return text + "keys: " + kKeys + "\nplans by name: " + named_plans() + "\n";
}

}  // namespace kvcodec
