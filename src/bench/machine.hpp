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

/// Bytes that each of n_buffers rotates through in one measurement: four times the last-level cache, or
/// less where that takes more than half of the memory. Between two visits of a byte all others are read.
std::size_t rotated_bytes(const Machine& machine, std::size_t n_buffers);

/// "2026-11-29", in UTC.
std::string today();

}  // namespace kvcodec::bench
