// One value of an array whose storage type is known at run time. load_value of core/dtype.hpp gives the
// same numbers by integer arithmetic; these are single instructions on a device.
#pragma once

#include "cuda/core/device.cuh"
#include "kvcodec/core/dtype.hpp"

namespace kvcodec::cuda {

/// A value of a row as the caller stored it.
__device__ __forceinline__ float load_f32(const void* data, DType type, std::int64_t index) {
  if (type == DType::f32) return static_cast<const float*>(data)[index];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[index];
  return type == DType::f16 ? __half2float(half_of(bits)) : __bfloat162float(bf16_of(bits));
}

/// A value into an array of storage type `type`.
__device__ __forceinline__ void store_f32(void* data, DType type, std::int64_t index, float x) {
  if (type == DType::f32) {
    static_cast<float*>(data)[index] = x;
  } else if (type == DType::f16) {
    static_cast<std::uint16_t*>(data)[index] = bits_of(__float2half_rn(x));
  } else {
    static_cast<std::uint16_t*>(data)[index] = bits_of(__float2bfloat16_rn(x));
  }
}

}  // namespace kvcodec::cuda
