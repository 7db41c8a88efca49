// What the device benchmark needs besides the library: a clock on the device, copies that stay there,
// and a kernel that does nothing but read.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvcodec/cuda/device.hpp"

namespace kvcodec::bench {

/// A pair of events.
class DeviceTimer {
 public:
  DeviceTimer();
  ~DeviceTimer();
  DeviceTimer(const DeviceTimer&) = delete;
  DeviceTimer& operator=(const DeviceTimer&) = delete;

  void start(cuda::Stream stream);
  /// Waits, and returns the milliseconds since start(). Throws cuda_error, also for faults of kernels
  /// in between.
  double stop(cuda::Stream stream);

 private:
  void* events_[2] = {};
};

/// Copies inside device memory; the ranges must not overlap.
void copy_on_device(void* to, const void* from, std::size_t bytes, cuda::Stream stream);

/// Repeats the first `unit` bytes until `bytes` are filled.
void repeat_on_device(std::byte* data, std::size_t unit, std::size_t bytes, cuda::Stream stream);

/// Reads every 16 bytes once. `data` on a 16-byte boundary; *sink is not written in practice, which
/// the compiler cannot know.
void read_on_device(const void* data, std::size_t bytes, std::uint32_t* sink, cuda::Stream stream);

/// CUDA versions, 13000 for 13.0.
int driver_version();
int runtime_version();

/// Milliseconds of one call of run(i), i counting up from 0: the median of `n_samples` samples, each
/// of as many calls as take about `sample_ms`.
template <class F>
double median_ms(F&& run, int n_samples, double sample_ms) {
  DeviceTimer timer;
  std::int64_t i = 0;
  const auto sample = [&](int n) {
    timer.start(nullptr);
    for (int call = 0; call < n; ++call) run(i++);
    return timer.stop(nullptr) / n;
  };
  static_cast<void>(sample(1));  // loads the kernel
  const double first = std::max(sample(2), 1e-4);
  const int n_calls = static_cast<int>(std::clamp(sample_ms / first, 1.0, 200.0));
  std::vector<double> times;
  for (int s = 0; s < n_samples; ++s) times.push_back(sample(n_calls));
  std::nth_element(times.begin(), times.begin() + n_samples / 2, times.end());
  return std::max(times[static_cast<std::size_t>(n_samples / 2)], 1e-6);
}

}  // namespace kvcodec::bench
