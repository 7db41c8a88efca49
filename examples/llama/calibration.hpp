// Finds static shifts, scales and clip factors for a model: WKVQuant's cross-layer reconstruction
// (arXiv 2402.12065) without gradients.
//
// Layer after layer. With x a channel of K (after position encoding) or V over the calibration
// tokens, everything follows from a few choices per layer and side:
//
//   shift   nothing, the middle (max + min) / 2, or the mean
//   scale   (max |x - shift|)^alpha
//   clip    of the codec's groups; with 4-bit weights also a factor on their ranges
//
// The choices of layer i are judged by what they do to the layers behind it: from the hidden states
// that the already quantized layers give, run layer i quantized and layers i+1..i+k in full
// precision; the loss is the mean absolute difference from the full-precision model's hidden
// states, averaged over the outputs of layers i..i+k. Then a search along one choice at a time.
//
// Keys and values are quantized past-only: a token sees its own row exactly.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "examples/llama/model.hpp"
#include "kvcodec/plan/calibration.hpp"

namespace llama {

/// How a channel's shift is found.
enum class ShiftRule : std::uint8_t { none, middle, mean };

/// "none", "middle" or "mean"; static storage.
const char* to_string(ShiftRule rule) noexcept;

struct CalibrationOptions {
  std::int32_t bits = 4;     ///< of codes of K and V: 2, 3, 4 or 8
  std::int32_t group = 128;  ///< channels that share a step: 32, 64 or 128
  std::int32_t k = 5;        ///< layers behind the quantized one that the loss looks at, >= 0
  bool last_only = false;    ///< loss after the last of them only
  bool search = true;        ///< false: the closed-form start is the result
  /// Exponents of the scale, in [0, 1]; at least one. 0: no scale.
  std::vector<float> alphas = {0.0f, 0.5f, 0.7f, 0.85f, 1.0f};
  /// f32, or the 4-bit form that the model will run with; its clip must be empty: it is searched.
  WeightFormat weights;
  /// Told now and then how much is done, in per mille of an estimate.
  std::function<void(int per_mille)> progress = {};
};

/// What the search chose for one side of one layer.
struct SideChoice {
  ShiftRule shift = ShiftRule::middle;
  float alpha = 0.0f;
  float clip = 1.0f;
};

/// One layer.
struct LayerReport {
  SideChoice k, v;
  float weight_clip = 1.0f;
  double plain = 0.0;    ///< loss with neither shift nor scale
  double initial = 0.0;  ///< loss of the closed-form start
  double final = 0.0;    ///< loss of the choice; never above initial
  std::int64_t n_tried = 0;
};

/// The whole model, all layers quantized, against the full-precision one.
struct StreamReport {
  double hidden_error = 0.0;  ///< mean absolute difference after the last layer
  double kl_bits = 0.0;       ///< mean of sum p log2(p / p quantized) over the tokens
};

struct CalibrationResult {
  kvcodec::Calibration calibration;  ///< numbers are f16 values
  std::vector<LayerReport> layers;
  StreamReport plain, initial, final;
  std::int64_t n_tokens = 0;
};

/// Text sampled from the model itself at temperature 1: it needs no data and is independent of any
/// test set.
struct SampledText {
  std::int64_t n_tokens = 2048;     ///< in all, >= 1
  std::int64_t length = 2048;       ///< of one sequence at most; the model may allow less
  std::int32_t start_token = '\n';  ///< first token of every sequence
  std::uint64_t seed = 1;
};

/// Sequences of that text. Throws invalid_argument naming the field.
std::vector<std::vector<std::int32_t>> sample_text(const Model& model, const SampledText& options);

/// Calibrates `model`, which must be in f32, on sequences of tokens. Deterministic, whatever the
/// number of threads. model and made_by of the result are left empty.
///
/// Throws invalid_argument naming the option or sequence that is out of range.
CalibrationResult calibrate(const Model& model,
                            const std::vector<std::vector<std::int32_t>>& sequences,
                            const CalibrationOptions& options);

}  // namespace llama
