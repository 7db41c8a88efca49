// Raw codecs "f32", "f16", "bf16": values in a storage type, in the common tile layout.
//
// Bytes    one plane of codes per tile, 32 or 16 bits per value (tile_layout.hpp); no scales.
// Rounding to nearest even. |x| above the type's largest finite value becomes that value.
// Size     kTileRows * head_dim * 4 or 2 bytes.
//
// They are the baseline every comparison starts from, and the container's own test codec.
#pragma once

#include "kvcodec/codec/codec.hpp"
#include "kvcodec/codec/tile_format.hpp"
#include "kvcodec/core/arith.hpp"
#include "kvcodec/core/dtype.hpp"
#include "kvcodec/core/error.hpp"

namespace kvcodec {

template <class T>
struct RawCodec {
  static constexpr const char* family = to_string(dtype_of<T>);
  static constexpr const char* options_help = "no options";
  static constexpr bool bit_exact = true;

  static RawCodec parse(const std::string& options) {
    if (!options.empty()) throw invalid_argument(bad_value(family, "options", options, "none"));
    return {};
  }

  std::string name() const { return family; }
  KVCODEC_HD constexpr int head_span(int) const noexcept { return 1; }
  KVCODEC_HD constexpr bool supports(int head_dim) const noexcept {
    return head_dim >= kMinHeadDim && head_dim <= kMaxHeadDim && head_dim % kLanes == 0;
  }
  KVCODEC_HD constexpr std::size_t tile_bytes(int head_dim) const noexcept {
    return layout(Side::key, head_dim).plane_bytes();
  }
  /// See tile_format.hpp.
  bool tile_format(Side, int head_dim, TileFormat& f) const noexcept {
    using Level = TileFormat::Level;
    f = {dtype_of<T> == DType::f32   ? Level::f32
         : dtype_of<T> == DType::f16 ? Level::f16
                                     : Level::bf16,
         8 * static_cast<std::int32_t>(sizeof(T)), head_dim};
    return true;
  }

  /// f16: mean of (relative rounding error)^2 is near 2^-24 * 0.72; bf16: 2^6 times that.
  constexpr LossBounds loss(int) const noexcept {
    if (dtype_of<T> == DType::f32) return {0.0, 0.0};
    if (dtype_of<T> == DType::f16) return {2.0e-8, 6.0e-8};
    return {1.3e-6, 3.8e-6};
  }

  KVCODEC_HD constexpr int n_parts(Side, int) const noexcept { return kTileRows; }

  template <class Out>
  KVCODEC_HD bool encode_part(Side side, int head_dim, const float* x, int row_stride, int row,
                              Out out) const noexcept {
    x += row * row_stride;
    bool finite = true;
    std::uint32_t codes[kMaxHeadDim];
    for (int c = 0; c < head_dim; ++c) {
      finite &= is_finite(x[c]);
      codes[c] = to_code(clamp_finite(x[c], dtype_max(dtype_of<T>)));
    }
    layout(side, head_dim).put_row(out, row, codes);
    return finite;
  }

  KVCODEC_HD void decode_part(Side side, int head_dim, const std::byte* in, int row, float* x,
                              int row_stride) const noexcept {
    const TileLayout at = layout(side, head_dim);
    for (int c = 0; c < head_dim; ++c) x[row * row_stride + c] = from_code(at.get(in, row, c));
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
  }

 private:
  KVCODEC_HD static constexpr TileLayout layout(Side side, int head_dim) noexcept {
    return {side, static_cast<int>(8 * sizeof(T)), head_dim};
  }
  KVCODEC_HD static constexpr std::uint32_t to_code(float x) noexcept {
    if constexpr (sizeof(T) == 4) return bit_cast<std::uint32_t>(x);
    else return bit_cast<std::uint16_t>(from_f32<T>(x));
  }
  KVCODEC_HD static constexpr float from_code(std::uint32_t code) noexcept {
    if constexpr (sizeof(T) == 4) return bit_cast<float>(code);
    else return to_f32(bit_cast<T>(static_cast<std::uint16_t>(code)));
  }
};

using RawF32 = RawCodec<float>;
using RawF16 = RawCodec<f16>;
using RawBf16 = RawCodec<bf16>;

static_assert(RowCodec<RawF32> && RowCodec<RawF16> && RowCodec<RawBf16> && PartedCodec<RawF32> &&
              PartedCodec<RawF16> && PartedCodec<RawBf16>);

}  // namespace kvcodec
