// Online softmax over the scores that a warp holds in fragments D.
#pragma once

#include <cmath>

#include "cuda/attend/queries.cuh"

namespace kvcodec::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;

__device__ __forceinline__ float minus_infinity() { return -INFINITY; }

/// Scores, then weights, of one tile and kOctets times 8 query rows:
/// [octet][half of the tile][pair of neighbours][register of D]. Register c of pair n belongs to token
/// 2 * n + c / 2 of the lane's quad and to query row 8 * octet + 2 * t + c % 2.
template <int kOctets>
using Scores = float[kOctets][2][2][4];

/// Running maximum, in powers of two, and this lane's part of the sum, per query row.
template <int kOctets>
struct SoftmaxState {
  float m[kOctets][2];
  float l[kOctets][2];
};

/// 2^(from - to), where `from` may be -inf and `to` is not below it.
__device__ __forceinline__ float shrink_of(float from, float to) {
  return from == minus_infinity() ? 0.0f : exp2_approx(from - to);
}

/// Logit in powers of two.
__device__ __forceinline__ float logit_of(const AttendParams& p, float score, float factor,
                                          float center) {
  float x = fmaf(score, factor, center);
  if (p.logits_soft_cap > 0.0f) x = p.logits_soft_cap * tanhf(x / p.logits_soft_cap);
  return x * kLog2E;
}

/// Rows of a tile: their positions and masks.
struct TileRowsInfo {
  const std::int32_t* listed;  ///< [kTileRows]; or null
  const KeepMask* masks;       ///< [kTileRows]; or null
  std::int32_t first_pos;      ///< of consecutive rows
  std::int32_t n_rows;
  bool all_visible;  ///< to every query row of the unit
};

/// Rows row .. row + kTileRows - 1 of a stream, those from end_row on left out; row 0 stands at
/// stream_pos, row `row` in page `page`. all_visible is not set.
__device__ __forceinline__ TileRowsInfo tile_rows_in(const AttendParams& p, std::int32_t page,
                                                     std::int32_t row, std::int32_t end_row,
                                                     std::int32_t stream_pos) {
  TileRowsInfo rows{};
  rows.n_rows = end_row - row < kTileRows ? end_row - row : kTileRows;
  rows.first_pos = stream_pos + row;
  const std::int64_t slot =
      std::int64_t{page} * p.view.format.page_size + row % p.view.format.page_size;
  rows.listed = p.view.slot_pos == nullptr ? nullptr : p.view.slot_pos + slot;
  rows.masks = p.view.slot_mask == nullptr ? nullptr : p.view.slot_mask + slot;
  return rows;
}

/// Whether a query row sees a row of the tile.
__device__ __forceinline__ bool sees(const AttendParams& p, const TileRowsInfo& rows, int row,
                                     const QueryTable& queries, int q_row) {
  if (row >= rows.n_rows) return false;
  if (rows.masks != nullptr && ((rows.masks[row] >> queries.in_group[q_row]) & 1) == 0)
    return false;
  const std::int32_t pos = rows.listed != nullptr ? rows.listed[row] : rows.first_pos + row;
  return in_view(p, pos, queries.pos[q_row]);
}

/// Scores become weights exp2(logit - m), m and l move on; `shrink` is what older sums must be
/// multiplied with. All lanes of a warp together.
template <CodeKind kValue, int kOctets>
__device__ __forceinline__ void softmax_step(const AttendParams& p, const TileRowsInfo& rows,
                                             const QueryTable& queries, int g, int t,
                                             Scores<kOctets>& s, SoftmaxState<kOctets>& state,
                                             float (&shrink)[kOctets][2]) {
#pragma unroll
  for (int at = 0; at < 2 * kOctets; ++at) {
    const int octet = at / 2;
    const int j = at % 2;
    const int q_row = 8 * octet + 2 * t + j;
    float top = minus_infinity();
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float& x = s[octet][i / 4][i / 2 % 2][2 * (i % 2) + j];
      x = logit_of(p, x, queries.factor[q_row], queries.center[q_row]);
      if (!rows.all_visible &&
          !sees(p, rows, 4 * key_quad<kValue>(g, i / 4) + i % 4, queries, q_row)) {
        x = minus_infinity();
      }
      top = fmaxf(top, x);
    }
#pragma unroll
    for (int step = 4; step < 32; step *= 2) {
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
    }
    top = fmaxf(top, state.m[octet][j]);
    shrink[octet][j] = shrink_of(state.m[octet][j], top);
    state.m[octet][j] = top;
    const float base = top == minus_infinity() ? 0.0f : top;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float& x = s[octet][i / 4][i / 2 % 2][2 * (i % 2) + j];
      x = exp2_approx(x - base);
      sum += x;
    }
    state.l[octet][j] = fmaf(state.l[octet][j], shrink[octet][j], sum);
  }
}

}  // namespace kvcodec::cuda
