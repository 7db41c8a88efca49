// Decoding on the device: one CTA reads one tile, one thread decodes a part into shared memory, all of
// them store the values.
#pragma once

#include "cuda/codec/tile_memory.cuh"
#include "cuda/core/device.cuh"
#include "kvcodec/codec/codec.hpp"
#include "kvcodec/core/dtype.hpp"

namespace kvcodec::cuda {

template <Codec C>
struct DecodeJob {
  C codec;
  Side side;
  int head_dim;
  const std::byte* tiles;  ///< [grid.x, tile_bytes]
  void* x;                 ///< [grid.x, kTileRows, width]
  DType dtype;
};

/// x <- tile by all threads.
template <Codec C>
__device__ void decode_by_cta(const C& codec, Side side, int head_dim, const std::byte* tile,
                              float* x, int row_stride) {
  if constexpr (PartedCodec<C>) {
    const int n = codec.n_parts(side, head_dim);
    for (int part = static_cast<int>(threadIdx.x); part < n; part += kTileThreads) {
      codec.decode_part(side, head_dim, tile, part, x, row_stride);
    }
  } else if (threadIdx.x == 0) {
    codec.decode_tile(side, head_dim, tile, x);
  }
}

/// Grid: tiles.
template <Codec C>
__global__ void __launch_bounds__(kTileThreads)
    decode_kernel(const __grid_constant__ DecodeJob<C> job) {
  const TileMemory memory = plan_tile(job.codec, job.head_dim);
  const std::byte* global = job.tiles + static_cast<std::size_t>(blockIdx.x) * memory.tile_bytes;
  if (memory.tile_fits) {
    copy_by_cta(dynamic_shared<std::byte>() + memory.tile_offset, global, memory.tile_bytes);
    __syncthreads();
  }
  float* x = memory.values();
  decode_by_cta(job.codec, job.side, job.head_dim, memory.tile(global), x, memory.row_stride);
  __syncthreads();
  const int n = kTileRows * memory.width;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * n;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kTileThreads) {
    const int row = i / memory.width;
    const float value = x[row * memory.row_stride + i - row * memory.width];
    store_value(job.dtype, job.x, first + i, value);
  }
}

}  // namespace kvcodec::cuda
