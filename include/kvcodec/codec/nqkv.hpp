// Codecs "nqkv" (NF4, the paper's table), "nqsym" (its symmetric sibling) and "nqfit" (levels fitted to
// the rule that uses them): 4-bit indices into a table of 16 levels and one f16 scale per group of a
// token's values. The tables stand in nqkv_table.hpp.
//
// Source   NQKV, arXiv 2505.16210 (blockwise NF4 along the token); table of QLoRA, arXiv 2305.14314.
//          nqfit: the idea of a scale that carries the sign of the largest value, and of levels fitted
//          to it, is that of BOF4-S (arXiv 2505.06653); its table and search are ours.
// Bytes    head_span planes of codes, 4 bits per value (tile_layout.hpp), one per head; then one
//          plane of f16 scales per group, groups in channel order (head 0's first).
// Group    `group` neighbouring values of one token share a scale: inside a head, where the last
//          group is short if head_dim is no multiple of it, or, with a group that is a multiple of
//          head_dim, across neighbouring heads (256 is the paper's).
// Scale    a = f16(m): rounded to storage first, then used, so that the rounding of the scale costs
//          nothing but at most 2^-11 of clipping. m = max |x|; nqfit: the x of largest |x|, with its
//          sign, of equals the first. Optional: a = f16(multiplier * m), or ("search") the best by
//          squared error of f16(m) and 36 such multipliers, of which nqfit turns the sign of every
//          second. Of equals the first is taken. A scale that rounds to zero is stored as +0.
// Code     number of thresholds t with x / a > t: a value equal to a threshold goes down.
//          a = 0: every code is Table::zero_code, a level close to zero (nqkv: exactly 0).
// Value    a * table[code], one f32 product.
// Limits   |x| above 65504 is clamped to it. Groups whose maximum rounds to f16 zero decode to 0.
// Size     4 + 16 / group bits per value: 4.5, 4.25, 4.125, 4.0625 for 32, 64, 128, 256.
//
// No token ever affects another. The NF4 table is not symmetric: decoded values carry a small mean
// error that attention over many values does not average out. Prefer "nqfit" or "nqsym" for V: of the
// one the sign follows the data, of the other the levels come in pairs.
#pragma once

#include "kvcodec/codec/codec.hpp"
#include "kvcodec/codec/nqkv_table.hpp"
#include "kvcodec/codec/tile_format.hpp"
#include "kvcodec/core/arith.hpp"
#include "kvcodec/core/dtype.hpp"
#include "kvcodec/core/error.hpp"
#include "kvcodec/core/options.hpp"

namespace kvcodec {

/// How a group's scale follows from its values.
enum class ScaleRule : std::uint8_t {
  absmax,  ///< multiplier * the largest value
  search,  ///< the multiplier of kFirst + i * kStep with the smallest squared error
};

template <class Table>
struct NormalQuantile {
  static constexpr const char* family = Table::family;
  static constexpr const char* options_help =
      "g<group>: 32, 64, 128 or 256 (default 64); x<multiplier>: 0.5..1 (default 1); search";
  static constexpr bool bit_exact = true;
  static constexpr int kCandidates = 36;
  static constexpr float kFirst = 0.7f;
  static constexpr float kStep = 0.0125f;

  std::int32_t group = 64;
  float multiplier = 1.0f;
  ScaleRule rule = ScaleRule::absmax;

  static NormalQuantile parse(const std::string& options);
  std::string name() const;

  KVCODEC_HD constexpr int head_span(int head_dim) const noexcept {
    return group > head_dim ? group / head_dim : 1;
  }
  KVCODEC_HD constexpr bool supports(int head_dim) const noexcept {
    if (head_dim < kMinHeadDim || head_dim > kMaxHeadDim || head_dim % kLanes != 0) return false;
    if (group != 32 && group != 64 && group != 128 && group != 256) return false;
    return group <= head_dim || group % head_dim == 0;
  }
  KVCODEC_HD constexpr std::size_t tile_bytes(int head_dim) const noexcept {
    return scale_offset(head_dim) + kScalePlaneBytes * static_cast<std::size_t>(n_groups(head_dim));
  }
  /// Scales per token in a tile.
  KVCODEC_HD constexpr int n_groups(int head_dim) const noexcept {
    return (head_span(head_dim) * head_dim + group - 1) / group;
  }
  /// Offset of the first plane of scales; the planes of codes of all heads stand before it.
  KVCODEC_HD constexpr std::size_t scale_offset(int head_dim) const noexcept {
    return static_cast<std::size_t>(head_span(head_dim)) *
           layout(Side::key, head_dim).plane_bytes();
  }
  /// See tile_format.hpp.
  bool tile_format(Side, int head_dim, TileFormat& f) const noexcept {
    f = {TileFormat::Level::table, 4, head_dim, group,
         static_cast<std::uint32_t>(scale_offset(head_dim))};
    for (int i = 0; i < 16; ++i) f.table[i] = Table::table.level[i];
    return true;
  }
  constexpr LossBounds loss(int head_dim) const noexcept;

  /// Index of the level for x / scale; `ratio` may be any number, NaN excluded.
  KVCODEC_HD static constexpr int code_of(float ratio) noexcept {
    int code = 0;
    for (int i = 0; i < 15; ++i) code += ratio > threshold_of(i) ? 1 : 0;
    return code;
  }

  KVCODEC_HD constexpr int n_parts(Side, int) const noexcept { return kTileRows; }

  template <class Out>
  KVCODEC_HD bool encode_part(Side side, int head_dim, const float* x, int row_stride, int row,
                              Out out) const noexcept {
    const TileLayout at = layout(side, head_dim);
    const int width = head_span(head_dim) * head_dim;
    float values[kMaxTileWidth];
    std::uint8_t codes[kMaxTileWidth];
    const bool finite = load_finite(x + row * row_stride, width, kF16Max, values);
    for (int first = 0; first < width; first += group) {
      const int n = width - first < group ? width - first : group;
      const f16 scale = scale_for(values + first, n);
      put_scale(scale_plane(own_bytes(out), head_dim, first), row, scale.bits);
      put_codes(values + first, n, to_f32(scale), codes + first);
    }
    for (int head = 0; head * head_dim < width; ++head) {
      at.put_row(out + at.plane_bytes() * static_cast<std::size_t>(head), row,
                 codes + head * head_dim);
    }
    return finite;
  }

  KVCODEC_HD void decode_part(Side side, int head_dim, const std::byte* in, int row, float* x,
                              int row_stride) const noexcept {
    const TileLayout at = layout(side, head_dim);
    const int width = head_span(head_dim) * head_dim;
    for (int channel = 0; channel < width; ++channel) {
      const float scale = to_f32(f16{get_scale(scale_plane(in, head_dim, channel), row)});
      const std::byte* plane = in + at.plane_bytes() * static_cast<std::size_t>(channel / head_dim);
      x[row * row_stride + channel] = scale * level_of(at.get(plane, row, channel % head_dim));
    }
  }

  KVCODEC_HD bool encode_tile(Side side, int head_dim, const float* x,
                              std::byte* out) const noexcept {
    return encode_parts(*this, side, head_dim, x, out);
  }

  KVCODEC_HD void decode_tile(Side side, int head_dim, const std::byte* in,
                              float* x) const noexcept {
    decode_parts(*this, side, head_dim, in, x);
  }

  KVCODEC_HD void copy_rows(Side side, int head_dim, const std::byte* from, std::byte* to,
                            int begin, int end) const noexcept {
    const TileLayout at = layout(side, head_dim);
    for (int head = 0; head < head_span(head_dim); ++head) {
      const std::size_t offset = at.plane_bytes() * static_cast<std::size_t>(head);
      copy_codes(at, from + offset, to + offset, begin, end);
    }
    for (int g = 0; g < n_groups(head_dim); ++g) {
      const std::size_t offset =
          scale_offset(head_dim) + kScalePlaneBytes * static_cast<std::size_t>(g);
      copy_scales(from + offset, to + offset, begin, end);
    }
  }

 private:
  // Device code cannot read a static member array, but it can hold a constant of its own.
  KVCODEC_HD static constexpr float level_of(std::uint32_t code) noexcept {
    constexpr LevelTable table = Table::table;
    return table.level[code];
  }
  KVCODEC_HD static constexpr float threshold_of(int i) noexcept {
    constexpr LevelTable table = Table::table;
    return table.threshold[i];
  }

  KVCODEC_HD static constexpr TileLayout layout(Side side, int head_dim) noexcept {
    return {side, 4, head_dim};
  }

  /// Plane of scales of the group that holds `channel`, counted over the heads of the tile.
  template <class Byte>
  KVCODEC_HD Byte* scale_plane(Byte* tile, int head_dim, int channel) const noexcept {
    return tile + scale_offset(head_dim) +
           kScalePlaneBytes * static_cast<std::size_t>(channel / group);
  }

  KVCODEC_HD f16 scale_for(const float* values, int n) const noexcept {
    const float largest = largest_of(values, n);
    const f16 scale =
        rule == ScaleRule::absmax ? to_f16(multiplier * largest) : search_scale(values, n, largest);
    return to_f32(scale) == 0.0f ? f16{0} : scale;
  }

  /// max |x|; with a signed scale the value itself, the first of equals.
  KVCODEC_HD static float largest_of(const float* values, int n) noexcept {
    if constexpr (!Table::signed_scale) return largest_magnitude(values, n);
    float largest = 0.0f;
    for (int i = 0; i < n; ++i) {
      largest = abs_of(values[i]) > abs_of(largest) ? values[i] : largest;
    }
    return largest;
  }

  KVCODEC_HD static f16 search_scale(const float* values, int n, float largest) noexcept {
    f16 best = to_f16(largest);
    double best_error = squared_error(values, n, to_f32(best));
    for (int i = 0; i < kCandidates; ++i) {
      const float factor = __builtin_fmaf(kStep, static_cast<float>(i), kFirst);
      const float signed_factor = Table::signed_scale && i % 2 != 0 ? -factor : factor;
      const f16 candidate = to_f16(clamp_finite(signed_factor * largest, kF16Max));
      const double error = squared_error(values, n, to_f32(candidate));
      if (error < best_error) {
        best = candidate;
        best_error = error;
      }
    }
    return best;
  }

  /// Every product here is exact in float64, so that the choice of a scale cannot depend on which
  /// of them a compiler fuses with an addition.
  KVCODEC_HD static double squared_error(const float* values, int n, float scale) noexcept {
    std::uint8_t codes[kMaxTileWidth];
    put_codes(values, n, scale, codes);
    double sum = 0.0;
    for (int i = 0; i < n; ++i) {
      const double level = static_cast<double>(level_of(codes[i]));
      const auto error = static_cast<double>(
          static_cast<float>(static_cast<double>(values[i]) - static_cast<double>(scale) * level));
      sum += error * error;
    }
    return sum;
  }

  KVCODEC_HD static void put_codes(const float* values, int n, float scale,
                                   std::uint8_t* codes) noexcept {
    if (scale == 0.0f) {
      for (int i = 0; i < n; ++i) codes[i] = Table::zero_code;
      return;
    }
    for (int i = 0; i < n; ++i) codes[i] = static_cast<std::uint8_t>(code_of(values[i] / scale));
  }
};

template <class Table>
NormalQuantile<Table> NormalQuantile<Table>::parse(const std::string& options) {
  NormalQuantile codec;
  for (const std::string& option : split_options(options)) {
    const std::string digits = option.empty() ? "" : option.substr(1);
    if (option == "search") {
      codec.rule = ScaleRule::search;
    } else if (option[0] == 'g' &&
               (digits == "32" || digits == "64" || digits == "128" || digits == "256")) {
      codec.group = std::stoi(digits);
    } else if (option[0] == 'x' && parse_float(digits, 0.5f, 1.0f, codec.multiplier)) {
      continue;
    } else {
      throw invalid_argument(bad_value(family, "option", option, options_help));
    }
  }
  if (codec.rule == ScaleRule::search && codec.multiplier != 1.0f) {
    throw invalid_argument(bad_value(family, "options", options, "either search or x<multiplier>"));
  }
  return codec;
}

template <class Table>
std::string NormalQuantile<Table>::name() const {
  std::string text = std::string(family) + ":g" + std::to_string(group);
  if (multiplier != 1.0f) text += ":x" + format_float(multiplier);
  if (rule == ScaleRule::search) text += ":search";
  return text;
}

template <class Table>
constexpr LossBounds NormalQuantile<Table>::loss(int head_dim) const noexcept {
  const int size = group == 32 ? 0 : group == 64 ? 1 : group == 128 ? 2 : 3;
  const double mean = Table::loss[rule == ScaleRule::search ? 1 : 0][size];
  if (multiplier != 1.0f) return {0.85 * mean, 10.0 * mean};
  const bool has_short_group = group < head_dim && head_dim % group != 0;
  if (has_short_group) return {0.85 * mean, 1.03 * mean};
  return {0.97 * mean, 1.03 * mean};
}

/// The paper's codec.
using Nqkv = NormalQuantile<Nf4Table>;
/// The same bytes with the symmetric table.
using NqkvSymmetric = NormalQuantile<SymmetricTable>;
/// The same bytes, except that scales have a sign, with the fitted table.
using NqkvFitted = NormalQuantile<FittedTable>;

static_assert(RowCodec<Nqkv> && RowCodec<NqkvSymmetric> && RowCodec<NqkvFitted>);
static_assert(PartedCodec<Nqkv> && PartedCodec<NqkvSymmetric> && PartedCodec<NqkvFitted>);

}  // namespace kvcodec
