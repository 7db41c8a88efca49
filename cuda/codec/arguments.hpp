// Checks that encoding and decoding share. `call` is the public function, for messages.
#pragma once

#include <string>

#include "cuda/core/require.hpp"
#include "kvcodec/codec/any_codec.hpp"
#include "kvcodec/core/error.hpp"

namespace kvcodec::cuda {

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
