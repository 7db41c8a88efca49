// Checks of arguments that the calls of kvcodec::cuda share. `call` is the public function, for messages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>

#include "kvcodec/core/error.hpp"

namespace kvcodec::cuda {

inline void require_pointer(const char* call, const char* name, const void* p) {
  if (p != nullptr) return;
  throw invalid_argument(std::string(call) + ": " + name + " = null, allowed: device memory");
}

inline void require_multiple(const char* call, const char* name, const void* p,
                             std::uintptr_t alignment) {
  require_pointer(call, name, p);
  const auto address = reinterpret_cast<std::uintptr_t>(p);
  if (address % alignment == 0) return;
  throw invalid_argument(
      bad_value(call, name, address, "a multiple of " + std::to_string(alignment)));
}

/// Vectors of 16 bytes are read and written there.
inline void require_aligned(const char* call, const char* name, const void* p) {
  require_multiple(call, name, p, 16);
}

/// CTAs of one launch.
inline void require_ctas(const char* call, const char* name, std::int64_t n) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (n >= 0 && n <= kMost) return;
  throw invalid_argument(bad_value(call, name, n, "0.." + std::to_string(kMost)));
}

inline void require_workspace(const char* call, const void* workspace, std::size_t bytes,
                              std::size_t needed) {
  if (needed == 0) return;
  require_multiple(call, "workspace", workspace, 256);
  if (bytes >= needed) return;
  throw invalid_argument(
      bad_value(call, "workspace_bytes", bytes, "at least " + std::to_string(needed)));
}

}  // namespace kvcodec::cuda
