// What a measurement is a measurement of: the processor, its caches, the day.
#pragma once

#include <cstddef>
#include <string>

namespace kvcodec::bench {

struct Machine {
  std::string processor;         ///< model name; "unknown" where the system does not tell
  int n_threads = 1;             ///< hardware threads
  std::size_t l3_bytes = 0;      ///< last-level cache of the first processor; 32 MiB where unknown
  std::size_t memory_bytes = 0;  ///< physical; 8 GiB where unknown
};

Machine this_machine();

/// Bytes that each of n_buffers rotates through in one measurement: all together four times the last-level
/// cache, at most half of the memory, each at least 64 MiB. Between two visits of a byte most others are
/// read, so more would only be slower where addresses are translated twice (virtual machines).
std::size_t rotated_bytes(const Machine& machine, std::size_t n_buffers);

/// "2026-11-29", in UTC.
std::string today();

}  // namespace kvcodec::bench
