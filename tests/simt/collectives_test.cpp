// Barriers, shuffles, votes and reductions against what CUDA specifies, under every schedule.
#include <array>
#include <cstdint>
#include <numeric>
#include <vector>

#include "tests/simt/launches.hpp"

namespace kvcodec::cuda {
namespace {

// Every lane's own value is its lane number plus 100 times its warp.
template <int kWidth>
__global__ void shuffle_all(int* out) {  // [4, threads]
  const int v = static_cast<int>(threadIdx.x % 32 + 100 * (threadIdx.x / 32));
  const unsigned n = blockDim.x;
  out[threadIdx.x] = __shfl_sync(0xffffffffu, v, 3, kWidth);
  out[n + threadIdx.x] = __shfl_up_sync(0xffffffffu, v, 2, kWidth);
  out[2 * n + threadIdx.x] = __shfl_down_sync(0xffffffffu, v, 5, kWidth);
  out[3 * n + threadIdx.x] = __shfl_xor_sync(0xffffffffu, v, 9, kWidth);
}

template <int kWidth>
void check_shuffles() {
  simt::for_each_schedule([](const simt::Schedule& schedule) {
    std::vector<int> out(4 * 64);
    EXPECT_LAUNCHES(launch(shuffle_all<kWidth>, {1, 64}, out.data()));
    for (int i = 0; i < 64; ++i) {
      const int lane = i % 32;
      const int base = 100 * (i / 32);
      const int first = lane / kWidth * kWidth;
      const int up = lane - 2 >= first ? lane - 2 : lane;
      const int down = lane + 5 < first + kWidth ? lane + 5 : lane;
      const int across = (lane ^ 9) < first + kWidth ? lane ^ 9 : lane;
      const std::array<int, 4> want = {base + first + 3 % kWidth, base + up, base + down,
                                       base + across};
      for (int k = 0; k < 4; ++k) {
        ASSERT_EQ(out[static_cast<std::size_t>(64 * k + i)], want[static_cast<std::size_t>(k)])
            << "shuffle " << k << " lane " << i << " " << to_string(schedule);
      }
    }
  });
}

TEST(Shuffle, FollowsTheSegmentsOfItsWidth) {
  check_shuffles<32>();
  check_shuffles<16>();
  check_shuffles<8>();
  check_shuffles<4>();
  check_shuffles<1>();
}

__global__ void shuffle_types(double* d, std::uint64_t* u, std::uint32_t* h) {
  const unsigned lane = threadIdx.x;
  d[lane] = __shfl_xor_sync(0xffffffffu, lane + 0.25, 1);
  u[lane] = __shfl_down_sync(0xffffffffu, std::uint64_t{lane} << 40, 1);
  const auto x = static_cast<float>(lane);
  h[lane] = bits_of(__shfl_sync(0xffffffffu, __floats2half2_rn(x, -x), 31));
}

TEST(Shuffle, MovesEightBytesAndHalfPairs) {
  std::vector<double> d(32);
  std::vector<std::uint64_t> u(32);
  std::vector<std::uint32_t> h(32);
  EXPECT_LAUNCHES(launch(shuffle_types, {1, 32}, d.data(), u.data(), h.data()));
  for (unsigned i = 0; i < 32; ++i) {
    EXPECT_EQ(d[i], (i ^ 1u) + 0.25);
    EXPECT_EQ(u[i], std::uint64_t{i < 31 ? i + 1 : i} << 40);
    EXPECT_EQ(h[i], 0xcfc04fc0u);  // -31 in the high half, 31 in the low one
  }
}

// Halves of a warp in different collectives at once, each with its own mask.
__global__ void disjoint_masks(int* out) {
  const int lane = static_cast<int>(threadIdx.x);
  if (lane < 16) {
    out[lane] = __shfl_xor_sync(0x0000ffffu, lane, 1) + __shfl_xor_sync(0x0000ffffu, lane, 2);
  } else {
    out[lane] = static_cast<int>(__ballot_sync(0xffff0000u, lane % 3 == 0));
  }
}

TEST(Shuffle, DisjointMasksMayBeOpenAtOnce) {
  simt::for_each_schedule([](const simt::Schedule& schedule) {
    std::vector<int> out(32);
    EXPECT_LAUNCHES(launch(disjoint_masks, {1, 32}, out.data()));
    unsigned multiples = 0;
    for (unsigned i = 16; i < 32; ++i) multiples |= (i % 3 == 0 ? 1u : 0u) << i;
    for (int i = 0; i < 32; ++i) {
      const int want = i < 16 ? (i ^ 1) + (i ^ 2) : static_cast<int>(multiples);
      ASSERT_EQ(out[static_cast<std::size_t>(i)], want) << i << " " << to_string(schedule);
    }
  });
}

__global__ void votes_and_reductions(unsigned* out) {  // [9, 32]
  const unsigned lane = threadIdx.x;
  const int v = 7 - static_cast<int>(lane);
  constexpr unsigned kAll = 0xffffffffu;
  out[lane] = __ballot_sync(kAll, lane & 1u);
  out[32 + lane] = static_cast<unsigned>(__any_sync(kAll, lane == 9)) +
                   2u * static_cast<unsigned>(__all_sync(kAll, lane < 32)) +
                   4u * static_cast<unsigned>(__all_sync(kAll, lane < 31)) +
                   8u * static_cast<unsigned>(__any_sync(kAll, lane > 31));
  out[64 + lane] = static_cast<unsigned>(__reduce_add_sync(kAll, v));
  out[96 + lane] = static_cast<unsigned>(__reduce_min_sync(kAll, v));
  out[128 + lane] = static_cast<unsigned>(__reduce_max_sync(kAll, v));
  out[160 + lane] = __reduce_max_sync(kAll, static_cast<unsigned>(v));
  out[192 + lane] = __reduce_or_sync(kAll, 1u << (lane & 7u)) & ~__reduce_and_sync(kAll, ~lane);
  out[224 + lane] = __reduce_xor_sync(kAll, lane);
  out[256 + lane] = __match_any_sync(kAll, lane / 8);
}

TEST(Warp, VotesAndReductions) {
  simt::for_each_schedule([](const simt::Schedule&) {
    std::vector<unsigned> out(9 * 32);
    EXPECT_LAUNCHES(launch(votes_and_reductions, {1, 32}, out.data()));
    for (unsigned lane = 0; lane < 32; ++lane) {
      EXPECT_EQ(out[lane], 0xaaaaaaaau);
      EXPECT_EQ(out[32 + lane], 3u);
      EXPECT_EQ(static_cast<int>(out[64 + lane]), 7 * 32 - 31 * 16);
      EXPECT_EQ(static_cast<int>(out[96 + lane]), -24);
      EXPECT_EQ(static_cast<int>(out[128 + lane]), 7);
      EXPECT_EQ(out[160 + lane], 0xffffffffu);
      EXPECT_EQ(out[192 + lane], 0xffu & ~0xffffffe0u);
      EXPECT_EQ(out[224 + lane], 0u);
      EXPECT_EQ(out[256 + lane], 0xffu << (lane / 8 * 8));
    }
  });
}

// Sums a row of `threads` values through static shared memory, in a tree.
__global__ void __launch_bounds__(256) sum_rows(const float* in, float* out) {
  KVCODEC_SHARED(part, float[256]);
  const unsigned t = threadIdx.x;
  part[t] = in[blockIdx.x * blockDim.x + t];
  __syncthreads();
  for (unsigned d = blockDim.x / 2; d > 0; d /= 2) {
    if (t < d) part[t] += part[t + d];
    __syncthreads();
  }
  if (t == 0) out[blockIdx.x] = part[0];
}

TEST(Barrier, TreeSumIsTheSameUnderEverySchedule) {
  std::vector<float> in(5 * 256);
  std::iota(in.begin(), in.end(), 1.0f);
  simt::for_each_schedule([&](const simt::Schedule& schedule) {
    std::vector<float> out(5);
    EXPECT_LAUNCHES(launch(sum_rows, {5, 256}, in.data(), out.data()));
    for (std::size_t i = 0; i < 5; ++i) {
      EXPECT_EQ(out[i], 256.0f * (256.0f * static_cast<float>(i) + 128.5f)) << to_string(schedule);
    }
  });
}

// Lane l publishes its number in dynamic shared memory and reads its neighbour's.
__global__ void exchange_in_warp(int* out) {
  int* s = dynamic_shared<int>();
  s[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncwarp();
  out[threadIdx.x] = s[threadIdx.x ^ 1u];
}

TEST(Barrier, SyncwarpOrdersSharedMemory) {
  simt::for_each_schedule([](const simt::Schedule&) {
    std::vector<int> out(96);
    EXPECT_LAUNCHES(launch(exchange_in_warp, {1, 96, 96 * sizeof(int)}, out.data()));
    for (int i = 0; i < 96; ++i) ASSERT_EQ(out[static_cast<std::size_t>(i)], i ^ 1);
  });
}

__global__ void voting_barriers(int* out) {  // [3, threads]
  const unsigned n = blockDim.x;
  out[threadIdx.x] = __syncthreads_count(threadIdx.x % 3 == 0);
  out[n + threadIdx.x] = __syncthreads_and(threadIdx.x < n);
  out[2 * n + threadIdx.x] = __syncthreads_or(threadIdx.x > n);
}

TEST(Barrier, VotingForms) {
  simt::for_each_schedule([](const simt::Schedule&) {
    std::vector<int> out(3 * 96);
    EXPECT_LAUNCHES(launch(voting_barriers, {1, 96}, out.data()));
    for (std::size_t i = 0; i < 96; ++i) {
      ASSERT_EQ(out[i], 32);
      ASSERT_EQ(out[96 + i], 1);
      ASSERT_EQ(out[192 + i], 0);
    }
  });
}

// Threads that return early do not hold up the barriers of the others.
__global__ void early_return(int* out) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
  out[threadIdx.x] = __syncthreads_count(1);
}

TEST(Barrier, ReturnedThreadsDoNotCount) {
  simt::for_each_schedule([](const simt::Schedule&) {
    std::vector<int> out(40);
    EXPECT_LAUNCHES(launch(early_return, {1, 128}, out.data()));
    EXPECT_EQ(out, std::vector<int>(40, 40));
  });
}

// Warp 0 fills a buffer for warp 1, twice; barrier 1 says full, barrier 2 says empty.
__global__ void producer_consumer(const int* in, int* out) {
  KVCODEC_SHARED(buffer, int[32]);
  const unsigned lane = threadIdx.x % 32;
  for (unsigned round = 0; round < 4; ++round) {
    if (threadIdx.x < 32) {
      if (round > 0) named_barrier_sync(2, 64);
      buffer[lane] = in[32 * round + lane];
      named_barrier_arrive(1, 64);
    } else {
      named_barrier_sync(1, 64);
      out[32 * round + lane] = buffer[31 - lane];
      if (round < 3) named_barrier_arrive(2, 64);
    }
  }
}

TEST(Barrier, NamedBarriersJoinAPartOfTheCta) {
  std::vector<int> in(128);
  std::iota(in.begin(), in.end(), 0);
  simt::for_each_schedule([&](const simt::Schedule& schedule) {
    std::vector<int> out(128);
    EXPECT_LAUNCHES(launch(producer_consumer, {1, 64}, in.data(), out.data()));
    for (int i = 0; i < 128; ++i) {
      ASSERT_EQ(out[static_cast<std::size_t>(i)], i / 32 * 32 + 31 - i % 32) << to_string(schedule);
    }
  });
}

// The last CTA to take a ticket adds up what all of them left in global memory.
__global__ void last_cta_sums(const float* in, float* parts, unsigned* tickets, float* out) {
  KVCODEC_SHARED(is_last, bool);
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = in[blockIdx.x] * 2.0f;
    __threadfence();
    is_last = atomicInc(tickets, gridDim.x - 1) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (is_last && threadIdx.x == 0) {
    float sum = 0.0f;
    for (unsigned i = 0; i < gridDim.x; ++i) sum += parts[i];
    out[0] = sum;
  }
}

TEST(Grid, LastCtaSeesWhatTheOthersWroteBehindTheirFences) {
  std::vector<float> in(24);
  std::iota(in.begin(), in.end(), 1.0f);
  simt::for_each_schedule([&](const simt::Schedule&) {
    std::vector<float> parts(24);
    unsigned tickets = 0;
    float sum = 0.0f;
    EXPECT_LAUNCHES(launch(last_cta_sums, {24, 32}, in.data(), parts.data(), &tickets, &sum));
    EXPECT_EQ(sum, 600.0f);
    EXPECT_EQ(tickets, 0u);
  });
}

__global__ void indices(std::uint32_t* out) {
  const unsigned cta = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  atomicAdd(&out[cta * blockDim.x * blockDim.y * blockDim.z + t], 1u + t);
}

TEST(Grid, EveryIndexRunsOnce) {
  std::vector<std::uint32_t> out(2 * 3 * 4 * 5 * 3 * 2);
  EXPECT_LAUNCHES(launch(indices, {{2, 3, 4}, {5, 3, 2}}, out.data()));
  for (std::size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], 1 + i % 30);
}

TEST(Grid, EmptyGridsLaunchNothing) {
  EXPECT_EQ(launch(indices, {0, 32}, nullptr), cudaSuccess);
  EXPECT_EQ(launch(indices, {{3, 0, 1}, 32}, nullptr), cudaSuccess);
}

}  // namespace
}  // namespace kvcodec::cuda
