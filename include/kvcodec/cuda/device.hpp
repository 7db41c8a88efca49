// The devices of this machine, and the words all of kvcodec/cuda/ shares. No CUDA header is needed to
// use these headers; the library behind them is the CMake target kvcodec::cuda.
#pragma once

#include <cstddef>
#include <string>

struct CUstream_st;

namespace kvcodec::cuda {

/// What cudaStream_t is; null: the default stream.
using Stream = ::CUstream_st*;

/// Devices that can run kernels. 0 where there is no driver or no device, whatever the reason: a
/// program may always ask.
int device_count() noexcept;

/// One device.
struct DeviceInfo {
  std::string name;
  int major = 0;  ///< compute capability: 9.0 is major 9, minor 0
  int minor = 0;
  int n_sms = 0;                 ///< multiprocessors
  std::size_t memory_bytes = 0;  ///< of the device in total
  std::size_t shared_bytes = 0;  ///< shared memory that one CTA may ask for
  int memory_clock_khz = 0;      ///< 0: not known
  int memory_bus_bits = 0;       ///< 0: not known
};

/// Device `i`, 0..device_count()-1. Throws invalid_argument, cuda_error.
DeviceInfo describe_device(int i);

/// Waits until all work of the stream is done. Throws cuda_error, also for faults of kernels that were
/// launched before.
void synchronize(Stream stream);

}  // namespace kvcodec::cuda
