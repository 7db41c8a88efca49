// Scores and weighted sums of rows that are not encoded: recent tokens, one row after the other.

#if defined(KVCODEC_CPU_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_ROWS_INL_H_
#undef KVCODEC_CPU_ROWS_INL_H_
#else
#define KVCODEC_CPU_ROWS_INL_H_
#endif

#include "add-inl.h"
#include "kvcodec/core/dtype.hpp"
#include "reduce-inl.h"
#include "score-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// N consecutive values of a row.
template <DType kType>
HWY_INLINE VF load_row(const void* data, std::int64_t element) {
  if constexpr (kType == DType::f32) {
    return hn::LoadU(DF(), static_cast<const float*>(data) + element);
  } else {
    const void* p = static_cast<const std::uint16_t*>(data) + element;
    if constexpr (kType == DType::f16) return load_f16(p);
    else return load_bf16(p);
  }
}

/// Dot products of kRows rows and kQueries queries. A product's bits do not depend on either count.
template <DType kType, int kQueries, int kRows>
HWY_INLINE void score_few(int head_dim, const void* k, std::int64_t row_stride, int row,
                          const float* q, float* scores) {
  VF acc[kQueries][kRows];
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    KVCODEC_UNROLL
    for (int r = 0; r < kRows; ++r) acc[i][r] = hn::Zero(DF());
  }
  for (int c = 0; c < head_dim; c += kN) {
    VF values[kRows];
    KVCODEC_UNROLL
    for (int r = 0; r < kRows; ++r) values[r] = load_row<kType>(k, (row + r) * row_stride + c);
    KVCODEC_UNROLL
    for (int i = 0; i < kQueries; ++i) {
      const VF query = hn::LoadU(DF(), q + i * head_dim + c);
      KVCODEC_UNROLL
      for (int r = 0; r < kRows; ++r) acc[i][r] = hn::MulAdd(query, values[r], acc[i][r]);
    }
  }
  alignas(64) float sums[kQueries * kRows + kReduced];
  KVCODEC_UNROLL
  for (int at = 0; at < kQueries * kRows; at += kReduced) {
    VF part[kReduced];
    KVCODEC_UNROLL
    for (int k = 0; k < kReduced; ++k) {
      part[k] = at + k < kQueries * kRows ? acc[(at + k) / kRows % kQueries][(at + k) % kRows]
                                          : hn::Zero(DF());
    }
    store_four(DF(), reduce_each(SumOf(), DF(), part), sums + at);
  }
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    KVCODEC_UNROLL
    for (int r = 0; r < kRows; ++r) scores[i * kTileRows + row + r] = sums[i * kRows + r];
  }
}

template <DType kType>
struct ScoreRowsPass {
  int head_dim;
  const void* k;
  std::int64_t row_stride;
  int n_rows;

  template <int kQueries>
  HWY_INLINE void run(const QueryRows& q, float* scores) const {
    constexpr int kRows = 8 / kQueries;
    int row = 0;
    for (; row + kRows <= n_rows; row += kRows) {
      score_few<kType, kQueries, kRows>(head_dim, k, row_stride, row, q.data, scores);
    }
    for (; row < n_rows; ++row) {
      score_few<kType, kQueries, 1>(head_dim, k, row_stride, row, q.data, scores);
    }
  }
};

template <DType kType>
void score_rows(int head_dim, const void* k, std::int64_t row_stride, int n_rows, const float* q,
                int n_q, float* scores) {
  score_queries<4>({q, static_cast<std::size_t>(head_dim)}, n_q, scores,
                   ScoreRowsPass<kType>{head_dim, k, row_stride, n_rows});
}

/// Weighted sums of 16 * kCount channels from `channel` on.
template <DType kType, int kQueries, int kCount>
HWY_INLINE void add_channels(int head_dim, const void* v, std::int64_t row_stride, int n_rows,
                             int channel, const float* w, float* acc) {
  constexpr int kParts = kCount * kVectors;
  VF sum[kQueries][kParts];
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    KVCODEC_UNROLL
    for (int p = 0; p < kParts; ++p) sum[i][p] = hn::Zero(DF());
  }
  for (int row = 0; row < n_rows; ++row) {
    VF values[kParts];
    KVCODEC_UNROLL
    for (int p = 0; p < kParts; ++p) {
      values[p] = load_row<kType>(v, row * row_stride + channel + p * kN);
    }
    KVCODEC_UNROLL
    for (int i = 0; i < kQueries; ++i) {
      const VF weight = hn::Set(DF(), w[i * kTileRows + row]);
      KVCODEC_UNROLL
      for (int p = 0; p < kParts; ++p) sum[i][p] = hn::MulAdd(weight, values[p], sum[i][p]);
    }
  }
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    KVCODEC_UNROLL
    for (int p = 0; p < kParts; ++p) {
      float* out = acc + i * head_dim + channel + p * kN;
      hn::StoreU(hn::Add(hn::LoadU(DF(), out), sum[i][p]), DF(), out);
    }
  }
}

template <DType kType>
struct AddRowsPass {
  int head_dim;
  const void* v;
  std::int64_t row_stride;
  int n_rows;

  template <int kQueries>
  HWY_INLINE void run(const float* w, float* acc) const {
    constexpr int kCount = kN == 16 ? (kQueries == 1 ? 4 : 2) : (kQueries == 1 ? 2 : 1);
    int channel = 0;
    for (; channel + kCount * kLanes <= head_dim; channel += kCount * kLanes) {
      add_channels<kType, kQueries, kCount>(head_dim, v, row_stride, n_rows, channel, w, acc);
    }
    for (; channel < head_dim; channel += kLanes) {
      add_channels<kType, kQueries, 1>(head_dim, v, row_stride, n_rows, channel, w, acc);
    }
  }
};

template <DType kType>
void add_rows(int head_dim, const void* v, std::int64_t row_stride, int n_rows, const float* w,
              int n_q, float* acc) {
  add_queries<4>(head_dim, w, n_q, acc, AddRowsPass<kType>{head_dim, v, row_stride, n_rows});
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
