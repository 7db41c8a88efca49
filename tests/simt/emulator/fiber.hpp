// A stack of its own that runs until it suspends itself: one per CUDA thread. Internal.
#pragma once

#include <cstddef>

#include "tests/simt/emulator/sanitizers.hpp"

namespace kvcodec::simt {

/// All calls come from one host thread. Fibers switch to and from the scheduler, never to each
/// other. A stack is never given back: fibers live as long as the process.
class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Gets the fiber ready to enter `body`, which must not return. `number` spreads the stack tops.
  void start(void (*body)(), std::size_t number);
  bool started() const { return started_; }
  /// Scheduler side: runs the fiber until it suspends itself.
  void resume();
  /// Fiber side: goes back to the scheduler, returns at the next resume.
  static void suspend();
  /// Scheduler side: gives up whatever the fiber is in the middle of; it must be started again. What
  /// it did comes before later acquires of `at`.
  void abandon(SyncPoint& at);

 private:
  struct Access;  // fiber.cpp

  std::byte* stack_ = nullptr;
  void* context_ = nullptr;
  void* asan_frames_ = nullptr;
  void* tsan_fiber_ = nullptr;
  void (*body_)() = nullptr;
  bool started_ = false;
};

}  // namespace kvcodec::simt
