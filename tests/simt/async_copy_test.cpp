// cp.async and bulk copies: pipelines that are right, and the mistakes that must show.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/simt/launches.hpp"

namespace kvcodec::cuda {
namespace {

using testing::HasSubstr;

constexpr int kTiles = 7;
constexpr unsigned kThreads = 64;
constexpr unsigned kTileFloats = 4 * kThreads;

const std::vector<float>& input() {
  static const std::vector<float> values = [] {
    std::vector<float> v(kTiles * kTileFloats);
    for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i % 13);
    return v;
  }();
  return values;
}

// Sum over the tiles of thread t's element reversed: what other threads copied.
float wanted(std::size_t t) {
  float sum = 0.0f;
  for (std::size_t i = 0; i < kTiles; ++i) {
    sum += input()[i * kTileFloats + 4 * (kThreads - 1 - t)];
  }
  return sum;
}

// Wrong sums of the newest launch; NaN is wrong.
std::size_t count_wrong(const std::vector<float>& out) {
  std::size_t wrong = 0;
  for (std::size_t t = 0; t < out.size(); ++t) wrong += out[t] == wanted(t) ? 0 : 1;
  return wrong;
}

enum class Mistake { none, no_wait, wait_too_little, no_second_barrier, zero_bytes };

// Two stages: while tile i is summed up, tile i + 1 is on its way.
template <Mistake kMistake>
__global__ void staged_sum(const float* in, float* out, int tiles) {
  KVCODEC_SHARED(stage, float4[2][kThreads]);
  const unsigned t = threadIdx.x;
  const auto* rows = reinterpret_cast<const float4*>(in);
  cp_async16(&stage[0][t], rows + t);
  cp_async_commit();
  float sum = 0.0f;
  for (int i = 0; i < tiles; ++i) {
    if (i + 1 < tiles) {
      cp_async16(&stage[(i + 1) & 1][t], rows + static_cast<unsigned>(i + 1) * kThreads + t,
                 kMistake == Mistake::zero_bytes ? 0 : 16);
    }
    cp_async_commit();
    if constexpr (kMistake == Mistake::wait_too_little) cp_async_wait<2>();
    else if constexpr (kMistake != Mistake::no_wait) cp_async_wait<1>();
    __syncthreads();
    sum += stage[i & 1][kThreads - 1 - t].x;
    if constexpr (kMistake != Mistake::no_second_barrier) __syncthreads();
  }
  cp_async_wait<0>();
  out[t] = sum;
}

template <Mistake kMistake>
std::size_t wrong_staged_sums() {
  std::vector<float> out(kThreads);
  EXPECT_LAUNCHES(launch(staged_sum<kMistake>, {1, kThreads}, input().data(), out.data(), kTiles));
  return count_wrong(out);
}

TEST(CpAsync, PipelineDeliversEveryTile) {
  simt::for_each_schedule([](const simt::Schedule& schedule) {
    EXPECT_EQ(wrong_staged_sums<Mistake::none>(), 0u) << to_string(schedule);
  });
}

#if !defined(KVCODEC_SIMT_TSAN)  // which stops at the first of these
TEST(CpAsync, MissingWaitShows) { EXPECT_EQ(wrong_staged_sums<Mistake::no_wait>(), kThreads); }

TEST(CpAsync, WaitForTooFewGroupsShows) {
  EXPECT_EQ(wrong_staged_sums<Mistake::wait_too_little>(), kThreads);
}

// Copying over a stage that others still read: the stage is poison as soon as the copy is issued.
TEST(CpAsync, IssueBeforeTheReadersAreDoneShows) {
  std::size_t wrong = 0;
  simt::for_each_schedule(
      [&](const simt::Schedule&) { wrong += wrong_staged_sums<Mistake::no_second_barrier>(); });
  EXPECT_GT(wrong, 0u);
}
#endif

TEST(CpAsync, BytesThatAreNotReadBecomeZero) {
  std::vector<float> out(kThreads);
  EXPECT_LAUNCHES(
      launch(staged_sum<Mistake::zero_bytes>, {1, kThreads}, input().data(), out.data(), kTiles));
  for (std::size_t t = 0; t < kThreads; ++t) EXPECT_EQ(out[t], input()[4 * (kThreads - 1 - t)]);
}

__global__ void partial(const std::uint8_t* in, std::uint8_t* out) {
  KVCODEC_SHARED(s, uint4);
  cp_async16(&s, in, 5);
  cp_async_commit();
  cp_async_wait<0>();
  for (int i = 0; i < 16; ++i) out[i] = reinterpret_cast<const std::uint8_t*>(&s)[i];
}

TEST(CpAsync, ReadsNoByteBeyondItsSize) {
  DeviceArray<std::uint8_t> in(5);
  for (std::uint8_t i = 0; i < 5; ++i) in[i] = static_cast<std::uint8_t>(i + 1);
  std::vector<std::uint8_t> out(16);
  EXPECT_LAUNCHES(launch(partial, {1, 1}, in.data(), out.data()));
  EXPECT_EQ(out, (std::vector<std::uint8_t>{1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
}

__global__ void never_waits(const uint4* in, bool commit) {
  KVCODEC_SHARED(s, uint4[32]);
  cp_async16(&s[threadIdx.x], in + threadIdx.x);
  if (commit) cp_async_commit();
  else cp_async_wait<0>();  // covers committed groups only
}

TEST(CpAsync, InFlightAtReturnIsAFault) {
  DeviceArray<uint4> in(32);
  EXPECT_FAULT(launch(never_waits, {1, 32}, in.data(), true),
               HasSubstr("cp.async: the thread returned with 1 copies in flight [thread (0,0,0)"));
  EXPECT_FAULT(launch(never_waits, {1, 32}, in.data(), false), HasSubstr("1 copies in flight"));
}

__global__ void misaligned_copy(const float* in) {
  KVCODEC_SHARED(s, uint4[2]);
  cp_async16(s, in + 1);
}

TEST(CpAsync, MisalignmentIsAFault) {
  EXPECT_FAULT(launch(misaligned_copy, {1, 1}, input().data()),
               HasSubstr("cp.async: the global address is not a multiple of 16"));
}

// Thread 0 orders the tiles, all sum them up.
template <Mistake kMistake>
__global__ void bulk_sum(const float* in, float* out, int tiles) {
  KVCODEC_SHARED(stage, float4[2][kThreads]);
  KVCODEC_SHARED(full, std::uint64_t[2]);
  const unsigned t = threadIdx.x;
  const auto order = [&](int i) {
    fence_async_shared();
    mbarrier_arrive_expect_tx(&full[i & 1], sizeof(stage[0]));
    cp_async_bulk(stage[i & 1], in + static_cast<unsigned>(i) * kTileFloats, sizeof(stage[0]),
                  &full[i & 1]);
  };
  if (t == 0) {
    mbarrier_init(&full[0], 1);
    mbarrier_init(&full[1], 1);
    fence_mbarrier_init();
  }
  __syncthreads();
  if (t == 0) order(0);
  float sum = 0.0f;
  for (int i = 0; i < tiles; ++i) {
    if (t == 0 && i + 1 < tiles) order(i + 1);
    if constexpr (kMistake != Mistake::no_wait) {
      mbarrier_wait(&full[i & 1], static_cast<std::uint32_t>(i >> 1) & 1u);
    }
    sum += stage[i & 1][kThreads - 1 - t].x;
    if constexpr (kMistake != Mistake::no_second_barrier) __syncthreads();
  }
  out[t] = sum;
}

template <Mistake kMistake>
std::size_t wrong_bulk_sums() {
  std::vector<float> out(kThreads);
  EXPECT_LAUNCHES(launch(bulk_sum<kMistake>, {1, kThreads}, input().data(), out.data(), kTiles));
  return count_wrong(out);
}

TEST(BulkCopy, PipelineDeliversEveryTile) {
  simt::for_each_schedule([](const simt::Schedule& schedule) {
    EXPECT_EQ(wrong_bulk_sums<Mistake::none>(), 0u) << to_string(schedule);
  });
}

#if !defined(KVCODEC_SIMT_TSAN)
// The tiles are still poison when they are read, and in flight when the CTA ends.
TEST(BulkCopy, MissingWaitShows) {
  std::vector<float> out(kThreads);
  EXPECT_FAULT(launch(bulk_sum<Mistake::no_wait>, {1, kThreads}, input().data(), out.data(), 2),
               HasSubstr("cp.async.bulk: the CTA ended with 2 copies in flight"));
  for (const float sum : out) EXPECT_TRUE(std::isnan(sum)) << sum;
}

TEST(BulkCopy, OrderBeforeTheReadersAreDoneShows) {
  std::size_t wrong = 0;
  simt::for_each_schedule(
      [&](const simt::Schedule&) { wrong += wrong_bulk_sums<Mistake::no_second_barrier>(); });
  EXPECT_GT(wrong, 0u);
}
#endif

// Consumers tell the producer through mbarriers, too, that a stage is free again.
__global__ void full_and_empty(const float* in, float* out, int tiles) {
  KVCODEC_SHARED(stage, float4[2][32]);
  KVCODEC_SHARED(full, std::uint64_t[2]);
  KVCODEC_SHARED(empty, std::uint64_t[2]);
  const unsigned t = threadIdx.x;
  if (t == 0) {
    for (int s = 0; s < 2; ++s) {
      mbarrier_init(&full[s], 1);
      mbarrier_init(&empty[s], 32);
    }
    fence_mbarrier_init();
  }
  __syncthreads();
  if (t == 32) {  // the producer warp's one active lane
    for (int i = 0; i < tiles; ++i) {
      const auto phase = static_cast<std::uint32_t>(i >> 1);
      if (i >= 2) mbarrier_wait(&empty[i & 1], (phase - 1) & 1u);
      mbarrier_arrive_expect_tx(&full[i & 1], sizeof(stage[0]));
      cp_async_bulk(stage[i & 1], in + 128 * i, sizeof(stage[0]), &full[i & 1]);
    }
  } else if (t < 32) {
    float sum = 0.0f;
    for (int i = 0; i < tiles; ++i) {
      mbarrier_wait(&full[i & 1], static_cast<std::uint32_t>(i >> 1) & 1u);
      sum += stage[i & 1][31 - t].x;
      mbarrier_arrive(&empty[i & 1]);
    }
    out[t] = sum;
  }
}

TEST(BulkCopy, ProducerAndConsumersByMbarriers) {
  simt::for_each_schedule([](const simt::Schedule& schedule) {
    std::vector<float> out(32);
    EXPECT_LAUNCHES(launch(full_and_empty, {1, 64}, input().data(), out.data(), 13));
    for (std::size_t t = 0; t < 32; ++t) {
      float want = 0.0f;
      for (std::size_t i = 0; i < 13; ++i) want += input()[128 * i + 4 * (31 - t)];
      ASSERT_EQ(out[t], want) << to_string(schedule);
    }
  });
}

__global__ void waits_for_nothing() {
  KVCODEC_SHARED(bar, std::uint64_t);
  if (threadIdx.x == 0) mbarrier_init(&bar, 1);
  __syncthreads();
  mbarrier_wait(&bar, 0);
}

__global__ void uses_uninitialised() {
  KVCODEC_SHARED(bar, std::uint64_t);
  mbarrier_arrive(&bar);
}

__global__ void arrives_twice() {
  KVCODEC_SHARED(bar, std::uint64_t);
  mbarrier_init(&bar, 1);
  mbarrier_arrive_expect_tx(&bar, 16);
  mbarrier_arrive(&bar);
}

TEST(Mbarrier, MistakesAreFaults) {
  EXPECT_FAULT(
      launch(waits_for_nothing, {1, 64}),
      HasSubstr("deadlock in CTA (0,0,0): [64 threads wait in mbarrier.try_wait parity 0"));
  EXPECT_FAULT(launch(uses_uninitialised, {1, 1}), HasSubstr("mbarrier.arrive: there is no init"));
  EXPECT_FAULT(launch(arrives_twice, {1, 1}), HasSubstr("more arrivals in a phase"));
}

}  // namespace
}  // namespace kvcodec::cuda
