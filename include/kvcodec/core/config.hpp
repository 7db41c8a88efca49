// The only macros of the library.
#pragma once

// Marks a function that both the host compiler and nvcc compile, for the CPU and for the device.
#if defined(__CUDACC__)
#define KVCODEC_HD __host__ __device__
#else
#define KVCODEC_HD
#endif

namespace kvcodec {

/// Version of the byte formats (tiles, pages). A change of bytes raises it.
inline constexpr int kFormatVersion = 1;

/// Rows of a tile of every built-in codec.
///
/// 64 rows let keys sit 16 to a SIMD register with four registers in flight, make every plane of a
/// tile a whole number of 64-byte cache lines for all head sizes, and fill `mma` fragments.
inline constexpr int kTileRows = 64;

/// Keys (K tiles) or channels (V tiles) that stand side by side in one 64-byte line of codes.
inline constexpr int kLanes = 16;

/// Smallest and largest `head_dim` the library accepts; it must also be a multiple of `kLanes`.
inline constexpr int kMinHeadDim = 64;
inline constexpr int kMaxHeadDim = 256;

/// Most channels of a tile over all its heads.
inline constexpr int kMaxTileWidth = kMaxHeadDim;

/// Largest number of query heads that may share one KV head.
inline constexpr int kMaxGqaGroup = 16;

/// std::bit_cast for host and device (the standard one is not callable from device code).
template <class To, class From>
KVCODEC_HD constexpr To bit_cast(const From& from) noexcept {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs types of one size");
  return __builtin_bit_cast(To, from);
}

}  // namespace kvcodec
