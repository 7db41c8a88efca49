// How the weights of a model are kept in memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace llama {

/// Full precision, or 4 bits for the linear layers: q, k, v, o, gate, up and down of every layer.
/// The embedding, the output matrix, norms and biases stay in f32.
struct WeightFormat {
  std::int32_t bits = 32;    ///< 32 or 4
  std::int32_t group = 128;  ///< 32, 64 or 128 weights of one output share a step; only for 4 bits
  /// [n_layers] in (0, 1]: how much of each group's own best range is kept, as a calibration found
  /// it; empty: 1 everywhere. Only for 4 bits.
  std::vector<float> clip;

  bool quantized() const noexcept { return bits != 32; }
  /// "f32" or "w4:g128".
  std::string name() const;
};

/// Parses "f32", "w4", "w4:g32", "w4:g64", "w4:g128". Throws invalid_argument listing them.
WeightFormat parse_weight_format(const std::string& text);

/// Throws invalid_argument naming the field that is out of range.
void check(const WeightFormat& format, std::int32_t n_layers);

}  // namespace llama
