// The attention kernel: encoded and raw rows in one launch. combine.cuh merges what its CTAs leave.
#pragma once

#include "cuda/attend/raw_rows.cuh"
#include "cuda/attend/tiles.cuh"

namespace kvcodec::cuda {

/// Grid: x splits, y KV heads times units, z sequences. CTAs without rows leave at once, so
/// a captured launch serves any lengths up to those it was made for.
///
/// Two CTAs fit a multiprocessor whatever the format; asked for more, the compiler would spill.
template <class C>
__global__ void __launch_bounds__(kAttendThreads, 2) attend_kernel(const AttendParams p) {
  const auto split = static_cast<std::int32_t>(blockIdx.x);
  const auto head = static_cast<std::int32_t>(blockIdx.y) / p.n_units;
  const auto unit = static_cast<std::int32_t>(blockIdx.y) % p.n_units;
  const Unit u = Unit::at(p, blockIdx.z, head, unit);
  if (u.n_rows == 0) return;
  float* out = p.state(u.index, split);
  if (split < p.n_page_splits) {
    const std::int64_t stream = u.seq * p.view.n_streams_per_seq() + head / p.view.format.span;
    const std::int64_t n_rows = p.view.encoded_rows(stream);
    const std::int64_t begin = std::int64_t{split} * p.split_rows;
    if (begin >= n_rows) return;
    attend_tiles<C>(p, u, begin, n_rows < begin + p.split_rows ? n_rows : begin + p.split_rows,
                    out);
  } else {
    const std::int64_t n_rows = n_raw_rows(p, u.seq, head);
    const std::int64_t begin = std::int64_t{split - p.n_page_splits} * kRawSplitRows;
    if (begin >= n_rows) return;
    attend_raw_rows<C::kHeadDim>(
        p, u, begin, n_rows < begin + kRawSplitRows ? n_rows : begin + kRawSplitRows, out);
  }
}

}  // namespace kvcodec::cuda
