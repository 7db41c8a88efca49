// How the codes of a tile become values, where one rule says it: what kernels that read tiles word by
// word are written against, instead of against every codec.
//
//   value(row, channel) = scale(row, group) * level(code) + zero(row, group)
//
// Bytes    per head one plane of codes of `bits` bits (tile_layout.hpp), head h at h times its size;
//          3 bits are a 2-bit plane with the low bits and behind it a 1-bit plane with the high one.
//          Then, anywhere in the tile, one plane of scales per group and, for formats with zeros, one
//          plane of f16 zeros per group: group g's at `scale_offset` + g * plane_bytes(), row r's
//          value the r-th of the plane.
// Group    `group` neighbouring channels, counted over the heads of the tile; the last of a head may
//          be short if the tile holds one head.
// Runs     with `run` > 0 (keys) scales and zeros belong to channels instead: one f16 of each per
//          channel and run of `run` tokens, [kTileRows / run, width] from `scale_offset` and
//          `zero_offset` on. `group` is then 1.
#pragma once

#include <concepts>
#include <cstdint>

#include "kvcodec/codec/codec.hpp"

namespace kvcodec {

/// Format of the tiles of one side; trivially copyable.
struct TileFormat {
  /// What a code stands for.
  enum class Level : std::uint8_t {
    table,  ///< table[code]; 1 to 4 bits
    int8,   ///< the code as a two's complement number; 8 bits
    uint8,  ///< the code as it is; 8 bits
    e4m3,   ///< the code as an e4m3 float; 8 bits
    f16,    ///< the code as a binary16; 16 bits
    bf16,   ///< the code as the upper half of a binary32; 16 bits
    f32,    ///< the code as a binary32; 32 bits
  };

  /// What a scale is stored as.
  enum class Stored : std::uint8_t { f16, e4m3, e8m0 };

  Level level = Level::table;
  std::int32_t bits = 4;           ///< 1, 2, 3, 4, 8, 16 or 32
  std::int32_t width = 0;          ///< codes per row: head_dim, or the length of a sketch
  std::int32_t group = 0;          ///< channels that share stored parameters; 0: nothing is stored
  std::uint32_t scale_offset = 0;  ///< of group 0, bytes
  std::uint32_t zero_offset = 0;   ///< of group 0, bytes; 0: there are no zeros
  float scale = 1.0f;              ///< on top of the stored one
  float table[16] = {};            ///< [2^bits]
  Stored stored = Stored::f16;     ///< of scales; zeros are f16
  std::int32_t run = 0;            ///< tokens that share the parameters of a channel, or 0

  KVCODEC_HD bool has_zeros() const noexcept { return zero_offset != 0; }
  /// Bytes from one group's plane of scales to the next.
  KVCODEC_HD std::size_t plane_bytes() const noexcept {
    return stored == Stored::f16 ? kScalePlaneBytes : static_cast<std::size_t>(kTileRows);
  }
  /// Whether every code stands in one word of at most 16 bits and every row has f16 scales: what the
  /// kernels of a device read.
  KVCODEC_HD bool one_plane() const noexcept {
    return bits != 3 && bits != 32 && stored == Stored::f16 && run == 0;
  }

  friend bool operator==(const TileFormat&, const TileFormat&) = default;
};

/// A codec whose tiles have a TileFormat.
///
///   c.tile_format(side, head_dim, format)   fills `format`; false if tiles of that side (or with
///                                           these options) follow no such rule
template <class C>
concept FormattedCodec = Codec<C> && requires(const C c, Side side, int head_dim, TileFormat& f) {
  { c.tile_format(side, head_dim, f) }
  noexcept->std::same_as<bool>;
};

}  // namespace kvcodec
