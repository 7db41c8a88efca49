// Codec "int8": 8-bit codes, one scale per token and head.
//
// Bytes    one plane of codes, 8 bits per value: two's complement -127..127 (tile_layout.hpp);
//          then one plane of f16 scales, row r at byte 2 r.
// Scale    s = f16(max |x| / 127), rounded up to the next f16 when 127 s would fall short of the
//          maximum, so that no value is clipped; a row of zeros has s = 0.
// Code     round to nearest even of x / s, limited to +-127.   Value: code * s.
// Limits   |x| above 127 * 512 = 65024 is clamped to it (the scale stays a finite f16).
//          Rows whose maximum is below 2^-25 * 127 are stored as zeros.
// Size     kTileRows * (head_dim + 2) bytes: 8 + 16 / head_dim bits per value.
#pragma once

#include "kvcodec/codec/codec.hpp"
#include "kvcodec/codec/tile_format.hpp"
#include "kvcodec/core/arith.hpp"
#include "kvcodec/core/dtype.hpp"
#include "kvcodec/core/error.hpp"

namespace kvcodec {

struct Int8Token {
  static constexpr const char* family = "int8";
  static constexpr const char* options_help = "no options";
  static constexpr bool bit_exact = true;
  /// Larger magnitudes are clamped to this one.
  static constexpr float kLimit = 127.0f * 512.0f;

  static Int8Token parse(const std::string& options) {
    if (!options.empty()) throw invalid_argument(bad_value(family, "options", options, "none"));
    return {};
  }

  std::string name() const { return family; }
  KVCODEC_HD constexpr int head_span(int) const noexcept { return 1; }
  KVCODEC_HD constexpr bool supports(int head_dim) const noexcept {
    return head_dim >= kMinHeadDim && head_dim <= kMaxHeadDim && head_dim % kLanes == 0;
  }
  KVCODEC_HD constexpr std::size_t tile_bytes(int head_dim) const noexcept {
    return scale_offset(head_dim) + kScalePlaneBytes;
  }
  /// Offset of the plane of scales.
  KVCODEC_HD constexpr std::size_t scale_offset(int head_dim) const noexcept {
    return layout(Side::key, head_dim).plane_bytes();
  }
  /// See tile_format.hpp.
  bool tile_format(Side, int head_dim, TileFormat& f) const noexcept {
    f = {TileFormat::Level::int8, 8, head_dim, head_dim,
         static_cast<std::uint32_t>(scale_offset(head_dim))};
    return true;
  }
  constexpr LossBounds loss(int) const noexcept { return {2.5e-5, 5.5e-5}; }

  KVCODEC_HD constexpr int n_parts(Side, int) const noexcept { return kTileRows; }

  template <class Out>
  KVCODEC_HD bool encode_part(Side side, int head_dim, const float* x, int row_stride, int row,
                              Out out) const noexcept {
    float values[kMaxHeadDim];
    std::uint8_t codes[kMaxHeadDim];
    const bool finite = load_finite(x + row * row_stride, head_dim, kLimit, values);
    const f16 scale = scale_for(largest_magnitude(values, head_dim));
    const float s = scale.bits != 0 ? to_f32(scale) : kF32Max;
    for (int c = 0; c < head_dim; ++c) {
      codes[c] = static_cast<std::uint8_t>(static_cast<unsigned>(code_of(values[c] / s)) & 0xffu);
    }
    layout(side, head_dim).put_row(out, row, codes);
    put_scale(out + scale_offset(head_dim), row, scale.bits);
    return finite;
  }

  KVCODEC_HD void decode_part(Side side, int head_dim, const std::byte* in, int row, float* x,
                              int row_stride) const noexcept {
    const TileLayout at = layout(side, head_dim);
    const float s = to_f32(f16{get_scale(in + scale_offset(head_dim), row)});
    for (int c = 0; c < head_dim; ++c) {
      x[row * row_stride + c] =
          static_cast<float>(static_cast<std::int8_t>(at.get(in, row, c))) * s;
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
    const std::size_t scales = scale_offset(head_dim);
    copy_scales(from + scales, to + scales, begin, end);
  }

 private:
  KVCODEC_HD static constexpr TileLayout layout(Side side, int head_dim) noexcept {
    return {side, 8, head_dim};
  }
  KVCODEC_HD static constexpr f16 scale_for(float largest) noexcept {
    f16 scale = to_f16(largest / 127.0f);
    if (scale.bits != 0 && to_f32(scale) * 127.0f < largest) ++scale.bits;
    return scale;
  }
  KVCODEC_HD static constexpr int code_of(float ratio) noexcept {
    const int code = round_even(ratio);
    return code > 127 ? 127 : code < -127 ? -127 : code;
  }
};

static_assert(RowCodec<Int8Token> && PartedCodec<Int8Token>);

}  // namespace kvcodec
