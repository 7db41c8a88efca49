// What a measurement is a measurement of: the processor, its caches, the day.
#pragma once

#include <cstddef>
#include <string>

namespace kvcodec::bench {

struct Machine {
  std::string processor;     ///< model name; "unknown" where the system does not tell
  int n_threads = 1;         ///< hardware threads
  std::size_t l3_bytes = 0;  ///< last-level cache of the first processor; 32 MiB where unknown
};

Machine this_machine();

/// "2026-11-29", in UTC.
std::string today();

}  // namespace kvcodec::bench
