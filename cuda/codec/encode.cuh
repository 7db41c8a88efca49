// Encoding on the device: one CTA makes one tile. Its threads load the rows into shared memory, a
// warp transforms a row, one thread encodes a part into a zeroed tile, all of them store the tile.
// Rows that waited in a window come from there, transformed and rounded already.
//
// Compile with --fmad=false: the bytes must be those of the CPU.
#pragma once

#include "cuda/codec/atomic_tile.cuh"
#include "cuda/codec/packed_chain.cuh"
#include "cuda/codec/qjl_tile.cuh"
#include "cuda/codec/tile_memory.cuh"
#include "cuda/codec/window_plan.hpp"
#include "cuda/core/device.cuh"
#include "kvcodec/codec/codec.hpp"
#include "kvcodec/core/arith.hpp"
#include "kvcodec/core/rows.hpp"
#include "kvcodec/page/page_format.hpp"

namespace kvcodec::cuda {

/// Where rows of one side come from and what happens to them before the codec. Device pointers.
struct EncodeSource {
  AnyRows rows;
  /// Whether rows are clamped, transformed, rounded and centered; else they go to the codec as they are.
  bool prepares = false;
  PackedChain transform;
  DType raw_dtype = DType::f32;
  const float* center = nullptr;  ///< [n_seq, n_kv_heads, head_dim] or null
  /// [n_seq, n_kv_heads, EncodeTarget::capacity, head_dim] of raw_dtype; with EncodeTarget::plans
  const std::byte* window = nullptr;
};

/// Which tiles of its streams a launch makes.
enum class Share : std::uint8_t {
  all,
  first,  ///< the first tile of every stream, for codecs whose later tiles take something from it
  rest,
};

/// Where tiles go: side by side, or into pages.
struct EncodeTarget {
  std::byte* tiles = nullptr;  ///< [grid.x, tile_bytes]; null: into pages

  PageFormat format;
  std::byte* pages = nullptr;
  std::int64_t page_stride = 0;
  const std::int64_t* indptr = nullptr;
  const std::int32_t* indices = nullptr;
  const std::int64_t* row_indptr = nullptr;  ///< [n_seq + 1]; not looked at with plans
  const std::int64_t* n_encoded = nullptr;   ///< [n_seq] or null; not looked at with plans
  const WindowPlan* plans = nullptr;         ///< [n_seq] rows out of windows and new ones; or null
  std::int64_t capacity = 0;                 ///< rows of a window
  std::int32_t n_kv_heads = 0;
  std::int32_t max_tiles = 0;  ///< per sequence
  Share share = Share::all;
  /// [grid.x] for tiles side by side, [n_seq] for pages; or null
  std::uint32_t* flags = nullptr;
};

/// Arguments of one launch: one side, or both with codecs of one type.
template <Codec C>
struct EncodeJob {
  C codec[2];
  Side side[2];
  EncodeSource source[2];
  EncodeTarget target;
  int head_dim;
};

/// One tile of a job: where its rows come from, its bytes, its flag.
struct EncodePlace {
  std::int64_t token = 0;       ///< new row that row 0 is, or would be: row r is new row token + r
  std::int64_t window_row = 0;  ///< the same in the window
  int begin = 0;      ///< rows before it stay as they are in the tile, which a truncation cut
  int first_new = 0;  ///< rows before it come from the window
  std::int32_t seq = 0;
  std::int32_t head = 0;
  std::byte* tile = nullptr;              ///< null: no such tile
  const std::byte* first_tile = nullptr;  ///< of the stream; null: this one, or tiles side by side
  std::uint32_t* flag = nullptr;
};

/// Finds the rows of tile `index` of p.seq; its first row's number in the stream, or -1: no such tile.
__device__ inline std::int64_t find_new_rows(const EncodeTarget& to, std::int64_t index,
                                             EncodePlace& p) {
  const std::int64_t first = to.row_indptr[p.seq];
  p.token = first + index * kTileRows;
  if (p.token >= to.row_indptr[p.seq + 1]) return -1;
  return (to.n_encoded == nullptr ? 0 : to.n_encoded[p.seq]) + index * kTileRows;
}

/// The same where the rows of a window come before the new ones.
__device__ inline std::int64_t find_planned_rows(const EncodeTarget& to, std::int64_t index,
                                                 EncodePlace& p) {
  const WindowPlan& plan = to.plans[p.seq];
  const std::int64_t at = (plan.n_encoded / kTileRows + index) * kTileRows;
  const bool leaves = plan.n_new > 0 && plan.n_leaving > 0;
  if (!leaves || at >= plan.n_encoded + plan.n_leaving) return -1;
  const std::int64_t in_window = at - plan.n_encoded;  // below 0 if the tile was cut
  const std::int64_t waiting = plan.n_recent - in_window;
  p.begin = in_window < 0 ? static_cast<int>(-in_window) : 0;
  p.first_new = static_cast<int>(waiting < 0 ? 0 : waiting > kTileRows ? kTileRows : waiting);
  p.window_row = in_window;
  p.token = plan.first_token + plan.n_to_sink - waiting;
  return at;
}

/// The tile of the CTA, for a codec whose tiles span `span` heads.
__device__ inline EncodePlace find_place(const EncodeTarget& to, Side side, int span,
                                         std::size_t tile_bytes) {
  const auto cta = static_cast<std::int64_t>(blockIdx.x);
  EncodePlace p;
  if (to.tiles != nullptr) {
    p.token = cta * kTileRows;
    p.tile = to.tiles + static_cast<std::size_t>(cta) * tile_bytes;
    p.flag = to.flags == nullptr ? nullptr : to.flags + cta;
    return p;
  }
  const std::int64_t unit = cta / to.max_tiles;  // one KV head of one sequence
  p.seq = static_cast<std::int32_t>(unit / to.n_kv_heads);
  p.head = static_cast<std::int32_t>(unit % to.n_kv_heads);
  if (p.head % span != 0) return p;  // the first head of a tile makes it for all of them
  const std::int64_t encoded = to.plans == nullptr ? find_new_rows(to, cta % to.max_tiles, p)
                                                   : find_planned_rows(to, cta % to.max_tiles, p);
  const bool is_first = encoded == 0 && p.begin == 0;
  if (encoded < 0 || to.share == (is_first ? Share::rest : Share::first)) return p;
  const std::int64_t stream =
      (static_cast<std::int64_t>(p.seq) * to.n_kv_heads + p.head) / to.format.span;
  const std::int32_t* list = to.indices + to.indptr[stream];
  const auto tile_at = [&](std::int64_t at) {
    std::byte* page = to.pages + list[at / to.format.page_size] * to.page_stride;
    const int strip = static_cast<int>(at % to.format.page_size) / kTileRows;
    const int head = p.head % to.format.span;
    return side == Side::key ? to.format.k_tile(page, strip, head).tile
                             : to.format.v_tile(page, strip, head).tile;
  };
  p.tile = tile_at(encoded);
  if (!is_first) p.first_tile = tile_at(0);
  p.flag = to.flags == nullptr ? nullptr : to.flags + p.seq;
  return p;
}

/// x [kTileRows, memory.row_stride] <- the rows of a tile, by all threads; 0 where there is none. With a
/// limit above 0, new values are clamped to it; returns whether any value of this thread was.
__device__ inline bool load_rows(const EncodeSource& source, const EncodePlace& at,
                                 const EncodeTarget& to, int head_dim, const TileMemory& memory,
                                 float limit, float* x) {
  const AnyRows& rows = source.rows;
  const std::int64_t first_head = static_cast<std::int64_t>(at.seq) * to.n_kv_heads;
  bool clamped = false;
  for (int i = static_cast<int>(threadIdx.x); i < kTileRows * memory.width; i += kTileThreads) {
    const int row = i / memory.width;
    const int column = i - row * memory.width;
    const int head = at.head + column / head_dim;
    const int channel = column % head_dim;
    float value = 0.0f;
    if (row >= at.first_new) {
      value = load_value(rows.dtype, rows.data,
                         (at.token + row) * rows.token_stride + head * rows.head_stride + channel);
      if (limit > 0.0f) {
        clamped |= !(abs_of(value) <= limit);
        value = clamp_finite(value, limit);
      }
    } else if (row >= at.begin) {
      const std::int64_t slot = (first_head + head) * to.capacity + at.window_row + row;
      value = load_value(source.raw_dtype, source.window, slot * head_dim + channel);
    }
    x[row * memory.row_stride + column] = value;
  }
  return clamped;
}

/// x [head_dim]: a new row of one head, transformed and rounded to the raw type, by all lanes of a warp.
/// Returns whether a value of this lane had to be clamped to that.
__device__ inline bool prepare_row(const PackedChain& transform, DType raw_dtype, int head_dim,
                                   int kv_head, float* x) {
  forward(transform, head_dim, kv_head, x);
  const float limit = dtype_max(raw_dtype);
  bool clamped = false;
  for (int c = static_cast<int>(threadIdx.x % 32); c < head_dim; c += 32) {
    clamped |= !(abs_of(x[c]) <= limit);
    float value = clamp_finite(x[c], limit);
    if (raw_dtype == DType::f16) value = to_f32(to_f16(value));
    if (raw_dtype == DType::bf16) value = to_f32(to_bf16(value));
    x[c] = value;
  }
  return clamped;
}

/// The rows of a tile, made what a Cache hands to its codec, by all threads: a row of a head at a time by
/// a warp.
__device__ inline bool prepare_rows(const EncodeSource& source, const EncodePlace& at,
                                    int n_kv_heads, int head_dim, int span, int row_stride,
                                    float* x) {
  bool clamped = false;
  const int warp = static_cast<int>(threadIdx.x / 32);
  for (int i = warp; i < kTileRows * span; i += kTileThreads / 32) {
    const int row = i % kTileRows;
    const int head = at.head + i / kTileRows;
    float* values = x + row * row_stride + i / kTileRows * head_dim;
    if (row >= at.first_new) {
      clamped |= prepare_row(source.transform, source.raw_dtype, head_dim, head, values);
    }
    if (source.center == nullptr) continue;
    const float* center =
        source.center + (static_cast<std::int64_t>(at.seq) * n_kv_heads + head) * head_dim;
    for (int c = static_cast<int>(threadIdx.x % 32); c < head_dim; c += 32) values[c] -= center[c];
  }
  return clamped;
}

/// Part `part` of a tile of a stream that begins with first_tile, or of any tile if that is null.
template <PartedCodec C>
__device__ bool encode_one_part(const C& codec, Side side, int head_dim,
                                const std::byte* first_tile, const float* x, int row_stride,
                                int part, AtomicTile tile) {
  if constexpr (ContinuingParts<C>) {
    if (first_tile != nullptr) {
      return codec.encode_part_after(side, head_dim, first_tile, x, row_stride, part, tile);
    }
  }
  return codec.encode_part(side, head_dim, x, row_stride, part, tile);
}

/// tile <- x by all threads; false if a value that this thread read was not finite.
template <Codec C>
__device__ bool encode_by_cta(const C& codec, Side side, int head_dim, const std::byte* first_tile,
                              const float* x, int row_stride, std::byte* tile) {
  bool finite = true;
  if constexpr (PartedCodec<C>) {
    const int n = codec.n_parts(side, head_dim);
    for (int part = static_cast<int>(threadIdx.x); part < n; part += kTileThreads) {
      finite &=
          encode_one_part(codec, side, head_dim, first_tile, x, row_stride, part, AtomicTile{tile});
    }
  } else if (threadIdx.x == 0) {
    if constexpr (ContinuingCodec<C>) {
      if (first_tile != nullptr) {
        return codec.encode_tile_after(side, head_dim, first_tile, x, tile);
      }
    }
    finite = codec.encode_tile(side, head_dim, x, tile);
  }
  return finite;
}

/// The tile that a truncation cut <- the rows of `tile` from the cut on. Rare, so one thread does it.
template <Codec C>
__device__ void complete_tile(const C& codec, Side side, int head_dim, const std::byte* tile,
                              const EncodePlace& at) {
  if constexpr (RowCodec<C>) {
    if (threadIdx.x == 0) codec.copy_rows(side, head_dim, tile, at.tile, at.begin, kTileRows);
  }
}

/// Grid: tiles side by side, or [n_seq, n_kv_heads, max_tiles], times sides in z.
template <Codec C>
__global__ void __launch_bounds__(kTileThreads)
    encode_kernel(const __grid_constant__ EncodeJob<C> job) {
  const C& codec = job.codec[blockIdx.z];
  const Side side = job.side[blockIdx.z];
  const EncodeSource& source = job.source[blockIdx.z];
  const int head_dim = job.head_dim;
  const TileMemory memory = plan_tile(codec, head_dim);
  const int span = memory.width / head_dim;
  const EncodePlace at = find_place(job.target, side, span, memory.tile_bytes);
  if (at.tile == nullptr) return;

  float* x = memory.values();
  std::byte* tile = memory.tile(at.tile);
  for (std::size_t i = threadIdx.x; i < memory.tile_bytes / sizeof(uint4); i += kTileThreads) {
    reinterpret_cast<uint4*>(tile)[i] = uint4{0, 0, 0, 0};
  }
  const float limit = source.prepares ? dtype_max(source.raw_dtype) : 0.0f;
  bool bad = load_rows(source, at, job.target, head_dim, memory, limit, x);
  __syncthreads();
  if (source.prepares) {
    bad |= prepare_rows(source, at, job.target.n_kv_heads, head_dim, span, memory.row_stride, x);
    __syncthreads();
  }
  bad |= !encode_by_cta(codec, side, head_dim, at.first_tile, x, memory.row_stride, tile);
  __syncthreads();
  if (at.begin > 0) complete_tile(codec, side, head_dim, tile, at);
  else if (memory.tile_fits) copy_by_cta(at.tile, tile, memory.tile_bytes);
  if (bad && at.flag != nullptr) atomicOr(at.flag, 1u);
}

}  // namespace kvcodec::cuda
