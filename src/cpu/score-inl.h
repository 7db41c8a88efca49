// Scores of a K tile: lanes are keys, multipliers are query channels (lines-inl.h).

#if defined(KVCODEC_CPU_SCORE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_SCORE_INL_H_
#undef KVCODEC_CPU_SCORE_INL_H_
#else
#define KVCODEC_CPU_SCORE_INL_H_
#endif

#include "params-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// Queries [n, width], `stride` floats apart.
struct QueryRows {
  const float* data;
  std::size_t stride;
};

/// Sums of a query's channels, segment by segment: what zeros are multiplied with.
template <int kQueries>
struct QuerySums {
  HWY_INLINE QuerySums(const Params& p, int width, const QueryRows& q) {
    if (p.zeros == nullptr) return;
    for (int i = 0; i < kQueries; ++i) {
      const float* query = q.data + static_cast<std::size_t>(i) * q.stride;
      for (int s = 0; s < p.n; ++s) {
        const int first = s * p.length;
        sums[i][s] = sum_of(query + first, HWY_MIN(p.length, width - first));
      }
    }
  }

  float sums[kQueries][kMaxSegments];
};

/// Adds a segment to the scores of the rows from `row` on, or begins them with the first one:
/// sum * scale + query sum * zero. They wait in memory, because the sums of the next segment need all
/// registers.
template <int kQueries, int kCount>
HWY_INLINE void add_segment(const Params& p, const QuerySums<kQueries>& queries, int segment,
                            int row, const VF (&sum)[kQueries][kCount], float* scores) {
  KVCODEC_UNROLL
  for (int v = 0; v < kCount; ++v) {
    float* at = scores + row + v * kN;
    const VF scale =
        p.scales == nullptr ? hn::Set(DF(), p.factor) : load_scale(p, segment, row + v * kN);
    VF total[kQueries];
    KVCODEC_UNROLL
    for (int i = 0; i < kQueries; ++i) {
      total[i] = hn::Mul(sum[i][v], scale);
      if (segment > 0) {
        total[i] = hn::MulAdd(sum[i][v], scale, hn::LoadU(DF(), at + i * kTileRows));
      }
    }
    if (p.zeros != nullptr) {
      const VF zero = load_zero(p, segment, row + v * kN, scale);
      KVCODEC_UNROLL
      for (int i = 0; i < kQueries; ++i) {
        total[i] = hn::MulAdd(zero, hn::Set(DF(), queries.sums[i][segment]), total[i]);
      }
    }
    KVCODEC_UNROLL
    for (int i = 0; i < kQueries; ++i) hn::StoreU(total[i], DF(), at + i * kTileRows);
  }
}

/// Lines of keys from `row` on, words from channel `first` on.
template <class Decoder>
HWY_INLINE Lines key_lines(const HeadPlanes& at, int width, int row, int first, int n) {
  const auto line = static_cast<std::size_t>(row / kLanes);
  const std::size_t stride = static_cast<std::size_t>(width / Decoder::kPerWord) * kLineBytes;
  const std::size_t high_stride = static_cast<std::size_t>((width + 31) / 32) * kLineBytes;
  const int word = first / Decoder::kPerWord;
  const std::size_t skip = vector_offset(row);
  return {at.codes + line * stride + skip + static_cast<std::size_t>(word) * kLineBytes,
          stride,
          n / Decoder::kPerWord,
          at.high + line * high_stride + skip,
          high_stride,
          word,
          at.ahead};
}

/// Scores of all 64 keys for kQueries queries.
template <int kQueries, class Decoder>
HWY_INLINE void score_pass(const Decoder& decoder, const HeadPlanes& at, int width,
                           const QueryRows& q, float* scores) {
  constexpr int kCount = vectors_per_pass<Decoder, kQueries>();
  const Params& p = at.params;
  const QuerySums<kQueries> queries(p, width, q);
  for (int row = 0; row < kTileRows; row += kCount * kN) {
    for (int s = 0; s < p.n; ++s) {
      const int first = s * p.length;
      const Lines lines =
          key_lines<Decoder>(at, width, row, first, HWY_MIN(p.length, width - first));
      VF sum[kQueries][kCount];
      multiply_lines(decoder, lines, Multipliers{q.data + first, q.stride}, sum);
      add_segment(p, queries, s, row, sum, scores);
    }
  }
}

/// The same where channels have parameters of their own for runs of tokens: they go into the query,
///
///   q . k = sum over c of (q[c] * scale[c]) * code[c]  +  sum over c of q[c] * zero[c].
template <int kQueries, class Decoder>
HWY_INLINE void score_runs_pass(const Decoder& decoder, const HeadPlanes& at, int width, int run,
                                const QueryRows& q, float* scores) {
  constexpr int kCount = HWY_MIN((vectors_per_pass<Decoder, kQueries>()), 2 * kVectors);
  const Params& p = at.params;
  HWY_ALIGN float scaled[kQueries * kMaxHeadDim];
  VF offset[kQueries];
  const auto parameters = static_cast<std::size_t>(2 * width);  // bytes of a run's
  for (int begin = 0; begin < kTileRows; begin += run) {
    const std::size_t skip = static_cast<std::size_t>(begin / run) * parameters;
    for (int i = 0; i < kQueries; ++i) {
      const float* query = q.data + static_cast<std::size_t>(i) * q.stride;
      VF sum = hn::Zero(DF());
      for (int c = 0; c < width; c += kN) {
        const VF x = hn::LoadU(DF(), query + c);
        const VF scale = hn::Mul(load_f16(p.scales + skip + 2 * c), hn::Set(DF(), p.factor));
        hn::StoreU(hn::Mul(x, scale), DF(), scaled + i * kMaxHeadDim + c);
        if (p.zeros == nullptr) continue;
        const VF zero =
            hn::MulAdd(scale, hn::Set(DF(), p.center), load_f16(p.zeros + skip + 2 * c));
        sum = hn::MulAdd(x, zero, sum);
      }
      offset[i] = hn::SumOfLanes(DF(), sum);
    }
    for (int row = begin; row < begin + run; row += kCount * kN) {
      const Lines lines = key_lines<Decoder>(at, width, row, 0, width);
      VF sum[kQueries][kCount];
      multiply_lines(decoder, lines, Multipliers{scaled, kMaxHeadDim}, sum);
      KVCODEC_UNROLL
      for (int i = 0; i < kQueries; ++i) {
        KVCODEC_UNROLL
        for (int v = 0; v < kCount; ++v) {
          hn::StoreU(hn::Add(sum[i][v], offset[i]), DF(), scores + i * kTileRows + row + v * kN);
        }
      }
    }
  }
}

/// Passes of queries, each with its rows and its scores.
template <class Pass>
struct ScorePasses {
  QueryRows q;
  float* scores;
  const Pass& pass;

  template <int kQueries>
  HWY_INLINE void run(int i) const {
    pass.template run<kQueries>(
        QueryRows{q.data + static_cast<std::size_t>(i) * q.stride, q.stride},
        scores + i * kTileRows);
  }
};

/// pass.run<n>(q, scores) for any number of queries.
template <int kMost, class Pass>
HWY_INLINE void score_queries(QueryRows q, int n_q, float* scores, const Pass& pass) {
  query_passes<kMost>(n_q, ScorePasses<Pass>{q, scores, pass});
}

template <class Decoder>
struct ScorePass {
  const Decoder& decoder;
  const HeadPlanes& at;
  int width;

  template <int kQueries>
  HWY_INLINE void run(const QueryRows& q, float* scores) const {
    score_pass<kQueries>(decoder, at, width, q, scores);
  }
};

template <class Decoder>
struct ScoreRunsPass {
  const Decoder& decoder;
  const HeadPlanes& at;
  int width;
  int tokens;

  template <int kQueries>
  HWY_INLINE void run(const QueryRows& q, float* scores) const {
    score_runs_pass<kQueries>(decoder, at, width, tokens, q, scores);
  }
};

/// A ScoreFormat.
template <class Decoder>
void score_format(const TileFormat& f, const std::byte* tile, int head, const float* q,
                  std::size_t q_stride, int n_q, Ahead& ahead, float* scores) {
  const Decoder decoder(f);
  const HeadPlanes at = planes_of(f, tile, head, ahead);
  score_queries<max_queries<Decoder>()>({q, q_stride}, n_q, scores,
                                        ScorePass<Decoder>{decoder, at, f.width});
}

/// A ScoreFormat for formats with runs.
template <class Decoder>
void score_runs(const TileFormat& f, const std::byte* tile, int head, const float* q,
                std::size_t q_stride, int n_q, Ahead& ahead, float* scores) {
  const Decoder decoder(f);
  const HeadPlanes at = planes_of(f, tile, head, ahead);
  score_queries<max_queries<Decoder>()>({q, q_stride}, n_q, scores,
                                        ScoreRunsPass<Decoder>{decoder, at, f.width, f.run});
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
