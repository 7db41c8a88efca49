// States of splits from their logits: one CTA per unit and split. A tile is decoded into shared memory
// and its logits become weights; then a thread sums up a channel.
#pragma once

#include "cuda/attend/general/params.hpp"
#include "cuda/attend/general/tiles.cuh"
#include "cuda/attend/piece.cuh"

namespace kvcodec::cuda {

static_assert(kPieceRows == kTileRows);

template <class Tiles>
KVCODEC_HD TileMemory plan_sums(const AttendParams& p, const Tiles& tiles) noexcept {
  return tiles.plan(p.view.shape.head_dim, (sizeof(PieceSoftmax) + 15) / 16 * 16);
}

/// Weights <- the logits of a tile; whether any query row sees any row. All threads together; a barrier.
__device__ inline bool load_logits(const float* logits, int n_q, PieceSoftmax& softmax) {
  bool any = false;
  for (int i = static_cast<int>(threadIdx.x); i < n_q * kTileRows; i += kAttendThreads) {
    const float x = logits[i];
    softmax.weight[i / kTileRows][i % kTileRows] = x;
    any = any || x != minus_infinity();
  }
  return __syncthreads_or(any ? 1 : 0) != 0;
}

/// Grid: x splits of the wave, y KV heads times units, z sequences.
template <class Tiles>
__global__ void __launch_bounds__(kAttendThreads)
    sum_kernel(const __grid_constant__ GeneralJob<Tiles> job) {
  const GeneralParams& g = job.g;
  const AttendParams& p = g.p;
  const auto split = static_cast<std::int32_t>(blockIdx.x);
  const Unit u = Unit::at(p, blockIdx.z, blockIdx.y);
  if (u.n_rows == 0) return;
  const SplitRows rows = SplitRows::at(g, u, split);
  if (rows.begin >= rows.end) return;

  const int head_dim = p.view.shape.head_dim;
  const auto& tiles = job.tiles.of(p, p.view.v_codecs, u);
  const TileMemory memory = plan_sums(p, tiles);
  const PageFormat& format = p.view.format;
  auto& softmax = *dynamic_shared<PieceSoftmax>();
  softmax.start();
  tiles.start(memory);
  ChannelSums<0> sums(head_dim, u.n_rows);
  const float* logits = g.tile_logits(u, split, 0);
  for (std::int32_t at = rows.begin; at < rows.end; at += kTileRows) {
    __syncthreads();  // the tile before has been summed
    const bool seen = load_logits(logits, u.n_rows, softmax);
    logits += p.unit_rows * kTileRows;
    if (!seen) continue;
    const auto tile = format.v_tile(p.view.page_data(p.view.page_of(rows.stream, at)),
                                    at % format.page_size / kTileRows, u.head % format.span);
    tiles.template decode<Side::value>(memory, head_dim, tile.tile, tile.head);
    soften_piece(u.n_rows, softmax);
    __syncthreads();
    const float* values = memory.values() + tiles.column(tile.head, head_dim);
    sums.add(softmax, [&](int row, int c) { return values[row * memory.row_stride + c]; });
  }
  __syncthreads();
  const float* center =
      p.view.v_center == nullptr
          ? nullptr
          : p.view.v_center + (u.seq * p.view.shape.n_kv_heads + u.head) * head_dim;
  sums.store(softmax, center, p.unit_rows, p.state(u.index, g.first_split + split));
}

}  // namespace kvcodec::cuda
