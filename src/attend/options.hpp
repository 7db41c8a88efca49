// The one check of AttendOptions: the view-level call returns a status, the cache-level call says why.
#pragma once

#include <cmath>
#include <cstdint>

#include "kvcodec/attend/attend.hpp"

namespace kvcodec {

/// An option out of range; `name` is null if there is none.
struct BadOption {
  const char* name = nullptr;
  double value = 0.0;
  const char* allowed = nullptr;
  std::int32_t head = -1;  ///< of sink_logits
};

/// The first option of a call with n_q_heads query heads that attend.hpp does not allow.
inline BadOption find_bad_option(const AttendOptions& o, std::int32_t n_q_heads) noexcept {
  if (!std::isfinite(o.sm_scale) || o.sm_scale <= 0.0f) {
    return {"sm_scale", static_cast<double>(o.sm_scale), "finite and > 0"};
  }
  if (!std::isfinite(o.logits_soft_cap) || o.logits_soft_cap < 0.0f) {
    return {"logits_soft_cap", static_cast<double>(o.logits_soft_cap), "finite and >= 0"};
  }
  if (o.window < 0) return {"window", static_cast<double>(o.window), "0 (off) or more"};
  if (o.window_sinks < 0) return {"window_sinks", static_cast<double>(o.window_sinks), "0 or more"};
  for (std::int32_t h = 0; o.sink_logits != nullptr && h < n_q_heads; ++h) {
    const float x = o.sink_logits[h];
    if (!(x <= kF32Max)) return {"sink_logits", static_cast<double>(x), "numbers or -inf", h};
  }
  return {};
}

}  // namespace kvcodec
