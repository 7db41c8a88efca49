#include "bench/cuda/device_tools.hpp"

#include "cuda/core/check.hpp"
#include "cuda/core/device.cuh"

namespace kvcodec::bench {
namespace {

constexpr int kThreads = 256;
constexpr int kLoads = 8;  // in flight per thread

__global__ void __launch_bounds__(kThreads)
    read_kernel(const uint4* data, std::int64_t n, std::uint32_t* sink) {
  const std::int64_t first = (std::int64_t{blockIdx.x} * kLoads) * kThreads + threadIdx.x;
  uint4 x[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const std::int64_t at = first + std::int64_t{i} * kThreads;
    x[i] = at < n ? data[at] : uint4{};
  }
  std::uint32_t sum = 0;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) sum += x[i].x ^ x[i].y ^ x[i].z ^ x[i].w;
  if (sum == 0x9e3779b9u) *sink = sum;
}

cudaEvent_t event(void* p) { return static_cast<cudaEvent_t>(p); }

void* new_event() {
  cudaEvent_t e = nullptr;
  cuda::check(cudaEventCreate(&e), "cudaEventCreate");
  return e;
}

}  // namespace

DeviceTimer::DeviceTimer() : events_{new_event(), new_event()} {}
DeviceTimer::~DeviceTimer() {
  for (void* e : events_) static_cast<void>(cudaEventDestroy(event(e)));
}

void DeviceTimer::start(cuda::Stream stream) {
  cuda::check(cudaEventRecord(event(events_[0]), stream), "cudaEventRecord");
}

double DeviceTimer::stop(cuda::Stream stream) {
  float ms = 0.0f;
  cuda::check(cudaEventRecord(event(events_[1]), stream), "cudaEventRecord");
  cuda::check(cudaEventSynchronize(event(events_[1])), "cudaEventSynchronize");
  cuda::check(cudaEventElapsedTime(&ms, event(events_[0]), event(events_[1])),
              "cudaEventElapsedTime");
  return static_cast<double>(ms);
}

void copy_on_device(void* to, const void* from, std::size_t bytes, cuda::Stream stream) {
  if (bytes == 0) return;
  cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream),
              "cudaMemcpyAsync");
}

void repeat_on_device(std::byte* data, std::size_t unit, std::size_t bytes, cuda::Stream stream) {
  for (std::size_t done = unit; done < bytes; done *= 2) {
    copy_on_device(data + done, data, std::min(done, bytes - done), stream);
  }
}

void read_on_device(const void* data, std::size_t bytes, std::uint32_t* sink, cuda::Stream stream) {
  const auto n = static_cast<std::int64_t>(bytes / sizeof(uint4));
  constexpr std::int64_t kOfCta = std::int64_t{kThreads} * kLoads;
  const auto n_ctas = static_cast<unsigned>((n + kOfCta - 1) / kOfCta);
  cuda::check(cuda::launch(read_kernel, {dim3(n_ctas), dim3(kThreads), 0, stream},
                           static_cast<const uint4*>(data), n, sink),
              "read_kernel");
}

int driver_version() {
  int version = 0;
  cuda::check(cudaDriverGetVersion(&version), "cudaDriverGetVersion");
  return version;
}
int runtime_version() {
  int version = 0;
  cuda::check(cudaRuntimeGetVersion(&version), "cudaRuntimeGetVersion");
  return version;
}

}  // namespace kvcodec::bench
