// Checks that encoding and decoding share. `call` is the public function, for messages.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include "kvcodec/codec/any_codec.hpp"
#include "kvcodec/core/error.hpp"

namespace kvcodec::cuda {

inline void require_pointer(const char* call, const char* name, const void* p) {
  if (p != nullptr) return;
  throw invalid_argument(std::string(call) + ": " + name + " = null, allowed: device memory");
}

/// Vectors of 16 bytes are read and written there.
inline void require_aligned(const char* call, const char* name, const void* p) {
  require_pointer(call, name, p);
  const auto address = reinterpret_cast<std::uintptr_t>(p);
  if (address % 16 == 0) return;
  throw invalid_argument(bad_value(call, name, address, "a multiple of 16"));
}

/// CTAs of one launch.
inline void require_ctas(const char* call, const char* name, std::int64_t n) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (n >= 0 && n <= kMost) return;
  throw invalid_argument(bad_value(call, name, n, "0.." + std::to_string(kMost)));
}

inline void require_side(const char* call, const AnyCodec& codec, Side side) {
  if (side == Side::key || !codec.key_only()) return;
  throw unsupported(std::string(call) + ": codec " + codec.name() + " for v: it is for keys only");
}

/// Every array that the codec's value points at has been set; where it lies cannot be asked.
inline void require_tables(const char* call, AnyCodec codec, int head_dim) {
  bool complete = true;
  codec.move_tables(head_dim, [&](const void* table, std::size_t bytes) {
    complete = complete && (table != nullptr || bytes == 0);
    return table;
  });
  if (complete) return;
  throw invalid_argument(std::string(call) + ": codec = " + codec.name() +
                         " without tables, allowed: DeviceCodec(codec, head_dim).codec()");
}

}  // namespace kvcodec::cuda
