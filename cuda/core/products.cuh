// Products of up to 32 rows with up to 64 others, f32 on CUDA cores: the inner loop of observed attention
// and of the codebook's cosines, which both want the bits (or nearly) that the CPU has, not the speed of
// f16 tensor cores.
//
// A CTA of 128 threads; thread t has rows 4 (t / 16) .. + 3 of the 32 and 4 (t % 16) .. + 3 of the 64. Both
// stand in shared memory channel by channel, so that a thread reads four rows with one access.
#pragma once

#include "cuda/core/row_source.cuh"

namespace kvcodec::cuda {

inline constexpr int kProductThreads = 128;
inline constexpr int kLeftRows = 32;
inline constexpr int kRightRows = 64;

/// Floats of shared memory for both sides.
constexpr int product_floats(int head_dim) noexcept { return (kLeftRows + kRightRows) * head_dim; }

/// tile [head_dim][kRows] <- rows 0 .. n - 1, zeros behind them. load(row, channel, x) gives eight
/// channels. By all threads; the caller synchronises.
template <int kRows, class Load>
__device__ void stage_rows(int head_dim, std::int64_t n, float* tile, const Load& load) {
  for (int i = static_cast<int>(threadIdx.x); i < kRows * (head_dim / kOctet);
       i += kProductThreads) {
    const int row = i % kRows;
    const int channel = i / kRows * kOctet;
    float x[kOctet] = {};
    if (row < n) load(row, channel, x);
#pragma unroll
    for (int j = 0; j < kOctet; ++j) tile[(channel + j) * kRows + row] = x[j];
  }
}

/// First row of the thread on either side.
__device__ __forceinline__ int left_row() { return static_cast<int>(threadIdx.x) / 16 * 4; }
__device__ __forceinline__ int right_row() { return static_cast<int>(threadIdx.x) % 16 * 4; }

/// Adds the products of one channel to sum [4][4], rounded as `add(a, b, sum)` says.
template <class Add>
__device__ __forceinline__ void add_products(const float* left, const float* right, int c,
                                             float (&sum)[4][4], const Add& add) {
  const float4 l = *reinterpret_cast<const float4*>(left + c * kLeftRows + left_row());
  const float4 r = *reinterpret_cast<const float4*>(right + c * kRightRows + right_row());
  const float a[4] = {l.x, l.y, l.z, l.w};
  const float b[4] = {r.x, r.y, r.z, r.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sum[i][j] = add(a[i], b[j], sum[i][j]);
  }
}

/// dot <- products in the order of channels, every product and sum rounded: the bits of panel_dots().
__device__ inline void dots_in_order(int head_dim, const float* left, const float* right,
                                     float (&dot)[4][4]) {
  for (auto& row : dot) {
    for (float& x : row) x = 0.0f;
  }
  for (int c = 0; c < head_dim; ++c) {
    add_products(left, right, c, dot,
                 [](float a, float b, float sum) { return __fadd_rn(sum, __fmul_rn(a, b)); });
  }
}

/// dot <- eight sums, by channel modulo 8, added up: the order of observed_products(), with fused
/// products.
__device__ inline void dots_by_octet(int head_dim, const float* left, const float* right,
                                     float (&dot)[4][4]) {
  for (auto& row : dot) {
    for (float& x : row) x = 0.0f;
  }
  for (int first = 0; first < kOctet; ++first) {
    float sum[4][4] = {};
    for (int c = first; c < head_dim; c += kOctet) {
      add_products(left, right, c, sum,
                   [](float a, float b, float total) { return fmaf(a, b, total); });
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) dot[i][j] += sum[i][j];
    }
  }
}

}  // namespace kvcodec::cuda
