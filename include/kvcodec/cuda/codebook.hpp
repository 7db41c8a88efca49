// Codebooks that grow on the device: CodebookTable::cover() (kvcodec/codec/codebook_table.hpp; SpindleKV,
// arXiv 2507.06517, section 3.4) for many tables at once.
//
// The same bytes as on the CPU, whatever the rows: norms, unit vectors and cosines are formed by the same
// operations in the same order, so that thresholds, ties and the greedy cover come out alike. That takes
// f32 products on CUDA cores, rounded one by one; f16 tensor cores would move cosines by up to 1e-3, which
// is several per cent of 1 - theta.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcodec/codec/codebook_table.hpp"
#include "kvcodec/cuda/device.hpp"

namespace kvcodec::cuda {

/// Tables on the device, one per (sequence, layer, side) or per KV head of it. Codebook::entries and
/// n_entries of a bound codec are one table's.
struct CodebookTables {
  int head_dim = 0;  ///< 64..256 in steps of 16
  float theta = 0.98f;
  CodebookMatch match = CodebookMatch::best;
  std::int32_t n_tables = 0;
  std::int64_t capacity = 0;           ///< entries that each has room for, 0..2^32 - 2
  f16* entries = nullptr;              ///< [n_tables, capacity, head_dim], on a 16-byte boundary
  std::uint32_t* n_entries = nullptr;  ///< [n_tables] in and out
};

/// Rows to be given entries.
struct CoverRows {
  const void* x = nullptr;  ///< rows of head_dim values, keys before position encoding
  DType dtype = DType::f32;
  std::int64_t row_stride =
      0;  ///< elements from one row to the next; 16-byte reads where it allows
  /// Row of x of each row below; null: row i is row i of x. So rows that lie here and there, such as
  /// those of several heads that share a table, can be listed.
  const std::int64_t* row_of = nullptr;
  const std::int64_t* first = nullptr;   ///< [n_tables] where the rows of a table begin
  const std::int64_t* n_rows = nullptr;  ///< [n_tables] 0..max_rows
  std::int64_t max_rows = 0;             ///< most rows of one table
  const std::int32_t* weights =
      nullptr;  ///< [rows] of 1 or more (smaller ones count as 1); null: all 1
  /// Rows whose graph is built at once, 1..CodebookTable::kPieceRows. Working memory grows with its
  /// square; with fewer than the default a table with more rows becomes what covering such pieces one
  /// after the other makes.
  std::int64_t piece_rows = CodebookTable::kPieceRows;
  std::uint32_t* index = nullptr;  ///< [rows] out; CodebookTable::kNone: a zero row
  float* magnitude = nullptr;      ///< [rows] out: |x|, at most 65504, not yet rounded to f16
  /// [n_tables] set to 1 where a table has not room enough, others stay: then the table keeps the entries
  /// it had, and index and magnitude of its rows are undefined. May be null.
  std::uint32_t* full = nullptr;
};

/// Bytes of working memory on the device, a multiple of 256. Throws as cover_rows() does.
std::size_t cover_workspace_bytes(const CodebookTables& tables, const CoverRows& rows);

/// Gives every row an entry of its table, appending entries where none matches.
///
/// Seven launches per piece of rows, and one. Matching costs rows x entries x head_dim products, the graph half of
/// rows^2 x head_dim; the cover takes one CTA per table and a few microseconds per new entry. All
/// pointers are device pointers. Asynchronous on `stream`, allocates nothing, waits for nothing, may be
/// captured; `workspace` is aligned to 256 bytes.
/// Throws invalid_argument naming the field, cuda_error.
void cover_rows(const CodebookTables& tables, const CoverRows& rows, void* workspace,
                std::size_t workspace_bytes, Stream stream = nullptr);

}  // namespace kvcodec::cuda
