#include "examples/llama/weight_format.hpp"

#include "kvcodec/core/error.hpp"

namespace llama {

std::string WeightFormat::name() const {
  return quantized() ? "w" + std::to_string(bits) + ":g" + std::to_string(group) : "f32";
}

WeightFormat parse_weight_format(const std::string& text) {
  if (text == "f32") return {};
  if (text == "w4") return {.bits = 4, .group = 128, .clip = {}};
  for (const std::int32_t group : {32, 64, 128}) {
    WeightFormat format{.bits = 4, .group = group, .clip = {}};
    if (text == format.name()) return format;
  }
  throw kvcodec::invalid_argument(
      kvcodec::bad_value("weights", "format", text, "f32, w4, w4:g32, w4:g64, w4:g128"));
}

void check(const WeightFormat& format, std::int32_t n_layers) {
  const auto fail = [](const char* name, const auto& value, const std::string& allowed) {
    throw kvcodec::invalid_argument(kvcodec::bad_value("weights", name, value, allowed));
  };
  if (format.bits != 32 && format.bits != 4) fail("bits", format.bits, "32 (f32) or 4");
  if (format.group != 32 && format.group != 64 && format.group != 128) {
    fail("group", format.group, "32, 64 or 128");
  }
  if (!format.clip.empty() && format.clip.size() != static_cast<std::size_t>(n_layers)) {
    fail("clip.size()", format.clip.size(), "0 or the layers, " + std::to_string(n_layers));
  }
  for (const float clip : format.clip) {
    if (!(clip > 0.0f && clip <= 1.0f)) fail("clip", clip, "above 0, at most 1");
  }
}

}  // namespace llama
