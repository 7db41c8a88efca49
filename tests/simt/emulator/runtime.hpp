// The emulator as tests see it: how launches are scheduled, what went wrong in one, what the
// emulated device looks like. docs/simt.md explains what a run can and cannot find.
//
// A fault inside a kernel (a deadlock, a bad mask, a copy in flight at the end, ...) ends the launch:
// it returns cudaErrorLaunchFailure, cudaGetLastError repeats that once, cudaGetErrorString of it
// carries the fault's text, and so does the exception of library code that checks its statuses. The
// text also stays pending until take_fault() fetches it; the main function of every emulator test
// (test_main.cpp) fails a test that leaves one pending, so that an ignored status cannot hide it.
// The next launch starts afresh.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace kvcodec::simt {

inline constexpr unsigned kWarpLanes = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr unsigned kMaxThreads = 1024;

/// Which of the threads that can run goes on: the lowest, the highest, any. All are legal on a
/// device, so a kernel whose result depends on the order is wrong. CTAs run one after another, in
/// the same sense of order.
enum class Order { forward, backward, random };

/// How launches run, from now on. The environment variable KVCODEC_SIMT_ORDER sets the start value:
/// forward, backward, random or random:<seed>.
struct Schedule {
  Order order = Order::forward;
  std::uint64_t seed = 1;  // of every launch, for Order::random
};
Schedule schedule();
void set_schedule(const Schedule& schedule);

/// Sets a schedule for a scope.
class ScheduleGuard {
 public:
  explicit ScheduleGuard(const Schedule& next) : before_(schedule()) { set_schedule(next); }
  ~ScheduleGuard() { set_schedule(before_); }
  ScheduleGuard(const ScheduleGuard&) = delete;
  ScheduleGuard& operator=(const ScheduleGuard&) = delete;

 private:
  Schedule before_;
};

/// Calls check(schedule) under forward, backward and three random orders.
template <class F>
void for_each_schedule(F&& check) {
  for (const Schedule& next :
       {Schedule{Order::forward, 1}, Schedule{Order::backward, 1}, Schedule{Order::random, 1},
        Schedule{Order::random, 2}, Schedule{Order::random, 3}}) {
    const ScheduleGuard guard(next);
    check(next);
  }
}

/// For messages: "forward", "backward", "random:<seed>".
std::string to_string(const Schedule& schedule);

/// Text of the newest fault that nobody has taken, empty if there is none. Taking forgets it.
std::string take_fault();

/// The one emulated device. Small on purpose: grids that scale with it stay small.
struct Device {
  int compute_capability = 90;  // 10 * major + minor
  int multiprocessors = 4;
  std::size_t total_bytes = std::size_t{1} << 30;  // cudaMalloc refuses more than this
  std::size_t shared_bytes_per_cta = 227 * 1024;   // dynamic and static, when asked for
  std::size_t shared_bytes_per_multiprocessor = 228 * 1024;
};
Device device();
void set_device(const Device& device);

/// Bytes of cudaMalloc and its like that were not freed.
std::size_t device_bytes_in_use();

}  // namespace kvcodec::simt
