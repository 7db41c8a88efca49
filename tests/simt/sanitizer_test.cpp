// Planted mistakes that only a sanitizer sees: each must end its process with the right report. A
// build without that sanitizer skips them; what stays there shows what a plain run misses.
#include "tests/simt/emulator/sanitizers.hpp"

#include <cstdint>
#include <string>
#include <vector>

#include "tests/simt/launches.hpp"

// g++ has no macro for UBSan; the only tree with ASan, preset asan, has both.
#if defined(__SANITIZE_ADDRESS__)
#define KVCODEC_SIMT_UBSAN 1
#elif defined(__has_feature)
#if __has_feature(undefined_behavior_sanitizer)
#define KVCODEC_SIMT_UBSAN 1
#endif
#endif

namespace kvcodec::cuda {
namespace {

constexpr unsigned kThreads = 64;

// EXPECT_DEATH forks; the emulator runs in the child and nothing else does.
class Sanitizer : public testing::Test {
 protected:
  static void SetUpTestSuite() { GTEST_FLAG_SET(death_test_style, "fast"); }
};

#if defined(KVCODEC_SIMT_UBSAN)
constexpr bool kUbsan = true;
#else
constexpr bool kUbsan = false;
#endif

class AddressSanitizer : public Sanitizer {
 protected:
  void SetUp() override {
    if (!simt::kAsan) GTEST_SKIP() << "needs the address sanitizer (preset asan)";
  }
};
class UndefinedSanitizer : public Sanitizer {
 protected:
  void SetUp() override {
    if (!kUbsan) GTEST_SKIP() << "needs the undefined-behaviour sanitizer (preset asan)";
  }
};
class ThreadSanitizer : public Sanitizer {
 protected:
  void SetUp() override {
    if (!simt::kTsan) GTEST_SKIP() << "needs the thread sanitizer (preset tsan)";
  }
};

// EXPECT_REPORT(launch(...), "regular expression of the report")
#define EXPECT_REPORT(call, report) EXPECT_DEATH(static_cast<void>(call), report)

// ---- Out of bounds. kOver: one element too far. ----

template <unsigned kOver>
__global__ void static_shared(float* out) {
  KVCODEC_SHARED(s, float[kThreads]);
  float* p = s;  // UBSan would stop at s[64] first
  p[threadIdx.x + kOver] = 1.0f;
  __syncthreads();
  out[kThreads * blockIdx.x + threadIdx.x] = p[threadIdx.x + kOver];
}

template <unsigned kOver>
__global__ void dynamic_shared_access(float* out) {
  float* s = dynamic_shared<float>();
  s[threadIdx.x + kOver] = 1.0f;
  __syncthreads();
  out[kThreads * blockIdx.x + threadIdx.x] = s[threadIdx.x + kOver];
}

template <unsigned kOver>
__global__ void global_access(const float* in, float* out) {
  out[threadIdx.x] = in[threadIdx.x + kOver];
}

__global__ void local_access(float* out, int n) {
  float local[4] = {1.0f, 2.0f, 3.0f, 4.0f};
  float* volatile hidden = local;  // or UBSan would know the object and stop first
  float* p = hidden;
  p[n] = 5.0f;
  out[threadIdx.x] = p[threadIdx.x % 4];
}

__global__ void copies_too_much(const float* in) {
  KVCODEC_SHARED(s, uint4[kThreads]);
  cp_async16(&s[threadIdx.x], in + 4 * threadIdx.x);
  cp_async_commit();
  cp_async_wait<0>();
}

__global__ void bulk_copies_too_much(const float* in) {
  KVCODEC_SHARED(s, uint4[kThreads]);
  KVCODEC_SHARED(full, std::uint64_t);
  mbarrier_init(&full, 1);
  mbarrier_arrive_expect_tx(&full, sizeof(s));
  cp_async_bulk(s, in, sizeof(s), &full);
  mbarrier_wait(&full, 0);
}

TEST_F(AddressSanitizer, StaticSharedMemory) {
  std::vector<float> out(2 * kThreads);
  EXPECT_LAUNCHES(launch(static_shared<0>, {2, kThreads}, out.data()));
  EXPECT_REPORT(launch(static_shared<1>, {2, kThreads}, out.data()),
                "AddressSanitizer: use-after-poison.*\n.*WRITE of size 4");
}

TEST_F(AddressSanitizer, DynamicSharedMemory) {
  std::vector<float> out(2 * kThreads);
  EXPECT_LAUNCHES(launch(dynamic_shared_access<0>, {2, kThreads, 4 * kThreads}, out.data()));
  EXPECT_REPORT(launch(dynamic_shared_access<1>, {2, kThreads, 4 * kThreads}, out.data()),
                "AddressSanitizer: use-after-poison.*\n.*WRITE of size 4");
}

TEST_F(AddressSanitizer, GlobalMemory) {
  const DeviceArray<float> in(kThreads);
  std::vector<float> out(kThreads);
  EXPECT_LAUNCHES(launch(global_access<0>, {1, kThreads}, in.data(), out.data()));
  EXPECT_REPORT(launch(global_access<1>, {1, kThreads}, in.data(), out.data()),
                "AddressSanitizer: use-after-poison.*\n.*READ of size 4");
}

TEST_F(AddressSanitizer, LocalMemoryOfAFiber) {
  std::vector<float> out(kThreads);
  EXPECT_LAUNCHES(launch(local_access, {1, kThreads}, out.data(), 3));
  EXPECT_REPORT(launch(local_access, {1, kThreads}, out.data(), 4),
                "AddressSanitizer: stack-buffer-overflow");
}

TEST_F(AddressSanitizer, SourceOfAsynchronousCopies) {
  const DeviceArray<float> in(4 * kThreads - 1);
  EXPECT_REPORT(launch(copies_too_much, {1, kThreads}, in.data()),
                "AddressSanitizer: use-after-poison.*\n.*READ of size");
  EXPECT_REPORT(launch(bulk_copies_too_much, {1, 1}, in.data()),
                "AddressSanitizer: use-after-poison.*\n.*READ of size 1024");
}

// A launch that fails leaves frames of all its threads behind.
__global__ void fails_deep_inside(float* out, int n) {
  volatile float local[64] = {};
  local[n] = 1.0f;
  out[0] = local[n];
  if (threadIdx.x < 40) __syncwarp();
  __syncthreads();
}

TEST_F(AddressSanitizer, AbandonedFramesAreNoFalseAlarm) {
  std::vector<float> out(2 * kThreads);
  for (int i = 0; i < 3; ++i) {
    EXPECT_FAULT(launch(fails_deep_inside, {1, kThreads}, out.data(), i),
                 testing::HasSubstr("deadlock"));
    EXPECT_LAUNCHES(launch(local_access, {1, kThreads}, out.data(), i));
    EXPECT_LAUNCHES(launch(static_shared<0>, {2, kThreads}, out.data()));
  }
}

__global__ void vector_load(const std::uint32_t* in, uint4* out) {
  out[threadIdx.x] = *reinterpret_cast<const uint4*>(in + threadIdx.x);
}

TEST_F(UndefinedSanitizer, MisalignedVectorLoad) {
  const DeviceArray<std::uint32_t> in(8);
  std::vector<uint4> out(2);
  EXPECT_LAUNCHES(launch(vector_load, {1, 1}, in.data(), out.data()));
  EXPECT_REPORT(launch(vector_load, {1, 2}, in.data(), out.data()),
                "runtime error: .*misaligned address");
}

// ---- Races. ----

template <bool kBarrier>
__global__ void tree_sum(float* out) {
  float* s = dynamic_shared<float>();
  s[threadIdx.x] = 1.0f;
  if constexpr (kBarrier) __syncthreads();
  for (unsigned d = kThreads / 2; d > 0; d /= 2) {
    if (threadIdx.x < d) s[threadIdx.x] += s[threadIdx.x + d];
    if constexpr (kBarrier) __syncthreads();
  }
  if (threadIdx.x == 0) out[blockIdx.x] = s[0];
}

template <bool kSync>
__global__ void exchange(int* out) {
  KVCODEC_SHARED(s, int[32]);
  s[threadIdx.x] = static_cast<int>(threadIdx.x);
  if constexpr (kSync) __syncwarp();
  else static_cast<void>(__shfl_sync(0xffffffffu, 0, 0));  // waits, and orders no memory
  out[32 * blockIdx.x + threadIdx.x] = s[threadIdx.x ^ 1u];
}

template <bool kAtomic>
__global__ void same_word(int* out) {
  if (threadIdx.x != 0) return;
  if constexpr (kAtomic) atomicAdd(out, 1);
  else *out = 1;
}

// Reads what another CTA wrote, with a fence or without.
template <bool kFence>
__global__ void last_cta_reads(int* parts, unsigned* tickets, int* out) {
  if (threadIdx.x != 0) return;
  parts[blockIdx.x] = 1;
  if constexpr (kFence) __threadfence();
  if (atomicInc(tickets, gridDim.x - 1) != gridDim.x - 1) return;
  if constexpr (kFence) __threadfence();
  for (unsigned i = 0; i < gridDim.x; ++i) *out += parts[i];
}

// One lane uses an mbarrier that another initialises.
template <bool kBarrier>
__global__ void shares_mbarrier() {
  KVCODEC_SHARED(bar, std::uint64_t);
  if (threadIdx.x == 0) mbarrier_init(&bar, kThreads);
  if constexpr (kBarrier) __syncthreads();
  mbarrier_arrive(&bar);
  mbarrier_wait(&bar, 0);
}

// The next tile is ordered while others may still read the stage.
template <bool kBarrier>
__global__ void reuses_stage(const float4* in, float* out) {
  KVCODEC_SHARED(stage, float4[32]);
  float sum = 0.0f;
  for (unsigned i = 0; i < 2; ++i) {
    cp_async16(&stage[threadIdx.x], in + 32 * i + threadIdx.x);
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    sum += stage[31 - threadIdx.x].x;
    if constexpr (kBarrier) __syncwarp();
  }
  out[32 * blockIdx.x + threadIdx.x] = sum;
}

template <bool kWait>
__global__ void bulk_read(const float4* in, float* out) {
  KVCODEC_SHARED(stage, float4[32]);
  KVCODEC_SHARED(full, std::uint64_t);
  if (threadIdx.x == 0) mbarrier_init(&full, 1);
  __syncthreads();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect_tx(&full, sizeof(stage));
    cp_async_bulk(stage, in, sizeof(stage), &full);
  }
  if constexpr (kWait) mbarrier_wait(&full, 0);
  out[32 * blockIdx.x + threadIdx.x] = stage[31 - threadIdx.x].x;
  if constexpr (!kWait) mbarrier_wait(&full, 0);
}

constexpr char kRace[] = "ThreadSanitizer: data race";

TEST_F(ThreadSanitizer, MissingBarrier) {
  simt::for_each_schedule([](const simt::Schedule&) {
    std::vector<float> out(3);
    EXPECT_LAUNCHES(launch(tree_sum<true>, {3, kThreads, 4 * kThreads}, out.data()));
    EXPECT_EQ(out, std::vector<float>(3, 64.0f));
    EXPECT_REPORT(launch(tree_sum<false>, {3, kThreads, 4 * kThreads}, out.data()), kRace);
  });
}

TEST_F(ThreadSanitizer, MissingSyncwarp) {
  simt::for_each_schedule([](const simt::Schedule&) {
    std::vector<int> out(64);
    EXPECT_LAUNCHES(launch(exchange<true>, {2, 32}, out.data()));
    EXPECT_REPORT(launch(exchange<false>, {1, 32}, out.data()), kRace);
  });
}

TEST_F(ThreadSanitizer, TwoCtasWriteOneWord) {
  int word = 0;
  EXPECT_LAUNCHES(launch(same_word<true>, {40, 32}, &word));
  EXPECT_EQ(word, 40);
  EXPECT_REPORT(launch(same_word<false>, {2, 32}, &word), kRace);
  EXPECT_REPORT(launch(same_word<false>, {2, 1}, &word), kRace);
}

TEST_F(ThreadSanitizer, MissingFenceBetweenCtas) {
  std::vector<int> parts(12);
  unsigned tickets = 0;
  int sum = 0;
  EXPECT_LAUNCHES(launch(last_cta_reads<true>, {12, 32}, parts.data(), &tickets, &sum));
  EXPECT_EQ(sum, 12);
  EXPECT_REPORT(launch(last_cta_reads<false>, {12, 32}, parts.data(), &tickets, &sum), kRace);
}

TEST_F(ThreadSanitizer, MbarrierUsedWithoutABarrierAfterItsInit) {
  EXPECT_LAUNCHES(launch(shares_mbarrier<true>, {2, kThreads}));
  EXPECT_REPORT(launch(shares_mbarrier<false>, {1, kThreads}), kRace);
}

TEST_F(ThreadSanitizer, CopyOverAStageThatIsStillRead) {
  const DeviceArray<float4> in(64);
  std::vector<float> out(64);
  EXPECT_LAUNCHES(launch(reuses_stage<true>, {2, 32}, in.data(), out.data()));
  EXPECT_REPORT(launch(reuses_stage<false>, {1, 32}, in.data(), out.data()), kRace);
}

TEST_F(ThreadSanitizer, BulkCopyReadWithoutItsMbarrier) {
  const DeviceArray<float4> in(32);
  std::vector<float> out(64);
  EXPECT_LAUNCHES(launch(bulk_read<true>, {2, 32}, in.data(), out.data()));
  EXPECT_REPORT(launch(bulk_read<false>, {1, 32}, in.data(), out.data()), kRace);
}

}  // namespace
}  // namespace kvcodec::cuda
