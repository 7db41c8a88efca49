// Policy "knorm": at the end of the prompt the keys of smallest L2 norm stay.
//
//   score_i = -|k_i|      kept: floor(r n) rows, the product taken in f64, at least one
//
// n counts the judged rows: sinks of the window stay besides. Values and queries play no role. The
// comparison in LagKV's paper leaves the first two layers alone; that is for the plan to say.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

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

struct Knorm {
  static constexpr const char* family = "knorm";
  static constexpr const char* options_help = kKeepRatioHelp;

  double keep_ratio = 0.5;

  /// Throws invalid_argument.
  static Knorm parse(const std::string& options) { return parse_keep_ratio_only<Knorm>(options); }
  std::string name() const { return std::string(family) + ":r" + format_double(keep_ratio); }

  std::int32_t chunk_rows() const noexcept { return 0; }
  std::int32_t lookahead_rows() const noexcept { return 0; }
  std::int32_t observed_rows() const noexcept { return 0; }

  void select(const PolicyRows& rows, std::span<KeepMask> keep) const {
    check_rows(family, rows, keep);
    std::vector<double> score(keep.size());
    knorm_scores(rows.head_dim, rows.n_rows, rows.k, score.data());
    keep_largest(score, std::max<std::int64_t>(kept_count(keep_ratio, rows.n_rows), 1), keep);
  }
};

static_assert(Policy<Knorm>);

}  // namespace kvcodec
