// Reductions and counts over all threads of a CTA. Every thread calls them together; a CTA has whole
// warps. The order of sums is fixed, so results depend on the values and the CTA's size alone.
#pragma once

#include "cuda/core/device.cuh"

namespace kvcodec::cuda {

/// op over the values of all threads; all get the result. `op` must be commutative.
template <class T, class Op>
__device__ T cta_reduce(T x, Op op) {
  KVCODEC_SHARED(partial, T[32]);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = op(x, __shfl_xor_sync(0xffffffffu, x, step));
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  T result = partial[0];
  for (unsigned w = 1; w < blockDim.x / 32; ++w) result = op(result, partial[w]);
  __syncthreads();  // before the next call writes
  return result;
}

template <class T>
__device__ T cta_sum(T x) {
  return cta_reduce(x, [](T a, T b) { return a + b; });
}
template <class T>
__device__ T cta_max(T x) {
  return cta_reduce(x, [](T a, T b) { return a < b ? b : a; });
}
template <class T>
__device__ T cta_min(T x) {
  return cta_reduce(x, [](T a, T b) { return b < a ? b : a; });
}

/// How many threads before this one have `flag` set, and in `total` how many of all.
__device__ inline int cta_count_before(bool flag, int& total) {
  KVCODEC_SHARED(counts, int[32]);
  const unsigned votes = __ballot_sync(0xffffffffu, flag ? 1 : 0);
  const unsigned lane = threadIdx.x % 32;
  const unsigned warp = threadIdx.x / 32;
  if (lane == 0) counts[warp] = __popc(votes);
  __syncthreads();
  int before = __popc(votes & ((1u << lane) - 1u));
  total = 0;
  for (unsigned w = 0; w < blockDim.x / 32; ++w) {
    if (w < warp) before += counts[w];
    total += counts[w];
  }
  __syncthreads();
  return before;
}

}  // namespace kvcodec::cuda
