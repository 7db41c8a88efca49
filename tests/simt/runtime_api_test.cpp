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

/// Half a warp waits for lanes that have returned.
__global__ void leaves_a_warp() {
  if (threadIdx.x < 16) __syncwarp(0xffffffffu);
}

__global__ void add(float* x, float y) { x[threadIdx.x] += y; }

/// A stream that captures, and the graph of what it was told.
class Recorded {
 public:
  explicit Recorded(cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal,
                    unsigned flags = cudaStreamNonBlocking) {
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, flags), cudaSuccess);
    EXPECT_EQ(cudaStreamBeginCapture(stream_, mode), cudaSuccess);
  }
  ~Recorded() {
    if (graph_ != nullptr) {
      EXPECT_EQ(cudaGraphDestroy(graph_), cudaSuccess);
    }
    EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess);
    cudaGetLastError();
  }
  cudaStream_t stream() const { return stream_; }
  cudaStreamCaptureStatus status() const {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    EXPECT_EQ(cudaStreamIsCapturing(stream_, &status), cudaSuccess);
    return status;
  }
  cudaError_t end() { return cudaStreamEndCapture(stream_, &graph_); }
  cudaGraph_t graph() const { return graph_; }

 private:
  cudaStream_t stream_ = nullptr;
  cudaGraph_t graph_ = nullptr;
};

TEST(StreamCapture, RecordsAndReplays) {
  const DeviceArray<float> x(4);
  const DeviceArray<float> y(4);
  std::vector<float> host = {1, 2, 3, 4};
  Recorded recorded;
  const cudaStream_t stream = recorded.stream();
  EXPECT_EQ(recorded.status(), cudaStreamCaptureStatusActive);
  EXPECT_EQ(cudaMemsetAsync(x.data(), 0, 16, stream), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(y.data(), host.data(), 16, cudaMemcpyHostToDevice, stream),
            cudaSuccess);
  float amount = 5.0f;
  EXPECT_LAUNCHES(launch(add, {1, 4, 0, stream}, x.data(), amount));
  EXPECT_LAUNCHES(launch(add, {1, 4, 0, stream}, y.data(), 0.5f));
  amount = 100.0f;  // arguments are copied when they are captured
  EXPECT_TRUE(std::isnan(x[0]));
  ASSERT_EQ(recorded.end(), cudaSuccess);
  EXPECT_EQ(recorded.status(), cudaStreamCaptureStatusNone);
  std::size_t n = 0;
  EXPECT_EQ(cudaGraphGetNodes(recorded.graph(), nullptr, &n), cudaSuccess);
  EXPECT_EQ(n, 4u);
  cudaGraphExec_t instance = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&instance, recorded.graph(), 0), cudaSuccess);
  EXPECT_TRUE(std::isnan(x[0])) << "nothing has happened yet";
  for (int i = 0; i < 3; ++i) {
    host[1] = static_cast<float>(10 * i);  // memory is read when the graph runs
    EXPECT_EQ(cudaGraphLaunch(instance, stream), cudaSuccess);
    EXPECT_EQ(x[2], 5.0f);
    EXPECT_EQ(y[1], static_cast<float>(10 * i) + 0.5f);
    EXPECT_EQ(y[3], 4.5f);
  }
  EXPECT_EQ(cudaGraphExecDestroy(instance), cudaSuccess);
  EXPECT_EQ(cudaGraphExecDestroy(instance), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGraphLaunch(instance, stream), cudaErrorInvalidValue);
}

TEST(StreamCapture, AGraphGoesIntoAnother) {
  const DeviceArray<float> x(1);
  ASSERT_EQ(cudaMemset(x.data(), 0, 4), cudaSuccess);
  Recorded inner;
  EXPECT_LAUNCHES(launch(add, {1, 1, 0, inner.stream()}, x.data(), 1.0f));
  ASSERT_EQ(inner.end(), cudaSuccess);
  cudaGraphExec_t twice = nullptr;
  cudaGraphExec_t once = nullptr;
  ASSERT_EQ(cudaGraphInstantiateWithFlags(&once, inner.graph(), 0), cudaSuccess);
  Recorded outer;
  EXPECT_EQ(cudaGraphLaunch(once, outer.stream()), cudaSuccess);
  EXPECT_EQ(cudaGraphLaunch(once, outer.stream()), cudaSuccess);
  ASSERT_EQ(outer.end(), cudaSuccess);
  EXPECT_EQ(x[0], 0.0f);
  ASSERT_EQ(cudaGraphInstantiate(&twice, outer.graph(), 0), cudaSuccess);
  EXPECT_EQ(cudaGraphLaunch(twice, nullptr), cudaSuccess);
  EXPECT_EQ(x[0], 2.0f);
  EXPECT_EQ(cudaGraphExecDestroy(once), cudaSuccess);
  EXPECT_EQ(cudaGraphExecDestroy(twice), cudaSuccess);
}

// Each of them is refused, and with it the capture that it came into.
TEST(StreamCapture, RefusesWhatADeviceRefuses) {
  const DeviceArray<float> x(1);
  float host = 1.0f;
  void* p = nullptr;
  cudaEvent_t event = nullptr;
  ASSERT_EQ(cudaEventCreate(&event), cudaSuccess);
  const auto refused = [&](const char* what, const auto& call) {
    Recorded recorded;
    EXPECT_EQ(call(recorded.stream()), cudaErrorStreamCaptureUnsupported) << what;
    EXPECT_EQ(cudaPeekAtLastError(), cudaErrorStreamCaptureUnsupported) << what;
    EXPECT_EQ(recorded.status(), cudaStreamCaptureStatusInvalidated) << what;
    EXPECT_EQ(launch(add, {1, 1, 0, recorded.stream()}, x.data(), 1.0f),
              cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(recorded.end(), cudaErrorStreamCaptureInvalidated) << what;
    EXPECT_EQ(recorded.graph(), nullptr);
  };
  refused("cudaMalloc", [&](cudaStream_t) { return cudaMalloc(&p, 16); });
  refused("cudaFree", [&](cudaStream_t) { return cudaFree(nullptr); });
  refused("cudaMallocHost", [&](cudaStream_t) { return cudaMallocHost(&p, 16); });
  refused("cudaMallocAsync", [&](cudaStream_t s) { return cudaMallocAsync(&p, 16, s); });
  refused("cudaMemcpy",
          [&](cudaStream_t) { return cudaMemcpy(x.data(), &host, 4, cudaMemcpyHostToDevice); });
  refused("cudaStreamSynchronize", [](cudaStream_t s) { return cudaStreamSynchronize(s); });
  refused("cudaStreamQuery", [](cudaStream_t s) { return cudaStreamQuery(s); });
  refused("cudaDeviceSynchronize", [](cudaStream_t) { return cudaDeviceSynchronize(); });
  refused("cudaEventRecord", [&](cudaStream_t s) { return cudaEventRecord(event, s); });
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
  EXPECT_EQ(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal),
            cudaErrorStreamCaptureUnsupported);
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(nullptr, &graph), cudaErrorIllegalState);
  Recorded recorded;
  EXPECT_EQ(cudaStreamBeginCapture(recorded.stream(), cudaStreamCaptureModeGlobal),
            cudaErrorIllegalState);
  EXPECT_EQ(recorded.end(), cudaSuccess);
}

TEST(StreamCapture, OtherStreamsGoOnUnlessTheCaptureWaitsForThem) {
  const DeviceArray<float> x(1);
  float host = 3.0f;
  {
    Recorded apart;  // does not wait for the legacy stream
    EXPECT_EQ(cudaMemcpyAsync(x.data(), &host, 4, cudaMemcpyHostToDevice, nullptr), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
    EXPECT_EQ(x[0], 3.0f);
    EXPECT_EQ(apart.end(), cudaSuccess);
  }
  {
    Recorded waiting(cudaStreamCaptureModeGlobal, cudaStreamDefault);
    EXPECT_EQ(launch(add, {1, 1}, x.data(), 1.0f), cudaErrorStreamCaptureImplicit);
    EXPECT_EQ(waiting.end(), cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(x[0], 3.0f);
  }
  {
    Recorded relaxed(cudaStreamCaptureModeRelaxed);
    void* p = nullptr;
    EXPECT_EQ(cudaMalloc(&p, 16), cudaSuccess);
    EXPECT_EQ(cudaFree(p), cudaSuccess);
    EXPECT_EQ(relaxed.end(), cudaSuccess);
  }
  cudaGetLastError();
}

// What is wrong inside a kernel shows when the graph runs.
TEST(StreamCapture, FaultsEndTheLaunchOfTheGraph) {
  const DeviceArray<float> x(1);
  ASSERT_EQ(cudaMemset(x.data(), 0, 4), cudaSuccess);
  Recorded recorded;
  EXPECT_LAUNCHES(launch(add, {1, 1, 0, recorded.stream()}, x.data(), 1.0f));
  EXPECT_LAUNCHES(launch(leaves_a_warp, {1, 32, 0, recorded.stream()}));
  EXPECT_LAUNCHES(launch(add, {1, 1, 0, recorded.stream()}, x.data(), 1.0f));
  ASSERT_EQ(recorded.end(), cudaSuccess);
  cudaGraphExec_t instance = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&instance, recorded.graph(), 0), cudaSuccess);
  EXPECT_EQ(cudaGraphLaunch(instance, recorded.stream()), cudaErrorLaunchFailure);
  EXPECT_NE(simt::take_fault(), "");
  EXPECT_EQ(x[0], 1.0f);
  EXPECT_EQ(cudaGraphExecDestroy(instance), cudaSuccess);
}

}  // namespace
}  // namespace kvcodec::cuda
