// Scores of K tiles in integers (integer-inl.h).

#if defined(KVCODEC_CPU_INTEGER_SCORE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_INTEGER_SCORE_INL_H_
#undef KVCODEC_CPU_INTEGER_SCORE_INL_H_
#else
#define KVCODEC_CPU_INTEGER_SCORE_INL_H_
#endif

#include "integer-inl.h"

KVCODEC_BEFORE_INTEGERS();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// A PrepareIntegers.
template <class Bytes>
void prepare_integers(const TileFormat& f, const float* q, std::size_t q_stride, int n_q,
                      std::byte* queries) {
  constexpr int kParts = Bytes::kParts;
  auto* out = reinterpret_cast<IntegerQuery*>(queries);
  const int length = segment_length(f);
  for (int i = 0; i < n_q; ++i, q += q_stride, ++out) {
    for (int s = 0; s * length < f.width; ++s) {
      const int first = s * length;
      const int n = HWY_MIN(length, f.width - first);
      std::int32_t bias[kParts] = {};
      out->unit[s] = quantize<Bytes>(q + first, n, out->codes[0] + code_offset<kParts>(first),
                                     kMaxHeadDim, bias);
      for (int part = 0; part < kParts; ++part) out->bias[part][s] = bias[part];
      out->sum[s] = f.zero_offset == 0 ? 0.0f : sum_of(q + first, n);
    }
  }
}

/// Vectors of keys from `row` on, words from channel `first` on.
template <class Bytes>
HWY_INLINE Lines byte_key_lines(const HeadPlanes& at, int width, int row, int first, int n) {
  const auto line = static_cast<std::size_t>(row / kLanes);
  const std::size_t stride = static_cast<std::size_t>(width / Bytes::kPerWord) * kLineBytes;
  const std::size_t high_stride = static_cast<std::size_t>((width + 31) / 32) * kLineBytes;
  const int word = first / Bytes::kPerWord;
  const auto part = vector_offset(row);
  return {at.codes + line * stride + part + static_cast<std::size_t>(word) * kLineBytes,
          stride,
          n / Bytes::kPerWord,
          at.high + line * high_stride + part,
          high_stride,
          word,
          at.ahead};
}

template <class Bytes>
struct ScoreBytesPass {
  const Bytes& decoder;
  const HeadPlanes& at;
  int width;
  float level_unit;
  const IntegerQuery* queries;
  float* scores;

  template <int kQueries>
  HWY_INLINE void run(int first_query) const {
    constexpr int kCount = byte_vectors<Bytes, kQueries>();
    constexpr std::size_t kInts = sizeof(IntegerQuery) / sizeof(std::int32_t);
    const Params& p = at.params;
    const IntegerQuery* q = queries + first_query;
    float* out = scores + first_query * kTileRows;
    for (int row = 0; row < kTileRows; row += kCount * kN) {
      VF total[kQueries][kCount];
      for (int s = 0; s < p.n; ++s) {
        const int first = s * p.length;
        VF sum[kQueries][kCount];
        sum_bytes(decoder,
                  byte_key_lines<Bytes>(at, width, row, first, HWY_MIN(p.length, width - first)),
                  CodeRows{q->codes[0] + code_offset<Bytes::kParts>(first), sizeof(IntegerQuery),
                           kMaxHeadDim},
                  Biases{q->bias[0] + s, kInts, kMaxIntegerSegments}, sum);
        KVCODEC_UNROLL
        for (int j = 0; j < kCount; ++j) {
          const int at_row = row + j * kN;
          const VF scale = p.scales == nullptr ? hn::Set(DF(), p.factor) : load_scale(p, s, at_row);
          const VF unit = hn::Mul(scale, hn::Set(DF(), level_unit));
          KVCODEC_UNROLL
          for (int i = 0; i < kQueries; ++i) {
            const VF part = hn::Mul(sum[i][j], hn::Set(DF(), q[i].unit[s]));
            total[i][j] = s == 0 ? hn::Mul(part, unit) : hn::MulAdd(part, unit, total[i][j]);
          }
          if (p.zeros == nullptr) continue;
          const VF zero = load_zero(p, s, at_row, scale);
          KVCODEC_UNROLL
          for (int i = 0; i < kQueries; ++i) {
            total[i][j] = hn::MulAdd(zero, hn::Set(DF(), q[i].sum[s]), total[i][j]);
          }
        }
      }
      KVCODEC_UNROLL
      for (int i = 0; i < kQueries; ++i) {
        KVCODEC_UNROLL
        for (int j = 0; j < kCount; ++j) {
          hn::StoreU(total[i][j], DF(), out + i * kTileRows + row + j * kN);
        }
      }
    }
  }
};

/// A ScoreIntegers.
template <class Bytes>
void score_integers(const TileFormat& f, const IntegerLevels& levels, const std::byte* tile,
                    int head, const float*, std::size_t, const std::byte* queries, int n_q,
                    Ahead& ahead, float* scores) {
  const Bytes decoder(levels);
  const HeadPlanes at = planes_of(f, tile, head, ahead);
  byte_passes<most_byte_queries<Bytes>()>(
      n_q, ScoreBytesPass<Bytes>{decoder, at, f.width, levels.unit,
                                 reinterpret_cast<const IntegerQuery*>(queries), scores});
}

/// Queries times the scales of one run of tokens, in bytes.
struct RunQueries {
  std::int8_t codes[kMaxGqaGroup][kMaxHeadDim];
  std::int32_t bias[kMaxGqaGroup];
  float unit[kMaxGqaGroup];
  float offset[kMaxGqaGroup];  ///< sum of query * zero
};

template <class Bytes>
HWY_INLINE void prepare_run(const Params& p, int width, std::size_t skip, const float* q,
                            std::size_t q_stride, int n_q, RunQueries& out) {
  HWY_ALIGN float scaled[kMaxHeadDim];
  for (int i = 0; i < n_q; ++i, q += q_stride) {
    VF sum = hn::Zero(DF());
    for (int c = 0; c < width; c += kN) {
      const auto at = skip + 2 * static_cast<std::size_t>(c);
      const VF x = hn::LoadU(DF(), q + c);
      const VF scale = hn::Mul(load_f16(p.scales + at), hn::Set(DF(), p.factor));
      hn::Store(hn::Mul(x, scale), DF(), scaled + c);
      if (p.zeros == nullptr) continue;
      const VF zero = hn::MulAdd(scale, hn::Set(DF(), p.center), load_f16(p.zeros + at));
      sum = hn::MulAdd(x, zero, sum);
    }
    out.unit[i] = quantize<Bytes>(scaled, width, out.codes[i], kMaxHeadDim, out.bias + i);
    out.offset[i] = hn::GetLane(hn::SumOfLanes(DF(), sum));
  }
}

template <class Bytes>
struct ScoreRunPass {
  const Bytes& decoder;
  const HeadPlanes& at;
  int width;
  int begin, end;  ///< rows of the run
  float level_unit;
  const RunQueries& queries;
  float* scores;

  template <int kQueries>
  HWY_INLINE void run(int q) const {
    constexpr int kCount = HWY_MIN((byte_vectors<Bytes, kQueries>()), 2 * kVectors);
    for (int row = begin; row < end; row += kCount * kN) {
      VF sum[kQueries][kCount];
      sum_bytes(decoder, byte_key_lines<Bytes>(at, width, row, 0, width),
                CodeRows{queries.codes[q], kMaxHeadDim, 0}, Biases{queries.bias + q, 1, 0}, sum);
      KVCODEC_UNROLL
      for (int i = 0; i < kQueries; ++i) {
        const VF unit = hn::Set(DF(), queries.unit[q + i] * level_unit);
        const VF offset = hn::Set(DF(), queries.offset[q + i]);
        KVCODEC_UNROLL
        for (int j = 0; j < kCount; ++j) {
          hn::StoreU(hn::MulAdd(sum[i][j], unit, offset), DF(),
                     scores + (q + i) * kTileRows + row + j * kN);
        }
      }
    }
  }
};

/// A ScoreIntegers for formats with runs.
template <class Bytes>
void score_run_integers(const TileFormat& f, const IntegerLevels& levels, const std::byte* tile,
                        int head, const float* q, std::size_t q_stride, const std::byte*, int n_q,
                        Ahead& ahead, float* scores) {
  const Bytes decoder(levels);
  const HeadPlanes at = planes_of(f, tile, head, ahead);
  RunQueries queries;
  while (n_q > 0) {
    const int n = HWY_MIN(n_q, kMaxGqaGroup);
    for (int begin = 0; begin < kTileRows; begin += f.run) {
      const auto skip = static_cast<std::size_t>(begin / f.run * 2 * f.width);
      prepare_run<Bytes>(at.params, f.width, skip, q, q_stride, n, queries);
      byte_passes<most_byte_queries<Bytes>()>(
          n, ScoreRunPass<Bytes>{decoder, at, f.width, begin, begin + f.run, levels.unit, queries,
                                 scores});
    }
    q += static_cast<std::size_t>(n) * q_stride;
    scores += n * kTileRows;
    n_q -= n;
  }
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
