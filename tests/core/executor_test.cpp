// The executor contract: every index exactly once, worker numbers never twice at one time.
#include "kvcodec/core/executor.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <ctime>
#include <thread>
#include <vector>

#include "kvcodec/core/error.hpp"
#include "tests/support/codecs.hpp"

namespace kvcodec {
namespace {

/// Runs n indices and checks the contract.
void expect_contract(const Executor& executor, std::int64_t n) {
  std::vector<std::atomic<int>> calls(static_cast<std::size_t>(n));
  std::vector<std::atomic<int>> busy(static_cast<std::size_t>(executor.n_workers));
  std::atomic<int> mistakes{0};
  executor.parallel_for(n, [&](std::int64_t i, int worker) {
    if (i < 0 || i >= n || worker < 0 || worker >= executor.n_workers) {
      ++mistakes;
      return;
    }
    auto& mine = busy[static_cast<std::size_t>(worker)];
    if (mine.fetch_add(1) != 0) ++mistakes;
    ++calls[static_cast<std::size_t>(i)];
    if (i % 7 == 0) std::this_thread::yield();
    mine.fetch_sub(1);
  });
  EXPECT_EQ(mistakes.load(), 0);
  for (std::int64_t i = 0; i < n; ++i) {
    ASSERT_EQ(calls[static_cast<std::size_t>(i)].load(), 1) << "index " << i << " of " << n;
  }
}

TEST(Executor, DefaultRunsOnTheCallersThreadInOrder) {
  const Executor executor;
  std::vector<std::int64_t> seen;
  const auto caller = std::this_thread::get_id();
  executor.parallel_for(5, [&](std::int64_t i, int worker) {
    EXPECT_EQ(worker, 0);
    EXPECT_EQ(std::this_thread::get_id(), caller);
    seen.push_back(i);
  });
  EXPECT_EQ(seen, (std::vector<std::int64_t>{0, 1, 2, 3, 4}));
  executor.parallel_for(0, [&](std::int64_t, int) { ADD_FAILURE() << "called for n = 0"; });
}

TEST(Executor, TakesACallersPool) {
  struct Reversed {
    int calls = 0;
  } pool;
  const Executor executor{&pool, 2, [](void* self, std::int64_t n, void* arg, Executor::Task fn) {
                            ++static_cast<Reversed*>(self)->calls;
                            for (std::int64_t i = n - 1; i >= 0; --i)
                              fn(arg, i, static_cast<int>(i % 2));
                          }};
  expect_contract(executor, 33);
  EXPECT_EQ(pool.calls, 1);
}

TEST(ThreadPool, KeepsTheContractAndIsReusable) {
  for (const int n_threads : {1, 2, 3, 8}) {
    ThreadPool pool(n_threads);
    EXPECT_EQ(pool.n_threads(), n_threads);
    EXPECT_EQ(pool.executor().n_workers, n_threads);
    for (const std::int64_t n : {0, 1, 2, 3, 17, 1000}) {
      SCOPED_TRACE(std::to_string(n_threads) + " threads, n = " + std::to_string(n));
      expect_contract(pool.executor(), n);
    }
    for (int again = 0; again < 300; ++again) expect_contract(pool.executor(), 5);
  }
}

TEST(ThreadPool, RunsTasksOnSeveralThreads) {
  ThreadPool pool(2);
  std::atomic<int> arrived{0};
  pool.executor().parallel_for(2, [&](std::int64_t, int) {
    ++arrived;
    while (arrived.load() < 2) std::this_thread::yield();  // ends only if both run at one time
  });
  EXPECT_EQ(arrived.load(), 2);
}

TEST(ThreadPool, MakesASecondCallerWait) {
  ThreadPool pool(3);
  std::atomic<std::int64_t> sum{0};
  const auto work = [&] {
    for (int i = 0; i < 50; ++i) {
      pool.executor().parallel_for(20, [&](std::int64_t index, int) { sum += index; });
    }
  };
  std::thread other(work);
  work();
  other.join();
  EXPECT_EQ(sum.load(), 2 * 50 * 190);
}

TEST(ThreadPool, LivesBesideOthers) {
  ThreadPool outer(2);
  outer.executor().parallel_for(4, [](std::int64_t, int) {
    ThreadPool inner(2);  // a pool of its own may be made, used and destroyed inside a task
    std::atomic<int> n{0};
    inner.executor().parallel_for(9, [&](std::int64_t, int) { ++n; });
    EXPECT_EQ(n.load(), 9);
  });
  { const ThreadPool unused(4); }
}

// Threads that spin would use as much of the processor as there is time.
TEST(ThreadPool, SleepsWhileThereIsNoWork) {
  ThreadPool pool(4);
  pool.executor().parallel_for(100, [](std::int64_t, int) {});
  const std::clock_t before = std::clock();  // of all threads of the process
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const double used = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  EXPECT_LT(used, 0.02);
}

TEST(ThreadPool, ZeroMeansTheHardware) {
  const ThreadPool pool(0);
  EXPECT_GE(pool.n_threads(), 1);
}

TEST(ThreadPool, RefusesBadCounts) {
  for (const int n : {-1, 1025}) {
    const std::string message =
        test::message_of<invalid_argument>([&] { const ThreadPool pool(n); });
    EXPECT_TRUE(
        test::contains(message, {"ThreadPool", "n_threads = " + std::to_string(n), "0..1024"}));
  }
}

}  // namespace
}  // namespace kvcodec
