// Stand-in for the memory half of libcudart, defined against NVIDIA's own declarations. Every call
// has its effect before it returns, asynchronous ones too, unless their stream captures.
//
// Device memory starts at 0xff (NaN), as nobody has written it, and ends exactly where it was asked
// to end: ASan guards both sides.
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>

#include "tests/simt/emulator/capture.hpp"
#include "tests/simt/emulator/scheduler.hpp"

namespace kvcodec::simt {
namespace {

constexpr std::size_t kAlignment = 256;  // of cudaMalloc, and the size of the guards

struct Allocation {
  std::size_t bytes;
  void* base;  // [guard | the memory | guard]
};

std::map<std::uintptr_t, Allocation>& allocations() {
  static std::map<std::uintptr_t, Allocation> value;
  return value;
}
std::size_t bytes_in_use = 0;

std::uintptr_t address(const void* p) { return reinterpret_cast<std::uintptr_t>(p); }

bool in_device_range(const void* p, std::size_t bytes) {
  auto it = allocations().upper_bound(address(p));
  if (it == allocations().begin()) return false;
  --it;
  return address(p) + bytes <= it->first + it->second.bytes;
}

cudaError_t allocate(void** p, std::size_t bytes) {
  if (p == nullptr) return cudaErrorInvalidValue;
  *p = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (bytes > device().total_bytes - bytes_in_use) return cudaErrorMemoryAllocation;
  const std::size_t room = (bytes + kAlignment - 1) / kAlignment * kAlignment + 2 * kAlignment;
  void* const base = std::aligned_alloc(kAlignment, room);
  if (base == nullptr) return cudaErrorMemoryAllocation;
  std::memset(base, 0xff, room);
  auto* const memory = static_cast<std::byte*>(base) + kAlignment;
  forbid_access(base, kAlignment);
  forbid_access(memory + bytes, room - kAlignment - bytes);
  allocations()[address(memory)] = {bytes, base};
  bytes_in_use += bytes;
  *p = memory;
  return cudaSuccess;
}

cudaError_t deallocate(void* p) {
  if (p == nullptr) return cudaSuccess;
  const auto it = allocations().find(address(p));
  if (it == allocations().end()) return cudaErrorInvalidValue;
  bytes_in_use -= it->second.bytes;
  std::free(it->second.base);
  allocations().erase(it);
  return cudaSuccess;
}

// The side of a copy that the kind says lies on the device must lie there, the other must not.
bool sides_match(const void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const bool to_device = in_device_range(to, bytes);
  const bool from_device = in_device_range(from, bytes);
  switch (kind) {
    case cudaMemcpyHostToHost: return !to_device && !from_device;
    case cudaMemcpyHostToDevice: return to_device && !from_device;
    case cudaMemcpyDeviceToHost: return !to_device && from_device;
    case cudaMemcpyDeviceToDevice: return to_device && from_device;
    case cudaMemcpyDefault: return true;
  }
  return false;
}

cudaError_t copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  if (bytes == 0) return cudaSuccess;
  if (!sides_match(to, from, bytes, kind)) return cudaErrorInvalidValue;
  std::memmove(to, from, bytes);
  return cudaSuccess;
}

cudaError_t copy_rows(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                      std::size_t width, std::size_t height, cudaMemcpyKind kind) {
  if (width > to_pitch || width > from_pitch) return cudaErrorInvalidPitchValue;
  for (std::size_t i = 0; i < height; ++i) {
    const cudaError_t status =
        copy(static_cast<std::byte*>(to) + i * to_pitch,
             static_cast<const std::byte*>(from) + i * from_pitch, width, kind);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

cudaError_t set(void* p, int value, std::size_t bytes) {
  if (bytes == 0) return cudaSuccess;
  if (!in_device_range(p, bytes)) return cudaErrorInvalidValue;
  std::memset(p, value, bytes);
  return cudaSuccess;
}

/// A call that no capture in progress may see.
template <class F>
cudaError_t unless_capturing(const F& call) {
  const cudaError_t status = check_unsafe_call();
  return set_last_error(status == cudaSuccess ? call() : status);
}

/// A call that works on the legacy stream and waits for it.
template <class F>
cudaError_t on_legacy_stream(const F& call) {
  const cudaError_t status = check_unsafe_call();
  if (status != cudaSuccess) return set_last_error(status);
  return enqueue(nullptr, [&] { return set_last_error(call()); });
}

}  // namespace

bool in_device_memory(const void* p) { return in_device_range(p, 1); }
std::size_t device_bytes_in_use() { return bytes_in_use; }

}  // namespace kvcodec::simt

namespace simt = kvcodec::simt;

extern "C" {

cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  return simt::unless_capturing([&] { return simt::allocate(p, bytes); });
}
cudaError_t cudaFree(void* p) {
  return simt::unless_capturing([&] { return simt::deallocate(p); });
}
/// Of a stream that captures, a device makes a node that allocates; here it is refused.
cudaError_t cudaMallocAsync(void** p, std::size_t bytes, cudaStream_t stream) {
  const cudaError_t status = simt::check_host_waits(stream);
  return simt::set_last_error(status == cudaSuccess ? simt::allocate(p, bytes) : status);
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t stream) {
  const cudaError_t status = simt::check_host_waits(stream);
  return simt::set_last_error(status == cudaSuccess ? simt::deallocate(p) : status);
}

cudaError_t cudaMallocHost(void** p, std::size_t bytes) {
  return simt::unless_capturing([&] {
    if (p == nullptr) return cudaErrorInvalidValue;
    *p = std::malloc(bytes);
    return cudaSuccess;
  });
}
cudaError_t cudaHostAlloc(void** p, std::size_t bytes, unsigned) {
  return cudaMallocHost(p, bytes);
}
cudaError_t cudaFreeHost(void* p) {
  return simt::unless_capturing([&] {
    std::free(p);
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return simt::on_legacy_stream([=] { return simt::copy(to, from, bytes, kind); });
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return simt::enqueue(stream,
                       [=] { return simt::set_last_error(simt::copy(to, from, bytes, kind)); });
}
cudaError_t cudaMemcpy2D(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                         std::size_t width, std::size_t height, cudaMemcpyKind kind) {
  return simt::on_legacy_stream(
      [=] { return simt::copy_rows(to, to_pitch, from, from_pitch, width, height, kind); });
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t width, std::size_t height,
                              cudaMemcpyKind kind, cudaStream_t stream) {
  return simt::enqueue(stream, [=] {
    return simt::set_last_error(
        simt::copy_rows(to, to_pitch, from, from_pitch, width, height, kind));
  });
}
/// A __constant__ or __device__ variable is the host's own.
cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* from, std::size_t bytes,
                               std::size_t offset, cudaMemcpyKind) {
  return simt::on_legacy_stream([=] {
    std::memcpy(static_cast<std::byte*>(const_cast<void*>(symbol)) + offset, from, bytes);
    return cudaSuccess;
  });
}
cudaError_t cudaMemset(void* p, int value, std::size_t bytes) {
  return simt::on_legacy_stream([=] { return simt::set(p, value, bytes); });
}
cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t stream) {
  return simt::enqueue(stream, [=] { return simt::set_last_error(simt::set(p, value, bytes)); });
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = simt::device().total_bytes;
  *free = *total - simt::device_bytes_in_use();
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
  *attributes = {};
  attributes->type = simt::in_device_memory(p) ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
  attributes->device = attributes->type == cudaMemoryTypeDevice ? 0 : cudaInvalidDeviceId;
  if (attributes->type == cudaMemoryTypeDevice) attributes->devicePointer = const_cast<void*>(p);
  return cudaSuccess;
}

}  // extern "C"
