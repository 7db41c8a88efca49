// The query rows of a unit in shared memory, as fragments B in the order of the key codes.
#pragma once

#include "cuda/attend/geometry.cuh"
#include "cuda/attend/params.hpp"
#include "cuda/core/values.cuh"
#include "cuda/core/warp.cuh"

namespace kvcodec::cuda {

/// Groups of a key row that may have zeros of their own.
inline constexpr int kMaxZeroGroups = 8;

/// The query rows of a unit, in shared memory.
struct QueryTable {
  float unit[kUnitRows];             ///< power of two taken out of the row, so that f16 holds it
  float factor[kUnitRows];           ///< of its scores: sm_scale, the unit, the scale of all keys
  float center[kUnitRows];           ///< sm_scale * q . center of the keys
  std::int32_t pos[kUnitRows];       ///< below every row's where there is no such query row
  std::int32_t in_group[kUnitRows];  ///< query head within its group
  float sums[kUnitRows][kMaxZeroGroups];  ///< sum of the row's f16 values over each group of codes
};

/// Value of channel `c` of a query row that key codes are multiplied with; 0 beyond the width.
__device__ __forceinline__ float query_value(const AttendParams& p, const Unit& u, int row, int c) {
  if (row >= u.n_rows || c >= p.k.width) return 0.0f;
  const std::int64_t at = u.q_row(p, row) * p.k.width + c;
  return p.q_prepared != nullptr ? p.q_prepared[at] : load_f32(p.q, p.q_dtype, at);
}

/// The power of two not above a positive finite x; 1 for 0, limited to 2^+-126.
__device__ __forceinline__ float power_below(float x) {
  const std::uint32_t exponent = pun<std::uint32_t>(x) & 0x7f800000u;
  if (exponent == 0) return x == 0.0f ? 1.0f : 0x1p-126f;
  return exponent >= 0x7f000000u ? 0x1p126f : pun<float>(exponent);
}

/// Fills the table of a unit: one warp per row at a time. A barrier must follow.
__device__ inline void fill_query_table(const AttendParams& p, const Unit& u, QueryTable& table) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int head_dim = p.view.shape.head_dim;
  for (int row = static_cast<int>(threadIdx.x / 32); row < kUnitRows; row += kAttendThreads / 32) {
    float top = 0.0f;
    for (int c = lane; c < p.k.width; c += 32) top = fmaxf(top, fabsf(query_value(p, u, row, c)));
    const float unit = power_below(warp_max(top));
    float center = 0.0f;
    if (p.view.k_center != nullptr && row < u.n_rows) {
      const float* of_head =
          p.view.k_center + (u.seq * p.view.shape.n_kv_heads + u.head) * head_dim;
      const std::int64_t at = u.q_row(p, row) * head_dim;
      for (int c = lane; c < head_dim; c += 32) {
        center = fmaf(load_f32(p.q, p.q_dtype, at + c), of_head[c], center);
      }
      center = warp_sum(center);
    }
    if (p.k.has_zeros()) {
      const int n_groups = (p.k.width + p.k.group - 1) / p.k.group;
      for (int g = 0; g < n_groups; ++g) {
        const int end = (g + 1) * p.k.group < p.k.width ? (g + 1) * p.k.group : p.k.width;
        float sum = 0.0f;
        for (int c = g * p.k.group + lane; c < end; c += 32) {
          sum += __half2float(__float2half_rn(query_value(p, u, row, c) / unit));
        }
        sum = warp_sum(sum);
        if (lane == 0) table.sums[row][g] = sum;
      }
    }
    if (lane == 0) {
      table.unit[row] = unit;
      table.factor[row] = p.sm_scale * p.k.scale * unit;
      table.center[row] = p.sm_scale * center;
      table.pos[row] = row < u.n_rows ? p.q_pos[u.token(row)] : INT32_MIN;
      table.in_group[row] = u.head_in_group(row);
    }
  }
}

/// Fragments B of all steps, [step][lane][octet] of 2 registers; after fill_query_table and a barrier.
template <class Plane, int kOctets>
__device__ void fill_query_fragments(const AttendParams& p, const Unit& u, const QueryTable& table,
                                     uint2* fragments) {
  const auto pair = [&](int row, int t, int step, int r) {
    const float unit = table.unit[row];
    const float low = query_value(p, u, row, Plane::channel(t, step, r, 0)) / unit;
    const float high = query_value(p, u, row, Plane::channel(t, step, r, 1)) / unit;
    return bits_of(__floats2half2_rn(low, high));
  };
  for (int i = static_cast<int>(threadIdx.x); i < Plane::steps * 32 * kOctets;
       i += kAttendThreads) {
    const int lane = i / kOctets % 32;
    const int row = 8 * (i % kOctets) + lane / 4;
    const int step = i / (32 * kOctets);
    fragments[i] = make_uint2(pair(row, lane % 4, step, 0), pair(row, lane % 4, step, 1));
  }
}

}  // namespace kvcodec::cuda
