// What a calibration found for one model: static shifts and scales, clip factors, as a file.
//
// WKVQuant (arXiv 2402.12065) quantizes y = (x - shift) / scale, shift and scale being fixed per
// layer, KV head and channel. `kvcodec calibrate` finds them; a cache only reads them.
//
// File     JSON, one object; numbers are written with the digits that bring back the same float
//   "format": "kvcodec-calibration", "version": 1
//   "model", "made_by"                        text
//   "n_layers", "n_kv_heads", "head_dim"      whole numbers
//   "k", "v": {"bits", "group",               what they were found for
//              "clip": [n_layers],
//              "shift", "scale": [n_layers][n_kv_heads][head_dim]}
//   "weights": {"format", "clip": [n_layers]} only if weights were quantized too
// Unknown fields are ignored; another version is refused.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kvcodec/cache/cache_config.hpp"
#include "kvcodec/codec/tile_layout.hpp"
#include "kvcodec/core/shape.hpp"
#include "kvcodec/transform/channel_affine.hpp"

namespace kvcodec {

/// Version of the calibration file.
inline constexpr int kCalibrationVersion = 1;

/// Keys or values of all layers.
struct SideCalibration {
  std::int32_t bits = 4;     ///< bits per code that clip was found for, 1..8
  std::int32_t group = 128;  ///< channels that share a step, 1..256
  /// [n_layers, n_kv_heads, head_dim] in the model's units: rows are stored as (x - shift) / scale.
  std::vector<float> shift;
  std::vector<float> scale;  ///< the same shape; above 0
  /// [n_layers] what of a group's range is kept, about its middle; above 0, at most 1.
  std::vector<float> clip;
};

/// A whole model.
struct Calibration {
  std::string model;    ///< name of the model
  std::string made_by;  ///< how it was made, for a reader
  std::int32_t n_layers = 0;
  std::int32_t n_kv_heads = 0;
  std::int32_t head_dim = 0;
  SideCalibration k;
  SideCalibration v;
  std::string weights;             ///< format of quantized weights, e.g. "w4:g128"; empty: none
  std::vector<float> weight_clip;  ///< [n_layers] if weights are quantized, else empty; (0, 1]

  const SideCalibration& side(Side s) const noexcept { return s == Side::key ? k : v; }
  /// Factors of one layer, for ChannelAffine::bind; valid as long as this object is unchanged.
  ChannelScales scales(Side s, std::int32_t layer) const noexcept {
    return {side(s).scale.data() + offset(layer), n_kv_heads, head_dim};
  }
  /// [n_kv_heads, head_dim] of one layer.
  std::span<const float> shift(Side s, std::int32_t layer) const noexcept {
    return std::span(side(s).shift).subspan(offset(layer), layer_size());
  }
  float clip(Side s, std::int32_t layer) const noexcept {
    return side(s).clip[static_cast<std::size_t>(layer)];
  }

 private:
  std::size_t layer_size() const noexcept {
    return static_cast<std::size_t>(n_kv_heads) * static_cast<std::size_t>(head_dim);
  }
  std::size_t offset(std::int32_t layer) const noexcept {
    return static_cast<std::size_t>(layer) * layer_size();
  }
};

/// Throws invalid_argument naming the first field that is out of range, its value and what is
/// allowed.
void check(const Calibration& calibration);

/// Throws invalid_argument unless the calibration is for a model of this shape.
void check_fits(const Calibration& calibration, const HeadShape& shape, std::int32_t n_layers);

/// Binds every transform "affine" of `config` to its layer's scales, makes the layer's shift the fixed
/// center of that side, unless it has a center of its own, and gives codecs "wkv" without a clip of
/// their own the layer's, if bits and group are those it was found for. `config` keeps the
/// calibration alive. Throws as check_fits.
void apply_calibration(CacheConfig& config, std::shared_ptr<const Calibration> calibration);

/// Throws invalid_argument if the file cannot be read, corrupt_data naming the field that is
/// missing, of the wrong type or out of range.
Calibration read_calibration(const std::filesystem::path& file);

/// Writes the file as a whole or not at all. Throws what check() throws; error if it cannot.
void write_calibration(const Calibration& calibration, const std::filesystem::path& file);

}  // namespace kvcodec
