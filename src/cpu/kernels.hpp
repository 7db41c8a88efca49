// The kernel seam of CPU attention: what one instruction set provides.
//
// Everything above this table (splits, masks, merging, threads) is compiled once for the baseline;
// everything below it is compiled once per instruction set. The scalar table is the definition the
// others are tested against.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcodec/codec/any_codec.hpp"
#include "kvcodec/core/dtype.hpp"

namespace kvcodec::cpu {

/// scores [n_q, kTileRows] = q . rows of head `head` of a K tile. `codec` is the codec's value;
/// q [n_q, query_width(head_dim)] prepared queries, plain ones for most codecs. Any n_q >= 1; the result of one query does not depend on the others.
using ScoreTile = void (*)(const void* codec, int head_dim, const std::byte* tile, int head,
                           const float* q, int n_q, float* scores);

/// acc [n_q, head_dim] += w [n_q, kTileRows] . rows of head `head` of a V tile.
using AddTile = void (*)(const void* codec, int head_dim, const std::byte* tile, int head,
                         const float* w, int n_q, float* acc);

/// scores [n_q, kTileRows] = q . k for n_rows <= kTileRows rows that are not encoded; `row_stride`
/// counts elements. Columns from n_rows on are left untouched.
using ScoreRows = void (*)(int head_dim, const void* k, std::int64_t row_stride, int n_rows,
                           const float* q, int n_q, float* scores);

/// acc [n_q, head_dim] += w [n_q, kTileRows] . v for n_rows rows that are not encoded.
using AddRows = void (*)(int head_dim, const void* v, std::int64_t row_stride, int n_rows,
                         const float* w, int n_q, float* acc);

/// One step of the online softmax over a tile of scores, for n_q queries.
///
///   scores  [n_q, kTileRows] in: q . k, before sm_scale; out: weights exp(logit - m)
///   visible [n_q] bit r set: row r takes part; null: all 64 rows do
///   m, l    [n_q] running maximum of the logits (-inf at the start) and sum of the weights
///   acc     [n_q, head_dim] is rescaled to the new maximum
///
/// logit = x = sm_scale * score, or soft_cap * tanh(x / soft_cap) where soft_cap > 0. Rows that do
/// not take part get weight 0; a query with no such row keeps its state bit for bit.
using SoftmaxTile = void (*)(int n_q, int head_dim, float sm_scale, float soft_cap,
                             const std::uint64_t* visible, float* scores, float* m, float* l,
                             float* acc);

/// Fast paths of one codec type. In the tables null members mean: use the codec's own functions.
/// What codec_kernels() returns has null members only where the codec has nothing of its own: then
/// the tile is decoded and score_rows or add_rows do the rest.
struct CodecKernels {
  const CodecFunctions* codec;
  ScoreTile score;
  AddTile add;
};

/// What one instruction set provides.
struct Kernels {
  const char* isa;  ///< "scalar", "avx2", "avx512", or the name of the SIMD target elsewhere
  const CodecKernels* codecs;
  int n_codecs;
  ScoreRows score_rows[3];  ///< indexed by DType
  AddRows add_rows[3];
  SoftmaxTile softmax_tile;
};

/// The table in use; see kvcodec/attend/cpu_isa.hpp for how it is chosen.
const Kernels& kernels() noexcept;

/// The definition, in plain C++.
const Kernels& scalar_kernels() noexcept;

/// The table of the best SIMD target among `targets` (a Highway target mask), or null if the
/// machine has none of them.
const Kernels* simd_kernels(std::int64_t targets) noexcept;

/// Functions of one codec on the current instruction set.
CodecKernels codec_kernels(const Kernels& table, const AnyCodec& codec) noexcept;

}  // namespace kvcodec::cpu
