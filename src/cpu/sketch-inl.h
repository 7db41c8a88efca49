// Scores of K tiles of signs with outlier channels (codec "qjl"). Without outliers their TileFormat
// says it all.

#if defined(KVCODEC_CPU_SKETCH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_SKETCH_INL_H_
#undef KVCODEC_CPU_SKETCH_INL_H_
#else
#define KVCODEC_CPU_SKETCH_INL_H_
#endif

#include "bits-inl.h"
#include "kernels.hpp"
#include "kvcodec/codec/qjl_projection.hpp"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// Lines of `n` signs each, from row `row` on.
HWY_INLINE Lines sketch_lines(const std::uint8_t* tile, std::size_t offset, int n, int row) {
  const std::size_t stride = static_cast<std::size_t>(n / 32) * kLineBytes;
  return {tile + offset + static_cast<std::size_t>(row / kLanes) * stride,
          stride,
          n / 32,
          nullptr,
          0,
          0};
}

/// The same from a vector's first row on.
HWY_INLINE Lines sketch_vectors(const std::uint8_t* tile, std::size_t offset, int n, int row) {
  return sketch_lines(tile, offset + vector_offset(row), n, row);
}

/// constant / n * stored norms of rows row .. row + N - 1.
HWY_INLINE VF sketch_weight(const SketchTiles& t, const std::uint8_t* tile, std::size_t offset,
                            int n, int row) {
  return hn::Mul(load_f16(tile + offset + 2 * row),
                 hn::Set(DF(), t.constant / static_cast<float>(n)));
}

struct ScoreSketchPass {
  const SketchTiles& t;
  int head_dim;
  const std::uint8_t* tile;
  const BitLevels& levels;

  template <int kQueries>
  HWY_INLINE void run(const QueryRows& q, float* scores) const {
    if (t.n_outlier_signs > 0) sketched<kQueries>(q, scores);
    else exact<kQueries>(q, scores);
  }

  /// The sketch of a query's outlier channels, and that of the others.
  HWY_INLINE void split_query(const float* q, const std::uint8_t* channels, float* inner,
                              float* outer) const {
    for (int s = 0; s < t.n_signs; s += kN) {
      VF sum = hn::Zero(DF());
      for (int j = 0; j < t.n_outliers; ++j) {
        const float* column = t.columns + channels[j] * t.column_stride;
        sum = hn::MulAdd(hn::Set(DF(), q[channels[j]]), hn::LoadU(DF(), column + s), sum);
      }
      hn::Store(sum, DF(), outer + s);
      hn::Store(hn::Sub(hn::LoadU(DF(), q + head_dim + s), sum), DF(), inner + s);
    }
  }

 private:
  template <int kQueries>
  HWY_INLINE void exact(const QueryRows& q, float* scores) const {
    HWY_ALIGN float sums[kQueries * kTileRows];
    sum_bits<kQueries>(levels, sketch_lines(tile, 0, t.n_signs, 0), kTileRows / kLanes, t.n_signs,
                       Multipliers{q.data + head_dim, q.stride}, sums, kTileRows);
    for (int row = 0; row < kTileRows; row += kN) {
      const VF of_row = sketch_weight(t, tile, t.norm_offset, t.n_signs, row);
      const std::uint8_t* channels = tile + t.channel_offset + row / t.set_rows * t.n_outliers;
      VF total[kQueries];
      for (int i = 0; i < kQueries; ++i) {
        total[i] = hn::Mul(hn::Load(DF(), sums + i * kTileRows + row), of_row);
      }
      for (int j = 0; j < t.n_outliers; ++j) {
        const VF value = load_f16(tile + t.outlier_offset +
                                  static_cast<std::size_t>(j) * kScalePlaneBytes + 2 * row);
        for (int i = 0; i < kQueries; ++i) {
          const float* query = q.data + static_cast<std::size_t>(i) * q.stride;
          total[i] = hn::MulAdd(value, hn::Set(DF(), query[channels[j]]), total[i]);
        }
      }
      for (int i = 0; i < kQueries; ++i) {
        hn::StoreU(total[i], DF(), scores + i * kTileRows + row);
      }
    }
  }

  template <int kQueries>
  HWY_INLINE void sketched(const QueryRows& q, float* scores) const {
    HWY_ALIGN float inner[kQueries * kMaxSketchDim];
    HWY_ALIGN float outer[kQueries * kMaxSketchDim];
    HWY_ALIGN float inner_sums[kQueries * kTileRows];
    HWY_ALIGN float outer_sums[kQueries * kTileRows];
    for (int row = 0; row < kTileRows; row += t.set_rows) {
      const std::uint8_t* channels = tile + t.channel_offset + row / t.set_rows * t.n_outliers;
      for (int i = 0; i < kQueries; ++i) {
        split_query(q.data + static_cast<std::size_t>(i) * q.stride, channels,
                    inner + i * kMaxSketchDim, outer + i * kMaxSketchDim);
      }
      const int n_lines = t.set_rows / kLanes;
      sum_bits<kQueries>(levels, sketch_lines(tile, 0, t.n_signs, row), n_lines, t.n_signs,
                         Multipliers{inner, kMaxSketchDim}, inner_sums, kTileRows);
      sum_bits<kQueries>(levels, sketch_lines(tile, t.outlier_sign_offset, t.n_outlier_signs, row),
                         n_lines, t.n_outlier_signs, Multipliers{outer, kMaxSketchDim}, outer_sums,
                         kTileRows);
      for (int r = 0; r < t.set_rows; r += kN) {
        const VF of_inner = sketch_weight(t, tile, t.norm_offset, t.n_signs, row + r);
        const VF of_outer = sketch_weight(t, tile, t.outlier_offset, t.n_outlier_signs, row + r);
        for (int i = 0; i < kQueries; ++i) {
          const VF part = hn::Mul(of_inner, hn::Load(DF(), inner_sums + i * kTileRows + r));
          const VF rest = hn::Load(DF(), outer_sums + i * kTileRows + r);
          hn::StoreU(hn::MulAdd(of_outer, rest, part), DF(), scores + i * kTileRows + row + r);
        }
      }
    }
  }
};

/// Signs s .. s + kParts * N - 1 of the sketches of kQueries queries.
template <int kQueries, int kParts>
HWY_INLINE void project_signs(const SketchTiles& t, int head_dim, const float* q, int s,
                              std::size_t out_stride, float* out) {
  VF sum[kQueries][kParts];
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    KVCODEC_UNROLL
    for (int p = 0; p < kParts; ++p) sum[i][p] = hn::Zero(DF());
  }
  const float* column = t.columns + s;
  for (int c = 0; c < head_dim; ++c, column += t.column_stride) {
    VF signs[kParts];
    KVCODEC_UNROLL
    for (int p = 0; p < kParts; ++p) signs[p] = hn::LoadU(DF(), column + p * kN);
    KVCODEC_UNROLL
    for (int i = 0; i < kQueries; ++i) {
      const VF x = hn::Set(DF(), q[i * head_dim + c]);
      KVCODEC_UNROLL
      for (int p = 0; p < kParts; ++p) sum[i][p] = hn::MulAdd(x, signs[p], sum[i][p]);
    }
  }
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    float* to = out + static_cast<std::size_t>(i) * out_stride + s;
    KVCODEC_UNROLL
    for (int p = 0; p < kParts; ++p) hn::StoreU(sum[i][p], DF(), to + p * kN);
  }
}

/// Queries that share the loads of S, in kParts sums each.
struct ProjectPass {
  const SketchTiles& t;
  int head_dim;
  const float* q;
  std::size_t out_stride;
  float* out;

  template <int kQueries>
  HWY_INLINE void run(int i) const {
    constexpr int kParts = kN == 16 ? 4 : kQueries >= 3 ? 2 : 4;
    constexpr int kRest = 32 / kN;  // there are whole words of signs
    const float* query = q + i * head_dim;
    float* to = out + static_cast<std::size_t>(i) * out_stride;
    int s = 0;
    for (; s + kParts * kN <= t.n_signs; s += kParts * kN) {
      project_signs<kQueries, kParts>(t, head_dim, query, s, out_stride, to);
    }
    if constexpr (kParts > kRest) {
      if (s < t.n_signs) {
        project_signs<kQueries, kRest>(t, head_dim, query, s, out_stride, to);
      }
    }
  }
};

/// A ProjectQueries.
inline void project_queries(const SketchTiles& t, int head_dim, const float* q, int n_q,
                            std::size_t out_stride, float* out) {
  query_passes<4>(n_q, ProjectPass{t, head_dim, q, out_stride, out});
}

/// A ScoreSketch.
inline void score_sketch(const SketchTiles& t, int head_dim, const std::byte* tile, const float* q,
                         int n_q, float* scores) {
  const BitLevels levels(-1.0f, 1.0f);
  const auto stride = static_cast<std::size_t>(head_dim + t.n_signs);
  score_queries<kBitQueries>(
      {q, stride}, n_q, scores,
      ScoreSketchPass{t, head_dim, reinterpret_cast<const std::uint8_t*>(tile), levels});
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
