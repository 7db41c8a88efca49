// A step allocates nothing: this binary counts every operator new.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "kvcodec/meter/fallback.hpp"
#include "tests/support/attend_tools.hpp"
#include "tests/support/cache_cases.hpp"

namespace {

std::atomic<std::int64_t> n_allocations{0};

/// Null where there is no memory.
void* counted_or_null(std::size_t n, std::size_t alignment) noexcept {
  ++n_allocations;
  void* p = nullptr;
  return posix_memalign(&p, alignment, n == 0 ? 1 : n) == 0 ? p : nullptr;
}

void* counted(std::size_t n, std::size_t alignment) {
  void* p = counted_or_null(n, alignment);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t n) {
  return counted(n, alignof(std::max_align_t));
}
[[gnu::noinline]] void* operator new[](std::size_t n) {
  return counted(n, alignof(std::max_align_t));
}
[[gnu::noinline]] void* operator new(std::size_t n, std::align_val_t a) {
  return counted(n, static_cast<std::size_t>(a));
}
[[gnu::noinline]] void* operator new[](std::size_t n, std::align_val_t a) {
  return counted(n, static_cast<std::size_t>(a));
}
[[gnu::noinline]] void* operator new(std::size_t n, const std::nothrow_t&) noexcept {
  return counted_or_null(n, alignof(std::max_align_t));
}
[[gnu::noinline]] void* operator new[](std::size_t n, const std::nothrow_t&) noexcept {
  return counted_or_null(n, alignof(std::max_align_t));
}
[[gnu::noinline]] void* operator new(std::size_t n, std::align_val_t a,
                                     const std::nothrow_t&) noexcept {
  return counted_or_null(n, static_cast<std::size_t>(a));
}
[[gnu::noinline]] void* operator new[](std::size_t n, std::align_val_t a,
                                       const std::nothrow_t&) noexcept {
  return counted_or_null(n, static_cast<std::size_t>(a));
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
  std::free(p);
}
[[gnu::noinline]] void operator delete[](void* p, std::size_t, std::align_val_t) noexcept {
  std::free(p);
}

namespace kvcodec {
namespace {

using test::Tokens;

TEST(Allocations, AreCounted) {
  const std::int64_t before = n_allocations;
  int* volatile p = new int(1);  // volatile: the pair must not be optimised away
  delete p;
  EXPECT_EQ(n_allocations, before + 1);
}

TEST(Allocations, NoneInAppendViewAndAttend) {
  const HeadShape shape{4, 2, 64};
  const Tokens tokens(shape, 700, 1);
  ThreadPool pool(2);
  for (const std::string plan : {"k=hadamard+nqkv,v=nqsym:g32,sink=4,recent=32", "kv=int8,page=256",
                                 "kv=nqkv:g128:search,recent=1"}) {
    for (const std::string& isa : available_cpu_isas()) {
      const test::IsaGuard guard(isa);
      Cache cache(make_cache_config(plan, shape, 1, 2000, 2));
      const SeqId seq = cache.open();
      const test::QueryBatch batch = test::make_queries(shape, {1}, {699}, 2);
      const Queries queries = batch.queries();
      const AttendOptions options = test::default_options(64);
      std::vector<float> out(256);
      std::vector<float> lse(4);
      ViewBuffers buffers;
      // The largest view of the run sizes what may grow; the workspace is the caller's.
      ASSERT_EQ(append(cache, seq, 0, tokens, 0, 600), Status::ok);
      ASSERT_EQ(append(cache, seq, 0, tokens, 0, 100), Status::ok);
      const KvView largest = cache.view(0, {&seq, 1}, buffers);
      test::Guarded<> memory(attend_workspace_bytes(largest, queries, 2));
      ASSERT_EQ(cache.truncate(seq, 0), Status::ok);
      const SeqId other = cache.fork(seq);
      const std::int64_t before = n_allocations;
      bool ok = true;
      for (std::int64_t t = 0; t < 700; ++t) {
        ok &= append(cache, t % 50 == 0 ? other : seq, 0, tokens, t, 1) == Status::ok;
        if (t % 10 != 0) continue;
        const KvView view = cache.view(0, {&seq, 1}, buffers);
        ok &= attend(view, queries, out.data(), lse.data(), options, memory.span(),
                     pool.executor()) == Status::ok;
      }
      ok &= cache.truncate(seq, 100) == Status::ok;
      const std::int64_t after = n_allocations;
      EXPECT_EQ(after, before) << plan << ", " << isa;
      EXPECT_TRUE(ok);
    }
  }
}

// Through the Cache: the second step of the same size allocates nothing either.
TEST(Allocations, NoneInTheSecondStep) {
  const HeadShape shape{4, 2, 64};
  const Tokens tokens(shape, 300, 1);
  Cache cache(make_cache_config("kv=hadamard+nqkv", shape, 1, 2000));
  const SeqId seq = cache.open();
  ASSERT_EQ(append(cache, seq, 0, tokens, 0, 299), Status::ok);
  const std::vector<float> q = test::gauss_rows(1, 256, 3);
  std::vector<float> out(256);
  AttendWorkspace workspace;
  Step step;
  step.seqs = {&seq, 1};
  step.q = dense_rows(q.data(), 1, 4, 64);
  attend(cache, 0, step, out.data(), nullptr, test::default_options(64), workspace);
  ASSERT_EQ(append(cache, seq, 0, tokens, 299, 1), Status::ok);
  const std::int64_t before = n_allocations;
  attend(cache, 0, step, out.data(), nullptr, test::default_options(64), workspace);
  EXPECT_EQ(n_allocations, before);
}

// Readings, the probe and the fallback, over a layer with a policy, past the flushes of the window.
TEST(Allocations, NoneInTheMeter) {
  const HeadShape shape{4, 2, 64};
  const Tokens tokens(shape, 700, 1);
  Cache cache(make_cache_config("kv=int8,policy=lagkv:l64:r0.5,sink=4", shape, 2, 2000, 2));
  FallbackPolicy fallback(cache);
  ProbeOptions probe_options;
  probe_options.every = 1;
  probe_options.min_rows = 100;
  probe_options.drift.threshold = 0.03;  // rings: eviction loses more
  std::int64_t rung = 0;
  QualityProbe probe(cache, probe_options, [&](const Alarm& alarm) {
    ++rung;
    fallback.on_alarm(alarm);
  });
  const SeqId seq = cache.open();
  const std::vector<float> q = test::gauss_rows(1, 256, 3);
  std::vector<float> out(256);
  AttendWorkspace workspace;
  Step step;
  step.seqs = {&seq, 1};
  step.q = dense_rows(q.data(), 1, 4, 64);
  std::int64_t in_meter = 0;
  for (std::int64_t t = 0; t < 700; ++t) {
    for (std::int32_t layer = 0; layer < 2; ++layer) {
      ASSERT_EQ(append(cache, seq, layer, tokens, t, 1), Status::ok);
      std::int64_t before = n_allocations;
      probe.append(cache, seq, layer, tokens.k_rows(t, 1), tokens.v_rows(t, 1));
      in_meter += n_allocations - before;
      attend(cache, layer, step, out.data(), nullptr, test::default_options(64), workspace);
      before = n_allocations;
      probe.observe(cache, layer, step, out.data(), test::default_options(64));
      static_cast<void>(cache.stats());
      static_cast<void>(cache.bytes());
      static_cast<void>(probe.stats());
      in_meter += n_allocations - before;
    }
    if (rung > 0 && cache.evicts(seq, 0) && cache.evicts(seq, 1)) {
      const std::int64_t before = n_allocations;
      EXPECT_EQ(fallback.apply(cache), Status::ok);  // only stops to evict: holding takes memory
      in_meter += n_allocations - before;
    }
  }
  EXPECT_EQ(in_meter, 0);
  EXPECT_GT(probe.stats().observations, 500);
  EXPECT_GT(rung, 0);
  EXPECT_GT(fallback.n_not_evicting(), 0);
}

}  // namespace
}  // namespace kvcodec
