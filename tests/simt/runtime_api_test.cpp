// The stand-in for libcudart: what host code relies on.
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "tests/simt/launches.hpp"

namespace kvcodec::cuda {
namespace {

__constant__ float factors[2];

__global__ void scale(float* x, unsigned n) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] *= factors[i % 2];
}

TEST(RuntimeApi, CopiesLaunchesAndFrees) {
  std::vector<float> x(100);
  std::iota(x.begin(), x.end(), 0.0f);
  const float host[2] = {2.0f, 3.0f};
  ASSERT_EQ(cudaMemcpyToSymbol(factors, host, sizeof(host)), cudaSuccess);
  const std::size_t before = simt::device_bytes_in_use();
  float* d = nullptr;
  ASSERT_EQ(cudaMalloc(&d, 400), cudaSuccess);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(d) % 256, 0u);
  EXPECT_EQ(simt::device_bytes_in_use(), before + 400);
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(d, x.data(), 400, cudaMemcpyHostToDevice, stream), cudaSuccess);
  EXPECT_LAUNCHES(launch(scale, {2, 64, 0, stream}, d, 100));
  EXPECT_EQ(cudaMemcpyAsync(x.data(), d, 400, cudaMemcpyDeviceToHost, stream), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  for (std::size_t i = 0; i < 100; ++i) {
    EXPECT_EQ(x[i], static_cast<float>(i) * (i % 2 == 0 ? 2.0f : 3.0f));
  }
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  EXPECT_EQ(cudaFree(d), cudaSuccess);
  EXPECT_EQ(simt::device_bytes_in_use(), before);
}

TEST(RuntimeApi, RefusesWhatTheDeviceRefuses) {
  float host[4] = {};
  const DeviceArray<float> d(4);
  EXPECT_EQ(cudaMemcpy(d.data(), host, 16, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaPeekAtLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(cudaMemcpy(d.data() + 1, host, 16, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host, host, 16, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemset(host, 0, 16), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(host), cudaErrorInvalidValue);
  void* p = nullptr;
  EXPECT_EQ(cudaMalloc(&p, simt::device().total_bytes + 1), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(host)),
            cudaErrorInvalidResourceHandle);
  EXPECT_STREQ(cudaGetErrorName(cudaErrorInvalidValue), "cudaErrorInvalidValue");
  EXPECT_STREQ(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory");
  cudaGetLastError();
}

TEST(RuntimeApi, RowsAndFills) {
  const DeviceArray<std::uint8_t> d(12);
  ASSERT_EQ(cudaMemset(d.data(), 7, 12), cudaSuccess);
  const std::vector<std::uint8_t> host = {1, 2, 3, 4};
  ASSERT_EQ(cudaMemcpy2D(d.data(), 6, host.data(), 2, 2, 2, cudaMemcpyHostToDevice), cudaSuccess);
  const std::vector<int> want = {1, 2, 7, 7, 7, 7, 3, 4, 7, 7, 7, 7};
  for (std::size_t i = 0; i < 12; ++i) EXPECT_EQ(d[i], want[i]);
}

TEST(RuntimeApi, EventsMeasureTime) {
  cudaEvent_t from = nullptr;
  cudaEvent_t to = nullptr;
  ASSERT_EQ(cudaEventCreate(&from), cudaSuccess);
  ASSERT_EQ(cudaEventCreateWithFlags(&to, cudaEventDefault), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(from, nullptr), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(to, nullptr), cudaSuccess);
  EXPECT_EQ(cudaEventSynchronize(to), cudaSuccess);
  float ms = -1.0f;
  EXPECT_EQ(cudaEventElapsedTime(&ms, from, to), cudaSuccess);
  EXPECT_GE(ms, 0.0f);
  EXPECT_EQ(cudaEventDestroy(from), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(to), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(to), cudaErrorInvalidResourceHandle);
  cudaGetLastError();
}

TEST(RuntimeApi, TheDeviceIsWhatTheTestSays) {
  int n = 0;
  EXPECT_EQ(cudaGetDeviceCount(&n), cudaSuccess);
  EXPECT_EQ(n, 1);
  EXPECT_EQ(cudaSetDevice(1), cudaErrorInvalidDevice);
  const simt::Device before = simt::device();
  simt::Device small = before;
  small.compute_capability = 86;
  small.shared_bytes_per_cta = 99 * 1024;
  simt::set_device(small);
  cudaDeviceProp p{};
  EXPECT_EQ(cudaGetDeviceProperties(&p, 0), cudaSuccess);
  EXPECT_EQ(10 * p.major + p.minor, 86);
  int value = 0;
  EXPECT_EQ(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0),
            cudaSuccess);
  EXPECT_EQ(value, 99 * 1024);
  EXPECT_EQ(launch(scale, {1, 32, 100 * 1024}, nullptr, 0), cudaErrorInvalidValue);
  simt::set_device(before);
  EXPECT_EQ(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&value, scale, 256, 100 * 1024),
            cudaSuccess);
  EXPECT_EQ(value, 2);  // 228 KB / 101 KB
  EXPECT_EQ(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&value, scale, 1024, 0), cudaSuccess);
  EXPECT_EQ(value, 2);  // 2048 threads / 1024
  cudaGetLastError();
}

}  // namespace
}  // namespace kvcodec::cuda
