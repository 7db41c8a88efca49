// How the library runs work on several threads: the caller's pool, or a small one of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace kvcodec {

/// A caller-supplied `parallel_for`. Trivially copyable; `self` is passed back untouched.
///
/// `run` calls `fn(arg, index, worker)` once for every index in 0..n-1, from any thread, with
/// `worker` in 0..n_workers-1 and never the same worker twice at one time, and returns when all
/// calls have returned. Results of the library do not depend on n_workers or on the order.
struct Executor {
  using Task = void (*)(void* arg, std::int64_t index, int worker);

  void* self = nullptr;
  int n_workers = 1;
  void (*run)(void* self, std::int64_t n, void* arg, Task fn) = nullptr;  ///< null: caller's thread

  /// Calls fn(index, worker) for every index in 0..n-1.
  template <class F>
  void parallel_for(std::int64_t n, F&& fn) const {
    using Fn = std::remove_reference_t<F>;
    if (run == nullptr || n_workers <= 1 || n <= 1) {
      for (std::int64_t i = 0; i < n; ++i) fn(i, 0);
      return;
    }
    run(self, n, const_cast<void*>(static_cast<const void*>(&fn)),
        [](void* arg, std::int64_t index, int worker) { (*static_cast<Fn*>(arg))(index, worker); });
  }
};

/// A fixed set of threads that sleep while there is no work.
///
/// One parallel_for at a time: a second caller waits. Not to be called from inside a task.
class ThreadPool {
 public:
  /// n_threads counts the calling thread; 0 means the number of hardware threads.
  /// Throws invalid_argument outside 0..1024.
  explicit ThreadPool(int n_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Valid as long as the pool lives.
  Executor executor() noexcept;
  int n_threads() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvcodec
