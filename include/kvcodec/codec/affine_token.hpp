// Codec "wkv": 2, 3, 4 or 8-bit uniform codes with a step and an offset per group of a token's
// channels: the dynamic, token-wise half of WKVQuant (arXiv 2402.12065). The static, channel-wise
// half is a transform in front; past-only quantization is a window of one token.
//
// The paper has no released code and its text leaves group size, clipping and storage open; this is
// the form of the same authors' later work: asymmetric, groups of 128, clipped, f16 parameters.
//
// Bytes    planes of codes (4 bits and so on; 3 bits: a 2-bit plane with the low bits of every code,
//          then a 1-bit plane with its high bit), then one plane of f16 scales per group, then one
//          plane of f16 zeros per group; token r at byte 2 r (tile_layout.hpp, affine_group.hpp).
// Group    32, 64 or 128 neighbouring channels inside a head. The last one is short if head_dim is no
//          multiple (64 + 16 for head_dim 80); a group above head_dim is the whole head.
// Scale    f16(max(clip * (max - min) / (2^bits - 1), 2^-14)): never below the smallest normal f16,
//          so a constant group needs no special case.
// Zero     f16 of the lower end: min, moved up by (1 - clip) * (max - min) / 2.
// Code     (x - zero) / scale with both as stored, limited to 0..2^bits - 1, to nearest even.
// Value    code * scale + zero.
// Clip     default_clip(): what minimises the squared error on Gaussian groups of that length. 8-bit
//          codes are not clipped.
// Limits   |x| above 65504 is clamped to it. Values within 2^-14 of each other decode to f16(min) plus
//          multiples of 2^-14. With x<clip> the ends of every group are lost on purpose.
// Size     bits + 32 / group bits per value: 4.25 for b4:g128, 3.25 for b3:g128 (+ padding where
//          head_dim is an odd multiple of 16).
//
// No token ever affects another.
#pragma once

#include <string>

#include "kvcodec/codec/affine_group.hpp"
#include "kvcodec/core/error.hpp"
#include "kvcodec/core/options.hpp"

namespace kvcodec {

struct AffineToken {
  static constexpr const char* family = "wkv";
  static constexpr const char* options_help =
      "b<bits>: 2, 3, 4 or 8 (default 4); g<group>: 32, 64 or 128 channels (default 128); "
      "x<clip>: 0.3..1 (default by bits and group)";
  static constexpr bool bit_exact = true;
  /// The smallest normal f16.
  static constexpr float kSmallestScale = 0x1p-14f;

  std::int32_t bits = 4;
  std::int32_t group = 128;
  float clip = 0.0f;  ///< share of a group's range that is kept, about its middle; 0: default_clip

  static AffineToken parse(const std::string& options);
  std::string name() const;

  /// Clip of a group of n = 16, 32 .. 128 values.
  ///
  /// For 128 values the published 0.58, 0.80 and 0.92; for the others the best of steps of 0.01 over
  /// 2^19 Gaussian values, where the minimum is flat to 0.2 %.
  KVCODEC_HD static constexpr float default_clip(int bits, int n) noexcept {
    constexpr float kClip[3][8] = {{0.81f, 0.73f, 0.68f, 0.66f, 0.64f, 0.62f, 0.61f, 0.58f},
                                   {0.95f, 0.91f, 0.88f, 0.86f, 0.84f, 0.83f, 0.81f, 0.80f},
                                   {0.99f, 0.98f, 0.97f, 0.96f, 0.95f, 0.94f, 0.93f, 0.92f}};
    return bits == 8 ? 1.0f : kClip[bits - 2][n / 16 - 1];
  }

  /// The clip of a group of n values.
  KVCODEC_HD constexpr float clip_of(int n) const noexcept {
    return clip != 0.0f ? clip : default_clip(bits, n);
  }

  KVCODEC_HD constexpr int head_span(int) const noexcept { return 1; }
  KVCODEC_HD constexpr bool supports(int head_dim) const noexcept {
    if (head_dim < kMinHeadDim || head_dim > kMaxHeadDim || head_dim % kLanes != 0) return false;
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8) return false;
    return group == 32 || group == 64 || group == 128;
  }
  KVCODEC_HD constexpr std::size_t tile_bytes(int head_dim) const noexcept {
    return with_affine_rows(bits, Side::key, head_dim, group,
                            [](const auto& rows) { return rows.bytes(); });
  }
  /// Groups of a token.
  KVCODEC_HD constexpr int n_groups(int head_dim) const noexcept {
    return (head_dim + group - 1) / group;
  }
  /// Offset of the plane of scales of group g.
  KVCODEC_HD constexpr std::size_t scale_offset(int head_dim, int g) const noexcept {
    const auto planes = with_affine_rows(bits, Side::key, head_dim, group,
                                         [](const auto& r) { return r.codes.bytes(); });
    return planes + kScalePlaneBytes * static_cast<std::size_t>(g);
  }
  /// Offset of the plane of zeros of group g.
  KVCODEC_HD constexpr std::size_t zero_offset(int head_dim, int g) const noexcept {
    return scale_offset(head_dim, n_groups(head_dim) + g);
  }
  /// See tile_format.hpp.
  bool tile_format(Side, int head_dim, TileFormat& f) const noexcept {
    f = affine_format(bits, head_dim, group < head_dim ? group : head_dim,
                      scale_offset(head_dim, 0), zero_offset(head_dim, 0));
    return true;
  }
  constexpr LossBounds loss(int head_dim) const noexcept;

  KVCODEC_HD constexpr int n_parts(Side, int) const noexcept { return kTileRows; }

  template <class Out>
  KVCODEC_HD bool encode_part(Side side, int head_dim, const float* x, int row_stride, int row,
                              Out out) const noexcept {
    return with_affine_rows(bits, side, head_dim, group, [&](const auto& rows) {
      return rows.encode_row(x + row * row_stride, kSmallestScale, ClipOf{*this}, row, out);
    });
  }

  KVCODEC_HD void decode_part(Side side, int head_dim, const std::byte* in, int row, float* x,
                              int row_stride) const noexcept {
    with_affine_rows(bits, side, head_dim, group,
                     [&](const auto& rows) { rows.decode_row(in, row, x + row * row_stride); });
  }

  // All rows at once: decoding takes 16 tokens of a K tile together.
  KVCODEC_HD bool encode_tile(Side side, int head_dim, const float* x,
                              std::byte* out) const noexcept {
    return with_affine_rows(bits, side, head_dim, group, [&](const auto& rows) {
      return rows.encode(x, kSmallestScale, ClipOf{*this}, out);
    });
  }

  KVCODEC_HD void decode_tile(Side side, int head_dim, const std::byte* in,
                              float* x) const noexcept {
    with_affine_rows(bits, side, head_dim, group, [&](const auto& rows) { rows.decode(in, x); });
  }

  KVCODEC_HD void copy_rows(Side side, int head_dim, const std::byte* from, std::byte* to,
                            int begin, int end) const noexcept {
    with_affine_rows(bits, side, head_dim, group,
                     [&](const auto& rows) { rows.copy_rows(from, to, begin, end); });
  }

 private:
  /// clip_of as a callable.
  struct ClipOf {
    const AffineToken& codec;
    KVCODEC_HD float operator()(int n) const noexcept { return codec.clip_of(n); }
  };

  /// Bounds for one group of n values.
  constexpr LossBounds group_loss(int n) const noexcept {
    // Means with default_clip, as those of affine_loss.
    constexpr double kClipped[3][8] = {
        {0.0816, 0.1022, 0.1104, 0.1148, 0.1175, 0.1192, 0.1206, 0.1218},
        {0.01830, 0.02522, 0.02870, 0.03083, 0.03228, 0.03334, 0.03416, 0.03478},
        {0.004170, 0.005962, 0.006969, 0.007654, 0.008155, 0.008549, 0.008876, 0.009140}};
    const double best = bits == 8 ? affine_loss(8, n) : kClipped[bits - 2][n / 16 - 1];
    const float usual = default_clip(bits, n);
    if (clip == 0.0f || clip == usual) return {0.97 * best, 1.03 * best};
    if (clip == 1.0f) return {0.97 * affine_loss(bits, n), 1.03 * affine_loss(bits, n)};
    // The default lies at the minimum. With less clipping the error rises up to that of none, with
    // more up to 0.38, the most that 0.3 costs (16 values, 2 bits).
    return {0.97 * best, clip > usual ? 1.03 * affine_loss(bits, n) : 0.4};
  }
};

inline AffineToken AffineToken::parse(const std::string& options) {
  AffineToken codec;
  for (const std::string& option : split_options(options)) {
    const std::string digits = option.empty() ? "" : option.substr(1);
    if (option[0] == 'b' && (digits == "2" || digits == "3" || digits == "4" || digits == "8")) {
      codec.bits = digits[0] - '0';
    } else if (option[0] == 'g' && (digits == "32" || digits == "64" || digits == "128")) {
      codec.group = std::stoi(digits);
    } else if (option[0] == 'x' && parse_float(digits, 0.3f, 1.0f, codec.clip)) {
      continue;
    } else {
      throw invalid_argument(bad_value(family, "option", option, options_help));
    }
  }
  return codec;
}

inline std::string AffineToken::name() const {
  std::string text =
      std::string(family) + ":b" + std::to_string(bits) + ":g" + std::to_string(group);
  if (clip != 0.0f) text += ":x" + format_float(clip);
  return text;
}

constexpr LossBounds AffineToken::loss(int head_dim) const noexcept {
  LossBounds mean{0.0, 0.0};
  for (int first = 0; first < head_dim; first += group) {
    const int n = head_dim - first < group ? head_dim - first : group;
    const LossBounds one = group_loss(n);
    mean.low += one.low * n / head_dim;
    mean.high += one.high * n / head_dim;
  }
  return mean;
}

static_assert(RowCodec<AffineToken> && PartedCodec<AffineToken>);

}  // namespace kvcodec
