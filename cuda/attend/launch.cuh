// Launches of the attention kernel for one pair of code kinds.
#pragma once

#include "cuda/attend/kernel.cuh"
#include "cuda/attend/launchers.hpp"

namespace kvcodec::cuda {

template <class C>
cudaError_t launch_config(const AttendParams& p, cudaStream_t stream) {
  constexpr int kRawBytes = static_cast<int>(sizeof(RawMemory));
  const int tile_bytes = TilesMemory<C>::bytes(p.one_table);
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(p.n_splits()),
                    static_cast<unsigned>(p.view.shape.n_kv_heads * p.n_token_groups),
                    static_cast<unsigned>(p.view.n_seq));
  shape.threads = dim3(kAttendThreads);
  shape.shared_bytes = static_cast<std::size_t>(tile_bytes > kRawBytes ? tile_bytes : kRawBytes);
  shape.stream = stream;
  return launch(attend_kernel<C>, shape, p);
}

/// Picks rows per unit and zeros.
template <CodeKind kKey, int kKeyWidth, CodeKind kValue, int kHeadDim>
cudaError_t launch_width(const AttendParams& p, bool dry, cudaStream_t stream) {
  if (dry) return cudaSuccess;
  const bool zeros = p.k.has_zeros() || p.v.has_zeros();
  constexpr bool kMayHaveZeros = kKey != CodeKind::table1 && kKey != CodeKind::e4m3 &&
                                 kKey != CodeKind::f16;
  if constexpr (kMayHaveZeros) {
    if (zeros) {
      return p.unit_rows() <= 8
                 ? launch_config<TilesConfig<kKey, kKeyWidth, kValue, kHeadDim, 1, true>>(p, stream)
                 : launch_config<TilesConfig<kKey, kKeyWidth, kValue, kHeadDim, 2, true>>(p, stream);
    }
  }
  if (zeros) return cudaErrorNotSupported;
  return p.unit_rows() <= 8
             ? launch_config<TilesConfig<kKey, kKeyWidth, kValue, kHeadDim, 1, false>>(p, stream)
             : launch_config<TilesConfig<kKey, kKeyWidth, kValue, kHeadDim, 2, false>>(p, stream);
}

/// Picks the width of a key row: head_dim, or that of a sketch.
template <CodeKind kKey, CodeKind kValue, int kHeadDim>
cudaError_t launch_head_dim(const AttendParams& p, bool dry, cudaStream_t stream) {
  if (p.k.width == kHeadDim) {
    return launch_width<kKey, kHeadDim, kValue, kHeadDim>(p, dry, stream);
  }
  if constexpr (kKey == CodeKind::table1) {
    if (p.k.width == 2 * kHeadDim) {
      return launch_width<kKey, 2 * kHeadDim, kValue, kHeadDim>(p, dry, stream);
    }
    if (p.k.width == 4 * kHeadDim) {
      return launch_width<kKey, 4 * kHeadDim, kValue, kHeadDim>(p, dry, stream);
    }
  }
  return cudaErrorNotSupported;
}

template <CodeKind kKey, CodeKind kValue>
cudaError_t launch_tiles(const AttendParams& p, bool dry, cudaStream_t stream) {
  switch (p.view.shape.head_dim) {
#ifndef TRY
    case 64: return launch_head_dim<kKey, kValue, 64>(p, dry, stream);
    case 80: return launch_head_dim<kKey, kValue, 80>(p, dry, stream);
    case 96: return launch_head_dim<kKey, kValue, 96>(p, dry, stream);
#endif
    case 128: return launch_head_dim<kKey, kValue, 128>(p, dry, stream);
#ifndef TRY
    case 256: return launch_head_dim<kKey, kValue, 256>(p, dry, stream);
#endif
    default: return cudaErrorNotSupported;
  }
}

}  // namespace kvcodec::cuda
