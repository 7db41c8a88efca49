// Which kernel encodes the tiles of a codec.
#pragma once

#include "encoding.hpp"
#include "kvcodec/codec/any_codec.hpp"

namespace kvcodec::cpu {

/// How tiles of one side of a codec are encoded; false if no kernel knows its rule.
bool tile_encoding(const AnyCodec& codec, Side side, int head_dim, TileEncoding& encoding) noexcept;

}  // namespace kvcodec::cpu
