// What a policy may observe: the attention weights that the newest queries give to the rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "kvcodec/core/config.hpp"
#include "kvcodec/core/error.hpp"

namespace kvcodec {

/// logits[i * stride] = q_i . key for N queries q [N, head_dim]; the same sums for every N.
template <int N>
inline void observed_products(int head_dim, const float* q, const float* key, float* logits,
                              std::int64_t stride) noexcept {
  constexpr int kSums = 8;  // independent sums in a fixed order; divides kLanes
  float sums[N][kSums] = {};
  for (int c = 0; c < head_dim; c += kSums) {
    for (int i = 0; i < N; ++i) {
      for (int j = 0; j < kSums; ++j) sums[i][j] += q[i * head_dim + c + j] * key[c + j];
    }
  }
  for (int i = 0; i < N; ++i) {
    float total = 0.0f;
    for (const float sum : sums[i]) total += sum;
    logits[i * stride] = total;
  }
}

/// Adds the softmax weights of one query over its first n_seen rows; `logits` is overwritten.
inline void add_observed_weights(std::int64_t n_seen, float sm_scale, float* logits,
                                 float* sums) noexcept {
  float largest = -std::numeric_limits<float>::infinity();
  for (std::int64_t i = 0; i < n_seen; ++i) {
    logits[i] *= sm_scale;
    largest = std::max(largest, logits[i]);
  }
  double total = 0.0;
  for (std::int64_t i = 0; i < n_seen; ++i) {
    logits[i] = std::exp(logits[i] - largest);
    total += static_cast<double>(logits[i]);
  }
  const auto inverse = static_cast<float>(1.0 / total);
  for (std::int64_t i = 0; i < n_seen; ++i) sums[i] += logits[i] * inverse;
}

/// Adds to sums[n_keys] the attention weights of the newest n_queries tokens of one query head.
///
/// q [n_queries, head_dim], k [n_keys, head_dim], both after position encoding, head_dim a multiple of
/// kLanes: query j belongs to key n_keys - n_queries + j and sees the keys up to it. Weights are softmax(sm_scale * q . k),
/// without sink logits, soft cap or sliding window. Logits and weights are f32 with the maximum
/// subtracted, their total is f64. Each query adds weights that sum to 1.
///
/// Keys are read once per four queries. `scratch` grows to 4 * n_keys floats and may be used again
/// by the same thread. For PolicyRows::observed call it per query head and take the judged rows.
/// Throws invalid_argument unless 0 <= n_queries <= n_keys; std::bad_alloc.
inline void observe_attention(int head_dim, std::int64_t n_queries, const float* q,
                              std::int64_t n_keys, const float* k, float sm_scale, float* sums,
                              std::vector<float>& scratch) {
  constexpr std::int64_t kAtOnce = 4;
  if (n_queries < 0 || n_queries > n_keys) {
    throw invalid_argument(bad_value("observe_attention", "n_queries", n_queries,
                                     "0..n_keys = " + std::to_string(n_keys)));
  }
  if (scratch.size() < static_cast<std::size_t>(kAtOnce * n_keys)) {
    scratch.resize(static_cast<std::size_t>(kAtOnce * n_keys));
  }
  for (std::int64_t first = 0; first < n_queries; first += kAtOnce) {
    const std::int64_t n = std::min(kAtOnce, n_queries - first);
    const std::int64_t n_seen = n_keys - n_queries + first + n;
    const float* own = q + first * head_dim;
    for (std::int64_t i = 0; i < n_seen; ++i) {
      const float* key = k + i * head_dim;
      if (n == kAtOnce) {
        observed_products<4>(head_dim, own, key, scratch.data() + i, n_keys);
        continue;
      }
      for (std::int64_t j = 0; j < n; ++j) {
        observed_products<1>(head_dim, own + j * head_dim, key, scratch.data() + j * n_keys + i, 0);
      }
    }
    for (std::int64_t j = 0; j < n; ++j) {
      add_observed_weights(n_seen - n + j + 1, sm_scale, scratch.data() + j * n_keys, sums);
    }
  }
}

/// The same with a scratch of its own.
inline void observe_attention(int head_dim, std::int64_t n_queries, const float* q,
                              std::int64_t n_keys, const float* k, float sm_scale, float* sums) {
  std::vector<float> scratch;
  observe_attention(head_dim, n_queries, q, n_keys, k, sm_scale, sums, scratch);
}

}  // namespace kvcodec
