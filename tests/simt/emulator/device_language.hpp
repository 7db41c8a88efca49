// CUDA's device language for the host compiler: cuda/core/device.cuh includes this instead of nvcc's
// words. The types, the conversions and the host API are NVIDIA's own headers; what those offer only
// to nvcc (thread indices, collectives, intrinsics, atomics) is defined here and in the headers
// below. One fiber runs each CUDA thread, all on the host thread that launches.
#pragma once

#if defined(__CUDACC__)
#error "device_language.hpp is for host compilers; nvcc has the real thing"
#endif

// The CUDA headers define words that the standard library uses (__noinline__): it comes first.
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "tests/simt/emulator/capture.hpp"

// NOLINTBEGIN(bugprone-reserved-identifier)
#undef __launch_bounds__
#define __launch_bounds__(...)
#if !defined(__grid_constant__)
#define __grid_constant__
#endif
// A plain __shared__ variable would be one per process, or one per thread: refuse it.
#undef __shared__
#define __shared__ static_assert(false, "write KVCODEC_SHARED(name, type) or dynamic_shared<T>()");
// NOLINTEND(bugprone-reserved-identifier)

// Rewritten whenever another thread goes on. Plain variables of the exact CUDA types: macros would
// break cudaLaunchConfig_t::gridDim, and proxies the deduction of types.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
inline constexpr int warpSize = 32;

namespace kvcodec::simt {

/// Runs body(argument) in every thread of the launch. See runtime.hpp for faults.
cudaError_t run(dim3 grid, dim3 threads, std::size_t shared_bytes, void (*body)(void*),
                void* argument);

/// Every thread gets its own copies of the arguments, as on the device. So does a graph, where the stream
/// captures.
template <class... P>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 threads, std::size_t shared_bytes,
                   cudaStream_t stream, std::type_identity_t<P>... args) {
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> args;
  };
  return enqueue(stream, [grid, threads, shared_bytes, call = Call{kernel, {args...}}]() mutable {
    return run(
        grid, threads, shared_bytes,
        [](void* p) {
          const auto* c = static_cast<const Call*>(p);
          std::apply(c->kernel, c->args);
        },
        &call);
  });
}

std::byte* dynamic_shared_memory();

/// Storage of the shared variable known by `key` in the running CTA, filled with 0xff (NaN) when the
/// CTA first asks for it. ASan guards both ends.
void* shared_storage(const void* key, std::size_t bytes, std::size_t alignment);

/// KVCODEC_SHARED: the type of each lambda names one declaration (of one template instance).
template <class T, class Lambda>
T& shared_variable(Lambda) {
  static const char key = 0;
  return *static_cast<T*>(shared_storage(&key, sizeof(T), alignof(T)));
}

}  // namespace kvcodec::simt

#include "tests/simt/emulator/async_copy.hpp"
#include "tests/simt/emulator/atomics.hpp"
#include "tests/simt/emulator/collectives.hpp"
#include "tests/simt/emulator/intrinsics.hpp"
#include "tests/simt/emulator/tensor.hpp"
