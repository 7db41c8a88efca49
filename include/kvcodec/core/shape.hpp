// Shape of attention heads and its checks.
#pragma once

#include <cstdint>
#include <string>

#include "kvcodec/core/config.hpp"
#include "kvcodec/core/error.hpp"

namespace kvcodec {

/// Heads of one layer. Query head h reads KV head h / gqa_group().
struct HeadShape {
  std::int32_t n_q_heads = 0;   ///< query heads, a multiple of n_kv_heads
  std::int32_t n_kv_heads = 0;  ///< heads stored in the cache
  std::int32_t head_dim = 0;    ///< channels per head: 64..256, a multiple of 16

  /// Query heads that share one KV head.
  KVCODEC_HD constexpr std::int32_t gqa_group() const noexcept { return n_q_heads / n_kv_heads; }

  friend constexpr bool operator==(const HeadShape&, const HeadShape&) = default;
};

/// Throws invalid_argument naming the field that is out of range.
inline void check(const HeadShape& s) {
  const auto fail = [](const char* name, std::int64_t value, const std::string& allowed) {
    throw invalid_argument(bad_value("HeadShape", name, value, allowed));
  };
  if (s.n_kv_heads < 1 || s.n_kv_heads > (1 << 16)) fail("n_kv_heads", s.n_kv_heads, "1..65536");
  if (s.n_q_heads < 1 || s.n_q_heads % s.n_kv_heads != 0 ||
      s.n_q_heads / s.n_kv_heads > kMaxGqaGroup) {
    fail("n_q_heads", s.n_q_heads,
         "1..16 times n_kv_heads = " + std::to_string(s.n_kv_heads) + ", an exact multiple");
  }
  if (s.head_dim < kMinHeadDim || s.head_dim > kMaxHeadDim || s.head_dim % kLanes != 0) {
    fail("head_dim", s.head_dim, "64..256 in steps of 16");
  }
}

}  // namespace kvcodec
