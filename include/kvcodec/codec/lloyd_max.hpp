// Codec "lm": Lloyd-Max codes of 1 to 4 bits and one f16 scale per token and head.
//
// Source   the MSE stage of TurboQuant, arXiv 2504.19874; scale rule `unbiased` of RaBitQ, arXiv
//          2405.12497. Meant behind "hadamard+": the tables are optimal for rows that a rotation
//          has made Gaussian, and poor for a row with a few large channels.
// Bytes    planes of codes of `bits` bits per value (code_planes.hpp; 3 bits: a 2-bit plane, then a
//          1-bit plane); then one plane of f16 scales, row r at byte 2 r.
// Code     number of thresholds t with x / rms > t, rms = f32(sqrt(mean of x^2)); a value equal to a
//          threshold goes down. Levels and thresholds: lloyd_max_table.hpp. The code does not
//          depend on the scale rule.
// Scale    with l the levels of a row's codes, <.,.> in float64, rounded to f32 and then to f16:
//            mse       <x,l> / <l,l>   the least squared error (default)
//            unbiased  <x,x> / <x,l>   q . k without bias over random rotations: for keys
//            norm      |x| / |l|       keeps the length of the row
//            rms       rms             TurboQuant's
// Value    scale * level[code], one f32 product.
// Limits   |x| above 65504 is clamped to it, and so is the scale. A row whose scale rounds to f16
//          zero has scale 0 and code 2^(bits-1) everywhere; it decodes to zeros.
// Size     bits + 16 / head_dim bits per value; with 1 or 3 bits and a head_dim that is no multiple
//          of 32 the 1-bit plane is padded to one (head_dim 80: 1.4 and 3.4 bits).
//
// The paper's 4-bit error is 0.0095 and not 0.009; its second stage (QJL of the residual) is left
// out: at every width it has 2.7 to 7.5 times the error of rule `unbiased` with the same bytes.
#pragma once

#include <cmath>

#include "kvcodec/codec/code_planes.hpp"
#include "kvcodec/codec/codec.hpp"
#include "kvcodec/codec/lloyd_max_table.hpp"
#include "kvcodec/codec/tile_format.hpp"
#include "kvcodec/core/arith.hpp"
#include "kvcodec/core/dtype.hpp"
#include "kvcodec/core/error.hpp"
#include "kvcodec/core/options.hpp"

namespace kvcodec {

struct LloydMax {
  /// What a row's scale is for.
  enum class Rule : std::uint8_t { mse, unbiased, norm, rms };

  static constexpr const char* family = "lm";
  static constexpr const char* options_help =
      "b1, b2, b3 or b4: bits (default b4); mse, unbiased, norm or rms: scale rule (default mse)";
  static constexpr bool bit_exact = true;

  std::int32_t bits = 4;
  Rule rule = Rule::mse;

  static LloydMax parse(const std::string& options);
  std::string name() const;

  KVCODEC_HD constexpr int head_span(int) const noexcept { return 1; }
  KVCODEC_HD constexpr bool supports(int head_dim) const noexcept {
    return head_dim >= kMinHeadDim && head_dim <= kMaxHeadDim && head_dim % kLanes == 0;
  }
  KVCODEC_HD constexpr std::size_t tile_bytes(int head_dim) const noexcept {
    return scale_offset(head_dim) + kScalePlaneBytes;
  }
  /// Offset of the plane of scales.
  KVCODEC_HD constexpr std::size_t scale_offset(int head_dim) const noexcept {
    return planes(Side::key, head_dim).bytes();
  }
  KVCODEC_HD constexpr CodePlanes planes(Side side, int head_dim) const noexcept {
    return {side, bits, head_dim};
  }
  /// See tile_format.hpp.
  bool tile_format(Side, int head_dim, TileFormat& f) const noexcept {
    f = {TileFormat::Level::table, bits, head_dim, head_dim,
         static_cast<std::uint32_t>(scale_offset(head_dim))};
    const LloydMaxTable levels = lloyd_max_table(bits, head_dim);
    for (int i = 0; i < levels.n_levels; ++i) f.table[i] = levels.level[i];
    return true;
  }
  LossBounds loss(int head_dim) const noexcept;

  KVCODEC_HD constexpr int n_parts(Side, int) const noexcept { return kTileRows; }

  template <class Out>
  KVCODEC_HD bool encode_part(Side side, int head_dim, const float* x, int row_stride, int row,
                              Out out) const noexcept {
    return encode_row(lloyd_max_table(bits, head_dim), side, head_dim, x + row * row_stride, row,
                      out);
  }

  KVCODEC_HD void decode_part(Side side, int head_dim, const std::byte* in, int row, float* x,
                              int row_stride) const noexcept {
    decode_row(lloyd_max_table(bits, head_dim), side, head_dim, in, row, x + row * row_stride);
  }

  // The parts one after the other, with one table for all of them.
  KVCODEC_HD bool encode_tile(Side side, int head_dim, const float* x,
                              std::byte* out) const noexcept {
    const LloydMaxTable table = lloyd_max_table(bits, head_dim);
    planes(side, head_dim).clear_padding(out);
    bool finite = true;
    for (int row = 0; row < kTileRows; ++row) {
      finite &= encode_row(table, side, head_dim, x + row * head_dim, row, out);
    }
    return finite;
  }

  KVCODEC_HD void decode_tile(Side side, int head_dim, const std::byte* in,
                              float* x) const noexcept {
    const LloydMaxTable table = lloyd_max_table(bits, head_dim);
    for (int row = 0; row < kTileRows; ++row) {
      decode_row(table, side, head_dim, in, row, x + row * head_dim);
    }
  }

  KVCODEC_HD void copy_rows(Side side, int head_dim, const std::byte* from, std::byte* to,
                            int begin, int end) const noexcept {
    planes(side, head_dim).copy_rows(from, to, begin, end);
    const std::size_t scales = scale_offset(head_dim);
    copy_scales(from + scales, to + scales, begin, end);
  }

  /// Root mean square of a row of n values. Every product is exact in float64, so that no compiler
  /// can change the sum by fusing.
  KVCODEC_HD static float rms_of(int n, const float* values) noexcept {
    double sum = 0.0;
    for (int c = 0; c < n; ++c) {
      sum += static_cast<double>(values[c]) * static_cast<double>(values[c]);
    }
    return static_cast<float>(sqrt(sum / static_cast<double>(n)));
  }

  /// Codes of a row of n finite values; 0 where the root mean square is 0.
  KVCODEC_HD static void put_codes(const LloydMaxTable& table, int n, const float* values,
                                   std::uint8_t* codes) noexcept {
    const float rms = rms_of(n, values);
    for (int c = 0; c < n; ++c) codes[c] = 0;
    if (!(rms > 0.0f)) return;
    float ratios[kMaxHeadDim];
    for (int c = 0; c < n; ++c) ratios[c] = values[c] / rms;
    for (int i = 0; i + 1 < table.n_levels; ++i) {
      const float threshold = table.threshold[i];
      for (int c = 0; c < n; ++c) {
        codes[c] = static_cast<std::uint8_t>(codes[c] + (ratios[c] > threshold ? 1 : 0));
      }
    }
  }

  /// The scale of a row before it is stored, from its values and codes; 0 for a row of zeros.
  KVCODEC_HD static float scale_for(Rule rule, const LloydMaxTable& table, int n,
                                    const float* values, const std::uint8_t* codes) noexcept {
    double xx = 0.0;
    double xl = 0.0;
    double ll = 0.0;
    for (int c = 0; c < n; ++c) {
      const auto x = static_cast<double>(values[c]);
      const auto level = static_cast<double>(table.level[codes[c]]);
      xx += x * x;
      xl += x * level;
      ll += level * level;
    }
    if (!(xx > 0.0) || !(xl > 0.0)) return 0.0f;
    switch (rule) {
      case Rule::unbiased: return static_cast<float>(xx / xl);
      case Rule::norm: return static_cast<float>(sqrt(xx / ll));
      case Rule::rms: return rms_of(n, values);
      default: return static_cast<float>(xl / ll);
    }
  }

 private:
  /// x [head_dim]: row `row` of the tile.
  template <class Out>
  KVCODEC_HD bool encode_row(const LloydMaxTable& table, Side side, int head_dim, const float* x,
                             int row, Out out) const noexcept {
    float values[kMaxHeadDim];
    std::uint8_t codes[kMaxHeadDim];
    const bool finite = load_finite(x, head_dim, kF16Max, values);
    put_codes(table, head_dim, values, codes);
    const float scale = scale_for(rule, table, head_dim, values, codes);
    const f16 stored = to_f16(clamp_finite(scale, kF16Max));
    if (stored.bits == 0) {
      for (int c = 0; c < head_dim; ++c) codes[c] = static_cast<std::uint8_t>(1 << (bits - 1));
    }
    planes(side, head_dim).put_row(out, row, codes);
    put_scale(out + scale_offset(head_dim), row, stored.bits);
    return finite;
  }

  KVCODEC_HD void decode_row(const LloydMaxTable& table, Side side, int head_dim,
                             const std::byte* in, int row, float* x) const noexcept {
    std::uint8_t codes[kMaxHeadDim];
    planes(side, head_dim).get_row(in, row, codes);
    const float scale = to_f32(f16{get_scale(in + scale_offset(head_dim), row)});
    for (int c = 0; c < head_dim; ++c) x[c] = scale * table.level[codes[c]];
  }
};

inline LloydMax LloydMax::parse(const std::string& options) {
  LloydMax codec;
  bool has_bits = false;
  bool has_rule = false;
  for (const std::string& option : split_options(options)) {
    const bool is_bits =
        option.size() == 2 && option[0] == 'b' && option[1] >= '1' && option[1] <= '4';
    const bool is_rule =
        option == "mse" || option == "unbiased" || option == "norm" || option == "rms";
    if ((!is_bits && !is_rule) || (is_bits && has_bits) || (is_rule && has_rule)) {
      throw invalid_argument(bad_value(family, "option", option, options_help));
    }
    if (is_bits) codec.bits = option[1] - '0';
    if (option == "unbiased") codec.rule = Rule::unbiased;
    if (option == "norm") codec.rule = Rule::norm;
    if (option == "rms") codec.rule = Rule::rms;
    has_bits |= is_bits;
    has_rule |= is_rule;
  }
  return codec;
}

inline std::string LloydMax::name() const {
  constexpr const char* suffixes[] = {"", ":unbiased", ":norm", ":rms"};
  return std::string(family) + ":b" + std::to_string(bits) + suffixes[static_cast<int>(rule)];
}

inline LossBounds LloydMax::loss(int head_dim) const noexcept {
  // The mean of sin^2 of the angle between a row and its levels is a little below the distortion,
  // since the best scale of a row follows the row; the share was measured, all else is algebra.
  constexpr double kShare[4] = {0.0, 0.8, 1.7, 2.2};
  const double rms = lloyd_max_distortion(bits, head_dim);
  const double sine = rms * (1.0 - kShare[bits - 1] / head_dim);
  const double mean = rule == Rule::unbiased ? sine / (1.0 - sine)
                      : rule == Rule::norm   ? 2.0 - 2.0 * std::sqrt(1.0 - sine)
                      : rule == Rule::rms    ? rms
                                             : sine;
  return {0.97 * mean, 1.03 * mean};
}

static_assert(RowCodec<LloydMax> && PartedCodec<LloydMax>);

}  // namespace kvcodec
