// Calibration files: checks, reading, writing.
#include "kvcodec/plan/calibration.hpp"

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#if !defined(KVCODEC_NO_JSON)
#include <nlohmann/json.hpp>
#endif

#include "kvcodec/core/dtype.hpp"
#include "kvcodec/core/options.hpp"

namespace kvcodec {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const std::string& field, const std::string& value,
                       const std::string& allowed) {
  throw invalid_argument("calibration: " + field + " = " + value + ", allowed: " + allowed);
}

void check_range(const std::string& field, std::int64_t value, std::int64_t low,
                 std::int64_t high) {
  if (value >= low && value <= high) return;
  fail(field, std::to_string(value), std::to_string(low) + ".." + std::to_string(high));
}

void check_size(const std::string& field, std::size_t size, std::size_t expected) {
  if (size != expected) fail(field, std::to_string(size) + " numbers", std::to_string(expected));
}

// "k.scale[1][0][63]"
std::string element(const std::string& field, std::size_t i, const Calibration& c) {
  const auto d = static_cast<std::size_t>(c.head_dim), h = static_cast<std::size_t>(c.n_kv_heads);
  return field + "[" + std::to_string(i / d / h) + "][" + std::to_string(i / d % h) + "][" +
         std::to_string(i % d) + "]";
}

void check_clip(const std::string& field, const std::vector<float>& clip, std::int32_t n_layers) {
  check_size(field, clip.size(), static_cast<std::size_t>(n_layers));
  for (std::size_t i = 0; i < clip.size(); ++i) {
    if (clip[i] > 0.0f && clip[i] <= 1.0f) continue;
    fail(field + "[" + std::to_string(i) + "]", format_float(clip[i]), "above 0, at most 1");
  }
}

void check_side(const std::string& name, const SideCalibration& side, const Calibration& c) {
  check_range(name + ".bits", side.bits, 1, 8);
  check_range(name + ".group", side.group, 1, kMaxHeadDim);
  check_clip(name + ".clip", side.clip, c.n_layers);
  const std::size_t size = static_cast<std::size_t>(c.n_layers) *
                           static_cast<std::size_t>(c.n_kv_heads) *
                           static_cast<std::size_t>(c.head_dim);
  check_size(name + ".shift", side.shift.size(), size);
  check_size(name + ".scale", side.scale.size(), size);
  for (std::size_t i = 0; i < size; ++i) {
    if (!std::isfinite(side.shift[i])) {
      fail(element(name + ".shift", i, c), format_float(side.shift[i]), "a finite number");
    }
    if (!(side.scale[i] > 0.0f) || !std::isfinite(side.scale[i])) {
      fail(element(name + ".scale", i, c), format_float(side.scale[i]), "above 0 and finite");
    }
  }
}

#if !defined(KVCODEC_NO_JSON)

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "kvcodec-calibration";

// The number with the fewest digits that is read back as the same float.
Json number(float value) { return std::strtod(format_float(value).c_str(), nullptr); }

Json to_json(const std::vector<float>& values) {
  Json out = Json::array();
  for (const float value : values) out.push_back(number(value));
  return out;
}

Json to_json(const std::vector<float>& values, const Calibration& c) {
  Json layers = Json::array();
  auto at = values.begin();
  for (std::int32_t l = 0; l < c.n_layers; ++l) {
    Json heads = Json::array();
    for (std::int32_t h = 0; h < c.n_kv_heads; ++h, at += c.head_dim) {
      heads.push_back(to_json({at, at + c.head_dim}));
    }
    layers.push_back(std::move(heads));
  }
  return layers;
}

Json to_json(const SideCalibration& side, const Calibration& c) {
  return {{"bits", side.bits},
          {"group", side.group},
          {"clip", to_json(side.clip)},
          {"shift", to_json(side.shift, c)},
          {"scale", to_json(side.scale, c)}};
}

// The member `name` of `object`, whose own name in messages is `where` ("" or "k.").
const Json& member(const Json& object, const std::string& where, const char* name) {
  if (!object.is_object() || !object.contains(name)) fail(where + name, "nothing", "a value");
  return object[name];
}

std::int32_t whole_number(const Json& object, const std::string& where, const char* name,
                          std::int64_t low, std::int64_t high) {
  const Json& value = member(object, where, name);
  if (!value.is_number_integer()) fail(where + name, value.dump(), "a whole number");
  check_range(where + name, value.get<std::int64_t>(), low, high);
  return value.get<std::int32_t>();
}

std::string text(const Json& object, const std::string& where, const char* name) {
  const Json& value = member(object, where, name);
  if (!value.is_string()) fail(where + name, value.dump(), "text");
  return value.get<std::string>();
}

void append_numbers(const Json& array, const std::string& field, std::int32_t size,
                    std::vector<float>& out) {
  if (!array.is_array() || array.size() != static_cast<std::size_t>(size)) {
    fail(field, array.is_array() ? std::to_string(array.size()) + " numbers" : array.dump(),
         "a list of " + std::to_string(size) + " numbers");
  }
  for (const Json& value : array) {
    if (!value.is_number()) fail(field, value.dump(), "numbers");
    const auto wide = value.get<double>();
    out.push_back(std::abs(wide) <= double{kF32Max} ? static_cast<float>(wide) : INFINITY);
  }
}

std::vector<float> nested_numbers(const Json& array, const std::string& field,
                                  const Calibration& c) {
  const auto check_list = [](const Json& list, const std::string& name, std::int32_t size) {
    if (list.is_array() && list.size() == static_cast<std::size_t>(size)) return;
    fail(name, list.is_array() ? std::to_string(list.size()) + " lists" : list.dump(),
         std::to_string(size) + " lists");
  };
  std::vector<float> out;
  check_list(array, field, c.n_layers);
  for (std::size_t l = 0; l < array.size(); ++l) {
    const std::string layer = field + "[" + std::to_string(l) + "]";
    check_list(array[l], layer, c.n_kv_heads);
    for (std::size_t h = 0; h < array[l].size(); ++h) {
      append_numbers(array[l][h], layer + "[" + std::to_string(h) + "]", c.head_dim, out);
    }
  }
  return out;
}

SideCalibration read_side(const Json& root, const char* name, const Calibration& c) {
  const Json& object = member(root, "", name);
  const std::string where = std::string(name) + ".";
  SideCalibration side;
  side.bits = whole_number(object, where, "bits", 1, 8);
  side.group = whole_number(object, where, "group", 1, kMaxHeadDim);
  append_numbers(member(object, where, "clip"), where + "clip", c.n_layers, side.clip);
  side.shift = nested_numbers(member(object, where, "shift"), where + "shift", c);
  side.scale = nested_numbers(member(object, where, "scale"), where + "scale", c);
  return side;
}

Calibration from_json(const Json& root) {
  if (text(root, "", "format") != kFormat) fail("format", root["format"].dump(), kFormat);
  whole_number(root, "", "version", kCalibrationVersion, kCalibrationVersion);
  Calibration c;
  c.model = text(root, "", "model");
  c.made_by = text(root, "", "made_by");
  c.n_layers = whole_number(root, "", "n_layers", 1, 65536);
  c.n_kv_heads = whole_number(root, "", "n_kv_heads", 1, 65536);
  c.head_dim = whole_number(root, "", "head_dim", kMinHeadDim, kMaxHeadDim);
  c.k = read_side(root, "k", c);
  c.v = read_side(root, "v", c);
  if (root.contains("weights")) {
    c.weights = text(root["weights"], "weights.", "format");
    append_numbers(member(root["weights"], "weights.", "clip"), "weights.clip", c.n_layers,
                   c.weight_clip);
  }
  check(c);
  return c;
}

#endif  // KVCODEC_NO_JSON

}  // namespace

void check(const Calibration& c) {
  check_range("n_layers", c.n_layers, 1, 65536);
  check_range("n_kv_heads", c.n_kv_heads, 1, 65536);
  check_range("head_dim", c.head_dim, kMinHeadDim, kMaxHeadDim);
  check_side("k", c.k, c);
  check_side("v", c.v, c);
  if (c.weights.empty()) {
    check_size("weights.clip", c.weight_clip.size(), 0);
  } else {
    check_clip("weights.clip", c.weight_clip, c.n_layers);
  }
}

void check_fits(const Calibration& c, const HeadShape& shape, std::int32_t n_layers) {
  const auto same = [](const char* field, std::int32_t own, std::int32_t needed) {
    if (own != needed) fail(field, std::to_string(own), std::to_string(needed) + ", as the model");
  };
  same("n_layers", c.n_layers, n_layers);
  same("n_kv_heads", c.n_kv_heads, shape.n_kv_heads);
  same("head_dim", c.head_dim, shape.head_dim);
}

#if defined(KVCODEC_NO_JSON)

Calibration read_calibration(const fs::path& file) {
  throw unsupported(file.string() + ": this build reads no calibrations");
}

void write_calibration(const Calibration&, const fs::path& file) {
  throw unsupported(file.string() + ": this build writes no calibrations");
}

#else

Calibration read_calibration(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in || fs::is_directory(file)) {
    throw invalid_argument(bad_value("calibration", "file", file.string(), "a readable file"));
  }
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  try {
    return from_json(Json::parse(bytes));
  } catch (const Json::exception& e) {
    throw corrupt_data(file.string() + ": " + e.what());
  } catch (const invalid_argument& e) {
    throw corrupt_data(file.string() + ": " + e.what());
  }
}

void write_calibration(const Calibration& c, const fs::path& file) {
  check(c);
  Json root = {
      {"format", kFormat},      {"version", kCalibrationVersion}, {"model", c.model},
      {"made_by", c.made_by},   {"n_layers", c.n_layers},         {"n_kv_heads", c.n_kv_heads},
      {"head_dim", c.head_dim}, {"k", to_json(c.k, c)},           {"v", to_json(c.v, c)}};
  if (!c.weights.empty()) {
    root["weights"] = {{"format", c.weights}, {"clip", to_json(c.weight_clip)}};
  }
  const fs::path temporary = file.string() + ".tmp" + std::to_string(::getpid());
  std::error_code failed;
  {
    std::ofstream out(temporary, std::ios::binary);
    // One line per field: short enough to look at, and no line per number.
    const char* separator = "{\n";
    for (const auto& [name, value] : root.items()) {
      out << separator << Json(name).dump() << ": "
          << value.dump(-1, ' ', false, Json::error_handler_t::replace);
      separator = ",\n";
    }
    out << "\n}\n";
    if (!out.flush()) failed = std::make_error_code(std::errc::io_error);
  }
  if (!failed) fs::rename(temporary, file, failed);
  if (failed) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw error(file.string() + ": cannot be written: " + failed.message());
  }
}

#endif  // KVCODEC_NO_JSON

}  // namespace kvcodec
