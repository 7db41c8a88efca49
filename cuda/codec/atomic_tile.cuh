// The tile that threads of a CTA encode their parts into.
#pragma once

#include "cuda/core/device.cuh"
#include "kvcodec/codec/tile_layout.hpp"

namespace kvcodec::cuda {

/// A TileWriter over shared or global memory on a 4-byte boundary, zeroed before.
struct AtomicTile {
  std::byte* data;

  KVCODEC_HD AtomicTile operator+(std::size_t n) const noexcept { return {data + n}; }
  KVCODEC_HD void set_bits(std::size_t word, std::uint32_t bits) const noexcept {
#if defined(__CUDACC__) && !defined(__CUDA_ARCH__)
    static_cast<void>(word);  // nvcc's host pass: nobody calls it
    static_cast<void>(bits);
#else
    atomicOr(reinterpret_cast<unsigned*>(data) + word, bits);
#endif
  }
};

static_assert(TileWriter<AtomicTile>);

}  // namespace kvcodec::cuda
