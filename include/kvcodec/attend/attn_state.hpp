// Partial attention results and their merge.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace kvcodec {

/// Merges attention over one set of rows into attention over a disjoint set, in place.
///
/// out_a, out_b [head_dim] softmax-weighted means; lse_a, lse_b natural logarithms of the sums of
/// exp(logit). A side with lse = -inf is empty: its output is not looked at. Both empty: out 0,
/// lse -inf. Associative and commutative up to rounding. No NaN or infinity arises from finite
/// outputs, whatever the two lse are.
inline void merge(float* out_a, float& lse_a, const float* out_b, float lse_b,
                  std::int32_t head_dim) noexcept {
  constexpr float kEmpty = -std::numeric_limits<float>::infinity();
  if (lse_b == kEmpty) {
    if (lse_a == kEmpty) {
      for (std::int32_t c = 0; c < head_dim; ++c) out_a[c] = 0.0f;
    }
    return;
  }
  if (lse_a == kEmpty) {
    for (std::int32_t c = 0; c < head_dim; ++c) out_a[c] = out_b[c];
    lse_a = lse_b;
    return;
  }
  const float top = lse_a > lse_b ? lse_a : lse_b;
  const float a = std::exp(lse_a - top);
  const float b = std::exp(lse_b - top);
  const float share_a = a / (a + b);
  const float share_b = b / (a + b);
  for (std::int32_t c = 0; c < head_dim; ++c) out_a[c] = share_a * out_a[c] + share_b * out_b[c];
  lse_a = top + std::log(a + b);
}

}  // namespace kvcodec
