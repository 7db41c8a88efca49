// Scores of a K tile: lanes are keys, multipliers are query channels (lines-inl.h).

#if defined(KVCODEC_CPU_SCORE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_SCORE_INL_H_
#undef KVCODEC_CPU_SCORE_INL_H_
#else
#define KVCODEC_CPU_SCORE_INL_H_
#endif

#include "kvcodec/codec/tile_layout.hpp"
#include "lines-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// total += sum * scale, where the lanes' scales start at row `row` of the plane.
template <int kQueries, int kCount>
HWY_INLINE void add_scaled(const std::uint8_t* plane, int row, const VF (&sum)[kQueries][kCount],
                           VF (&total)[kQueries][kCount]) {
  KVCODEC_UNROLL
  for (int v = 0; v < kCount; ++v) {
    const VF scale = load_f16(plane + 2 * (row + v * kN));
    KVCODEC_UNROLL
    for (int i = 0; i < kQueries; ++i) total[i][v] = hn::MulAdd(sum[i][v], scale, total[i][v]);
  }
}

/// Scores of all 64 keys for kQueries queries.
template <int kQueries, class Decoder>
HWY_INLINE void score_pass(const Decoder& decoder, const Scales& scales, const std::uint8_t* plane,
                           int head_dim, const float* q, float* scores) {
  constexpr int kCount = lines_per_pass<Decoder, kQueries>();
  const auto width = static_cast<std::size_t>(head_dim);
  const std::size_t line_stride = width / Decoder::kPerWord * kLineBytes;
  for (int row = 0; row < kTileRows; row += kCount * kLanes) {
    VF total[kQueries][kCount * kVectors];
    KVCODEC_UNROLL
    for (int i = 0; i < kQueries; ++i) {
      KVCODEC_UNROLL
      for (int v = 0; v < kCount * kVectors; ++v) total[i][v] = hn::Zero(DF());
    }
    const std::uint8_t* line = plane + static_cast<std::size_t>(row / kLanes) * line_stride;
    for (int s = 0; s < scales.n; ++s) {
      const int first = s * scales.length;
      const int words = HWY_MIN(scales.length, head_dim - first) / Decoder::kPerWord;
      const Lines lines = {line + first / Decoder::kPerWord * kLineBytes, line_stride, words};
      const Multipliers m = {q + first, width};
      if (scales.data != nullptr) {
        VF sum[kQueries][kCount * kVectors];
        multiply_lines(decoder, lines, m, sum);
        add_scaled(scales.data + static_cast<std::size_t>(s) * kScalePlaneBytes, row, sum, total);
      } else {
        multiply_lines(decoder, lines, m, total);
      }
    }
    KVCODEC_UNROLL
    for (int i = 0; i < kQueries; ++i) {
      KVCODEC_UNROLL
      for (int v = 0; v < kCount * kVectors; ++v) {
        hn::StoreU(total[i][v], DF(), scores + i * kTileRows + row + v * kN);
      }
    }
  }
}

/// Any number of queries, in passes of 4, 2 and 1.
template <class Decoder>
HWY_INLINE void score_queries(const Decoder& decoder, const Scales& scales,
                              const std::uint8_t* plane, int head_dim, const float* q, int n_q,
                              float* scores) {
  const auto step = [&](int n) HWY_ATTR {
    q += n * head_dim;
    scores += n * kTileRows;
    n_q -= n;
  };
  if constexpr (max_queries<Decoder>() >= 4) {
    for (; n_q >= 4; step(4)) score_pass<4>(decoder, scales, plane, head_dim, q, scores);
  }
  for (; n_q >= 2; step(2)) score_pass<2>(decoder, scales, plane, head_dim, q, scores);
  if (n_q >= 1) score_pass<1>(decoder, scales, plane, head_dim, q, scores);
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
