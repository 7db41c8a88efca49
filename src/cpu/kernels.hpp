// The kernel seam of CPU attention: what one instruction set provides.
//
// Everything above this table (splits, masks, merging, threads) is compiled once for the baseline;
// everything below it is compiled once per instruction set. The scalar table is the definition the
// others are tested against.
#pragma once

#include <cstddef>
#include <cstdint>

#include "encoding.hpp"
#include "kvcodec/codec/tile_format.hpp"
#include "kvcodec/core/dtype.hpp"
#include "src/cpu/integer.hpp"

namespace kvcodec::cpu {

/// scores [n_q, kTileRows] = q . rows of head `head` of a K tile that `format` describes.
/// q [n_q, format.width], rows q_stride floats apart. Any n_q >= 1; the result of one query does not
/// depend on the others, here and below. Meanwhile some of `ahead` may be asked for.
using ScoreFormat = void (*)(const TileFormat& format, const std::byte* tile, int head,
                             const float* q, std::size_t q_stride, int n_q, Ahead& ahead,
                             float* scores);

/// acc [n_q, format.width] += w [n_q, kTileRows] . rows of head `head` of a V tile.
using AddFormat = void (*)(const TileFormat& format, const std::byte* tile, int head,
                           const float* w, int n_q, Ahead& ahead, float* acc);

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

/// Makes `queries` (SketchQuery and 4 bytes per sign, each) from q as above.
using PrepareSketch = void (*)(const SketchTiles& tiles, int head_dim, const float* q, int n_q,
                               std::byte* queries);
/// The same as ScoreSketch, in integers. `queries` keeps the tables of the last list of outliers.
using ScoreSketchIntegers = void (*)(const SketchTiles& tiles, int head_dim, const std::byte* tile,
                                     const float* q, std::byte* queries, int n_q, float* scores);
/// out [n_q, n_signs], rows out_stride floats apart = the sketches of q [n_q, head_dim].
using ProjectQueries = void (*)(const SketchTiles& tiles, int head_dim, const float* q, int n_q,
                                std::size_t out_stride, float* out);

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
                             const std::uint64_t* visible, Ahead& ahead, float* scores, float* m,
                             float* l, float* acc);

/// out [head_dim] = acc * factor / l.
using NormaliseRow = void (*)(int head_dim, const float* acc, float factor, float l, float* out);

/// x [kTileRows, n_heads * width] -> the bytes that the codec's encode_tile writes; false if a value was
/// not finite.
using EncodeTile = bool (*)(const TileEncoding& encoding, Side side, int n_heads, const float* x,
                            std::byte* tile);

/// to [n] = f32 of from [n], NaN and all; n is a multiple of 16.
using LoadRow = void (*)(const void* from, std::int64_t n, float* to);

/// to [n] = f32 of from [n], NaN 0 and magnitudes beyond `limit` limited to it; n is a multiple of 16.
/// Returns whether a value was changed by that.
using LoadClamped = bool (*)(const void* from, std::int64_t n, float limit, float* to);

/// The same into a storage type, whose largest value is the limit.
using StoreClamped = bool (*)(const float* from, std::int64_t n, void* to);

/// x [head_dim] <- Hadamard::forward, or Hadamard::output with `back`; flips [head_dim]: the sign bit of
/// channels that the seed turns; null: without signs.
using HadamardRow = void (*)(int head_dim, const std::uint32_t* flips, bool back, float* x);

/// Rows of S and the channels that they are multiplied with.
struct SketchSigns {
  const float* columns;  ///< [head_dim, column_stride]: S transposed
  std::ptrdiff_t column_stride;
  int n_signs;                   ///< a multiple of 32
  int n;                         ///< channels, a multiple of 4
  const std::uint8_t* channels;  ///< [n] which ones; null: 0 .. n - 1
};

/// Writes the signs of S x for n_rows rows x [n_rows, n], a multiple of 32, to a K plane of n_signs 1-bit
/// codes (tile_layout.hpp) whose first row is at `plane`: those of qjl_put_signs(). squares [n_rows]
/// becomes |x|^2, summed in float64 in the order of channels.
using PutSigns = void (*)(const SketchSigns& signs, int n_rows, const float* x, double* squares,
                          std::byte* plane);

/// Smallest and largest value [head_dim] of every channel of x [n_rows, head_dim], n_rows >= 1.
using ChannelEnds = void (*)(int head_dim, std::int64_t n_rows, const float* x, float* least,
                             float* most);

/// What LagScale maps rows with, [head_dim] each.
struct LagScaling {
  const double* low;
  const double* inverse;
  const double* live;
  int n_live;
};

/// sigma [n_rows] = LagScale::deviation of rows [n_rows, head_dim].
using LagDeviations = void (*)(int head_dim, const LagScaling& scaling, std::int64_t n_rows,
                               const float* rows, double* sigma);

/// What one instruction set provides. Members above score_rows may be null: then the codec's own
/// functions do it, or tiles are decoded and score_rows and add_rows do the rest.
struct Kernels {
  const char* isa;  ///< "scalar", "avx2", "avx512", "amx", or the name of the SIMD target elsewhere
  ScoreFormat score_format[kFormatKinds];
  ScoreFormat score_runs[kFormatKinds];  ///< of formats with runs
  AddFormat add_format[kFormatKinds];
  PrepareIntegers prepare_integers[kFormatKinds];
  ScoreIntegers score_integers[kFormatKinds];
  ScoreIntegers score_run_integers[kFormatKinds];  ///< of formats with runs
  AddIntegers add_integers[kFormatKinds];
  int level_steps[kFormatKinds];  ///< of IntegerLevels for the three above
  /// Between them a thread may call score_integers and add_integers, for n_q queries. Null: at any time.
  void (*begin_unit)(int n_q) noexcept;
  void (*end_unit)() noexcept;
  const Kernels*
      vectors;  ///< of a table that multiplies matrices: the one that it differs from; else null
  ScoreSketch score_sketch;
  PrepareSketch prepare_sketch;
  ScoreSketchIntegers score_sketch_integers;
  ProjectQueries project_queries;
  ScoreCodebook score_codebook;
  AddCodebook add_codebook;
  ScoreRows score_rows[3];  ///< indexed by DType
  AddRows add_rows[3];
  SoftmaxTile softmax_tile;
  NormaliseRow normalise_row;
  // Null: the plain loops of whoever calls.
  EncodeTile encode_tile;
  LoadRow load_row[3];  ///< indexed by DType
  LoadClamped load_clamped[3];
  StoreClamped store_clamped[3];
  HadamardRow hadamard_row;
  PutSigns put_signs;
  ChannelEnds channel_ends;
  LagDeviations lag_deviations;
};

/// While it lives its thread may call the kernels of a table in integers for n_q queries; one at a time.
class KernelUnit {
 public:
  KernelUnit(const Kernels& table, int n_q) noexcept : end_(table.end_unit) {
    if (end_ != nullptr) table.begin_unit(n_q);
  }
  ~KernelUnit() {
    if (end_ != nullptr) end_();
  }
  KernelUnit(const KernelUnit&) = delete;
  KernelUnit& operator=(const KernelUnit&) = delete;

 private:
  void (*end_)() noexcept;
};

/// The table in use; see kvcodec/attend/cpu_isa.hpp for how it is chosen.
const Kernels& kernels() noexcept;

/// Adds kernels in integers to the table of AVX-512, if the machine has VNNI and VBMI, or to that of AVX2.
void fill_integer_kernels(Kernels& table, bool avx512) noexcept;

/// The table of AVX-512 with matrix products (AMX) for integers, or null if the machine has none.
const Kernels* matrix_kernels() noexcept;

/// The definition, in plain C++.
const Kernels& scalar_kernels() noexcept;

/// The table of the best SIMD target among `targets` (a Highway target mask), or null if the
/// machine has none of them.
const Kernels* simd_kernels(std::int64_t targets) noexcept;

}  // namespace kvcodec::cpu
