// Signs of projections: codec "qjl" writes them as a product of the tile's rows and S.
//
// The definition (codec/qjl_signs.hpp) is the sign of a float64 sum. A chain of n fused f32 operations is
// within n 2^-24 |s_i| |x| of the exact one, by Cauchy and Schwarz, and so settles all but about one sign
// in ten thousand; the others are summed again in float64.

#if defined(KVCODEC_CPU_SIGNS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_SIGNS_INL_H_
#undef KVCODEC_CPU_SIGNS_INL_H_
#else
#define KVCODEC_CPU_SIGNS_INL_H_
#endif

#include "moments-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

inline constexpr int kWordSigns = 32;
/// Products of a pass for each of kPassVectors vectors of rows: as many sums as registers hold.
inline constexpr int kPassSigns = kN == 16 ? 8 : 4;
inline constexpr int kPassVectors = 2;

/// Columns of one word of signs: [n, 32], side by side, and the lengths of its 32 rows of S.
struct SignPanel {
  alignas(64) float columns[kMaxHeadDim * kWordSigns];
  alignas(64) float lengths[kWordSigns];
};

HWY_NOINLINE inline void fill_panel(const SketchSigns& s, int word, SignPanel& panel) {
  constexpr int kParts = kWordSigns / kN;
  VF squares[kParts];
  KVCODEC_UNROLL
  for (int i = 0; i < kParts; ++i) squares[i] = hn::Zero(DF());
  for (int c = 0; c < s.n; ++c) {
    const int channel = s.channels == nullptr ? c : static_cast<int>(s.channels[c]);
    const float* from = s.columns + channel * s.column_stride + word * kWordSigns;
    KVCODEC_UNROLL
    for (int i = 0; i < kParts; ++i) {
      const VF column = hn::LoadU(DF(), from + i * kN);
      hn::Store(column, DF(), panel.columns + c * kWordSigns + i * kN);
      squares[i] = hn::MulAdd(column, column, squares[i]);
    }
  }
  KVCODEC_UNROLL
  for (int i = 0; i < kParts; ++i) {
    hn::Store(hn::Sqrt(squares[i]), DF(), panel.lengths + i * kN);
  }
}

/// Rows of kPassVectors vectors: row r of vector v at x[v][c * 16 + r], and their lengths.
struct SignRows {
  const float* x[kPassVectors];
  VF length[kPassVectors];
  VF least[kPassVectors];  ///< sums no larger than this settle nothing; below 0 in rows of zeros
};

/// The sign of the float64 sum in the order of channels.
HWY_INLINE bool exact_sign(const SketchSigns& s, const float* columns, const float* x) {
  double sum = 0.0;
  for (int c = 0; c < s.n; ++c) {
    sum += static_cast<double>(x[c * kLanes]) * static_cast<double>(columns[c * kWordSigns]);
  }
  return sum > 0.0;
}

/// Adds the signs first .. first + kPassSigns - 1 of a word to the words [kPassVectors, kN] of the rows.
HWY_INLINE void add_signs(const SketchSigns& s, const SignPanel& panel, int first,
                          const SignRows& rows, std::uint32_t* words) {
  VF sum[kPassVectors][kPassSigns];
  KVCODEC_UNROLL
  for (int i = 0; i < kPassSigns; ++i) {
    KVCODEC_UNROLL
    for (int v = 0; v < kPassVectors; ++v) sum[v][i] = hn::Zero(DF());
  }
  const float* column = panel.columns + first;
  for (int c = 0; c < s.n; ++c, column += kWordSigns) {
    VF x[kPassVectors];
    KVCODEC_UNROLL
    for (int v = 0; v < kPassVectors; ++v) x[v] = hn::Load(DF(), rows.x[v] + c * kLanes);
    KVCODEC_UNROLL
    for (int i = 0; i < kPassSigns; ++i) {
      const VF value = hn::Set(DF(), column[i]);
      KVCODEC_UNROLL
      for (int v = 0; v < kPassVectors; ++v) sum[v][i] = hn::MulAdd(x[v], value, sum[v][i]);
    }
  }
  // Twice the terms: norms are rounded as well. Sums that may have under- or overflown settle nothing.
  const float error = static_cast<float>(2 * s.n) * 0x1p-24f;
  for (int v = 0; v < kPassVectors; ++v) {
    VU word = hn::Load(DU(), words + v * kN);
    std::uint32_t open = 0;
    KVCODEC_UNROLL
    for (int i = 0; i < kPassSigns; ++i) {
      const int e = first + i;
      const std::uint32_t bit = 1u << (e % 4 * 8 + e / 4);
      const VF size = hn::Mul(rows.length[v], hn::Set(DF(), panel.lengths[e]));
      const VF limit = hn::MulAdd(size, hn::Set(DF(), error), rows.least[v]);
      const auto settled =
          hn::And(hn::Gt(hn::Abs(sum[v][i]), limit), hn::Lt(size, hn::Set(DF(), 0x1p120f)));
      if (!hn::AllTrue(DF(), settled)) open |= 1u << i;
      const auto positive = hn::RebindMask(DU(), hn::Gt(sum[v][i], hn::Zero(DF())));
      word = hn::Or(word, hn::IfThenElseZero(positive, hn::Set(DU(), bit)));
    }
    hn::Store(word, DU(), words + v * kN);
    for (int i = 0; open != 0; ++i, open >>= 1) {
      if ((open & 1u) == 0) continue;
      const int e = first + i;
      const std::uint32_t bit = 1u << (e % 4 * 8 + e / 4);
      for (int r = 0; r < kN; ++r) {
        std::uint32_t& of_row = words[v * kN + r];
        of_row &= ~bit;
        if (exact_sign(s, panel.columns + e, rows.x[v] + r)) of_row |= bit;
      }
    }
  }
}

/// A PutSigns.
inline void put_signs(const SketchSigns& s, int n_rows, const float* x, double* squares,
                      std::byte* plane) {
  HWY_ALIGN float turned[kTileRows * kMaxHeadDim];
  HWY_ALIGN float lengths[kTileRows];
  HWY_ALIGN std::uint32_t words[kPassVectors * kN];
  SignPanel panel;
  StripParams unused;
  for (int row = 0; row < n_rows; row += kLanes) {
    float* strip = turned + row * s.n;
    turn_rows(x + row * s.n, s.n, strip);
    const StripGroup group = {strip, s.n, 0, 0, plane, unused, nullptr};
    for (int v = 0; v < kVectors; ++v) {
      const RowSums sum = squares_of(group, v);
      double* to = squares + row + v * kN;
      hn::StoreU(sum.half[0], DD(), to);
      hn::StoreU(sum.half[1], DD(), to + kN / 2);
      hn::Store(map_sums(sum, sum, [](VD a, VD) { return hn::Sqrt(a); }), DF(),
                lengths + row + v * kN);
    }
  }
  const int n_words = s.n_signs / kWordSigns;
  for (int word = 0; word < n_words; ++word) {
    fill_panel(s, word, panel);
    for (int row = 0; row < n_rows; row += kPassVectors * kN) {
      SignRows rows;
      std::uint32_t* line[kPassVectors];
      for (int v = 0; v < kPassVectors; ++v) {
        const int at = row + v * kN;
        const int strip = at / kLanes;
        rows.x[v] = turned + strip * kLanes * s.n + at % kLanes;
        rows.length[v] = hn::Load(DF(), lengths + at);
        rows.least[v] = hn::IfThenElse(hn::Eq(rows.length[v], hn::Zero(DF())), hn::Set(DF(), -1.0f),
                                       hn::Set(DF(), 0x1p-120f));
        line[v] = reinterpret_cast<std::uint32_t*>(plane) + (strip * n_words + word) * kLanes +
                  at % kLanes;
        hn::Store(hn::Zero(DU()), DU(), words + v * kN);
      }
      for (int i = 0; i < kWordSigns; i += kPassSigns) add_signs(s, panel, i, rows, words);
      for (int v = 0; v < kPassVectors; ++v) {
        hn::StoreU(hn::Load(DU(), words + v * kN), DU(), line[v]);
      }
    }
  }
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
