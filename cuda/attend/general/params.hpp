// What the launches of the general path are given, and where logits stand between them.
//
// The general path takes two launches over a wave of splits: scores.cuh writes the logits of every
// (query row, encoded row), sums.cuh makes states of them. So there is a kernel per kind of tile and side,
// not one per pair: FormatTiles for all tiles that a TileFormat describes, CodecTiles<C> for the others
// and for codecs with tables per sequence and head (tiles.cuh). A wave has as many splits as its memory
// holds.
#pragma once

#include "cuda/attend/params.hpp"
#include "kvcodec/cuda/attend.hpp"

namespace kvcodec::cuda {

struct GeneralParams {
  AttendParams p;            ///< k and v: width head_dim, scale 1
  const float* sketch;       ///< [n_tokens, n_q_heads, sketch_dim] S q, for QJL keys; else null
  float* logits;             ///< [units, wave_splits, tiles_per_split, unit_rows, kTileRows]
  std::int32_t wave_splits;  ///< splits of a wave at most
  std::int32_t tiles_per_split;
  std::int32_t first_split;  ///< of this wave

  /// Logits of a tile, in powers of two: [unit_rows, kTileRows].
  KVCODEC_HD float* tile_logits(const Unit& u, std::int32_t split_in_wave,
                                std::int32_t tile) const noexcept {
    const std::int64_t at = (u.index * wave_splits + split_in_wave) * tiles_per_split + tile;
    return logits + at * p.unit_rows * kTileRows;
  }
};

template <class Tiles>
struct GeneralJob {
  GeneralParams g;
  Tiles tiles;  ///< of the launch's side
};

/// The encoded rows of a split of a unit's stream; a stream has fewer than 2^31.
struct SplitRows {
  std::int64_t stream;
  std::int32_t begin;
  std::int32_t end;  ///< not above begin: none

  KVCODEC_HD static SplitRows at(const GeneralParams& g, const Unit& u,
                                 std::int32_t split_in_wave) noexcept {
    const AttendParams& p = g.p;
    SplitRows s;
    s.stream = u.seq * p.view.n_streams_per_seq() + u.head / p.view.format.span;
    const std::int64_t n_rows = p.view.encoded_rows(s.stream);
    const std::int64_t first = std::int64_t{g.first_split + split_in_wave} * p.split_rows;
    const std::int64_t full =
        first + std::int64_t{g.tiles_per_split} * kTileRows;  // the logits' room
    const std::int64_t end = n_rows < full ? n_rows : full;
    s.begin = static_cast<std::int32_t>(first < n_rows ? first : n_rows);
    s.end = static_cast<std::int32_t>(end);
    return s;
  }
};

}  // namespace kvcodec::cuda
