// The words kernels are written in: CUDA's own, plus the few below that both compilers understand.
//
// A kernel file includes this header and ptx.cuh and no other CUDA header, so that the same text is
// compiled twice: by nvcc for the device, and by the host compiler for the emulator in
// tests/simt/emulator/, which runs one fiber per CUDA thread (docs/simt.md). Three things are
// spelled differently from plain CUDA, because a host compiler cannot parse or place them:
//
//   __shared__ float s[4];            KVCODEC_SHARED(s, float[4]);
//   extern __shared__ float s[];      float* s = dynamic_shared<float>();
//   kernel<<<grid, n, bytes>>>(x);    launch(kernel, {grid, n, bytes, stream}, x);
//
// `__global__`, `__device__`, `__launch_bounds__(n)`, threadIdx and its like, warp shuffles, votes,
// barriers, atomics and the intrinsics in tests/simt/emulator/intrinsics.hpp are plain CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "tests/simt/emulator/device_language.hpp"
#endif

// KVCODEC_SHARED(name, type): a variable in static shared memory. The type may be an array and may
// contain commas. It starts on a 16-byte boundary, or on its type's own if that is wider.
#if defined(__CUDACC__)
#define KVCODEC_SHARED(name, ...) __shared__ __align__(16) std::type_identity_t<__VA_ARGS__> name
#else
#define KVCODEC_SHARED(name, ...)           \
  std::type_identity_t<__VA_ARGS__>& name = \
      ::kvcodec::simt::shared_variable<std::type_identity_t<__VA_ARGS__>>([] {})
#endif

namespace kvcodec::cuda {

/// The launch's dynamic shared memory (`LaunchShape::shared_bytes`), on a 1024-byte boundary. Every
/// call returns the same address.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
#if defined(__CUDACC__)
  extern __shared__ __align__(1024) unsigned char kvcodec_dynamic_shared[];
  return reinterpret_cast<T*>(kvcodec_dynamic_shared);
#else
  return reinterpret_cast<T*>(simt::dynamic_shared_memory());
#endif
}

/// Geometry of one launch.
struct LaunchShape {
  dim3 grid;                     // CTAs; a zero in any direction launches nothing
  dim3 threads;                  // threads of a CTA, at most 1024 together
  std::size_t shared_bytes = 0;  // dynamic shared memory of a CTA
  cudaStream_t stream = nullptr;
};

/// Starts `kernel`. Asynchronous, allocates nothing, may be captured into a graph.
///
/// An empty grid is cudaSuccess and launches nothing. Dynamic shared memory above 48 KB is asked for
/// here. Only what is wrong with the launch itself is returned; a fault inside the kernel shows at
/// the next synchronisation, except in the emulator, which returns cudaErrorLaunchFailure here.
template <class... P>
[[nodiscard]] cudaError_t launch(void (*kernel)(P...), const LaunchShape& shape,
                                 std::type_identity_t<P>... args) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return cudaSuccess;
#if defined(__CUDACC__)
  constexpr std::size_t kWithoutAsking = 48 * 1024;
  if (shape.shared_bytes > kWithoutAsking) {
    const cudaError_t status = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes));
    if (status != cudaSuccess) return status;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.threads;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  return cudaLaunchKernelEx(&config, kernel, args...);
#else
  return simt::launch(kernel, shape.grid, shape.threads, shape.shared_bytes, shape.stream, args...);
#endif
}

/// Reads 8 or 16 bytes at once. A plain `*p` is the same on the device; host compilers take it apart, and
/// then the emulator's counters see accesses that no device makes.
__device__ __forceinline__ uint2 load_vector(const uint2* p) {
#if defined(__CUDACC__)
  return *p;
#else
  const std::uint64_t v = *reinterpret_cast<const std::uint64_t*>(p);
  return make_uint2(static_cast<unsigned>(v), static_cast<unsigned>(v >> 32));
#endif
}
__device__ __forceinline__ uint4 load_vector(const uint4* p) {
#if defined(__CUDACC__)
  return *p;
#else
  using Words = unsigned __attribute__((vector_size(16)));
  const Words v = *reinterpret_cast<const Words*>(p);
  return make_uint4(v[0], v[1], v[2], v[3]);
#endif
}

// Bit puns. half2 and its like are not trivially copyable, so kvcodec::bit_cast refuses them, and
// reinterpret_cast breaks the aliasing rules that g++ optimises by. nvcc keeps these in registers.

/// To <- the bits of `from`; the sizes must agree.
template <class To, class From>
__device__ __forceinline__ To pun(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "pun needs types of one size");
  To to;
  memcpy(static_cast<void*>(&to), static_cast<const void*>(&from), sizeof(To));
  return to;
}

/// Two f16 values of one word; the low half comes first.
__device__ __forceinline__ half2 half2_of(std::uint32_t bits) { return pun<half2>(bits); }
/// Two bf16 values of one word; the low half comes first.
__device__ __forceinline__ nv_bfloat162 bf162_of(std::uint32_t bits) {
  return pun<nv_bfloat162>(bits);
}
__device__ __forceinline__ half half_of(std::uint16_t bits) { return pun<half>(bits); }
__device__ __forceinline__ nv_bfloat16 bf16_of(std::uint16_t bits) {
  return pun<nv_bfloat16>(bits);
}
__device__ __forceinline__ std::uint32_t bits_of(half2 x) { return pun<std::uint32_t>(x); }
__device__ __forceinline__ std::uint32_t bits_of(nv_bfloat162 x) { return pun<std::uint32_t>(x); }
__device__ __forceinline__ std::uint16_t bits_of(half x) { return pun<std::uint16_t>(x); }
__device__ __forceinline__ std::uint16_t bits_of(nv_bfloat16 x) { return pun<std::uint16_t>(x); }

}  // namespace kvcodec::cuda
