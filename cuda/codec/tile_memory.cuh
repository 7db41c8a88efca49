// What a CTA keeps of one tile: its values in f32 and its bytes. Shared by encoding and decoding.
#pragma once

#include "cuda/core/device.cuh"
#include "kvcodec/codec/codec.hpp"
#include "kvcodec/core/dtype.hpp"

namespace kvcodec::cuda {

/// Threads of a CTA. A tile has 64 parts as a rule; twice as many threads move its values.
inline constexpr int kTileThreads = 128;

/// Shared memory that every device since sm_80 gives one CTA, less 3 KiB: sm_86, sm_89 and sm_120 have
/// 99 KiB, the others more.
inline constexpr std::size_t kMostSharedBytes = 96 * 1024;

/// The plan of a CTA's dynamic shared memory: what is not the tile's, values [kTileRows, row_stride] f32,
/// then the tile.
struct TileMemory {
  std::size_t values_offset;  ///< bytes that others have
  int width;                  ///< values of a row
  int row_stride;             ///< floats
  std::size_t tile_offset;
  std::size_t tile_bytes;
  bool tile_fits;  ///< else the tile is worked on where it stands in global memory (f32 above 192)

  KVCODEC_HD std::size_t shared_bytes() const noexcept {
    return tile_fits ? tile_offset + tile_bytes : tile_offset;
  }
  /// The CTA's values.
  __device__ float* values() const {
    return reinterpret_cast<float*>(dynamic_shared<std::byte>() + values_offset);
  }
  /// The CTA's copy of the tile at `global`, or that tile.
  template <class Byte>
  __device__ Byte* tile(Byte* global) const {
    return tile_fits ? dynamic_shared<std::byte>() + tile_offset : global;
  }
};

/// An odd stride lets the 32 threads of a warp read one column of 32 rows without bank conflicts.
/// Codecs without parts take dense rows. `before`: bytes that others have, a multiple of 16.
template <Codec C>
KVCODEC_HD TileMemory plan_tile(const C& codec, int head_dim, std::size_t before = 0) noexcept {
  TileMemory m{};
  m.values_offset = before;
  m.width = codec.head_span(head_dim) * head_dim;
  m.row_stride = PartedCodec<C> ? m.width + 1 : m.width;
  m.tile_offset = before + static_cast<std::size_t>(kTileRows * m.row_stride) * sizeof(float);
  m.tile_bytes = codec.tile_bytes(head_dim);
  m.tile_fits = m.tile_offset + m.tile_bytes <= kMostSharedBytes;
  return m;
}

/// to [bytes] <- from [bytes] by all threads of the CTA; both on 16-byte boundaries.
__device__ __forceinline__ void copy_by_cta(std::byte* to, const std::byte* from,
                                            std::size_t bytes) {
  const int n = static_cast<int>(bytes / sizeof(uint4));
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kTileThreads) {
    reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
  }
}

}  // namespace kvcodec::cuda
