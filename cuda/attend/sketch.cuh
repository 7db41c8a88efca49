// Queries as QJL keys take them: S q, once per query row.
#pragma once

#include "cuda/attend/codec_of.cuh"
#include "cuda/attend/queries.cuh"
#include "kvcodec/codec/qjl.hpp"

namespace kvcodec::cuda {

/// sketch [n_tokens, n_q_heads, sketch_dim] = S q. One CTA per query row, one thread per row of S.
///
/// Grid: x KV heads times units, y rows of a unit, z sequences.
static __global__ void __launch_bounds__(kAttendThreads)
    sketch_kernel(const AttendParams p, const Qjl codec, float* sketch) {
  KVCODEC_SHARED(q, float[kMaxHeadDim]);
  const Unit u = Unit::at(p, blockIdx.z, blockIdx.x);
  const int row = static_cast<int>(blockIdx.y);
  if (row >= u.n_rows) return;
  const QjlTables s = codec_of(p, p.view.k_codecs, u, codec).table;
  const std::int64_t q_row = u.q_row(p, row);
  for (int c = static_cast<int>(threadIdx.x); c < s.head_dim; c += kAttendThreads) {
    q[c] = load_f32(p.q, p.q_dtype, q_row * s.head_dim + c);
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < codec.sketch_dim; i += kAttendThreads) {
    float sum = 0.0f;
    for (int c = 0; c < s.head_dim; ++c) {
      sum = fmaf(q[c], s.columns[std::int64_t{c} * s.sketch_dim + i], sum);
    }
    sketch[q_row * codec.sketch_dim + i] = sum;
  }
}

}  // namespace kvcodec::cuda
