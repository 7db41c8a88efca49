// Adds the time between its construction and its destruction to a CallTimes.
#pragma once

#include <chrono>
#include <exception>

#include "kvcodec/cache/cache_stats.hpp"

namespace kvcodec {

/// Counts nothing where an exception ends the scope.
class Stopwatch {
 public:
  explicit Stopwatch(CallTimes& times) noexcept
      : times_(times), exceptions_(std::uncaught_exceptions()), start_(Clock::now()) {}
  ~Stopwatch() {
    if (std::uncaught_exceptions() > exceptions_) return;
    ++times_.calls;
    times_.nanoseconds +=
        std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start_).count();
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  CallTimes& times_;
  int exceptions_;
  Clock::time_point start_;
};

}  // namespace kvcodec
