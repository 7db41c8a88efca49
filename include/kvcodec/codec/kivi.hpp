// Codec "kivi": 2 or 4-bit uniform codes with a step and an offset per group; groups run over tokens
// for K and over channels for V. KIVI (arXiv 2402.02750, sections 3 and 4).
//
// Bytes    plane of codes (tile_layout.hpp); then
//          K: f16 scales [64 / group, head_dim], then f16 zeros of the same shape: one pair for each
//             run of `group` tokens of a channel, channel c at byte 2 c of its run;
//          V: one plane of f16 scales per group of channels, then one plane of f16 zeros per group,
//             token r at byte 2 r (affine_group.hpp). The last group is short if head_dim is no
//             multiple of `group`.
//          Both sides have the size of V; behind the zeros K is padded with zero bytes.
// Scale    f16((max - min) / (2^bits - 1)).   Zero   f16(min): exact for f16 input.
// Code     (x - zero) / scale with both as stored, limited to 0..2^bits - 1, to nearest even.
// Value    code * scale + zero.
// Limits   |x| above 65504 is clamped to it. A group whose scale rounds to 0 (constant, or a range
//          below (2^bits - 1) * 2^-25) has codes 0 and decodes to its zero.
// Size     bits + 32 / group bits per value: 3 and 5 for g32, 2.5 and 4.5 for g64.
//
// K rows of a run share their scale, so a K tile must be encoded with its final 64 tokens: there is
// no copy_rows, and an infinity costs the other tokens of its run and channel their resolution.
//
// The published code keeps everything in the tensor's type: in f16 max - min overflows from 65504 on
// and the group decodes to NaN, and a constant group divides 0 by 0. Here the difference is f32.
#pragma once

#include <string>

#include "kvcodec/codec/affine_group.hpp"
#include "kvcodec/core/error.hpp"
#include "kvcodec/core/options.hpp"

namespace kvcodec {

struct Kivi {
  static constexpr const char* family = "kivi";
  static constexpr const char* options_help =
      "b<bits>: 2 or 4 (default 2); g<group>: 32 or 64 tokens of K, channels of V (default 32)";
  static constexpr bool bit_exact = true;

  std::int32_t bits = 2;
  std::int32_t group = 32;

  static Kivi parse(const std::string& options);
  std::string name() const {
    return std::string(family) + ":b" + std::to_string(bits) + ":g" + std::to_string(group);
  }

  KVCODEC_HD constexpr int head_span(int) const noexcept { return 1; }
  KVCODEC_HD constexpr bool supports(int head_dim) const noexcept {
    if (head_dim < kMinHeadDim || head_dim > kMaxHeadDim || head_dim % kLanes != 0) return false;
    return (bits == 2 || bits == 4) && (group == 32 || group == 64);
  }
  KVCODEC_HD constexpr std::size_t tile_bytes(int head_dim) const noexcept {
    const std::size_t planes = 2 * static_cast<std::size_t>((head_dim + group - 1) / group);
    return params_offset(head_dim) + planes * kScalePlaneBytes;
  }
  /// Offset of the scale of the group of (row, channel).
  KVCODEC_HD constexpr std::size_t scale_offset(Side side, int head_dim, int row,
                                                int channel) const noexcept {
    const int at = side == Side::key ? (row / group) * head_dim + channel
                                     : (channel / group) * kTileRows + row;
    return params_offset(head_dim) + 2 * static_cast<std::size_t>(at);
  }
  /// Offset of the zero of the group of (row, channel).
  KVCODEC_HD constexpr std::size_t zero_offset(Side side, int head_dim, int row,
                                               int channel) const noexcept {
    const int n_scales = side == Side::key ? kTileRows / group * head_dim
                                           : (head_dim + group - 1) / group * kTileRows;
    return scale_offset(side, head_dim, row, channel) + 2 * static_cast<std::size_t>(n_scales);
  }
  /// See tile_format.hpp. Keys have a scale and a zero per channel and run of tokens.
  bool tile_format(Side side, int head_dim, TileFormat& f) const noexcept {
    f = affine_format(bits, head_dim, side == Side::key ? 1 : group,
                      scale_offset(side, head_dim, 0, 0), zero_offset(side, head_dim, 0, 0));
    if (side == Side::key) f.run = group;
    return true;
  }
  constexpr LossBounds loss(int head_dim) const noexcept {
    // K groups are always full; the last V group may be short, which makes it finer.
    const int rest = head_dim % group;
    const double full = affine_loss(bits, group);
    const double with_rest =
        rest == 0 ? full : full + (affine_loss(bits, rest) - full) * rest / head_dim;
    return {0.97 * with_rest, 1.03 * full};
  }

  /// K: 16 channels of one run of tokens, runs in order. V: one token.
  KVCODEC_HD constexpr int n_parts(Side side, int head_dim) const noexcept {
    return side == Side::key ? kTileRows / group * (head_dim / kLanes) : kTileRows;
  }

  template <class Out>
  KVCODEC_HD bool encode_part(Side side, int head_dim, const float* x, int row_stride, int part,
                              Out out) const noexcept {
    if (side == Side::key) {
      return bits == 2 ? encode_keys<2>(head_dim, x, row_stride, part, own_bytes(out))
                       : encode_keys<4>(head_dim, x, row_stride, part, own_bytes(out));
    }
    x += part * row_stride;
    return bits == 2 ? value_rows<2>(head_dim).encode_row(x, 0.0f, NoClip{}, part, out)
                     : value_rows<4>(head_dim).encode_row(x, 0.0f, NoClip{}, part, out);
  }

  KVCODEC_HD void decode_part(Side side, int head_dim, const std::byte* in, int part, float* x,
                              int row_stride) const noexcept {
    if (side == Side::key) {
      bits == 2 ? decode_keys<2>(head_dim, in, part, x, row_stride)
                : decode_keys<4>(head_dim, in, part, x, row_stride);
    } else {
      x += part * row_stride;
      bits == 2 ? value_rows<2>(head_dim).decode_row(in, part, x)
                : value_rows<4>(head_dim).decode_row(in, part, x);
    }
  }

  KVCODEC_HD bool encode_tile(Side side, int head_dim, const float* x,
                              std::byte* out) const noexcept {
    if (side == Side::key) {
      const std::size_t used = zero_offset(Side::key, head_dim, kTileRows - 1, head_dim - 1) + 2;
      for (std::size_t i = used; i < tile_bytes(head_dim); ++i) out[i] = std::byte{0};
    }
    return encode_parts(*this, side, head_dim, x, out);
  }

  KVCODEC_HD void decode_tile(Side side, int head_dim, const std::byte* in,
                              float* x) const noexcept {
    if (side == Side::key) decode_parts(*this, side, head_dim, in, x);
    else if (bits == 2) value_rows<2>(head_dim).decode(in, x);
    else value_rows<4>(head_dim).decode(in, x);
  }

 private:
  struct NoClip {
    KVCODEC_HD constexpr float operator()(int) const noexcept { return 1.0f; }
  };

  KVCODEC_HD constexpr std::size_t params_offset(int head_dim) const noexcept {
    return TileLayout{Side::key, bits, head_dim}.plane_bytes();
  }
  template <int Bits>
  KVCODEC_HD constexpr AffineRows<Bits> value_rows(int head_dim) const noexcept {
    return {{Side::value, head_dim}, group};
  }

  /// First token of the run, and first channel, of a part of a K tile.
  KVCODEC_HD constexpr int first_row(int head_dim, int part) const noexcept {
    return part / (head_dim / kLanes) * group;
  }
  KVCODEC_HD static constexpr int first_channel(int head_dim, int part) noexcept {
    return part % (head_dim / kLanes) * kLanes;
  }

  template <int Bits>
  KVCODEC_HD bool encode_keys(int head_dim, const float* x, int row_stride, int part,
                              std::byte* out) const noexcept {
    constexpr float kLargest = (1 << Bits) - 1;
    const TileLayout codes{Side::key, Bits, head_dim};
    const int begin = first_row(head_dim, part);
    const int channel = first_channel(head_dim, part);
    x += channel;
    float low[kLanes];   // then zeros
    float high[kLanes];  // then divisors
    const bool finite = find_ends(x + begin * row_stride, row_stride, low, high);
    std::byte* scales = out + scale_offset(Side::key, head_dim, begin, channel);
    std::byte* zeros = out + zero_offset(Side::key, head_dim, begin, channel);
    for (int i = 0; i < kLanes; ++i) {
      const AffineGroup made = make_affine_group(Bits, low[i], high[i], 1.0f, 0.0f);
      memcpy(scales + 2 * i, &made.scale.bits, 2);
      memcpy(zeros + 2 * i, &made.zero.bits, 2);
      low[i] = to_f32(made.zero);
      high[i] = affine_divisor(made.scale);
    }
    for (int row = begin; row < begin + group; ++row) {
      std::uint8_t row_codes[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        const float value = clamp_finite(x[row * row_stride + i], kF16Max);
        row_codes[i] = static_cast<std::uint8_t>(affine_code(value, high[i], low[i], kLargest));
      }
      codes.put_key_channels(out, row, channel, kLanes, row_codes);
    }
    return finite;
  }

  /// Smallest and largest value of kLanes channels over `group` rows; whether all were finite.
  KVCODEC_HD bool find_ends(const float* x, int row_stride, float* low,
                            float* high) const noexcept {
    bool finite = true;
    for (int row = 0; row < group; ++row, x += row_stride) {
      for (int i = 0; i < kLanes; ++i) {
        finite &= is_finite(x[i]);
        const float value = clamp_finite(x[i], kF16Max);
        low[i] = row == 0 || value < low[i] ? value : low[i];
        high[i] = row == 0 || value > high[i] ? value : high[i];
      }
    }
    return finite;
  }

  // Lanes are tokens of one run, since runs are multiples of 16: one scale and zero for all of them.
  template <int Bits>
  KVCODEC_HD void decode_keys(int head_dim, const std::byte* in, int part, float* x,
                              int row_stride) const noexcept {
    const TileLayout codes{Side::key, Bits, head_dim};
    const int begin = first_row(head_dim, part);
    const int channel = first_channel(head_dim, part);
    const std::byte* scales = in + scale_offset(Side::key, head_dim, begin, channel);
    const std::byte* zeros = in + zero_offset(Side::key, head_dim, begin, channel);
    for (int c = channel; c < channel + kLanes; ++c) {
      const float scale = to_f32(f16{get_scale(scales, c - channel)});
      const float zero = to_f32(f16{get_scale(zeros, c - channel)});
      for (int lane = begin; lane < begin + group; lane += kLanes) {
        std::uint32_t code[kLanes];
        codes.get_lanes(in, lane, c, code);
        for (int i = 0; i < kLanes; ++i) {
          x[(lane + i) * row_stride + c] = affine_value(code[i], scale, zero);
        }
      }
    }
  }
};

inline Kivi Kivi::parse(const std::string& options) {
  Kivi codec;
  for (const std::string& option : split_options(options)) {
    if (option == "b2" || option == "b4") {
      codec.bits = option[1] - '0';
    } else if (option == "g32" || option == "g64") {
      codec.group = std::stoi(option.substr(1));
    } else {
      throw invalid_argument(bad_value(family, "option", option, options_help));
    }
  }
  return codec;
}

static_assert(PartedCodec<Kivi> && !RowCodec<Kivi>);

}  // namespace kvcodec
