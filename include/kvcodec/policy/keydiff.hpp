// Policy "keydiff": at the end of the prompt the keys that differ most from the others stay.
// KeyDiff as NVIDIA's kvpress has it.
//
//   anchor  = mean over i of k_i / |k_i|         score_i = -cos(k_i, anchor)
//   kept      floor(r n) rows, the product taken in f64, at least one
//
// A key of norm 0 adds nothing to the anchor and has score 0; if the anchor is 0, so have all.
// kvpress has small constants in place of these rules (1e-12 under |k|, 1e-8 under both norms of
// the cosine), which for other keys change nothing. n counts the judged rows: sinks of the window
// stay besides and do not enter the anchor. Values and queries play no role.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kvcodec/core/config.hpp"
#include "kvcodec/policy/keep.hpp"
#include "kvcodec/policy/knorm.hpp"
#include "kvcodec/policy/policy.hpp"

namespace kvcodec {

/// k [n_rows, head_dim], head_dim at most 256; writes score[n_rows], each in -1..1.
inline void keydiff_scores(int head_dim, std::int64_t n_rows, const float* k,
                           double* score) noexcept {
  double anchor[kMaxHeadDim] = {};
  for (std::int64_t i = 0; i < n_rows; ++i) {
    const float* x = k + i * head_dim;
    const double norm = row_norm(head_dim, x);
    score[i] = norm;
    if (norm == 0.0) continue;
    for (int c = 0; c < head_dim; ++c) anchor[c] += static_cast<double>(x[c]) / norm;
  }
  double square = 0.0;  // the factor 1 / n of the mean drops out of the cosine
  for (int c = 0; c < head_dim; ++c) square += anchor[c] * anchor[c];
  const double anchor_norm = std::sqrt(square);
  for (std::int64_t i = 0; i < n_rows; ++i) {
    const float* x = k + i * head_dim;
    double dot = 0.0;
    for (int c = 0; c < head_dim; ++c) dot += static_cast<double>(x[c]) * anchor[c];
    const double norms = score[i] * anchor_norm;
    score[i] = norms == 0.0 ? 0.0 : std::clamp(-dot / norms, -1.0, 1.0);
  }
}

struct KeyDiffRanking {
  static constexpr const char* family = "keydiff";
  static void scores(int head_dim, std::int64_t n_rows, const float* k, double* score) noexcept {
    keydiff_scores(head_dim, n_rows, k, score);
  }
};

using KeyDiff = KeepByKeyScore<KeyDiffRanking>;

static_assert(Policy<KeyDiff>);

}  // namespace kvcodec
