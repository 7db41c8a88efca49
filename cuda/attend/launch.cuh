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
                    static_cast<unsigned>(p.view.shape.n_kv_heads * p.n_units),
                    static_cast<unsigned>(p.view.n_seq));
  shape.threads = dim3(kAttendThreads);
  shape.shared_bytes = static_cast<std::size_t>(tile_bytes > kRawBytes ? tile_bytes : kRawBytes);
  shape.stream = stream;
  return launch(attend_kernel<C>, shape, p);
}

/// Which head sizes and options a pair of kinds is compiled for. Every entry costs seconds of nvcc per
/// architecture, so the rarer ones have fewer.
template <CodeKind kKey, CodeKind kValue>
struct PairShapes {
  static constexpr bool kUsual =
      kKey == kValue &&
      (kKey == CodeKind::table4 || kKey == CodeKind::byte || kKey == CodeKind::f16);
  /// head_dim 80, 96 and 256 besides 64 and 128.
  static constexpr bool kAllHeadDims = kUsual;
  /// Formats with zeros: affine codes.
  static constexpr bool kZeros = kKey == kValue && kKey != CodeKind::e4m3 && kKey != CodeKind::f16;
};

template <CodeKind kKey, int kKeyWidth, CodeKind kValue, int kHeadDim, bool kZeros>
cudaError_t launch_rows(const AttendParams& p, cudaStream_t stream) {
  // 16 query rows cost registers that sums of more than 128 channels, and zeros, need.
  if constexpr ((kHeadDim == 64 || kHeadDim == 128) && !kZeros) {
    if (p.unit_rows > 8) {
      return launch_config<TilesConfig<kKey, kKeyWidth, kValue, kHeadDim, 2, kZeros>>(p, stream);
    }
  }
  return launch_config<TilesConfig<kKey, kKeyWidth, kValue, kHeadDim, 1, kZeros>>(p, stream);
}

template <CodeKind kKey, int kKeyWidth, CodeKind kValue, int kHeadDim>
cudaError_t launch_width(const AttendParams& p, bool dry, cudaStream_t stream) {
  const bool zeros = p.k.has_zeros() || p.v.has_zeros();
  if (zeros && !PairShapes<kKey, kValue>::kZeros) return cudaErrorNotSupported;
  if (dry) return cudaSuccess;
  if constexpr (PairShapes<kKey, kValue>::kZeros) {
    if (zeros) return launch_rows<kKey, kKeyWidth, kValue, kHeadDim, true>(p, stream);
  }
  return launch_rows<kKey, kKeyWidth, kValue, kHeadDim, false>(p, stream);
}

/// Picks the width of a key row: head_dim, or that of a sketch of twice as many signs.
template <CodeKind kKey, CodeKind kValue, int kHeadDim>
cudaError_t launch_head_dim(const AttendParams& p, bool dry, cudaStream_t stream) {
  if (p.k.width == kHeadDim) {
    return launch_width<kKey, kHeadDim, kValue, kHeadDim>(p, dry, stream);
  }
  if constexpr (kKey == CodeKind::table1) {
    if (p.k.width == 2 * kHeadDim) {
      return launch_width<kKey, 2 * kHeadDim, kValue, kHeadDim>(p, dry, stream);
    }
  }
  return cudaErrorNotSupported;
}

template <CodeKind kKey, CodeKind kValue>
cudaError_t launch_tiles(const AttendParams& p, bool dry, cudaStream_t stream) {
  const int head_dim = p.view.shape.head_dim;
  if (head_dim == 64) return launch_head_dim<kKey, kValue, 64>(p, dry, stream);
  if (head_dim == 128) return launch_head_dim<kKey, kValue, 128>(p, dry, stream);
  if constexpr (PairShapes<kKey, kValue>::kAllHeadDims) {
    if (head_dim == 80) return launch_head_dim<kKey, kValue, 80>(p, dry, stream);
    if (head_dim == 96) return launch_head_dim<kKey, kValue, 96>(p, dry, stream);
    if (head_dim == 256) return launch_head_dim<kKey, kValue, 256>(p, dry, stream);
  }
  return cudaErrorNotSupported;
}

}  // namespace kvcodec::cuda
