// Codec "fp8": 8-bit floats (e4m3), with one static scale for everything or one scale per token.
//
// Source   OCP OFP8 1.0 for the codes; the static form is what engines ship as their FP8 KV cache
//          (a per-tensor scale, 1 unless calibrated).
// Bytes    one plane of codes, 8 bits per value: e4m3 bit patterns (core/small_float.hpp,
//          tile_layout.hpp). With `row`: then one plane of f16 scales, row r at byte 2 r.
// Scale    static: s is an option and is not stored. `row`: s = f16(max |x| / 448) of the token and
//          head, rounded up to the next f16 when 448 s would fall short of the maximum, so that no
//          value is clipped; a row of zeros has s = 0.
// Code     e4m3(x / s): the f32 quotient, rounded to nearest even, saturating at +-448. The sign of
//          zero is kept. A row with s = 0 has codes 0.
// Value    code * s, one f32 product.
// Limits   static: |x| above 448 s becomes 448 s, |x| of 2^-10 s and less becomes 0.
//          `row`: |x| above 448 * 65504 is clamped to it; rows whose maximum is 448 * 2^-25 or less
//          are stored as zeros.
// Size     kTileRows * head_dim bytes, exactly 8 bits per value; `row`: 8 + 16 / head_dim.
//
// The default is static with s = 1, because that is what "fp8 KV cache" means in production and what
// every other codec is compared with. A float code has the same relative error at every magnitude,
// so a better s buys nothing until values leave 2^-6 s .. 448 s; `row` is for data that do.
#pragma once

#include "kvcodec/codec/codec.hpp"
#include "kvcodec/codec/tile_format.hpp"
#include "kvcodec/core/arith.hpp"
#include "kvcodec/core/dtype.hpp"
#include "kvcodec/core/error.hpp"
#include "kvcodec/core/options.hpp"
#include "kvcodec/core/small_float.hpp"

namespace kvcodec {

struct Fp8 {
  static constexpr const char* family = "fp8";
  static constexpr const char* options_help =
      "s<scale>: static scale, 1e-30..1e30 (default 1); or row: a scale per token and head";
  static constexpr bool bit_exact = true;
  /// With `row` larger magnitudes are clamped to this one.
  static constexpr float kRowLimit = kE4m3Max * kF16Max;

  float scale = 1.0f;  ///< static scale; not used with per_row
  bool per_row = false;

  static Fp8 parse(const std::string& options) {
    Fp8 codec;
    if (options.empty()) return codec;
    codec.per_row = options == "row";
    const bool is_scale =
        options[0] == 's' && parse_float(options.substr(1), 1e-30f, 1e30f, codec.scale);
    if (codec.per_row || is_scale) return codec;
    throw invalid_argument(bad_value(family, "options", options, options_help));
  }

  std::string name() const {
    return std::string(family) + (per_row ? ":row" : ":s" + format_float(scale));
  }
  KVCODEC_HD constexpr int head_span(int) const noexcept { return 1; }
  KVCODEC_HD constexpr bool supports(int head_dim) const noexcept {
    return head_dim >= kMinHeadDim && head_dim <= kMaxHeadDim && head_dim % kLanes == 0;
  }
  KVCODEC_HD constexpr std::size_t tile_bytes(int head_dim) const noexcept {
    return scale_offset(head_dim) + (per_row ? kScalePlaneBytes : 0);
  }
  /// Offset of the plane of scales that `row` has.
  KVCODEC_HD constexpr std::size_t scale_offset(int head_dim) const noexcept {
    return layout(Side::key, head_dim).plane_bytes();
  }

  /// See tile_format.hpp.
  bool tile_format(Side, int head_dim, TileFormat& f) const noexcept {
    f = {TileFormat::Level::e4m3,
         8,
         head_dim,
         per_row ? head_dim : 0,
         static_cast<std::uint32_t>(scale_offset(head_dim)),
         0,
         per_row ? 1.0f : scale};
    return true;
  }

  /// On unit Gaussian values the exact error is 6.99e-4..7.06e-4 for every static s of 0.01..8.
  /// Outside, values clip or vanish; since 0 is a code and clipping keeps the sign, the error stays
  /// below the value itself. A row's own scale makes its largest value, near 7 of the row's
  /// head_dim units of energy, nearly exact.
  constexpr LossBounds loss(int head_dim) const noexcept {
    const double mean = 7.02e-4 * (per_row ? 1.0 - 7.0 / head_dim : 1.0);
    const bool in_range = per_row || (scale >= 0.01f && scale <= 8.0f);
    return {0.97 * mean, in_range ? 1.03 * mean : 1.0};
  }

  KVCODEC_HD constexpr int n_parts(Side, int) const noexcept { return kTileRows; }

  template <class Out>
  KVCODEC_HD bool encode_part(Side side, int head_dim, const float* x, int row_stride, int row,
                              Out out) const noexcept {
    float values[kMaxHeadDim];
    std::uint8_t codes[kMaxHeadDim];
    const float limit = per_row ? kRowLimit : kF32Max;
    const bool finite = load_finite(x + row * row_stride, head_dim, limit, values);
    float s = scale;
    if (per_row) {
      const f16 stored = scale_for(values, head_dim);
      put_scale(out + scale_offset(head_dim), row, stored.bits);
      s = to_f32(stored);
    }
    for (int c = 0; c < head_dim; ++c) {
      codes[c] = s > 0.0f ? to_e4m3(values[c] / s).bits : std::uint8_t{0};
    }
    layout(side, head_dim).put_row(out, row, codes);
    return finite;
  }

  KVCODEC_HD void decode_part(Side side, int head_dim, const std::byte* in, int row, float* x,
                              int row_stride) const noexcept {
    std::uint8_t codes[kMaxHeadDim];
    layout(side, head_dim).get_row(in, row, codes);
    const float s = per_row ? to_f32(f16{get_scale(in + scale_offset(head_dim), row)}) : scale;
    for (int c = 0; c < head_dim; ++c) x[row * row_stride + c] = to_f32(e4m3{codes[c]}) * s;
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
    if (!per_row) return;
    const std::size_t scales = scale_offset(head_dim);
    copy_scales(from + scales, to + scales, begin, end);
  }

 private:
  KVCODEC_HD static constexpr TileLayout layout(Side side, int head_dim) noexcept {
    return {side, 8, head_dim};
  }
  KVCODEC_HD static f16 scale_for(const float* values, int n) noexcept {
    const float largest = largest_magnitude(values, n);
    f16 scale = to_f16(largest / kE4m3Max);
    if (scale.bits != 0 && to_f32(scale) * kE4m3Max < largest) ++scale.bits;
    return scale;
  }
};

static_assert(RowCodec<Fp8> && PartedCodec<Fp8>);

}  // namespace kvcodec
