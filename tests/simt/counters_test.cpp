// The counters against accesses whose cost is known from the rules of the hardware.
#include "tests/simt/emulator/counters.hpp"

#include <gtest/gtest.h>

#include "cuda/core/device.cuh"

namespace kvcodec::cuda {
namespace {

// Writes a 32 x 32 tile by rows and reads it by columns.
template <int kPadding>
__global__ void transpose(const float* in, float* out) {
  KVCODEC_SHARED(tile, float[32][32 + kPadding]);
  for (unsigned r = threadIdx.y; r < 32; r += blockDim.y) {
    tile[r][threadIdx.x] = in[32 * r + threadIdx.x];
  }
  __syncthreads();
  for (unsigned r = threadIdx.y; r < 32; r += blockDim.y) {
    out[32 * r + threadIdx.x] = tile[threadIdx.x][r];
  }
}

// Every thread reads `kWords` consecutive words, one at a time.
template <int kWords>
__global__ void strided(const std::uint32_t* in, std::uint32_t* out) {
  std::uint32_t sum = 0;
  for (unsigned i = 0; i < kWords; ++i) sum += in[kWords * threadIdx.x + i];
  out[threadIdx.x] = sum;
}

__global__ void vectors(const uint4* in, uint4* out) { out[threadIdx.x] = in[threadIdx.x]; }

// Lanes below 20 go round twice. They must not be taken for the next round's.
__global__ void diverges(const std::uint32_t* in, std::uint32_t* out) {
  std::uint32_t sum = 0;
  for (unsigned round = 0; round < 2; ++round) {
    const unsigned times = threadIdx.x < 20 ? 2 : 1;
    for (unsigned i = 0; i < times; ++i) sum += in[64 * round + 32 * i + threadIdx.x];
    __syncwarp();
  }
  out[threadIdx.x] = sum;
}

class CountersTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(cudaMalloc(&in_, kBytes), cudaSuccess);
    ASSERT_EQ(cudaMalloc(&out_, kBytes), cudaSuccess);
    ASSERT_EQ(cudaMemset(in_, 0, kBytes), cudaSuccess);
  }
  void TearDown() override {
    cudaFree(in_);
    cudaFree(out_);
  }
  template <class T>
  T* in() const {
    return static_cast<T*>(in_);
  }
  template <class T>
  T* out() const {
    return static_cast<T*>(out_);
  }

 private:
  static constexpr std::size_t kBytes = 16384;
  void* in_ = nullptr;
  void* out_ = nullptr;
};

TEST_F(CountersTest, ColumnReadOfAnUnpaddedTileHitsOneBank) {
  const simt::Counters counters;
  ASSERT_EQ(launch(transpose<0>, {1, {32, 8}}, in<float>(), out<float>()), cudaSuccess);
  EXPECT_EQ(counters.worst_bank_conflict(), 32.0) << counters.report();
  EXPECT_EQ(counters.sector_efficiency(), 1.0) << counters.report();
}

TEST_F(CountersTest, PaddingMakesItFree) {
  const simt::Counters counters;
  ASSERT_EQ(launch(transpose<1>, {1, {32, 8}}, in<float>(), out<float>()), cudaSuccess);
  EXPECT_EQ(counters.worst_bank_conflict(), 1.0) << counters.report();
}

TEST_F(CountersTest, StridedReadsWasteSectors) {
  const simt::Counters counters;
  ASSERT_EQ(launch(strided<8>, {1, 32}, in<std::uint32_t>(), out<std::uint32_t>()), cudaSuccess);
  bool found = false;
  for (const simt::AccessSite& site : counters.sites()) {
    if (site.write) continue;
    found = true;
    EXPECT_TRUE(site.where.starts_with("counters_test.cpp:")) << site.where;
    EXPECT_EQ(site.bytes, 4u);
    EXPECT_EQ(site.requests, 8u);
    EXPECT_EQ(site.lanes, 8u * 32u);
    EXPECT_EQ(site.cost_per_request(), 32.0);
    EXPECT_EQ(site.efficiency(), 0.125);
  }
  EXPECT_TRUE(found) << counters.report();
}

TEST_F(CountersTest, VectorsFillTheirSectors) {
  const simt::Counters counters;
  ASSERT_EQ(launch(vectors, {2, 64}, in<uint4>(), out<uint4>()), cudaSuccess);
  EXPECT_EQ(counters.sector_efficiency(), 1.0);
  ASSERT_EQ(counters.sites().size(), 2u) << counters.report();
  for (const simt::AccessSite& site : counters.sites()) {
    EXPECT_EQ(site.bytes, 16u);
    EXPECT_EQ(site.requests, 4u);
    EXPECT_EQ(site.cost_per_request(), 16.0);
  }
}

TEST_F(CountersTest, RequestsEndWhereTheWarpConverges) {
  const simt::Counters counters;
  ASSERT_EQ(launch(diverges, {1, 32}, in<std::uint32_t>(), out<std::uint32_t>()), cudaSuccess);
  for (const simt::AccessSite& site : counters.sites()) {
    if (site.write) continue;
    EXPECT_EQ(site.requests, 4u);
    EXPECT_EQ(site.lanes, 2u * (32u + 20u));
    EXPECT_EQ(site.cost, 2u * (4u + 3u)) << counters.report();
  }
}

TEST_F(CountersTest, NothingIsCountedBetweenCounters) {
  ASSERT_EQ(launch(vectors, {2, 64}, in<uint4>(), out<uint4>()), cudaSuccess);
  const simt::Counters counters;
  EXPECT_TRUE(counters.sites().empty());
  EXPECT_EQ(counters.worst_bank_conflict(), 1.0);
  EXPECT_EQ(counters.sector_efficiency(), 1.0);
}

}  // namespace
}  // namespace kvcodec::cuda
