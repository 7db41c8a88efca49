// Policy "knorm": at the end of the prompt the keys of smallest L2 norm stay.
//
//   score_i = -|k_i|      kept: floor(r n) rows, the product taken in f64, at least one
//
// n counts the judged rows: sinks of the window stay besides. Values and queries play no role. The
// comparison in LagKV's paper leaves the first two layers alone; that is for the plan to say.
#pragma once

#include <cmath>
#include <cstdint>

#include "kvcodec/policy/keep.hpp"
#include "kvcodec/policy/policy.hpp"

namespace kvcodec {

/// L2 norm of a row, summed in f64.
inline double row_norm(int head_dim, const float* x) noexcept {
  double square = 0.0;
  for (int c = 0; c < head_dim; ++c)
    square += static_cast<double>(x[c]) * static_cast<double>(x[c]);
  return std::sqrt(square);
}

/// k [n_rows, head_dim]; writes score[n_rows].
inline void knorm_scores(int head_dim, std::int64_t n_rows, const float* k,
                         double* score) noexcept {
  for (std::int64_t i = 0; i < n_rows; ++i) score[i] = -row_norm(head_dim, k + i * head_dim);
}

struct KnormRanking {
  static constexpr const char* family = "knorm";
  static void scores(int head_dim, std::int64_t n_rows, const float* k, double* score) noexcept {
    knorm_scores(head_dim, n_rows, k, score);
  }
};

using Knorm = KeepByKeyScore<KnormRanking>;

static_assert(Policy<Knorm>);

}  // namespace kvcodec
