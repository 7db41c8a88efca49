#include "kvcodec/cuda/device.hpp"

#include "cuda/core/check.hpp"
#include "cuda/core/device.cuh"

namespace kvcodec::cuda {
namespace {

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

/// 0 for what this driver does not tell.
int attribute_if_known(cudaDeviceAttr which, int device) {
  int value = 0;
  if (cudaDeviceGetAttribute(&value, which, device) == cudaSuccess) return value;
  static_cast<void>(cudaGetLastError());
  return 0;
}

}  // namespace

int device_count() noexcept {
  int n = 0;
  // No driver is cudaErrorInsufficientDriver (35), no device cudaErrorNoDevice (100).
  if (cudaGetDeviceCount(&n) == cudaSuccess) return n;
  static_cast<void>(cudaGetLastError());
  return 0;
}

DeviceInfo describe_device(int i) {
  const int n = device_count();
  if (i < 0 || i >= n) {
    throw invalid_argument(
        bad_value("describe_device", "i", i,
                  n == 0 ? "none, there is no device" : "0.." + std::to_string(n - 1)));
  }
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, i), "cudaGetDeviceProperties");
  DeviceInfo info;
  info.name = properties.name;
  info.major = properties.major;
  info.minor = properties.minor;
  info.n_sms = properties.multiProcessorCount;
  info.memory_bytes = properties.totalGlobalMem;
  info.shared_bytes =
      static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, i));
  info.memory_clock_khz = attribute_if_known(cudaDevAttrMemoryClockRate, i);
  info.memory_bus_bits = attribute_if_known(cudaDevAttrGlobalMemoryBusWidth, i);
  return info;
}

void synchronize(Stream stream) { check(cudaStreamSynchronize(stream), "cudaStreamSynchronize"); }

}  // namespace kvcodec::cuda
