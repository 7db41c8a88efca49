// The plain way of attending over a piece of up to 64 rows: logits and weights of all query rows of a
// unit in shared memory, one thread per channel for the sums. What rows that are not encoded and the
// general path share.
#pragma once

#include "cuda/attend/softmax.cuh"

namespace kvcodec::cuda {

/// Rows of a piece at most.
inline constexpr int kPieceRows = 64;

/// Logits, then weights, of a piece and the running softmax of a unit's query rows, in shared memory.
struct PieceSoftmax {
  float weight[kUnitRows][kPieceRows];
  float m[kUnitRows];
  float l[kUnitRows];
  float shrink[kUnitRows];  ///< what sums over older pieces must be multiplied with

  /// Nothing seen yet. A barrier must follow.
  __device__ void start() {
    if (threadIdx.x >= kUnitRows) return;
    m[threadIdx.x] = minus_infinity();
    l[threadIdx.x] = 0.0f;
  }
};

/// Logits become weights; one warp per query row at a time.
__device__ inline void soften_piece(int n_q, PieceSoftmax& s) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int row = static_cast<int>(threadIdx.x / 32); row < n_q; row += kAttendThreads / 32) {
    float* x = s.weight[row];
    const float old = s.m[row];
    const float top = fmaxf(old, warp_max(fmaxf(x[lane], x[lane + 32])));
    const float base = top == minus_infinity() ? 0.0f : top;
    x[lane] = exp2_approx(x[lane] - base);
    x[lane + 32] = exp2_approx(x[lane + 32] - base);
    const float sum = warp_sum(x[lane] + x[lane + 32]);
    __syncwarp();  // all lanes have read m
    if (lane == 0) {
      s.shrink[row] = shrink_of(old, top);
      s.l[row] = fmaf(s.l[row], s.shrink[row], sum);
      s.m[row] = top;
    }
  }
}

/// Sums of values times weights: a thread has channel threadIdx.x and, of wide heads, the one
/// kAttendThreads further. kHeadDim: 0 for any.
template <int kHeadDim>
class ChannelSums {
 public:
  __device__ ChannelSums(int head_dim, int n_q) : head_dim_(head_dim), n_q_(n_q) {}

  /// Adds a piece that soften_piece has left. value(row, channel) is asked for all kPieceRows rows;
  /// those without a weight must be finite.
  template <class F>
  __device__ __forceinline__ void add(const PieceSoftmax& s, const F& value) {
#pragma unroll
    for (int n = 0; n < kLaneChannels; ++n) {
      const int c = static_cast<int>(threadIdx.x) + n * kAttendThreads;
      if (c >= head_dim_) continue;
#pragma unroll
      for (int q = 0; q < kUnitRows; ++q) {
        if (q < n_q_) sum_[n][q] *= s.shrink[q];
      }
      for (int r = 0; r < kPieceRows; r += 4) {
        const float v[4] = {value(r, c), value(r + 1, c), value(r + 2, c), value(r + 3, c)};
#pragma unroll
        for (int q = 0; q < kUnitRows; ++q) {
          if (q >= n_q_) continue;
          const uint4 w = load_vector(reinterpret_cast<const uint4*>(&s.weight[q][r]));
          sum_[n][q] = fmaf(pun<float>(w.x), v[0], sum_[n][q]);
          sum_[n][q] = fmaf(pun<float>(w.y), v[1], sum_[n][q]);
          sum_[n][q] = fmaf(pun<float>(w.z), v[2], sum_[n][q]);
          sum_[n][q] = fmaf(pun<float>(w.w), v[3], sum_[n][q]);
        }
      }
    }
  }

  /// The state of the split (AttendParams::state_floats), with the weights' sum times
  /// center [head_dim] added; null: nothing.
  __device__ void store(const PieceSoftmax& s, const float* center, int unit_rows,
                        float* out) const {
#pragma unroll
    for (int n = 0; n < kLaneChannels; ++n) {
      const int c = static_cast<int>(threadIdx.x) + n * kAttendThreads;
      if (c >= head_dim_) continue;
      const float at = center == nullptr ? 0.0f : center[c];
#pragma unroll
      for (int q = 0; q < kUnitRows; ++q) {
        if (q < n_q_) out[2 * unit_rows + q * head_dim_ + c] = fmaf(s.l[q], at, sum_[n][q]);
      }
    }
    if (static_cast<int>(threadIdx.x) < n_q_) {
      out[threadIdx.x] = s.m[threadIdx.x];
      out[unit_rows + static_cast<int>(threadIdx.x)] = s.l[threadIdx.x];
    }
  }

 private:
  static constexpr int kMost = kHeadDim > 0 ? kHeadDim : kMaxHeadDim;
  static constexpr int kLaneChannels = (kMost + kAttendThreads - 1) / kAttendThreads;

  int head_dim_;
  int n_q_;
  float sum_[kLaneChannels][kUnitRows] = {};
};

}  // namespace kvcodec::cuda
