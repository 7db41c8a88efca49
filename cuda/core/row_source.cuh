// Rows of K or V in the caller's memory, read eight channels at a time: 16 bytes of f16 or bf16, twice
// 16 of f32.
#pragma once

#include <cstdint>

#include "cuda/core/device.cuh"
#include "cuda/core/values.cuh"
#include "kvcodec/core/config.hpp"
#include "kvcodec/core/rows.hpp"

namespace kvcodec::cuda {

/// Channels of one read.
inline constexpr int kOctet = 8;
static_assert(kLanes % kOctet == 0, "rows are whole octets");

struct RowSource {
  const void* data = nullptr;
  DType dtype = DType::f32;
  bool aligned = false;  ///< every row begins on 16 bytes
  std::int64_t token_stride = 0;
  std::int64_t head_stride = 0;

  RowSource() = default;
  explicit RowSource(const AnyRows& rows) noexcept
      : data(rows.data),
        dtype(rows.dtype),
        token_stride(rows.token_stride),
        head_stride(rows.head_stride) {
    const auto bytes = static_cast<std::int64_t>(dtype_bytes(dtype));
    aligned = reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && token_stride * bytes % 16 == 0 &&
              head_stride * bytes % 16 == 0;
  }

  /// First element of a row.
  __device__ __forceinline__ std::int64_t row(std::int64_t token, std::int64_t head) const {
    return token * token_stride + head * head_stride;
  }
};

/// x <- elements at .. at + 7, `at` a multiple of 8 behind the first of a row.
__device__ __forceinline__ void load_octet(const RowSource& rows, std::int64_t at,
                                           float (&x)[kOctet]) {
  if (!rows.aligned) {
#pragma unroll
    for (int i = 0; i < kOctet; ++i) x[i] = load_f32(rows.data, rows.dtype, at + i);
    return;
  }
  if (rows.dtype == DType::f32) {
    const auto* p = reinterpret_cast<const uint4*>(static_cast<const float*>(rows.data) + at);
    const uint4 low = load_vector(p);
    const uint4 high = load_vector(p + 1);
    const unsigned words[kOctet] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < kOctet; ++i) x[i] = __uint_as_float(words[i]);
    return;
  }
  const uint4 v = load_vector(
      reinterpret_cast<const uint4*>(static_cast<const std::uint16_t*>(rows.data) + at));
  const unsigned words[kOctet / 2] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < kOctet / 2; ++i) {
    const float2 pair = rows.dtype == DType::f16 ? __half22float2(half2_of(words[i]))
                                                 : __bfloat1622float2(bf162_of(words[i]));
    x[2 * i] = pair.x;
    x[2 * i + 1] = pair.y;
  }
}

/// Lanes that share a row, an octet each: a power of two, so that sums over them are shuffles.
KVCODEC_HD constexpr int lanes_per_row(int head_dim) noexcept {
  return head_dim <= 8 * kOctet ? 8 : head_dim <= 16 * kOctet ? 16 : 32;
}

/// Sum over the lanes of a row; all of the warp call it.
template <class T>
__device__ __forceinline__ T row_sum(T x, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

}  // namespace kvcodec::cuda
