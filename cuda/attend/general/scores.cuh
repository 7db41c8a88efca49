// Logits of encoded rows: one CTA per unit and split. A tile is decoded into shared memory; then a thread
// has one of its rows and every other query row.
#pragma once

#include "cuda/attend/general/params.hpp"
#include "cuda/attend/general/qjl_keys.cuh"
#include "cuda/attend/general/tiles.cuh"
#include "cuda/attend/softmax.cuh"

namespace kvcodec::cuda {

/// Keys that are decoded, then multiplied.
template <class Tiles>
class DecodedKeys {
 public:
  KVCODEC_HD static std::size_t shared_bytes(const AttendParams& p, const Tiles& tiles) noexcept {
    return plan(p, tiles).shared_bytes();
  }

  /// Fills the queries; a barrier must follow.
  __device__ DecodedKeys(const GeneralParams& g, const Unit& u, const Tiles& tiles,
                         const QueryTable& queries)
      : tiles_(tiles),
        memory_(plan(g.p, tiles)),
        q_(unit_queries()),
        head_dim_(g.p.view.shape.head_dim),
        n_q_(u.n_rows) {
    load_unit_queries(g.p, u, queries, q_);
    tiles_.start(memory_);
  }

  /// emit(query row, row of the tile, score) for all query rows and rows of head `head` of a tile.
  /// All threads together, after a barrier.
  template <class F>
  __device__ void score(const std::byte* tile, int head, const F& emit) const {
    tiles_.template decode<Side::key>(memory_, head_dim_, tile, head);
    __syncthreads();
    const int row = static_cast<int>(threadIdx.x) % kTileRows;
    const int first = static_cast<int>(threadIdx.x) / kTileRows;
    const float* key = memory_.values() + row * memory_.row_stride + tiles_.column(head, head_dim_);
    float sum[kUnitRows / 2] = {};
    for (int c = 0; c < head_dim_; c += 4) {
      const float k[4] = {key[c], key[c + 1], key[c + 2], key[c + 3]};
#pragma unroll
      for (int n = 0; n < kUnitRows / 2; ++n) {
        if (first + 2 * n >= n_q_) continue;
        const float* query = q_ + (first + 2 * n) * head_dim_ + c;
        const uint4 q = load_vector(reinterpret_cast<const uint4*>(query));
        sum[n] = fmaf(k[0], pun<float>(q.x), sum[n]);
        sum[n] = fmaf(k[1], pun<float>(q.y), sum[n]);
        sum[n] = fmaf(k[2], pun<float>(q.z), sum[n]);
        sum[n] = fmaf(k[3], pun<float>(q.w), sum[n]);
      }
    }
#pragma unroll
    for (int n = 0; n < kUnitRows / 2; ++n) {
      if (first + 2 * n < n_q_) emit(first + 2 * n, row, sum[n]);
    }
  }

 private:
  KVCODEC_HD static TileMemory plan(const AttendParams& p, const Tiles& tiles) noexcept {
    return tiles.plan(p.view.shape.head_dim, queries_end(p));
  }

  const Tiles& tiles_;
  TileMemory memory_;
  float* q_;  ///< [n_q_, head_dim_]
  int head_dim_;
  int n_q_;
};

/// What makes scores of keys in such tiles.
template <class Tiles>
struct KeysFor {
  using Type = DecodedKeys<Tiles>;
};
template <>
struct KeysFor<CodecTiles<Qjl>> {
  using Type = QjlKeys;
};
template <class Tiles>
using KeysOf = typename KeysFor<Tiles>::Type;

/// Whether a thread's row of a tile is seen by any of its query rows.
__device__ inline bool sees_any(const AttendParams& p, const Unit& u, const TileRowsInfo& rows,
                                const QueryTable& queries) {
  const int row = static_cast<int>(threadIdx.x) % kTileRows;
  bool any = false;
  for (int q = static_cast<int>(threadIdx.x) / kTileRows; q < u.n_rows; q += 2) {
    any = any || sees(p, rows, row, queries, q);
  }
  return any;
}

/// Grid: x splits of the wave, y KV heads times units, z sequences.
template <class Tiles>
__global__ void __launch_bounds__(kAttendThreads)
    score_kernel(const __grid_constant__ GeneralJob<Tiles> job) {
  const GeneralParams& g = job.g;
  const AttendParams& p = g.p;
  const auto split = static_cast<std::int32_t>(blockIdx.x);
  const Unit u = Unit::at(p, blockIdx.z, blockIdx.y);
  if (u.n_rows == 0) return;
  const SplitRows rows = SplitRows::at(g, u, split);
  if (rows.begin >= rows.end) return;

  auto& queries = *dynamic_shared<QueryTable>();
  fill_query_table(p, u, queries);
  __syncthreads();
  const auto& tiles = job.tiles.of(p, p.view.k_codecs, u);
  KeysOf<Tiles> keys(g, u, tiles, queries);
  const std::int32_t stream_pos = p.view.first_pos == nullptr ? 0 : p.view.first_pos[rows.stream];
  const PageFormat& format = p.view.format;
  float* logits = g.tile_logits(u, split, 0);
  for (std::int32_t at = rows.begin; at < rows.end; at += kTileRows) {
    const std::int32_t page = p.view.page_of(rows.stream, at);
    const TileRowsInfo info = tile_rows_in(p, page, at, rows.end, stream_pos);
    const auto emit = [&](int q_row, int row, float score) {
      logits[q_row * kTileRows + row] =
          sees(p, info, row, queries, q_row)
              ? logit_of(p, score, queries.factor[q_row], queries.center[q_row])
              : minus_infinity();
    };
    // The barrier is the keys' own as well: they are done with the tile before.
    if (__syncthreads_or(sees_any(p, u, info, queries) ? 1 : 0) != 0) {
      const auto tile = format.k_tile(p.view.page_data(page), at % format.page_size / kTileRows,
                                      u.head % format.span);
      keys.score(tile.tile, tile.head, emit);
    } else {
      for (int i = static_cast<int>(threadIdx.x); i < u.n_rows * kTileRows; i += kAttendThreads) {
        logits[i] = minus_infinity();
      }
    }
    logits += p.unit_rows * kTileRows;
  }
}

}  // namespace kvcodec::cuda
