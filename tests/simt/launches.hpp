// What the emulator's own tests share.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cuda/core/device.cuh"
#include "cuda/core/ptx.cuh"

// EXPECT_LAUNCHES(launch(kernel, shape, args...)): no fault; the fault's text if there is one.
#define EXPECT_LAUNCHES(...) EXPECT_EQ((__VA_ARGS__), cudaSuccess) << simt::take_fault()

// EXPECT_FAULT(launch(...), matcher): a fault whose text matches.
#define EXPECT_FAULT(call, matcher)                        \
  do {                                                     \
    EXPECT_EQ((call), cudaErrorLaunchFailure);             \
    EXPECT_EQ(cudaGetLastError(), cudaErrorLaunchFailure); \
    EXPECT_THAT(simt::take_fault(), matcher);              \
  } while (false)

namespace kvcodec::cuda {

/// n elements in emulated device memory: the sanitizers know its ends.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t n) : n_(n) {
    void* p = nullptr;
    EXPECT_EQ(cudaMalloc(&p, n * sizeof(T)), cudaSuccess);
    data_ = static_cast<T*>(p);
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }
  std::size_t size() const { return n_; }
  T& operator[](std::size_t i) const { return data_[i]; }

 private:
  std::size_t n_;
  T* data_ = nullptr;
};

}  // namespace kvcodec::cuda
