// Affine groups: values that share a step and an offset. What codecs "wkv" and "kivi" are made of.
//
// Group    low and high are its smallest and largest value, L = 2^bits - 1.
// Scale    f16(max(clip * (high - low) / L, smallest_scale)): one f32 subtraction, product, division.
// Zero     f16(low), or with clip < 1 f16(middle - clip * (high - low) / 2), middle = (low + high) / 2.
// Code     (x - zero) / scale with scale and zero as stored, limited to 0..L, rounded to nearest even.
//          A scale of 0 gives code 0 everywhere.
// Value    code * scale + zero. The product of a code of at most 8 bits and an f16 is exact in f32,
//          so the sum rounds once whether or not a compiler fuses the two.
// Limits   Values are clamped to +-65504 before. L >= 3 keeps every scale a finite f16.
//
// Rounding scale and zero before the codes are formed lets the codes make up for that rounding: the
// only loss is clipping at the upper end by at most L * 2^-11 of a step (and 2^-11 |zero| below).
#pragma once

#include <cstdint>

#include "kvcodec/codec/codec.hpp"
#include "kvcodec/codec/tile_format.hpp"
#include "kvcodec/core/arith.hpp"
#include "kvcodec/core/dtype.hpp"

namespace kvcodec {

/// Stored parameters of one group, in units of the values.
struct AffineGroup {
  f16 scale;  ///< distance of neighbouring levels, >= 0
  f16 zero;   ///< value of code 0
};

/// The group of values within low..high (finite, |x| <= 65504), clipped about its middle by `clip`.
KVCODEC_HD inline AffineGroup make_affine_group(int bits, float low, float high, float clip,
                                                float smallest_scale) noexcept {
  const float range = high - low;
  const float step = clip * range / static_cast<float>((1 << bits) - 1);
  const float zero = clip == 1.0f ? low : __builtin_fmaf(-0.5f * clip, range, 0.5f * (low + high));
  return {to_f16(step < smallest_scale ? smallest_scale : step), to_f16(zero)};
}

/// What values of a group are divided by: its scale, or a number so large that codes become 0.
KVCODEC_HD constexpr float affine_divisor(f16 scale) noexcept {
  return (scale.bits & 0x7fffu) != 0 ? to_f32(scale) : kF32Max;
}

/// Code of a finite x. `divisor` is affine_divisor(scale), `largest` is 2^bits - 1.
KVCODEC_HD constexpr std::uint32_t affine_code(float x, float divisor, float zero,
                                               float largest) noexcept {
  const float ratio = (x - zero) / divisor;
  const float limited = ratio < 0.0f ? 0.0f : ratio > largest ? largest : ratio;
  return static_cast<std::uint32_t>(round_even(limited));
}

/// Value of a code.
KVCODEC_HD constexpr float affine_value(std::uint32_t code, float scale, float zero) noexcept {
  return static_cast<float>(static_cast<int>(code)) * scale + zero;
}

/// Format of tiles of affine groups of channels, 2, 3, 4 or 8 bits.
inline TileFormat affine_format(int bits, int head_dim, int group, std::size_t scale_offset,
                                std::size_t zero_offset) noexcept {
  TileFormat f{bits == 8 ? TileFormat::Level::uint8 : TileFormat::Level::table,
               bits,
               head_dim,
               group,
               static_cast<std::uint32_t>(scale_offset),
               static_cast<std::uint32_t>(zero_offset)};
  for (int code = 0; bits < 8 && code < 1 << bits; ++code) f.table[code] = static_cast<float>(code);
  return f;
}

/// Planes of codes of one head: one of `Bits` bits or, for 3 bits, one of 2 bits with the low bits
/// and behind it one of 1 bit with the high bit.
template <int Bits>
struct AffineCodes {
  Side side;
  int head_dim;

  KVCODEC_HD constexpr TileLayout low() const noexcept {
    return {side, Bits == 3 ? 2 : Bits, head_dim};
  }
  KVCODEC_HD constexpr TileLayout high() const noexcept { return {side, 1, head_dim}; }
  KVCODEC_HD constexpr std::size_t bytes() const noexcept {
    return low().plane_bytes() + (Bits == 3 ? high().plane_bytes() : 0);
  }

  /// Zeroes the bits that no code fills; before the first put_row.
  KVCODEC_HD void clear_padding(std::byte* planes) const noexcept {
    if constexpr (Bits == 3) high().clear_padding(planes + low().plane_bytes());
  }
  /// Writes codes[head_dim] of one token to std::byte* or a TileWriter.
  template <class Out>
  KVCODEC_HD void put_row(Out planes, int row, const std::uint8_t* codes) const noexcept {
    if constexpr (Bits != 3) {
      low().put_row(planes, row, codes);
    } else {
      std::uint8_t part[kMaxHeadDim];
      for (int c = 0; c < head_dim; ++c) part[c] = codes[c] & 3u;
      low().put_row(planes, row, part);
      for (int c = 0; c < head_dim; ++c) part[c] = static_cast<std::uint8_t>(codes[c] >> 2);
      high().put_row(planes + low().plane_bytes(), row, part);
    }
  }
  KVCODEC_HD std::uint32_t get(const std::byte* planes, int row, int channel) const noexcept {
    const std::uint32_t code = low().get(planes, row, channel);
    if constexpr (Bits != 3) return code;
    else return code | high().get(planes + low().plane_bytes(), row, channel) << 2;
  }
  /// Reads codes[kLanes] as TileLayout::get_lanes does.
  KVCODEC_HD void get_lanes(const std::byte* planes, int lane, int summed,
                            std::uint32_t* codes) const noexcept {
    low().get_lanes(planes, lane, summed, codes);
    if constexpr (Bits == 3) {
      std::uint32_t top[kLanes];
      high().get_lanes(planes + low().plane_bytes(), lane, summed, top);
      for (int i = 0; i < kLanes; ++i) codes[i] |= top[i] << 2;
    }
  }
  KVCODEC_HD void copy_rows(const std::byte* from, std::byte* to, int begin,
                            int end) const noexcept {
    copy_codes(low(), from, to, begin, end);
    if constexpr (Bits == 3) {
      copy_codes(high(), from + low().plane_bytes(), to + low().plane_bytes(), begin, end);
    }
  }
};

/// Tokens cut into groups of neighbouring channels; tiles of either side.
///
/// A tile holds the planes of codes, one plane of scales per group (f16, token r at byte 2 r), one
/// plane of zeros per group. Groups follow each other inside one head; the last may be short, and a
/// `group` above head_dim is the whole head. `clip_of(n)` is the clip of a group of n values.
template <int Bits>
struct AffineRows {
  AffineCodes<Bits> codes;
  int group;

  KVCODEC_HD constexpr int n_groups() const noexcept {
    return (codes.head_dim + group - 1) / group;
  }
  KVCODEC_HD constexpr std::size_t bytes() const noexcept {
    return codes.bytes() + 2 * kScalePlaneBytes * static_cast<std::size_t>(n_groups());
  }

  template <class Clip>
  KVCODEC_HD bool encode(const float* x, float smallest_scale, const Clip& clip_of,
                         std::byte* out) const noexcept {
    bool finite = true;
    codes.clear_padding(out);
    for (int row = 0; row < kTileRows; ++row) {
      finite &= encode_row(x + row * codes.head_dim, smallest_scale, clip_of, row, out);
    }
    return finite;
  }

  /// x [head_dim]: row `row` of the tile. `out` is std::byte* or a TileWriter.
  template <class Clip, class Out>
  KVCODEC_HD bool encode_row(const float* x, float smallest_scale, const Clip& clip_of, int row,
                             Out out) const noexcept {
    constexpr float kLargest = (1 << Bits) - 1;
    float values[kMaxHeadDim];
    std::uint8_t row_codes[kMaxHeadDim];
    const bool finite = load_finite(x, codes.head_dim, kF16Max, values);
    for (int g = 0; g < n_groups(); ++g) {
      const int end = end_of(g);
      float low = values[g * group];
      float high = low;
      for (int c = g * group + 1; c < end; ++c) {
        low = values[c] < low ? values[c] : low;
        high = values[c] > high ? values[c] : high;
      }
      const AffineGroup made =
          make_affine_group(Bits, low, high, clip_of(end - g * group), smallest_scale);
      put_scale(scales(own_bytes(out), g), row, made.scale.bits);
      put_scale(zeros(own_bytes(out), g), row, made.zero.bits);
      const float divisor = affine_divisor(made.scale);
      const float zero = to_f32(made.zero);
      for (int c = g * group; c < end; ++c) {
        row_codes[c] = static_cast<std::uint8_t>(affine_code(values[c], divisor, zero, kLargest));
      }
    }
    codes.put_row(out, row, row_codes);
    return finite;
  }

  /// The same values as decode(), one row: x [head_dim].
  KVCODEC_HD void decode_row(const std::byte* in, int row, float* x) const noexcept {
    for (int g = 0; g < n_groups(); ++g) {
      const float scale = to_f32(f16{get_scale(scales(in, g), row)});
      const float zero = to_f32(f16{get_scale(zeros(in, g), row)});
      for (int c = g * group; c < end_of(g); ++c) {
        x[c] = affine_value(codes.get(in, row, c), scale, zero);
      }
    }
  }

  KVCODEC_HD void decode(const std::byte* in, float* x) const noexcept {
    if (codes.side == Side::key) decode_keys(in, x);
    else decode_values(in, x);
  }

  KVCODEC_HD void copy_rows(const std::byte* from, std::byte* to, int begin,
                            int end) const noexcept {
    codes.copy_rows(from, to, begin, end);
    for (int g = 0; g < 2 * n_groups(); ++g)
      copy_scales(scales(from, g), scales(to, g), begin, end);
  }

 private:
  KVCODEC_HD constexpr int end_of(int g) const noexcept {
    return (g + 1) * group < codes.head_dim ? (g + 1) * group : codes.head_dim;
  }
  /// Plane of scales of group g; the planes of zeros follow those of all groups.
  template <class Byte>
  KVCODEC_HD Byte* scales(Byte* tile, int g) const noexcept {
    return tile + codes.bytes() + kScalePlaneBytes * static_cast<std::size_t>(g);
  }
  template <class Byte>
  KVCODEC_HD Byte* zeros(Byte* tile, int g) const noexcept {
    return scales(tile, n_groups() + g);
  }

  // Lanes are tokens: 16 scales and zeros at a time.
  KVCODEC_HD void decode_keys(const std::byte* in, float* x) const noexcept {
    const int head_dim = codes.head_dim;
    for (int lane = 0; lane < kTileRows; lane += kLanes) {
      for (int g = 0; g < n_groups(); ++g) {
        float scale[kLanes];
        float zero[kLanes];
        for (int i = 0; i < kLanes; ++i) {
          scale[i] = to_f32(f16{get_scale(scales(in, g), lane + i)});
          zero[i] = to_f32(f16{get_scale(zeros(in, g), lane + i)});
        }
        for (int c = g * group; c < end_of(g); ++c) {
          std::uint32_t code[kLanes];
          codes.get_lanes(in, lane, c, code);
          for (int i = 0; i < kLanes; ++i) {
            x[(lane + i) * head_dim + c] = affine_value(code[i], scale[i], zero[i]);
          }
        }
      }
    }
  }

  // Lanes are channels of one group, since group sizes and head sizes are multiples of 16.
  KVCODEC_HD void decode_values(const std::byte* in, float* x) const noexcept {
    for (int row = 0; row < kTileRows; ++row) {
      for (int g = 0; g < n_groups(); ++g) {
        const float scale = to_f32(f16{get_scale(scales(in, g), row)});
        const float zero = to_f32(f16{get_scale(zeros(in, g), row)});
        for (int lane = g * group; lane < end_of(g); lane += kLanes) {
          std::uint32_t code[kLanes];
          codes.get_lanes(in, lane, row, code);
          float* to = x + row * codes.head_dim + lane;
          for (int i = 0; i < kLanes; ++i) to[i] = affine_value(code[i], scale, zero);
        }
      }
    }
  }
};

/// fn(rows) with the AffineRows of `bits` = 2, 3, 4 or 8; loops over codes need it as a constant.
template <class F>
KVCODEC_HD constexpr auto with_affine_rows(int bits, Side side, int head_dim, int group,
                                           const F& fn) noexcept {
  switch (bits) {
    case 2: return fn(AffineRows<2>{{side, head_dim}, group});
    case 3: return fn(AffineRows<3>{{side, head_dim}, group});
    case 4: return fn(AffineRows<4>{{side, head_dim}, group});
    default: return fn(AffineRows<8>{{side, head_dim}, group});
  }
}

/// Mean relative squared error of unclipped groups of n = 16, 32 .. 128 Gaussian values; bits 2, 3,
/// 4 or 8. Measured over 2^24 values; the closed values known for 32, 64 and 128 agree to 0.3 %.
constexpr double affine_loss(int bits, int n) noexcept {
  constexpr double kMean[4][8] = {
      {0.1069, 0.1544, 0.1825, 0.2024, 0.2179, 0.2305, 0.2413, 0.2504},
      {0.01944, 0.02813, 0.03326, 0.03690, 0.03975, 0.04207, 0.04404, 0.04572},
      {0.004227, 0.006120, 0.007233, 0.008031, 0.008648, 0.009151, 0.009586, 0.009950},
      {1.461e-5, 2.115e-5, 2.502e-5, 2.777e-5, 2.990e-5, 3.164e-5, 3.312e-5, 3.441e-5}};
  return kMean[bits == 8 ? 3 : bits - 2][n / 16 - 1];
}

}  // namespace kvcodec
