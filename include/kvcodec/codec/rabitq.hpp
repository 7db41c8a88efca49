// Codec "rabitq": codes of 1 to 4 bits on a uniform grid and one f16 factor per token and head,
// chosen so that q . k is estimated without bias.
//
// Source   RaBitQ, arXiv 2405.12497 (1 bit) and 2409.09913 (more); the authors' C++ library. Centre
//          0. The rotation is a transform of its own: use it behind "hadamard+".
// Bytes    planes of codes of `bits` bits per value (code_planes.hpp; 3 bits: a 2-bit plane, then a
//          1-bit plane); then one plane of f16 factors, row r at byte 2 r.
// Grid     u = code - (2^bits - 1) / 2: +-0.5, +-1.5, .. (1 bit: +-0.5).
// Code     sign: code >= 2^(bits-1) where x > 0. Magnitude |u| = 0.5 + m, m = 0 .. 2^(bits-1) - 1:
//            search  the row of codes with the largest cosine <u,x> / (|u| |x|) of all (default):
//                    m = floor(t |x|), limited, for the best t; every t at which a code changes is
//                    tried, in ascending order, and the first of equals is taken
//            fast    m = floor(kappa |x| / rms), limited, with a fixed kappa; rms as in "lm"
// Factor   f = <x,x> / <x,u> in float64, rounded to f32 and then to f16. With 1 bit q . k becomes
//          |k|^2 <q, sign k> / |k|_1: the 1-bit rule of the paper.
// Value    f * u, one f32 product: the vector whose product with q is the estimate.
// Limits   |x| above 65504 is clamped to it, and so is the factor. A row whose factor rounds to f16
//          zero has factor 0 and code 2^(bits-1) everywhere; it decodes to zeros.
// Size     bits + 16 / head_dim bits per value, 1-bit planes padded as in "lm".
//
// The decoded row is longer than x by 1 / cosine, so it is for keys; for values use "lm". The
// authors' search starts from codes beyond the top of the grid and can return a worse row of codes;
// their bound with epsilon 1.9 holds for 94 % of products only (docs/methods/rabitq.md).
#pragma once

#include <cmath>

#include "kvcodec/codec/code_planes.hpp"
#include "kvcodec/codec/codec.hpp"
#include "kvcodec/codec/tile_format.hpp"
#include "kvcodec/core/arith.hpp"
#include "kvcodec/core/dtype.hpp"
#include "kvcodec/core/error.hpp"
#include "kvcodec/core/options.hpp"

namespace kvcodec {

struct RaBitQ {
  /// How the magnitudes of a row's codes are chosen.
  enum class Rule : std::uint8_t { search, fast };

  static constexpr const char* family = "rabitq";
  static constexpr const char* options_help =
      "b1, b2, b3 or b4: bits (default b4); search or fast: choice of codes (default search)";
  static constexpr bool bit_exact = true;

  std::int32_t bits = 4;
  Rule rule = Rule::search;

  static RaBitQ parse(const std::string& options);
  std::string name() const;

  KVCODEC_HD constexpr int head_span(int) const noexcept { return 1; }
  KVCODEC_HD constexpr bool supports(int head_dim) const noexcept {
    return head_dim >= kMinHeadDim && head_dim <= kMaxHeadDim && head_dim % kLanes == 0;
  }
  KVCODEC_HD constexpr std::size_t tile_bytes(int head_dim) const noexcept {
    return scale_offset(head_dim) + kScalePlaneBytes;
  }
  /// Offset of the plane of factors.
  KVCODEC_HD constexpr std::size_t scale_offset(int head_dim) const noexcept {
    return planes(Side::key, head_dim).bytes();
  }
  KVCODEC_HD constexpr CodePlanes planes(Side side, int head_dim) const noexcept {
    return {side, bits, head_dim};
  }
  /// The grid value of a code.
  KVCODEC_HD static constexpr float grid(int bits, int code) noexcept {
    return static_cast<float>(code) - 0.5f * static_cast<float>((1 << bits) - 1);
  }
  /// kappa = 1 / step of the uniform quantizer with the smallest squared error on N(0, 1).
  KVCODEC_HD constexpr float kappa() const noexcept {
    return bits == 2 ? 1.00434f : bits == 3 ? 1.70646f : 2.98332f;
  }

  /// See tile_format.hpp.
  bool tile_format(Side, int head_dim, TileFormat& f) const noexcept {
    f = {TileFormat::Level::table, bits, head_dim, head_dim,
         static_cast<std::uint32_t>(scale_offset(head_dim))};
    for (int code = 0; code < 1 << bits; ++code) f.table[code] = grid(bits, code);
    return true;
  }
  constexpr LossBounds loss(int head_dim) const noexcept;

  KVCODEC_HD constexpr int n_parts(Side, int) const noexcept { return kTileRows; }

  template <class Out>
  KVCODEC_HD bool encode_part(Side side, int head_dim, const float* x, int row_stride, int row,
                              Out out) const noexcept {
    const CodePlanes at = planes(side, head_dim);
    float values[kMaxHeadDim];
    std::uint8_t codes[kMaxHeadDim];
    const bool finite = load_finite(x + row * row_stride, head_dim, kF16Max, values);
    put_codes(head_dim, values, codes);
    const f16 stored = to_f16(clamp_finite(factor_for(bits, head_dim, values, codes), kF16Max));
    if (stored.bits == 0) {
      for (int c = 0; c < head_dim; ++c) codes[c] = static_cast<std::uint8_t>(1 << (bits - 1));
    }
    at.put_row(out, row, codes);
    put_scale(out + scale_offset(head_dim), row, stored.bits);
    return finite;
  }

  KVCODEC_HD void decode_part(Side side, int head_dim, const std::byte* in, int row, float* x,
                              int row_stride) const noexcept {
    std::uint8_t codes[kMaxHeadDim];
    planes(side, head_dim).get_row(in, row, codes);
    const float factor = to_f32(f16{get_scale(in + scale_offset(head_dim), row)});
    for (int c = 0; c < head_dim; ++c) x[row * row_stride + c] = factor * grid(bits, codes[c]);
  }

  KVCODEC_HD bool encode_tile(Side side, int head_dim, const float* x,
                              std::byte* out) const noexcept {
    planes(side, head_dim).clear_padding(out);
    return encode_parts(*this, side, head_dim, x, out);
  }

  KVCODEC_HD void decode_tile(Side side, int head_dim, const std::byte* in,
                              float* x) const noexcept {
    decode_parts(*this, side, head_dim, in, x);
  }

  KVCODEC_HD void copy_rows(Side side, int head_dim, const std::byte* from, std::byte* to,
                            int begin, int end) const noexcept {
    planes(side, head_dim).copy_rows(from, to, begin, end);
    const std::size_t scales = scale_offset(head_dim);
    copy_scales(from + scales, to + scales, begin, end);
  }

  /// Codes of a row of n finite values.
  KVCODEC_HD void put_codes(int n, const float* values, std::uint8_t* codes) const noexcept {
    if (rule == Rule::fast) put_fast_magnitudes(n, values, codes);
    else put_best_magnitudes(n, values, codes);
    const int half = 1 << (bits - 1);
    for (int c = 0; c < n; ++c) {
      const int magnitude = codes[c];
      codes[c] =
          static_cast<std::uint8_t>(values[c] > 0.0f ? half + magnitude : half - 1 - magnitude);
    }
  }

  /// The factor of a row before it is stored, from its values and codes; 0 for a row of zeros.
  /// Every product is exact in float64, so that no compiler can change a sum by fusing.
  KVCODEC_HD static float factor_for(int bits, int n, const float* values,
                                     const std::uint8_t* codes) noexcept {
    double xx = 0.0;
    double xu = 0.0;
    for (int c = 0; c < n; ++c) {
      const auto x = static_cast<double>(values[c]);
      xx += x * x;
      xu += x * static_cast<double>(grid(bits, codes[c]));
    }
    return xu > 0.0 ? static_cast<float>(xx / xu) : 0.0f;
  }

 private:
  /// Beyond every m / a.
  static constexpr double kNever = 1e300;

  /// Largest m.
  KVCODEC_HD constexpr int top() const noexcept { return (1 << (bits - 1)) - 1; }

  KVCODEC_HD void put_fast_magnitudes(int n, const float* values,
                                      std::uint8_t* codes) const noexcept {
    double sum = 0.0;
    for (int c = 0; c < n; ++c) {
      sum += static_cast<double>(values[c]) * static_cast<double>(values[c]);
    }
    const float rms = static_cast<float>(sqrt(sum / static_cast<double>(n)));
    for (int c = 0; c < n; ++c) {
      const int m = rms > 0.0f ? static_cast<int>(kappa() * (abs_of(values[c]) / rms)) : 0;
      codes[c] = static_cast<std::uint8_t>(m < top() ? m : top());
    }
  }

  /// Walks t from 0 upwards. The code changes to level m lie at t = m / a, a = |x| > 0; with a in
  /// descending order they are `top()` ascending lists, which are merged. Two different fractions
  /// m / a differ by more than 2^-27 of their size, so their order survives rounding.
  KVCODEC_HD void put_best_magnitudes(int n, const float* values,
                                      std::uint8_t* codes) const noexcept {
    float sorted[kMaxHeadDim + 1];
    double numerator = 0.0;  // <u, x>
    for (int c = 0; c < n; ++c) {
      sorted[c] = abs_of(values[c]);
      numerator += 0.5 * static_cast<double>(sorted[c]);
    }
    if (bits > 1) sort_descending(n, sorted);
    sorted[n] = 0.0f;
    double denominator = 0.25 * static_cast<double>(n);  // <u, u>
    double best_numerator = numerator * numerator;
    double best_denominator = denominator;
    double best_t = 0.0;
    int taken[8] = {};  // changes behind t in list m
    double next[8];     // the first one that is not
    for (int m = 1; m <= top(); ++m) next[m] = change_at(m, sorted[0]);
    for (int m = earliest(next); m != 0 && next[m] < kNever;) {
      // Several changes may share one t. A row of codes between them belongs to no t, but is never
      // better than both the one before and the one behind them: on that line cos^2 has no maximum.
      const double t = next[m];
      numerator += static_cast<double>(sorted[taken[m]]);
      denominator += static_cast<double>(2 * m);
      next[m] = change_at(m, sorted[++taken[m]]);
      m = earliest(next);
      const double square = numerator * numerator;
      if (square * best_denominator > best_numerator * denominator) {
        best_numerator = square;
        best_denominator = denominator;
        best_t = t;
      }
    }
    for (int c = 0; c < n; ++c) {
      codes[c] = 0;
      for (int m = 1; m <= top(); ++m) {
        if (change_at(m, abs_of(values[c])) <= best_t) codes[c] = static_cast<std::uint8_t>(m);
      }
    }
  }

  /// The t from which on a value of magnitude a has level m.
  KVCODEC_HD static double change_at(int m, float a) noexcept {
    return a > 0.0f ? static_cast<double>(m) / static_cast<double>(a) : kNever;
  }

  /// The list with the earliest change; 0 if there are no lists.
  KVCODEC_HD int earliest(const double* next) const noexcept {
    int first = top() > 0 ? 1 : 0;
    for (int m = 2; m <= top(); ++m) first = next[m] < next[first] ? m : first;
    return first;
  }

  /// Shell's sort: no allocation, short, the same on host and device.
  KVCODEC_HD static void sort_descending(int n, float* a) noexcept {
    for (int gap = 121; gap > 0; gap /= 3) {
      for (int i = gap; i < n; ++i) {
        const float x = a[i];
        int j = i;
        for (; j >= gap && a[j - gap] < x; j -= gap) a[j] = a[j - gap];
        a[j] = x;
      }
    }
  }
};

inline RaBitQ RaBitQ::parse(const std::string& options) {
  RaBitQ codec;
  bool has_bits = false;
  bool has_rule = false;
  for (const std::string& option : split_options(options)) {
    const bool is_bits =
        option.size() == 2 && option[0] == 'b' && option[1] >= '1' && option[1] <= '4';
    const bool is_rule = option == "search" || option == "fast";
    if ((!is_bits && !is_rule) || (is_bits && has_bits) || (is_rule && has_rule)) {
      throw invalid_argument(bad_value(family, "option", option, options_help));
    }
    if (is_bits) codec.bits = option[1] - '0';
    if (option == "fast") codec.rule = Rule::fast;
    has_bits |= is_bits;
    has_rule |= is_rule;
  }
  return codec;
}

inline std::string RaBitQ::name() const {
  return std::string(family) + ":b" + std::to_string(bits) + (rule == Rule::fast ? ":fast" : "");
}

constexpr LossBounds RaBitQ::loss(int head_dim) const noexcept {
  // Means over Gaussian rows of 64, 128 and 256 values; nearly linear in 1 / head_dim between them.
  constexpr double kMean[2][4][3] = {{{0.5655, 0.5672, 0.5691},
                                      {0.1284, 0.1314, 0.1332},
                                      {0.0341, 0.0364, 0.0376},
                                      {0.00878, 0.00995, 0.01076}},
                                     {{0.5655, 0.5672, 0.5691},
                                      {0.1303, 0.1324, 0.1337},
                                      {0.0366, 0.0378, 0.0384},
                                      {0.01078, 0.01122, 0.01146}}};
  const double* of = kMean[rule == Rule::fast ? 1 : 0][bits - 1];
  const int first = head_dim <= 128 ? 0 : 1;
  const double share = (first == 0 ? 128.0 : 256.0) / head_dim - 1.0;  // of the smaller size
  const double mean = share * of[first] + (1.0 - share) * of[first + 1];
  return {0.97 * mean, 1.03 * mean};
}

static_assert(RowCodec<RaBitQ> && PartedCodec<RaBitQ>);

}  // namespace kvcodec
