// Codecs "nvfp4" and "mxfp4": 4-bit floats (e2m1) with one 8-bit scale per group of a token's values.
//
// Source   nvfp4: NVIDIA's NVFP4 (Blackwell). mxfp4: OCP Microscaling Formats 1.0.
// Bytes    one plane of codes, 4 bits per value: e2m1 bit patterns (core/small_float.hpp,
//          tile_layout.hpp); then per group one plane of kTileRows bytes: the scale of row r at byte
//          r. Groups in channel order.
// Group    neighbouring channels of one token and head: 16 (nvfp4) or 32 (mxfp4; the last group is
//          short where head_dim is no multiple of 32).
// Scale    stored first, then used as stored; a = max |x| of the group:
//            nvfp4   e4m3(a / (6 s)), to nearest even, saturating; unit u = scale * s. s, the global
//                    scale, is an option and is not stored.
//            mxfp4   e8m0: 2^(floor(log2 a) - 2), at least 2^-127; unit u = scale. a = 0: 2^-127.
// Code     e2m1 level whose product with u is nearest to x, a tie to the even code; each midpoint
//          times u is one f32 product, so the choice is exact wherever that is. Saturating at +-6 u.
//          The sign of zero is kept. A group with u = 0 has codes 0.
// Value    level * u, one f32 product.
// Limits   nvfp4: |x| above 2688 s becomes 2688 s; groups whose a is 6 s 2^-10 or less decode to 0,
//          and scales below 2^-6 lose precision: s = max |x| of the data / 2688 uses the whole range
//          and is what NVIDIA's tools do (their "global scale" is 1 / s, 2688 = 448 * 6).
//          mxfp4: scales reach every f32; where a is 6 u to 8 u the largest values clip to 6 u.
// Size     4 + 8 / group bits per value: 4.5 (nvfp4), 4.25 (mxfp4, head_dim a multiple of 32).
//
// The codes and scale bytes are those of the vendors' formats; the order of the bytes is ours (see
// docs/methods/fp4.md). No token ever affects another.
#pragma once

#include "kvcodec/codec/codec.hpp"
#include "kvcodec/codec/tile_format.hpp"
#include "kvcodec/core/arith.hpp"
#include "kvcodec/core/dtype.hpp"
#include "kvcodec/core/error.hpp"
#include "kvcodec/core/options.hpp"
#include "kvcodec/core/small_float.hpp"

namespace kvcodec {

/// Scales of "nvfp4".
struct NvFp4Scales {
  static constexpr const char* family = "nvfp4";
  static constexpr const char* options_help = "s<scale>: global scale, 1e-30..1e30 (default 1)";
  static constexpr int group = 16;
  static constexpr TileFormat::Stored stored = TileFormat::Stored::e4m3;

  float global = 1.0f;

  static NvFp4Scales parse(const std::string& options) {
    NvFp4Scales scales;
    if (options.empty()) return scales;
    if (options[0] == 's' && parse_float(options.substr(1), 1e-30f, 1e30f, scales.global)) {
      return scales;
    }
    throw invalid_argument(bad_value(family, "options", options, options_help));
  }
  std::string options() const { return ":s" + format_float(global); }

  /// Stored scale of a group whose largest magnitude is `largest`.
  KVCODEC_HD constexpr std::uint8_t stored_for(float largest) const noexcept {
    return to_e4m3(largest / (kE2m1Max * global)).bits;
  }
  KVCODEC_HD constexpr float unit(std::uint8_t bits) const noexcept {
    return to_f32(e4m3{bits}) * global;
  }
  /// What a unit is on top of the stored scale.
  KVCODEC_HD constexpr float unit_factor() const noexcept { return global; }
  /// On unit Gaussian values. For other s, group scales of such values clip or are subnormal; the
  /// error stays below the value itself, because 0 is a level and clipping keeps the sign.
  constexpr LossBounds loss() const noexcept {
    constexpr double kMean = 0.00905;
    if (global >= 0.002f && global <= 2.0f) return {0.97 * kMean, 1.03 * kMean};
    return {0.9 * kMean, 1.0};
  }
};

/// Scales of "mxfp4".
struct MxFp4Scales {
  static constexpr const char* family = "mxfp4";
  static constexpr const char* options_help = "no options";
  static constexpr int group = 32;
  static constexpr TileFormat::Stored stored = TileFormat::Stored::e8m0;

  static MxFp4Scales parse(const std::string& options) {
    if (!options.empty()) throw invalid_argument(bad_value(family, "options", options, "none"));
    return {};
  }
  std::string options() const { return ""; }

  KVCODEC_HD constexpr std::uint8_t stored_for(float largest) const noexcept {
    return largest > 0.0f ? to_e8m0(floor_log2(largest) - 2).bits : std::uint8_t{0};
  }
  KVCODEC_HD constexpr float unit(std::uint8_t bits) const noexcept { return to_f32(e8m0{bits}); }
  KVCODEC_HD constexpr float unit_factor() const noexcept { return 1.0f; }
  constexpr LossBounds loss() const noexcept { return {0.97 * 0.01321, 1.03 * 0.01321}; }
};

template <class Scales>
struct Fp4 {
  static constexpr const char* family = Scales::family;
  static constexpr const char* options_help = Scales::options_help;
  static constexpr bool bit_exact = true;

  Scales scales;

  static Fp4 parse(const std::string& options) { return {Scales::parse(options)}; }
  std::string name() const { return family + scales.options(); }

  KVCODEC_HD constexpr int head_span(int) const noexcept { return 1; }
  KVCODEC_HD constexpr bool supports(int head_dim) const noexcept {
    return head_dim >= kMinHeadDim && head_dim <= kMaxHeadDim && head_dim % kLanes == 0;
  }
  KVCODEC_HD constexpr std::size_t tile_bytes(int head_dim) const noexcept {
    return scale_offset(head_dim, 0) + static_cast<std::size_t>(n_groups(head_dim) * kTileRows);
  }
  /// Scales per token.
  KVCODEC_HD constexpr int n_groups(int head_dim) const noexcept {
    return (head_dim + Scales::group - 1) / Scales::group;
  }
  /// Offset of the plane of scales of the group that holds `channel`.
  KVCODEC_HD constexpr std::size_t scale_offset(int head_dim, int channel) const noexcept {
    return layout(Side::key, head_dim).plane_bytes() +
           static_cast<std::size_t>(channel / Scales::group * kTileRows);
  }
  /// See tile_format.hpp.
  bool tile_format(Side, int head_dim, TileFormat& f) const noexcept {
    f = {TileFormat::Level::table,
         4,
         head_dim,
         Scales::group,
         static_cast<std::uint32_t>(scale_offset(head_dim, 0)),
         0,
         scales.unit_factor()};
    for (int code = 0; code < 16; ++code) {
      f.table[code] = to_f32(e2m1{static_cast<std::uint8_t>(code)});
    }
    f.stored = Scales::stored;
    return true;
  }
  constexpr LossBounds loss(int) const noexcept { return scales.loss(); }

  KVCODEC_HD constexpr int n_parts(Side, int) const noexcept { return kTileRows; }

  template <class Out>
  KVCODEC_HD bool encode_part(Side side, int head_dim, const float* x, int row_stride, int row,
                              Out out) const noexcept {
    float values[kMaxHeadDim];
    std::uint8_t codes[kMaxHeadDim];
    const bool finite = load_finite(x + row * row_stride, head_dim, kF32Max, values);
    for (int first = 0; first < head_dim; first += Scales::group) {
      const int n = head_dim - first < Scales::group ? head_dim - first : Scales::group;
      const std::uint8_t stored = scales.stored_for(largest_magnitude(values + first, n));
      own_bytes(out)[scale_offset(head_dim, first) + static_cast<std::size_t>(row)] =
          std::byte{stored};
      put_codes(values + first, n, scales.unit(stored), codes + first);
    }
    layout(side, head_dim).put_row(out, row, codes);
    return finite;
  }

  KVCODEC_HD void decode_part(Side side, int head_dim, const std::byte* in, int row, float* x,
                              int row_stride) const noexcept {
    std::uint8_t codes[kMaxHeadDim];
    layout(side, head_dim).get_row(in, row, codes);
    x += row * row_stride;
    for (int first = 0; first < head_dim; first += Scales::group) {
      const int end = head_dim - first < Scales::group ? head_dim : first + Scales::group;
      const std::byte stored = in[scale_offset(head_dim, first) + static_cast<std::size_t>(row)];
      const float unit = scales.unit(static_cast<std::uint8_t>(stored));
      for (int c = first; c < end; ++c) x[c] = to_f32(e2m1{codes[c]}) * unit;
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
    copy_codes(layout(side, head_dim), from, to, begin, end);
    for (int first = 0; first < head_dim; first += Scales::group) {
      const std::size_t plane = scale_offset(head_dim, first);
      memcpy(to + plane + begin, from + plane + begin, static_cast<std::size_t>(end - begin));
    }
  }

 private:
  KVCODEC_HD static constexpr TileLayout layout(Side side, int head_dim) noexcept {
    return {side, 4, head_dim};
  }
  KVCODEC_HD static void put_codes(const float* values, int n, float unit,
                                   std::uint8_t* codes) noexcept {
    for (int i = 0; i < n; ++i) codes[i] = 0;
    if (!(unit > 0.0f)) return;
    for (int i = 0; i < n; ++i) {
      const std::uint32_t sign = (bit_cast<std::uint32_t>(values[i]) >> 28) & 8u;
      codes[i] = static_cast<std::uint8_t>(sign | e2m1_code_of(abs_of(values[i]), unit));
    }
  }
};

/// NVIDIA's format.
using NvFp4 = Fp4<NvFp4Scales>;
/// OCP's format.
using MxFp4 = Fp4<MxFp4Scales>;

static_assert(RowCodec<NvFp4> && RowCodec<MxFp4> && PartedCodec<NvFp4> && PartedCodec<MxFp4>);

}  // namespace kvcodec
