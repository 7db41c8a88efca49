// Scores of K tiles of signs with outlier channels (codec "qjl") in integers.

#if defined(KVCODEC_CPU_INTEGER_SKETCH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_INTEGER_SKETCH_INL_H_
#undef KVCODEC_CPU_INTEGER_SKETCH_INL_H_
#else
#define KVCODEC_CPU_INTEGER_SKETCH_INL_H_
#endif

#include "integer_bits-inl.h"
#include "sketch-inl.h"

KVCODEC_BEFORE_INTEGERS();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// What stands for the signs' sketch, and behind it what stands for that of the outliers.
HWY_INLINE std::uint8_t* sketch_bytes(SketchQuery* query) {
  return reinterpret_cast<std::uint8_t*>(query + 1);
}

HWY_INLINE SketchQuery* sketch_query(const SketchTiles& t, std::byte* queries, int i) {
  const auto stride =
      sizeof(SketchQuery) + kSignBytes * static_cast<std::size_t>(t.n_signs + t.n_outlier_signs);
  return reinterpret_cast<SketchQuery*>(queries + static_cast<std::size_t>(i) * stride);
}

/// A PrepareSketch: for exact outliers; sketched ones wait for a list of channels.
inline void prepare_sketch(const SketchTiles& t, int head_dim, const float* q, int n_q,
                           std::byte* queries) {
  const BitLevels levels(-1.0f, 1.0f);
  for (int i = 0; i < n_q; ++i, q += head_dim + t.n_signs) {
    SketchQuery* query = sketch_query(t, queries, i);
    query->n_channels = -1;
    if (t.n_outlier_signs > 0) continue;
    query->unit = put_signs_query(levels, 1.0f, q + head_dim, t.n_signs, sketch_bytes(query));
  }
}

/// The query for outliers `channels`, unless they are there.
HWY_INLINE void split_bytes(const ScoreSketchPass& pass, const BitLevels& levels,
                            const SketchTiles& t, const float* q, const std::uint8_t* channels,
                            SketchQuery* query) {
  const auto n = static_cast<std::size_t>(t.n_outliers);
  if (query->n_channels == t.n_outliers && std::memcmp(query->channels, channels, n) == 0) return;
  HWY_ALIGN float inner[kMaxSketchDim];
  HWY_ALIGN float outer[kMaxSketchDim];
  pass.split_query(q, channels, inner, outer);
  std::uint8_t* bytes = sketch_bytes(query);
  query->unit = put_signs_query(levels, 1.0f, inner, t.n_signs, bytes);
  query->outlier_unit =
      put_signs_query(levels, 1.0f, outer, t.n_outlier_signs, bytes + kSignBytes * t.n_signs);
  query->n_channels = t.n_outliers;
  std::memcpy(query->channels, channels, n);
}

/// Two lines of rows from `row` on.
struct ScoreSketchBytesPass {
  const SketchTiles& t;
  int head_dim;
  const std::uint8_t* tile;
  const float* q;
  std::byte* queries;
  int row;
  float* scores;

  template <int kQueries>
  HWY_INLINE void run(int first) const {
    constexpr int kCount = HWY_MIN(sign_vectors<kQueries>(), 2 * kVectors);
    for (int at = row; at < row + 2 * kLanes; at += kCount * kN)
      vectors<kQueries, kCount>(first, at);
  }

 private:
  template <int kQueries, int kCount>
  HWY_INLINE void vectors(int first, int first_row) const {
    const std::size_t stride = static_cast<std::size_t>(
        reinterpret_cast<std::byte*>(sketch_query(t, queries, 1)) - queries);
    const std::uint8_t* bytes = sketch_bytes(sketch_query(t, queries, first));
    VF sum[kQueries][kCount];
    VF outer[kQueries][kCount];
    sum_signs(sketch_vectors(tile, 0, t.n_signs, first_row), SignRows{bytes, stride}, sum);
    if (t.n_outlier_signs > 0) {
      sum_signs(sketch_vectors(tile, t.outlier_sign_offset, t.n_outlier_signs, first_row),
                SignRows{bytes + kSignBytes * t.n_signs, stride}, outer);
    }
    for (int j = 0; j < kCount; ++j) {
      const int at = first_row + j * kN;
      const VF weight = sketch_weight(t, tile, t.norm_offset, t.n_signs, at);
      const std::uint8_t* channels = tile + t.channel_offset + at / t.set_rows * t.n_outliers;
      for (int i = 0; i < kQueries; ++i) {
        const SketchQuery& query = *sketch_query(t, queries, first + i);
        VF total = hn::Mul(hn::Mul(sum[i][j], hn::Set(DF(), query.unit)), weight);
        if (t.n_outlier_signs > 0) {
          const VF rest = hn::Mul(outer[i][j], hn::Set(DF(), query.outlier_unit));
          total = hn::MulAdd(rest, sketch_weight(t, tile, t.outlier_offset, t.n_outlier_signs, at),
                             total);
        } else {
          const float* of_query = q + static_cast<std::size_t>(first + i) *
                                          static_cast<std::size_t>(head_dim + t.n_signs);
          for (int o = 0; o < t.n_outliers; ++o) {
            const VF value = load_f16(tile + t.outlier_offset +
                                      static_cast<std::size_t>(o) * kScalePlaneBytes + 2 * at);
            total = hn::MulAdd(value, hn::Set(DF(), of_query[channels[o]]), total);
          }
        }
        hn::StoreU(total, DF(), scores + (first + i) * kTileRows + at);
      }
    }
  }
};

/// A ScoreSketchIntegers.
inline void score_sketch_integers(const SketchTiles& t, int head_dim, const std::byte* tile,
                                  const float* q, std::byte* queries, int n_q, float* scores) {
  const BitLevels levels(-1.0f, 1.0f);
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(tile);
  const ScoreSketchPass split = {t, head_dim, bytes, levels};
  for (int row = 0; row < kTileRows; row += 2 * kLanes) {
    if (t.n_outlier_signs > 0) {
      const std::uint8_t* channels = bytes + t.channel_offset + row / t.set_rows * t.n_outliers;
      for (int i = 0; i < n_q; ++i) {
        const float* query =
            q + static_cast<std::size_t>(i) * static_cast<std::size_t>(head_dim + t.n_signs);
        split_bytes(split, levels, t, query, channels, sketch_query(t, queries, i));
      }
    }
    byte_passes<kSignQueries>(n_q,
                              ScoreSketchBytesPass{t, head_dim, bytes, q, queries, row, scores});
  }
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
