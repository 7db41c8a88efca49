// Codes of one bit: sums by tables of partial sums instead of products.
//
// kGroup neighbouring bits of a lane's word select one of the 2^kGroup = N possible sums of their
// levels times their multipliers. A table of these sums costs kGroup multiply-adds and fills one vector;
// it then serves every line that has the same multipliers, at one lookup and one addition per kGroup
// values and query.

#if defined(KVCODEC_CPU_BITS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_BITS_INL_H_
#undef KVCODEC_CPU_BITS_INL_H_
#else
#define KVCODEC_CPU_BITS_INL_H_
#endif

#include "add-inl.h"
#include "score-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

inline constexpr int kGroup = kN == 16 ? 4 : kN == 8 ? 3 : 2;
inline constexpr int kGroups = (32 + kGroup - 1) / kGroup;  ///< of a word
/// Words whose tables are made at once: 8 KiB of them for 4 queries.
inline constexpr int kTableWords = 4;
inline constexpr int kWordFloats = kGroups * kN;  ///< tables of a word

/// levels.bit[k] holds the level of bit k of the lane's number.
struct BitLevels {
  HWY_INLINE explicit BitLevels(const TileFormat& f)
      : BitLevels(f.table[0] - level_center(f), f.table[1] - level_center(f)) {}
  HWY_INLINE BitLevels(float zero, float one) {
    for (int k = 0; k < kGroup; ++k) {
      HWY_ALIGN float x[kN];
      for (int i = 0; i < kN; ++i) x[i] = ((i >> k) & 1) != 0 ? one : zero;
      bit[k] = hn::Load(DF(), x);
    }
  }

  VF bit[kGroup];
};

/// The tables of one word, from the multipliers m [32] of its elements.
HWY_INLINE void make_tables(const BitLevels& levels, const float* m, float* tables) {
  KVCODEC_UNROLL
  for (int g = 0; g < kGroups; ++g) {
    VF sum = hn::Zero(DF());
    KVCODEC_UNROLL
    for (int k = 0; k < kGroup; ++k) {
      const int bit = g * kGroup + k;  // element e has bit e % 4 * 8 + e / 4
      if (bit < 32) sum = hn::MulAdd(hn::Set(DF(), m[bit % 8 * 4 + bit / 8]), levels.bit[k], sum);
    }
    hn::Store(sum, DF(), tables + g * kN);
  }
}

/// sums[i][kVectors * j ..] += the partial sums of line j's words for query i.
template <int kQueries, int kCount>
HWY_INLINE void look_up(const Lines& lines, const float* tables, float* sums, std::size_t stride) {
  constexpr int kParts = kCount * kVectors;
  VF acc[2][kQueries][kParts];
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    KVCODEC_UNROLL
    for (int v = 0; v < kParts; ++v) {
      acc[0][i][v] = hn::LoadU(DF(), sums + static_cast<std::size_t>(i) * stride + v * kN);
      acc[1][i][v] = hn::Zero(DF());
    }
  }
  for (int w = 0; w < lines.n_words; ++w, tables += kWordFloats) {
    VU words[kParts];
    KVCODEC_UNROLL
    for (int v = 0; v < kParts; ++v) {
      words[v] = load_words(
          lines.data + static_cast<std::size_t>(v / kVectors) * lines.stride + w * kLineBytes,
          v % kVectors);
    }
    KVCODEC_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      KVCODEC_UNROLL
      for (int i = 0; i < kQueries; ++i) {
        const VF table = hn::Load(DF(), tables + i * kTableWords * kWordFloats + g * kN);
        KVCODEC_UNROLL
        for (int v = 0; v < kParts; ++v) {
          acc[g % 2][i][v] = hn::Add(acc[g % 2][i][v], lookup(table, words[v]));
        }
      }
      KVCODEC_UNROLL
      for (int v = 0; v < kParts; ++v) words[v] = hn::ShiftRight<kGroup>(words[v]);
    }
  }
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    KVCODEC_UNROLL
    for (int v = 0; v < kParts; ++v) {
      hn::StoreU(hn::Add(acc[0][i][v], acc[1][i][v]), DF(),
                 sums + static_cast<std::size_t>(i) * stride + v * kN);
    }
  }
}

/// Sums of n_lines lines of `width` bits each for kQueries queries: sums [kQueries, stride], 16 per
/// line. A query's sums do not depend on the other counts.
template <int kQueries>
HWY_INLINE void sum_bits(const BitLevels& levels, const Lines& lines, int n_lines, int width,
                         const Multipliers& m, float* sums, std::size_t stride) {
  constexpr int kCount = kVectors == 1 && kQueries <= 2   ? 4
                         : kVectors <= 2 && kQueries == 1 ? 2
                         : kVectors == 1                  ? 2
                                                          : 1;
  HWY_ALIGN float tables[kQueries * kTableWords * kWordFloats];
  for (int i = 0; i < kQueries; ++i) {
    for (int c = 0; c < n_lines * kLanes; c += kN) {
      hn::StoreU(hn::Zero(DF()), DF(), sums + static_cast<std::size_t>(i) * stride + c);
    }
  }
  for (int first = 0; first < lines.n_words; first += kTableWords) {
    const int n_words = HWY_MIN(kTableWords, lines.n_words - first);
    for (int i = 0; i < kQueries; ++i) {
      for (int w = 0; w < n_words; ++w) {
        const int begin = 32 * (first + w);
        const float* of_word = m.data + static_cast<std::size_t>(i) * m.stride + begin;
        HWY_ALIGN float padded[32];
        if (begin + 32 > width) {
          for (int e = 0; e < 32; ++e) padded[e] = begin + e < width ? of_word[e] : 0.0f;
          of_word = padded;
        }
        make_tables(levels, of_word, tables + (i * kTableWords + w) * kWordFloats);
      }
    }
    Lines part = lines;
    part.data += first * kLineBytes;
    part.n_words = n_words;
    int line = 0;
    for (; line + kCount <= n_lines; line += kCount, part.data += kCount * lines.stride) {
      look_up<kQueries, kCount>(part, tables, sums + line * kLanes, stride);
    }
    if constexpr (kCount > 1) {
      for (; line < n_lines; ++line, part.data += lines.stride) {
        look_up<kQueries, 1>(part, tables, sums + line * kLanes, stride);
      }
    }
  }
}

struct ScoreBitsPass {
  const BitLevels& levels;
  const HeadPlanes& at;
  int width;

  template <int kQueries>
  HWY_INLINE void run(const QueryRows& q, float* scores) const {
    const Params& p = at.params;
    const QuerySums<kQueries> queries(p, width, q);
    const std::size_t line_stride = static_cast<std::size_t>((width + 31) / 32) * kLineBytes;
    HWY_ALIGN float sums[kQueries * kTileRows];
    for (int s = 0; s < p.n; ++s) {
      const int first = s * p.length;
      const int n = HWY_MIN(p.length, width - first);
      const Lines lines = {
          at.codes + first / 32 * kLineBytes, line_stride, (n + 31) / 32, nullptr, 0, 0};
      sum_bits<kQueries>(levels, lines, kTileRows / kLanes, n,
                         Multipliers{q.data + first, q.stride}, sums, kTileRows);
      for (int row = 0; row < kTileRows; row += kN) {
        VF sum[kQueries][1];
        for (int i = 0; i < kQueries; ++i) {
          sum[i][0] = hn::Load(DF(), sums + i * kTileRows + row);
        }
        add_segment(p, queries, s, row, sum, scores);
      }
    }
  }
};

struct AddBitsPass {
  const BitLevels& levels;
  const HeadPlanes& at;
  int head_dim;

  template <int kQueries>
  HWY_INLINE void run(const float* w, float* acc) const {
    constexpr std::size_t kStride = kTileRows / 32 * kLineBytes;
    const Params& p = at.params;
    HWY_ALIGN float scaled[kQueries * kTileRows];
    HWY_ALIGN float sums[kQueries * kMaxHeadDim];
    for (int s = 0; s < p.n; ++s) {
      const int first = s * p.length;
      const int n = HWY_MIN(p.length, head_dim - first);
      const SegmentWeights<kQueries> weights = scale_weights<kQueries>(p, s, w, scaled);
      const Lines lines = {at.codes + static_cast<std::size_t>(first / kLanes) * kStride,
                           kStride,
                           kTileRows / 32,
                           nullptr,
                           0,
                           0};
      sum_bits<kQueries>(levels, lines, n / kLanes, kTileRows,
                         Multipliers{weights.weights, kTileRows}, sums, kMaxHeadDim);
      for (int i = 0; i < kQueries; ++i) {
        const VF factor = hn::Set(DF(), weights.factor);
        const VF offset = hn::Set(DF(), weights.offset[i]);
        for (int c = 0; c < n; c += kN) {
          float* out = acc + i * head_dim + first + c;
          const VF sum = hn::Load(DF(), sums + i * kMaxHeadDim + c);
          hn::StoreU(hn::Add(hn::LoadU(DF(), out), hn::MulAdd(sum, factor, offset)), DF(), out);
        }
      }
    }
  }
};

/// Queries of a pass: their tables must leave room for sums in registers.
inline constexpr int kBitQueries = kN == 16 ? 4 : 2;

/// A ScoreFormat and an AddFormat for codes of one bit.
inline void score_bits(const TileFormat& f, const std::byte* tile, int head, const float* q,
                       std::size_t q_stride, int n_q, Ahead& ahead, float* scores) {
  const BitLevels levels(f);
  const HeadPlanes at = planes_of(f, tile, head, ahead);
  score_queries<kBitQueries>({q, q_stride}, n_q, scores, ScoreBitsPass{levels, at, f.width});
}

inline void add_bits(const TileFormat& f, const std::byte* tile, int head, const float* w, int n_q,
                     Ahead& ahead, float* acc) {
  const BitLevels levels(f);
  const HeadPlanes at = planes_of(f, tile, head, ahead);
  add_queries<kBitQueries>(f.width, w, n_q, acc, AddBitsPass{levels, at, f.width});
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
