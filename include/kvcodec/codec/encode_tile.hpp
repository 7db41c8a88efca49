// Encoding with the fastest kernel that the machine has.
#pragma once

#include "kvcodec/codec/any_codec.hpp"

namespace kvcodec {

/// AnyCodec::encode_tile_after, the same bytes and the same result, by the kernels of the instruction
/// set in use (attend/cpu_isa.hpp); codecs without one encode themselves. What Cache calls.
///
/// x [kTileRows, head_span * head_dim] f32 -> out [tile_bytes(head_dim)], which must not overlap;
/// first_tile is the stream's first tile, or null for a stream's first one and for codecs that fix
/// nothing per sequence and head. head_dim must be one that the codec supports, with its tables loaded.
/// Returns false if a value of x was not finite. Allocates nothing; any number of threads.
bool encode_tile(const AnyCodec& codec, Side side, int head_dim, const std::byte* first_tile,
                 const float* x, std::byte* out) noexcept;

}  // namespace kvcodec
