// Encoding of "qjl" tiles by a table's kernel for signs.
#pragma once

#include "kernels.hpp"
#include "kvcodec/codec/qjl.hpp"

namespace kvcodec::cpu {

/// Qjl::encode_tile, or encode_tile_after unless first_tile is null: the same bytes and result. The table
/// must have put_signs and load_clamped.
bool encode_sketch(const Kernels& table, const Qjl& codec, int head_dim,
                   const std::byte* first_tile, const float* x, std::byte* tile) noexcept;

}  // namespace kvcodec::cpu
