// What the kernels of growing codebooks share.
#pragma once

#include <cstdint>

#include "cuda/core/products.cuh"
#include "cuda/core/row_source.cuh"
#include "cuda/core/workspace.hpp"
#include "kvcodec/cuda/codebook.hpp"

namespace kvcodec::cuda {

/// Entries that one CTA compares with its rows.
inline constexpr std::int64_t kSplitEntries = 512;

/// One piece of rows of every table. Arrays of working memory are per table.
struct CoverJob {
  RowSource x;
  RowSource entry_rows;  ///< the tables' entries
  RowSource unit_rows;   ///< `units`
  RowSource entry_unit_rows;
  const std::int64_t* row_of;
  const std::int64_t* first;
  const std::int64_t* n_rows;
  const std::int32_t* weights;
  std::uint32_t* index;
  float* magnitude;
  std::uint32_t* full_out;
  f16* entries;
  std::uint32_t* n_entries;

  std::int64_t capacity;
  std::int64_t piece_rows;
  std::int64_t n_words;  ///< of 64 bits, of a row of the graph
  std::int64_t begin;    ///< first row of the piece
  std::int32_t head_dim;
  float theta;
  CodebookMatch match;

  float* units;             ///< [piece_rows, head_dim] rows of length 1
  float* entry_units;       ///< [capacity, head_dim] entries brought back to length 1
  std::uint64_t* best;      ///< [piece_rows] best match so far, see match_key()
  std::uint32_t* list;      ///< [piece_rows] rows without an entry
  std::int64_t* n_list;     ///< [1]
  std::uint64_t* graph;     ///< [piece_rows, n_words] bit b of row a: linked
  std::int64_t* degree;     ///< [piece_rows]
  std::uint32_t* chosen;    ///< [piece_rows] listed rows that become entries
  std::uint32_t* code;      ///< [piece_rows] place in `chosen` of each listed row
  std::uint32_t* n_before;  ///< [1] entries before the first piece
  std::uint32_t* full;      ///< [1] no room: nothing more is done

  /// Rows of the piece that a table has.
  __device__ std::int64_t rows_of(std::int64_t table) const {
    const std::int64_t left = n_rows[table] - begin;
    return left < piece_rows ? left : piece_rows;
  }
  /// Where row i of a table's piece stands in index, magnitude and weights.
  __device__ std::int64_t place(std::int64_t table, std::int64_t i) const {
    return first[table] + begin + i;
  }
  __device__ std::int64_t weight(std::int64_t table, std::int64_t listed) const {
    if (weights == nullptr) return 1;
    const std::int32_t w = weights[place(table, list[table * piece_rows + listed])];
    return w < 1 ? 1 : w;
  }
};

/// The table of CTA x of a grid of tables times shares, and its share.
struct TableShare {
  std::int64_t table;
  std::int64_t share;
  __device__ explicit TableShare(std::int64_t n_shares)
      : table(blockIdx.x / n_shares), share(blockIdx.x % n_shares) {}
};

/// A match as a number of which the largest wins, in whatever order they come: for `best` the largest
/// cosine, then the lowest entry; for `first` the lowest entry. Matches have cosines above 0.
__device__ __forceinline__ std::uint64_t match_key(CodebookMatch match, float cosine,
                                                   std::int64_t entry) {
  const std::uint64_t high = match == CodebookMatch::first ? 1u : __float_as_uint(cosine);
  return high << 32 | (0xffffffffu - static_cast<std::uint32_t>(entry));
}
__device__ __forceinline__ std::uint32_t entry_of(std::uint64_t key) {
  return 0xffffffffu - static_cast<std::uint32_t>(key);
}

/// units, magnitude and best of all rows of a piece, grid tables times ceil_div(rows, kLeftRows); the unit
/// vectors of all entries, if there are any; matches; the list of rows without; the graph.
cudaError_t launch_link(const CoverJob& job, std::int64_t n_tables, cudaStream_t stream);

/// degrees, the greedy cover, entries and indices.
cudaError_t launch_cover(const CoverJob& job, std::int64_t n_tables, cudaStream_t stream);

}  // namespace kvcodec::cuda
