// States of splits from their logits, for values of any codec: one CTA per unit and split. A tile is
// decoded into shared memory while its logits become weights; then a thread sums up a channel.
#pragma once

#include "cuda/attend/codec_of.cuh"
#include "cuda/attend/general/params.hpp"
#include "cuda/attend/piece.cuh"
#include "cuda/codec/decode.cuh"

namespace kvcodec::cuda {

static_assert(kPieceRows == kTileRows && kTileThreads == kAttendThreads);

template <Codec C>
KVCODEC_HD TileMemory plan_sums(const AttendParams& p, const C& codec) noexcept {
  return plan_tile(codec, p.view.shape.head_dim, (sizeof(PieceSoftmax) + 15) / 16 * 16);
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
template <Codec C>
__global__ void __launch_bounds__(kAttendThreads)
    sum_kernel(const __grid_constant__ GeneralJob<C> job) {
  const GeneralParams& g = job.g;
  const AttendParams& p = g.p;
  const auto split = static_cast<std::int32_t>(blockIdx.x);
  const auto head = static_cast<std::int32_t>(blockIdx.y) / p.n_units;
  const auto unit = static_cast<std::int32_t>(blockIdx.y) % p.n_units;
  const Unit u = Unit::at(p, blockIdx.z, head, unit);
  if (u.n_rows == 0) return;
  const SplitRows rows = SplitRows::at(p, u, g.first_split + split);
  if (rows.begin >= rows.end) return;

  const int head_dim = p.view.shape.head_dim;
  const C codec = codec_of(p, p.view.v_codecs, u, job.codec);
  const TileMemory memory = plan_sums(p, codec);
  const PageFormat& format = p.view.format;
  auto& softmax = *dynamic_shared<PieceSoftmax>();
  softmax.start();
  ChannelSums<0> sums(head_dim, u.n_rows);
  const float* logits = g.tile_logits(u, split, 0);
  for (std::int32_t at = rows.begin; at < rows.end; at += kTileRows) {
    __syncthreads();  // the tile before has been summed
    const bool seen = load_logits(logits, u.n_rows, softmax);
    logits += p.unit_rows * kTileRows;
    if (!seen) continue;
    const auto tile = format.v_tile(p.view.page_data(p.view.page_of(rows.stream, at)),
                                    at % format.page_size / kTileRows, head % format.span);
    if (memory.tile_fits) {
      copy_by_cta(memory.tile(dynamic_shared<std::byte>()), tile.tile, memory.tile_bytes);
      __syncthreads();
    }
    decode_by_cta(codec, Side::value, head_dim, memory.tile(tile.tile), memory.values(),
                  memory.row_stride);
    soften_piece(u.n_rows, softmax);
    __syncthreads();
    const float* values = memory.values() + tile.head * head_dim;
    sums.add(softmax, [&](int row, int c) { return values[row * memory.row_stride + c]; });
  }
  __syncthreads();
  const float* center = p.view.v_center == nullptr
                            ? nullptr
                            : p.view.v_center + (u.seq * p.view.shape.n_kv_heads + head) * head_dim;
  sums.store(softmax, center, p.unit_rows, p.state(u.index, g.first_split + split));
}

}  // namespace kvcodec::cuda
