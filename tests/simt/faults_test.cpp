// Planted mistakes that the emulator itself must report, in every build; the launch after each works.
#include <cmath>
#include <stdexcept>
#include <vector>

#include "tests/simt/launches.hpp"

namespace kvcodec::cuda {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr unsigned kAll = 0xffffffffu;

__device__ float warp_sum(float v) noexcept {
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(kAll, v, d);
  return v;
}

__global__ void healthy(float* out) {
  KVCODEC_SHARED(part, float[4]);
  const float sum = warp_sum(1.0f);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
  __syncthreads();
  out[128 * blockIdx.x + threadIdx.x] = part[0] + part[1] + part[2] + part[3];
}

// After every fault: nothing of it is left behind.
class Faults : public testing::Test {
 protected:
  void TearDown() override {
    std::vector<float> out(3 * 128);
    EXPECT_LAUNCHES(launch(healthy, {3, 128}, out.data()));
    EXPECT_EQ(out, std::vector<float>(3 * 128, 128.0f));
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  }
};

__global__ void shuffle_in_a_part(float* out) {
  if (threadIdx.x < 20) out[threadIdx.x] = warp_sum(1.0f);
}

TEST_F(Faults, MaskNamesAReturnedLane) {
  simt::for_each_schedule([](const simt::Schedule&) {
    std::vector<float> out(32);
    EXPECT_FAULT(launch(shuffle_in_a_part, {1, 32}, out.data()),
                 AllOf(HasSubstr("__shfl_xor_sync: "), HasSubstr("mask 0xffffffff"),
                       HasSubstr("returned"), HasSubstr("of CTA (0,0,0), lane ")));
  });
}

__global__ void lane_outside_its_mask() { __syncwarp(0x0000ffffu); }

TEST_F(Faults, LaneOutsideItsMask) {
  const simt::ScheduleGuard guard({simt::Order::backward, 1});
  EXPECT_FAULT(launch(lane_outside_its_mask, {{1, 2}, {8, 8}}),
               HasSubstr("__syncwarp: mask 0x0000ffff lacks the calling lane 31 "
                         "[thread (7,7,0) of CTA (0,1,0), lane 31 of warp 1]"));
}

__global__ void reads_outside_the_mask(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 20);
}

TEST_F(Faults, ShuffleReadsALaneOutsideTheMask) {
  std::vector<int> out(32);
  EXPECT_FAULT(launch(reads_outside_the_mask, {1, 32}, out.data()),
               HasSubstr("lane 0 reads lane 20, which is not in the mask"));
}

__global__ void overlapping_masks(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0001ffffu, 1, 0);
  else __syncwarp(0xffff0000u);
}

TEST_F(Faults, OverlappingMasks) {
  std::vector<int> out(32);
  EXPECT_FAULT(launch(overlapping_masks, {1, 32}, out.data()),
               HasSubstr("__syncwarp: mask 0xffff0000 overlaps lanes that wait in another"));
}

__global__ void mask_beyond_the_cta() { __syncwarp(); }

TEST_F(Faults, MaskNamesLanesThatDoNotExist) {
  EXPECT_FAULT(launch(mask_beyond_the_cta, {1, 48}),
               HasSubstr("names lanes 0xffff0000 that the CTA does not have"));
}

__global__ void bad_width(int* out) { out[threadIdx.x] = __shfl_sync(kAll, 1, 0, 12); }

TEST_F(Faults, WidthOfAShuffle) {
  std::vector<int> out(32);
  EXPECT_FAULT(launch(bad_width, {1, 32}, out.data()), HasSubstr("width 12, allowed: 1, 2, 4"));
}

// Half of the CTA waits at the barrier, one warp waits for a lane that waits at the barrier.
__global__ void divergent_barrier() {
  if (threadIdx.x < 65) __syncthreads();
  else if (threadIdx.x < 96) __syncwarp();
}

TEST_F(Faults, DivergentBarrierIsADeadlock) {
  simt::for_each_schedule([](const simt::Schedule&) {
    EXPECT_FAULT(launch(divergent_barrier, {1, 128}),
                 AllOf(HasSubstr("deadlock in CTA (0,0,0):"),
                       HasSubstr("[32 threads have returned, the first is thread (96,0,0)]"),
                       HasSubstr("[65 threads wait in __syncthreads, the first is"),
                       HasSubstr("[31 threads wait in __syncwarp mask 0xffffffff, the first is "
                                 "thread (65,0,0)]")));
  });
}

__global__ void half_of_a_named_barrier() {
  if (threadIdx.x < 32) named_barrier_sync(3, 64);
}

TEST_F(Faults, NamedBarrierThatNobodyCompletes) {
  EXPECT_FAULT(launch(half_of_a_named_barrier, {1, 64}),
               HasSubstr("[32 threads wait in bar.sync 3, the first is"));
}

__global__ void different_barriers(int* out) {
  if (threadIdx.x < 32) __syncthreads();
  else out[0] = __syncthreads_count(1);
}

TEST_F(Faults, DifferentKindsOfBarrier) {
  std::vector<int> out(1);
  EXPECT_FAULT(launch(different_barriers, {1, 64}, out.data()),
               HasSubstr("others wait in another kind of __syncthreads"));
}

__global__ void gives_up() { __trap(); }
__global__ void throws() { throw std::runtime_error("not on a device"); }

TEST_F(Faults, TrapsAndExceptions) {
  EXPECT_FAULT(launch(gives_up, {1, 32}), HasSubstr("__trap"));
  EXPECT_FAULT(launch(throws, {1, 32}), HasSubstr("thrown in a kernel: not on a device"));
}

__global__ void reads_unwritten(float* out) {
  KVCODEC_SHARED(s, float[32]);
  float* own = out + 64 * blockIdx.x;
  own[threadIdx.x] = s[threadIdx.x];
  own[32 + threadIdx.x] = dynamic_shared<float>()[threadIdx.x];
  s[threadIdx.x] = 1.0f;  // the next CTA must not see it
}

TEST_F(Faults, UnwrittenSharedMemoryIsNaN) {
  std::vector<float> out(128);
  EXPECT_LAUNCHES(launch(reads_unwritten, {2, 32, 32 * sizeof(float)}, out.data()));
  for (const float x : out) EXPECT_TRUE(std::isnan(x)) << x;
}

TEST_F(Faults, UnwrittenDeviceMemoryIsNaN) {
  const DeviceArray<float> x(5);
  for (std::size_t i = 0; i < 5; ++i) EXPECT_TRUE(std::isnan(x[i]));
}

__global__ void no_dynamic(float* out) { out[0] = dynamic_shared<float>()[0]; }
__global__ void much_static() {
  KVCODEC_SHARED(s, float[49 * 256]);
  s[0] = 1.0f;
}
__global__ void static_and_dynamic() {
  KVCODEC_SHARED(s, float[1024]);
  s[0] = 1.0f;
}

TEST_F(Faults, SharedMemoryThatTheLaunchDidNotGive) {
  std::vector<float> out(1);
  EXPECT_FAULT(launch(no_dynamic, {1, 1}, out.data()),
               HasSubstr("the launch gave no shared_bytes"));
  EXPECT_FAULT(launch(much_static, {1, 1}), HasSubstr("50176 bytes of static shared memory"));
  EXPECT_FAULT(launch(static_and_dynamic, {1, 1, 226 * 1024}),
               HasSubstr("more than a CTA may have"));
}

TEST_F(Faults, ShapesThatCannotBeLaunched) {
  std::vector<float> out(1);
  EXPECT_EQ(launch(no_dynamic, {1, 1025}, out.data()), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(no_dynamic, {1, 0}, out.data()), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(no_dynamic, {{1, 65536}, 32}, out.data()), cudaErrorInvalidConfiguration);
  EXPECT_EQ(launch(no_dynamic, {1, 32, 228 * 1024}, out.data()), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
}

TEST_F(Faults, ErrorStringCarriesTheText) {
  EXPECT_EQ(launch(gives_up, {1, 32}), cudaErrorLaunchFailure);
  EXPECT_THAT(cudaGetErrorString(cudaGetLastError()), HasSubstr("launch failure: __trap: "));
  EXPECT_THAT(simt::take_fault(), HasSubstr("__trap"));
  EXPECT_EQ(simt::take_fault(), "");
}

}  // namespace
}  // namespace kvcodec::cuda
