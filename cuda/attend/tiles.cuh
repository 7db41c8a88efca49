// Attention over the encoded rows of one split: one warp per tile, scores and sums on the tensor cores.
//
// Per tile of 64 tokens a warp
//   1. multiplies key codes with the query fragments, group by group, each group's sums times the
//      tokens' scales (scales are f32 factors of f32 sums);
//   2. takes one step of the online softmax, in registers;
//   3. multiplies value codes with weights times the tokens' value scales, rounded to f16.
// Loads are 16 bytes per lane and one load ahead of their use. Warps of a CTA take every fourth tile;
// their states are merged in order at the end.
#pragma once

#include "cuda/attend/tiles_warp.cuh"

namespace kvcodec::cuda {

/// Dynamic shared memory of a CTA, bytes; where its parts begin.
template <class C>
struct TilesMemory {
  static constexpr int key_table = 0;
  static constexpr int value_table = table_bytes_of(C::kKey);
  /// With one_table the value table is the key table and the rest moves down.
  __host__ __device__ static constexpr int fragments(bool one_table) {
    return value_table + (one_table ? 0 : table_bytes_of(C::kValue));
  }
  __host__ __device__ static constexpr int queries(bool one_table) {
    return fragments(one_table) + C::K::steps * 32 * 8 * C::kOctets;
  }
  __host__ __device__ static constexpr int work_bytes(bool one_table) {
    return queries(one_table) + static_cast<int>(sizeof(QueryTable));
  }
  /// States of the warps, once the tiles are done: [kUnitRows] m and l per warp, then the sums.
  static constexpr int merge_bytes =
      4 * (2 * kUnitRows * (kAttendThreads / 32) + kUnitRows * C::kHeadDim);
  __host__ __device__ static constexpr int bytes(bool one_table) {
    return work_bytes(one_table) > merge_bytes ? work_bytes(one_table) : merge_bytes;
  }
};

/// Loads kLoad .. of a tile, each one ahead of its use; the tile that begins with next_row in
/// next_page follows.
template <class C, int kLoad>
__device__ __forceinline__ void take_loads(TilesWarp<C>& w, typename TilesWarp<C>::Tile& tile,
                                           std::int32_t next_page, std::int32_t next_row,
                                           Scores<C::kOctets>& part, Scores<C::kOctets>& s,
                                           std::uint32_t (&b)[C::kOctets][4][2]) {
  using K = typename C::K;
  using V = typename C::V;
  if constexpr (kLoad < C::kLoads) {
    typename TilesWarp<C>::Tile next = tile;
    if constexpr (kLoad + 1 < C::kLoads) {
      w.template load<kLoad + 1>(tile, w.buffer[(kLoad + 1) % 2]);
    } else {
      next = w.tile_in(next_page, next_row);
      if (next_row != tile.row) w.template load<0>(next, w.buffer[0]);
    }
    if constexpr (kLoad < K::loads) {
      w.template score<kLoad>(tile, w.buffer[kLoad % 2], part, s);
    } else if constexpr (kLoad < K::loads + V::loads) {
      if constexpr (kLoad == K::loads) w.soften(tile, s);
      w.template add<kLoad>(tile, w.buffer[kLoad % 2], s, b);
    }
    tile = next;
    take_loads<C, kLoad + 1>(w, tile, next_page, next_row, part, s, b);
  }
}

/// Every fourth tile of encoded rows begin .. end - 1 of a stream, from the warp's own first one on.
/// A stream has fewer than 2^31 rows.
template <class C>
__device__ void take_tiles(TilesWarp<C>& w, std::int64_t begin, std::int64_t end) {
  constexpr int kStep = kTileRows * (kAttendThreads / 32);
  const KvView& view = w.p.view;
  const std::int64_t stream = w.u.seq * view.n_streams_per_seq() + w.u.head / view.format.span;
  w.stream_pos = view.first_pos == nullptr ? 0 : view.first_pos[stream];
  w.end_row = static_cast<std::int32_t>(end);
  std::int32_t row =
      static_cast<std::int32_t>(begin) + kTileRows * static_cast<std::int32_t>(threadIdx.x / 32);
  if (row >= w.end_row) return;
  auto tile = w.tile_in(view.page_of(stream, row), row);
  w.template load<0>(tile, w.buffer[0]);
  while (row < w.end_row) {
    // The last tile is its own next one.
    const std::int32_t next_row = row + kStep < w.end_row ? row + kStep : row;
    const std::int32_t next_page = view.page_of(stream, next_row);
    Scores<C::kOctets> part = {};
    Scores<C::kOctets> s = {};
    std::uint32_t b[C::kOctets][4][2];
    take_loads<C, 0>(w, tile, next_page, next_row, part, s, b);
    row += kStep;
  }
}

/// Merges the states of the warps of a CTA, in their order, into the state of the split. `memory` is
/// all of the CTA's shared memory, used by nobody any more.
template <class C>
__device__ void merge_warps(TilesWarp<C>& w, float* memory, float* out) {
  constexpr int kWarps = kAttendThreads / 32;
  float* maxima = memory;                        // [kWarps][kUnitRows]
  float* weights = maxima + kWarps * kUnitRows;  // [kWarps][kUnitRows]
  float* sums = weights + kWarps * kUnitRows;    // [kUnitRows][head_dim]
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int n_rows = w.u.n_rows;
#pragma unroll
  for (int at = 0; at < 2 * C::kOctets; ++at) {
    if (w.g != 0) break;
    const int row = 8 * (at / 2) + 2 * w.t + at % 2;
    maxima[warp * kUnitRows + row] = w.state.m[at / 2][at % 2];
    weights[warp * kUnitRows + row] = w.state.l[at / 2][at % 2];
  }
  __syncthreads();
  for (int turn = 0; turn < kWarps; ++turn) {
    if (turn == warp) {
#pragma unroll
      for (int at = 0; at < 2 * C::kOctets; ++at) {
        const int row = 8 * (at / 2) + 2 * w.t + at % 2;
        if (row >= n_rows) continue;
        float top = minus_infinity();
        for (int i = 0; i < kWarps; ++i) top = fmaxf(top, maxima[i * kUnitRows + row]);
        const float shrink = shrink_of(w.state.m[at / 2][at % 2], top);
#pragma unroll
        for (int i = 0; i < 4 * C::V::rounds; ++i) {
          const int channel = 4 * (w.g + 8 * (i / 4)) + i % 4;
          if (channel >= C::kHeadDim) continue;
          float& total = sums[row * C::kHeadDim + channel];
          const float mine = w.sum[at / 2][i / 4][i / 2 % 2][2 * (i % 2) + at % 2] * shrink;
          total = turn == 0 ? mine : total + mine;
        }
      }
    }
    __syncthreads();
  }
  const float* center =
      w.p.view.v_center == nullptr
          ? nullptr
          : w.p.view.v_center + (w.u.seq * w.p.view.shape.n_kv_heads + w.u.head) * C::kHeadDim;
  const int unit_rows = w.p.unit_rows;
  for (int i = static_cast<int>(threadIdx.x); i < n_rows * C::kHeadDim; i += kAttendThreads) {
    const int row = i / C::kHeadDim;
    float top = minus_infinity();
    for (int n = 0; n < kWarps; ++n) top = fmaxf(top, maxima[n * kUnitRows + row]);
    float l = 0.0f;
    for (int n = 0; n < kWarps; ++n) {
      if (top == minus_infinity()) break;
      l += weights[n * kUnitRows + row] * shrink_of(maxima[n * kUnitRows + row], top);
    }
    const float lifted = center == nullptr ? 0.0f : l * center[i % C::kHeadDim];
    out[2 * unit_rows + i] = sums[i] + lifted;
    if (i % C::kHeadDim == 0) {
      out[row] = top;
      out[unit_rows + row] = l;
    }
  }
}

/// The state of one split of encoded rows.
template <class C>
__device__ void attend_tiles(const AttendParams& p, const Unit& u, std::int64_t begin,
                             std::int64_t end, float* out) {
  using M = TilesMemory<C>;
  std::byte* memory = dynamic_shared<std::byte>();
  auto* key_table = reinterpret_cast<std::uint32_t*>(memory + M::key_table);
  auto* value_table =
      p.one_table ? key_table : reinterpret_cast<std::uint32_t*>(memory + M::value_table);
  auto* fragments = reinterpret_cast<uint2*>(memory + M::fragments(p.one_table));
  auto& queries = *reinterpret_cast<QueryTable*>(memory + M::queries(p.one_table));
  fill_table<C::kKey>(p.k, key_table);
  if (!p.one_table) fill_table<C::kValue>(p.v, value_table);
  fill_query_table(p, u, queries);
  __syncthreads();
  fill_query_fragments<typename C::K, C::kOctets>(p, u, queries, fragments);
  __syncthreads();
  TilesWarp<C> w(p, u, table_for(p.k, key_table), table_for(p.v, value_table), fragments, queries);
  take_tiles(w, begin, end);
  w.finish();
  __syncthreads();
  merge_warps(w, reinterpret_cast<float*>(memory), out);
}

}  // namespace kvcodec::cuda
