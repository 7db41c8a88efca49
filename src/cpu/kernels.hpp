// The kernel seam of CPU attention: what one instruction set provides.
//
// Everything above this table (splits, masks, merging, threads) is compiled once for the baseline;
// everything below it is compiled once per instruction set. The scalar table is the definition the
// others are tested against.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcodec/codec/tile_format.hpp"
#include "kvcodec/core/dtype.hpp"
#include "src/cpu/integer.hpp"

namespace kvcodec::cpu {

/// scores [n_q, kTileRows] = q . rows of head `head` of a K tile that `format` describes.
/// q [n_q, format.width], rows q_stride floats apart. Any n_q >= 1; the result of one query does not
/// depend on the others, here and below.
using ScoreFormat = void (*)(const TileFormat& format, const std::byte* tile, int head,
                             const float* q, std::size_t q_stride, int n_q, float* scores);

/// acc [n_q, format.width] += w [n_q, kTileRows] . rows of head `head` of a V tile.
using AddFormat = void (*)(const TileFormat& format, const std::byte* tile, int head,
                           const float* w, int n_q, float* acc);

/// The kinds of codes that kernels are compiled for.
enum FormatKind {
  kF32,
  kF16,
  kBf16,
  kInt8,
  kUint8,
  kE4m3,
  kTable1,
  kTable2,
  kTable3,
  kTable4,
  kFormatKinds,
};

/// K tiles of signs of a sketch with outlier channels: codec "qjl" (codec/qjl.hpp says what is what).
struct SketchTiles {
  const float* columns;  ///< [head_dim, column_stride]: the projection
  std::ptrdiff_t column_stride;
  int n_signs;
  int n_outliers;       ///< channels
  int n_outlier_signs;  ///< 0: their values are stored instead
  int set_rows;         ///< rows that share a list of outliers
  float constant;       ///< scores are constant / signs * norm * sum
  std::size_t norm_offset;
  std::size_t outlier_sign_offset;
  std::size_t outlier_offset;  ///< of their norms, or of the first plane of values
  std::size_t channel_offset;
};

/// q [n_q, head_dim + n_signs]: queries and their sketches.
using ScoreSketch = void (*)(const SketchTiles& tiles, int head_dim, const std::byte* tile,
                             const float* q, int n_q, float* scores);

/// Tiles of rows that name entries of a table: codec "codebook" (codec/codebook.hpp).
struct CodebookTiles {
  const std::uint16_t* entries;  ///< [n_entries, head_dim] f16
  std::uint32_t n_entries;
  std::size_t magnitude_offset;
  std::size_t position_offset;
  const float* fine;  ///< as in RopeView; null: keys are not turned
  const float* coarse;
  std::int32_t n_positions;
};

using ScoreCodebook = void (*)(const CodebookTiles& tiles, int head_dim, const std::byte* tile,
                               const float* q, int n_q, float* scores);
using AddCodebook = void (*)(const CodebookTiles& tiles, int head_dim, const std::byte* tile,
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

/// What one instruction set provides. Members above score_rows may be null: then the codec's own
/// functions do it, or tiles are decoded and score_rows and add_rows do the rest.
struct Kernels {
  const char* isa;  ///< "scalar", "avx2", "avx512", or the name of the SIMD target elsewhere
  ScoreFormat score_format[kFormatKinds];
  ScoreFormat score_runs[kFormatKinds];  ///< of formats with runs
  AddFormat add_format[kFormatKinds];
  PrepareIntegers prepare_integers[kFormatKinds];
  ScoreIntegers score_integers[kFormatKinds];
  ScoreIntegers score_run_integers[kFormatKinds];  ///< of formats with runs
  AddIntegers add_integers[kFormatKinds];
  ScoreSketch score_sketch;
  ScoreCodebook score_codebook;
  AddCodebook add_codebook;
  ScoreRows score_rows[3];  ///< indexed by DType
  AddRows add_rows[3];
  SoftmaxTile softmax_tile;
};

/// The table in use; see kvcodec/attend/cpu_isa.hpp for how it is chosen.
const Kernels& kernels() noexcept;

/// Adds the kernels in integers to a table, if the machine runs them.
void fill_integer_kernels(Kernels& table) noexcept;

/// The definition, in plain C++.
const Kernels& scalar_kernels() noexcept;

/// The table of the best SIMD target among `targets` (a Highway target mask), or null if the
/// machine has none of them.
const Kernels* simd_kernels(std::int64_t targets) noexcept;

}  // namespace kvcodec::cpu
