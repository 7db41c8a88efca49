// Threads that sleep while there is no work.
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "kvcodec/core/error.hpp"
#include "kvcodec/core/executor.hpp"

namespace kvcodec {

struct ThreadPool::Impl {
  std::mutex caller;  ///< one parallel_for at a time
  std::mutex mutex;
  std::condition_variable start;
  std::condition_variable done;
  std::vector<std::thread> threads;
  std::uint64_t generation = 0;  ///< counts calls of parallel_for
  int n_running = 0;
  bool stop = false;
  std::atomic<std::int64_t> next{0};
  std::int64_t n = 0;
  void* arg = nullptr;
  Executor::Task task = nullptr;

  void take_indices(int worker) {
    for (;;) {
      const std::int64_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= n) return;
      task(arg, i, worker);
    }
  }

  void work(int worker) {
    std::uint64_t seen = 0;
    for (;;) {
      {
        std::unique_lock lock(mutex);
        start.wait(lock, [&] { return stop || generation != seen; });
        if (stop) return;
        seen = generation;
      }
      take_indices(worker);
      {
        const std::lock_guard lock(mutex);
        if (--n_running == 0) done.notify_one();
      }
    }
  }

  void run(std::int64_t count, void* argument, Executor::Task fn) {
    const std::lock_guard one_caller(caller);
    {
      const std::lock_guard lock(mutex);
      n = count;
      arg = argument;
      task = fn;
      next.store(0, std::memory_order_relaxed);
      n_running = static_cast<int>(threads.size());
      ++generation;
    }
    start.notify_all();
    take_indices(0);
    std::unique_lock lock(mutex);
    done.wait(lock, [&] { return n_running == 0; });
  }
};

ThreadPool::ThreadPool(int n_threads) : impl_(std::make_unique<Impl>()) {
  if (n_threads < 0 || n_threads > 1024) {
    throw invalid_argument(bad_value("ThreadPool", "n_threads", n_threads, "0..1024"));
  }
  if (n_threads == 0) n_threads = static_cast<int>(std::thread::hardware_concurrency());
  for (int worker = 1; worker < n_threads; ++worker) {
    impl_->threads.emplace_back([impl = impl_.get(), worker] { impl->work(worker); });
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->start.notify_all();
  for (std::thread& t : impl_->threads) t.join();
}

Executor ThreadPool::executor() noexcept {
  return {impl_.get(), n_threads(), [](void* self, std::int64_t n, void* arg, Executor::Task fn) {
            static_cast<Impl*>(self)->run(n, arg, fn);
          }};
}

int ThreadPool::n_threads() const noexcept { return static_cast<int>(impl_->threads.size()) + 1; }

}  // namespace kvcodec
