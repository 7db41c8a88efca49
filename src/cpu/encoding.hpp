// How the values of a tile become its bytes, said once for every codec whose tiles have a TileFormat:
// what kernels that encode are written against.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcodec/codec/tile_format.hpp"

namespace kvcodec::cpu {

/// What a row's or group's stored parameters follow from. Each names a codec's rule; the codec's own
/// header is the definition, and the bytes are the same.
enum class ParamRule : std::uint8_t {
  none,           ///< nothing is stored; values are divided by TileFormat::scale
  normal,         ///< nqkv, nqsym: max |x|
  normal_signed,  ///< nqfit: the value of largest magnitude
  largest_code,   ///< int8, fp8 with a scale per row: max |x| / largest, rounded up
  affine,         ///< wkv, values of kivi: ends of a group
  affine_runs,    ///< keys of kivi: ends of a channel over a run of tokens
  lloyd_max,
  rabitq,
  nvfp4,
  mxfp4,
};

/// How a value becomes a code.
enum class Coding : std::uint8_t {
  table,        ///< thresholds below value / divisor
  floor_table,  ///< the same, with `floor_of_empty`
  affine,       ///< (value - zero) / divisor, to nearest even
  kept,         ///< the rule needs the codes itself, and leaves them
  int8,
  e4m3,
  e2m1,
  f16,
  bf16,
  f32,
};

/// Encodes tiles of one side of one codec; trivially copyable.
struct TileEncoding {
  TileFormat format;
  ParamRule rule = ParamRule::none;
  Coding coding = Coding::table;
  float limit = 0.0f;             ///< larger magnitudes become this one
  float thresholds[15] = {};      ///< [2^bits - 1]
  float floor_of_empty = 0.0f;    ///< floor_table: value / divisor of a group without a scale
  float multiplier = 1.0f;        ///< normal: of the largest; rabitq: kappa; nvfp4: global scale
  bool searches = false;          ///< normal: the best of several multiples is taken
  std::int32_t variant = 0;       ///< lloyd_max: its Rule
  float largest = 0.0f;           ///< largest_code: largest code; affine: 2^bits - 1
  float clip = 1.0f;              ///< affine: of full groups
  float last_clip = 1.0f;         ///< affine: of the last group
  float smallest_scale = 0.0f;    ///< affine
  std::uint32_t used_bytes = 0;   ///< bytes from here on are zero
  std::uint32_t total_bytes = 0;  ///< of the tile
};

}  // namespace kvcodec::cpu
