// What the device tests share. They use the public headers alone and are built twice: against
// kvcodec::cuda (label gpu, skipped without a device) and against the emulated library (label simt).
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "kvcodec/cuda/device.hpp"
#include "kvcodec/cuda/memory.hpp"

namespace kvcodec::test {

/// Skips the test, or with T = a fixture with parameters every case of it, where there is no device.
template <class T = ::testing::Test>
class OnDevice : public T {
 protected:
  void SetUp() override {
    if (cuda::device_count() == 0) GTEST_SKIP() << "no CUDA device, or no driver for one";
  }
};

/// n values of T on the device with 64 canary bytes on both sides.
template <class T = std::byte>
class GuardedBuffer {
 public:
  explicit GuardedBuffer(std::size_t n) : n_(n), memory_(n * sizeof(T) + 2 * kGuard) {
    memory_.fill(kCanary);
  }
  T* data() { return reinterpret_cast<T*>(memory_.data() + kGuard); }
  void upload(const std::vector<T>& host) {
    std::vector<std::byte> all = memory_.to_host();
    std::memcpy(all.data() + kGuard, host.data(), host.size() * sizeof(T));
    memory_.upload(all);
  }
  /// The values; a test failure if a canary died.
  std::vector<T> to_host() const {
    const std::vector<std::byte> all = memory_.to_host();
    for (std::size_t i = 0; i < kGuard; ++i) {
      EXPECT_EQ(all[i], std::byte{kCanary}) << i << " bytes into the guard before the array";
      EXPECT_EQ(all[all.size() - 1 - i], std::byte{kCanary}) << "the guard behind the array";
    }
    std::vector<T> host(n_);
    if (n_ > 0) std::memcpy(host.data(), all.data() + kGuard, n_ * sizeof(T));
    return host;
  }

 private:
  static constexpr std::size_t kGuard = 64;
  static constexpr int kCanary = 0xa5;

  std::size_t n_;
  cuda::DeviceBuffer<std::byte> memory_;
};

/// Device copy of a vector.
template <class T>
cuda::DeviceBuffer<T> on_device(const std::vector<T>& host) {
  return cuda::DeviceBuffer<T>(std::span<const T>(host));
}

/// Host copy of n values.
template <class T>
std::vector<T> download(const T* device, std::size_t n) {
  std::vector<T> host(n);
  cuda::detail::copy_out(host.data(), device, n * sizeof(T), nullptr);
  cuda::synchronize(nullptr);
  return host;
}

/// Values in another storage type, rounded.
template <class T>
std::vector<T> rounded(const std::vector<float>& x) {
  std::vector<T> y;
  for (const float v : x) y.push_back(from_f32<T>(v));
  return y;
}
template <class T>
std::vector<float> widened(const std::vector<T>& x) {
  std::vector<float> y;
  for (const T v : x) y.push_back(to_f32(v));
  return y;
}

/// So that -0 is not 0.
inline std::vector<std::uint32_t> bits_of(const std::vector<float>& x) {
  std::vector<std::uint32_t> bits;
  for (const float v : x) bits.push_back(bit_cast<std::uint32_t>(v));
  return bits;
}

}  // namespace kvcodec::test
