// Merges the splits of every query row, adds sink logits, normalises, stores.
#pragma once

#include "cuda/attend/softmax.cuh"

namespace kvcodec::cuda {

/// The states of one query row: those of the splits that have rows, in order.
class RowStates {
 public:
  __device__ RowStates(const AttendParams& p, const Unit& u, int row) : p_(p), u_(u), row_(row) {
    const std::int64_t stream = u.seq * p.view.n_streams_per_seq() + u.head / p.view.format.span;
    n_pages_ = splits_of(p.view.encoded_rows(stream), p.split_rows, p.n_page_splits);
    n_raw_ = splits_of(n_raw_rows(p, u.seq, u.head), kRawSplitRows, p.n_raw_splits);
  }
  __device__ int size() const { return n_pages_ + n_raw_; }
  __device__ const float* state(int i) const {
    return p_.state(u_.index, i < n_pages_ ? i : p_.n_page_splits + i - n_pages_);
  }
  __device__ float m(int i) const { return state(i)[row_]; }
  __device__ float l(int i) const { return state(i)[p_.unit_rows + row_]; }
  __device__ float sum(int i, int channel) const {
    return state(i)[2 * p_.unit_rows + row_ * p_.view.shape.head_dim + channel];
  }

 private:
  __device__ static std::int32_t splits_of(std::int64_t n_rows, std::int32_t split_rows,
                                           std::int32_t most) {
    const std::int64_t n = (n_rows + split_rows - 1) / split_rows;
    return n < most ? static_cast<std::int32_t>(n) : most;
  }

  const AttendParams& p_;
  const Unit& u_;
  int row_;
  std::int32_t n_pages_;
  std::int32_t n_raw_;
};

/// Grid: x KV heads times units, y rows of a unit, z sequences. One CTA per query row.
static __global__ void __launch_bounds__(kAttendThreads) combine_kernel(const AttendParams p) {
  const Unit u = Unit::at(p, blockIdx.z, blockIdx.x);
  const int row = static_cast<int>(blockIdx.y);
  if (row >= u.n_rows) return;
  const RowStates states(p, u, row);
  const std::int32_t q_head = u.head * u.group + u.head_in_group(row);
  const float sink = p.sink_logits == nullptr ? minus_infinity() : p.sink_logits[q_head] * kLog2E;
  float top = sink;
  for (int i = 0; i < states.size(); ++i) top = fmaxf(top, states.m(i));
  const bool empty = top == minus_infinity();
  float l = empty ? 0.0f : shrink_of(sink, top);
  for (int i = 0; i < states.size() && !empty; ++i) l += states.l(i) * shrink_of(states.m(i), top);
  const std::int64_t q_row = u.q_row(p, row);
  const int head_dim = p.view.shape.head_dim;
  for (int c = static_cast<int>(threadIdx.x); c < head_dim; c += kAttendThreads) {
    float sum = 0.0f;
    for (int i = 0; i < states.size() && !empty; ++i) {
      if (states.m(i) == minus_infinity()) continue;  // its sums may be anything but finite
      sum += states.sum(i, c) * shrink_of(states.m(i), top);
    }
    store_f32(p.out, p.out_dtype, q_row * head_dim + c, empty ? 0.0f : sum / l);
  }
  if (threadIdx.x == 0 && p.lse != nullptr) {
    p.lse[q_row] = empty ? minus_infinity() : (top + log2f(l)) / kLog2E;
  }
}

}  // namespace kvcodec::cuda
