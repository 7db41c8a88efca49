// Stand-in for the rest of libcudart: errors, the one device, streams, events, functions. Streams
// and events order nothing, because every call has its effect before it returns; what they check is
// that a handle is one that lives, and that a stream that captures (capture.hpp) is not waited for.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <set>
#include <utility>

#include "tests/simt/emulator/capture.hpp"
#include "tests/simt/emulator/scheduler.hpp"

namespace kvcodec::simt {
namespace {

cudaError_t last_error = cudaSuccess;

using Clock = std::chrono::steady_clock;
struct Event {
  Clock::time_point recorded;
};

struct Stream {
  unsigned flags;
};

std::set<const void*>& live_handles() {
  static std::set<const void*> handles;
  return handles;
}

bool is_live(const void* handle) { return live_handles().contains(handle); }
cudaError_t check_event(cudaEvent_t event) {
  return set_last_error(is_live(event) ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

cudaError_t create_stream(cudaStream_t* stream, unsigned flags) {
  if (stream == nullptr) return set_last_error(cudaErrorInvalidValue);
  *stream = reinterpret_cast<cudaStream_t>(new Stream{flags});
  live_handles().insert(*stream);
  return cudaSuccess;
}
cudaError_t create_event(cudaEvent_t* event) {
  if (event == nullptr) return set_last_error(cudaErrorInvalidValue);
  *event = reinterpret_cast<cudaEvent_t>(new Event{});
  live_handles().insert(*event);
  return cudaSuccess;
}

cudaError_t read_attribute(int* value, cudaDeviceAttr attribute) {
  const Device d = device();
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = d.multiprocessors; break;
    case cudaDevAttrComputeCapabilityMajor: *value = d.compute_capability / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = d.compute_capability % 10; break;
    case cudaDevAttrWarpSize: *value = static_cast<int>(kWarpLanes); break;
    case cudaDevAttrMaxThreadsPerBlock: *value = static_cast<int>(kMaxThreads); break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 * 1024; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(d.shared_bytes_per_cta);
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(d.shared_bytes_per_multiprocessor);
      break;
    case cudaDevAttrMaxGridDimX: *value = 0x7fffffff; break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    case cudaDevAttrL2CacheSize: *value = 1 << 20; break;
    case cudaDevAttrMemoryPoolsSupported: *value = 1; break;
    default: return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}

void fill_properties(cudaDeviceProp& p) {
  const Device d = device();
  p = {};
  std::snprintf(p.name, sizeof(p.name), "kvcodec SIMT emulator");
  p.totalGlobalMem = d.total_bytes;
  p.sharedMemPerBlock = 48 * 1024;
  p.sharedMemPerBlockOptin = d.shared_bytes_per_cta;
  p.sharedMemPerMultiprocessor = d.shared_bytes_per_multiprocessor;
  p.regsPerBlock = 65536;
  p.regsPerMultiprocessor = 65536;
  p.warpSize = static_cast<int>(kWarpLanes);
  p.maxThreadsPerBlock = static_cast<int>(kMaxThreads);
  p.maxThreadsPerMultiProcessor = 2048;
  p.maxBlocksPerMultiProcessor = 32;
  p.major = d.compute_capability / 10;
  p.minor = d.compute_capability % 10;
  p.multiProcessorCount = d.multiprocessors;
  p.l2CacheSize = 1 << 20;
}

// Threads, CTAs and shared memory only: registers are the compiler's to know.
int resident_ctas(int threads, std::size_t shared_bytes) {
  const int lanes = static_cast<int>(kWarpLanes);
  const int by_threads = 2048 / ((threads + lanes - 1) / lanes * lanes);
  constexpr std::size_t kReservedPerCta = 1024;
  const auto by_shared =
      static_cast<int>(device().shared_bytes_per_multiprocessor / (shared_bytes + kReservedPerCta));
  return std::min({by_threads, by_shared, 32});
}

}  // namespace

bool is_legacy(cudaStream_t stream) { return stream == nullptr || stream == cudaStreamLegacy; }
bool is_stream(cudaStream_t stream) {
  return is_legacy(stream) || stream == cudaStreamPerThread || is_live(stream);
}
bool is_blocking(cudaStream_t stream) {
  if (!is_live(stream)) return true;
  return (reinterpret_cast<const Stream*>(stream)->flags & cudaStreamNonBlocking) == 0;
}

cudaError_t set_last_error(cudaError_t status) {
  if (status != cudaSuccess) last_error = status;
  return status;
}

}  // namespace kvcodec::simt

namespace simt = kvcodec::simt;

extern "C" {

// ---- Errors. ----

cudaError_t cudaGetLastError() { return std::exchange(simt::last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return simt::last_error; }

const char* cudaGetErrorName(cudaError_t status) {
  switch (status) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidPitchValue: return "cudaErrorInvalidPitchValue";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInsufficientDriver: return "cudaErrorInsufficientDriver";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    case cudaErrorIllegalState: return "cudaErrorIllegalState";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorStreamCaptureImplicit: return "cudaErrorStreamCaptureImplicit";
    default: return "unrecognized error code";
  }
}

const char* cudaGetErrorString(cudaError_t status) {
  switch (status) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInvalidPitchValue: return "invalid pitch argument";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorLaunchFailure: return simt::launch_failure_text();
    case cudaErrorIllegalState: return "the operation cannot be performed in the present state";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
      return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureImplicit:
      return "operation would make the legacy stream depend on a capturing blocking stream";
    default: return "unrecognized error code";
  }
}

// ---- The device. ----

cudaError_t cudaGetDeviceCount(int* n) {
  *n = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* number) {
  *number = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int number) {
  return simt::set_last_error(number == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int number) {
  if (number != 0) return simt::set_last_error(cudaErrorInvalidDevice);
  return simt::set_last_error(simt::read_attribute(value, attribute));
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int number) {
  if (number != 0) return simt::set_last_error(cudaErrorInvalidDevice);
  simt::fill_properties(*properties);
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  return simt::set_last_error(simt::check_unsafe_call(/*always=*/true));
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

// ---- Streams and events. ----

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return simt::create_stream(stream, cudaStreamDefault);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return simt::create_stream(stream, flags);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
  if (simt::is_live(stream)) static_cast<void>(cudaStreamIsCapturing(stream, &capturing));
  if (capturing != cudaStreamCaptureStatusNone) {
    return simt::set_last_error(cudaErrorStreamCaptureUnsupported);
  }
  if (simt::live_handles().erase(stream) == 0) {
    return simt::set_last_error(cudaErrorInvalidResourceHandle);
  }
  delete reinterpret_cast<simt::Stream*>(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return simt::set_last_error(simt::check_host_waits(stream));
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return simt::set_last_error(simt::check_host_waits(stream));
}
/// Of a stream that captures, a device makes a fork of the graph; here it is refused.
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const cudaError_t status = simt::set_last_error(simt::check_host_waits(stream));
  return status == cudaSuccess ? simt::check_event(event) : status;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return simt::create_event(event); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return simt::create_event(event);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (simt::live_handles().erase(event) == 0) {
    return simt::set_last_error(cudaErrorInvalidResourceHandle);
  }
  delete reinterpret_cast<simt::Event*>(event);
  return cudaSuccess;
}
/// As cudaStreamWaitEvent.
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  cudaError_t status = simt::set_last_error(simt::check_host_waits(stream));
  if (status == cudaSuccess) status = simt::check_event(event);
  if (status == cudaSuccess) {
    reinterpret_cast<simt::Event*>(event)->recorded = simt::Clock::now();
  }
  return status;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) { return simt::check_event(event); }
cudaError_t cudaEventQuery(cudaEvent_t event) { return simt::check_event(event); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  cudaError_t status = simt::check_event(from);
  if (status == cudaSuccess) status = simt::check_event(to);
  if (status != cudaSuccess) return status;
  *milliseconds =
      std::chrono::duration<float, std::milli>(reinterpret_cast<simt::Event*>(to)->recorded -
                                               reinterpret_cast<simt::Event*>(from)->recorded)
          .count();
  return cudaSuccess;
}

// ---- Kernels. ----

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (kernel == nullptr || value < 0) return simt::set_last_error(cudaErrorInvalidValue);
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize &&
      static_cast<std::size_t>(value) > simt::device().shared_bytes_per_cta) {
    return simt::set_last_error(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}
/// Registers, local and static shared memory are not known here: 0.
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  if (kernel == nullptr) return simt::set_last_error(cudaErrorInvalidValue);
  *attributes = {};
  attributes->maxThreadsPerBlock = static_cast<int>(simt::kMaxThreads);
  attributes->ptxVersion = simt::device().compute_capability;
  attributes->binaryVersion = simt::device().compute_capability;
  attributes->maxDynamicSharedSizeBytes = static_cast<int>(simt::device().shared_bytes_per_cta);
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const void* kernel, int threads,
                                                          std::size_t shared_bytes) {
  if (kernel == nullptr || threads <= 0) return simt::set_last_error(cudaErrorInvalidValue);
  *n = simt::resident_ctas(threads, shared_bytes);
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void* kernel,
                                                                   int threads,
                                                                   std::size_t shared_bytes,
                                                                   unsigned) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(n, kernel, threads, shared_bytes);
}

}  // extern "C"
