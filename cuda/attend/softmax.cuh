// Online softmax over the scores that a warp holds in fragments D.
#pragma once

#include <cmath>

#include "cuda/attend/geometry.cuh"
#include "cuda/attend/params.hpp"

namespace kvcodec::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;

__device__ __forceinline__ float minus_infinity() { return -INFINITY; }

/// Scores, then weights, of one tile: [half][neighbour][column of D].
using Scores = float[2][4][4];

/// What a lane knows of its query rows g and g + 8.
template <int kHalves>
struct QueryRows {
  float factor[kHalves];           ///< sm_scale times what was taken out of the query
  float center[kHalves];           ///< sm_scale * q . center of the keys
  std::int32_t pos[kHalves];       ///< query position; below every row's where there is no such row
  std::int32_t in_group[kHalves];  ///< query head within its group
};

/// Running maximum, in powers of two, and this lane's part of the sum, per query row.
template <int kHalves>
struct SoftmaxState {
  float m[kHalves];
  float l[kHalves];
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

/// Scores become weights exp2(logit - m), m and l move on; `shrink` is what older sums must be
/// multiplied with. All lanes of a warp together.
template <CodeKind kValue, int kHalves>
__device__ __forceinline__ void softmax_step(const AttendParams& p, const TileRowsInfo& rows,
                                             const QueryRows<kHalves>& q, int t, Scores& s,
                                             SoftmaxState<kHalves>& state,
                                             float (&shrink)[kHalves]) {
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    float top = minus_infinity();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[r][i][2 * half + e];
          x = logit_of(p, x, q.factor[half], q.center[half]);
          if (!rows.all_visible) {
            const int row = token_of<kValue>(t, r, i, e);
            bool seen = row < rows.n_rows;
            if (seen && rows.masks != nullptr) {
              seen = ((rows.masks[row] >> q.in_group[half]) & 1) != 0;
            }
            if (seen) {
              const std::int32_t pos =
                  rows.listed != nullptr ? rows.listed[row] : rows.first_pos + row;
              seen = in_view(p, pos, q.pos[half]);
            }
            if (!seen) x = minus_infinity();
          }
          top = fmaxf(top, x);
        }
      }
    }
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    top = fmaxf(top, state.m[half]);
    shrink[half] = shrink_of(state.m[half], top);
    state.m[half] = top;
    const float base = top == minus_infinity() ? 0.0f : top;
    float sum = 0.0f;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[r][i][2 * half + e];
          x = exp2_approx(x - base);
          sum += x;
        }
      }
    }
    state.l[half] = fmaf(state.l[half], shrink[half], sum);
  }
}

}  // namespace kvcodec::cuda
