// Checks that the calls of kvcodec/cuda/policy.hpp share. `call` is the public function, for messages.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/core/require.hpp"
#include "kvcodec/cuda/policy.hpp"

namespace kvcodec::cuda {

inline void require_judged(const char* call, const JudgedRows& rows) {
  kvcodec::check(rows.shape);
  if (rows.n_layers < 1) {
    throw invalid_argument(bad_value(call, "n_layers", rows.n_layers, "1 or more"));
  }
  if (rows.layer < 0 || rows.layer >= rows.n_layers) {
    throw invalid_argument(
        bad_value(call, "layer", rows.layer, "0.." + std::to_string(rows.n_layers - 1)));
  }
  if (rows.n_seq < 0) throw invalid_argument(bad_value(call, "n_seq", rows.n_seq, "0 or more"));
  if (rows.max_rows < 0 || rows.max_rows >= std::int64_t{1} << 31) {
    throw invalid_argument(bad_value(call, "max_rows", rows.max_rows, "0..2^31 - 1"));
  }
  require_ctas(call, "n_seq * n_kv_heads", std::int64_t{rows.n_seq} * rows.shape.n_kv_heads);
  // What the largest grid counts: shares of at least eight rows of every stream.
  require_ctas(call, "n_seq * n_kv_heads * (max_rows / 8 + 1)",
               std::int64_t{rows.n_seq} * rows.shape.n_kv_heads * (rows.max_rows / 8 + 1));
}

/// The pointers that every call with rows reads, where there is something to do.
inline void require_lengths(const char* call, const JudgedRows& rows) {
  require_pointer(call, "first", rows.first);
  require_pointer(call, "n_rows", rows.n_rows);
}

inline bool nothing_to_do(const JudgedRows& rows) noexcept {
  return rows.n_seq == 0 || rows.max_rows == 0;
}

}  // namespace kvcodec::cuda
