// What policies that rank rows by a score share: how many stay, which, and the option for it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "kvcodec/core/config.hpp"
#include "kvcodec/core/error.hpp"
#include "kvcodec/core/options.hpp"
#include "kvcodec/policy/policy.hpp"

namespace kvcodec {

/// Rows kept of `n` at a keep ratio in 0..1: the f64 product, rounded down.
///
/// The published codes count like this, so 0.57 of 100 rows is 56: the product is 56.99...
KVCODEC_HD inline std::int64_t kept_count(double keep_ratio, std::int64_t n) noexcept {
  return static_cast<std::int64_t>(keep_ratio * static_cast<double>(n));
}

inline constexpr double kSmallestScore = -std::numeric_limits<double>::infinity();

/// A score as it is compared: NaN counts as the smallest.
KVCODEC_HD inline double ordered(double score) noexcept {
  return score != score ? kSmallestScore : score;
}

/// Sets keep[i] to kKeptByAll for the n_kept rows of largest score, to 0 for the others.
///
/// Equal scores: the lower position stays. n_kept is cut to 0..score.size(). `keep` has the size of
/// `score`. Allocates one index per row.
inline void keep_largest(std::span<const double> score, std::int64_t n_kept,
                         std::span<KeepMask> keep) {
  const auto n = static_cast<std::int64_t>(score.size());
  n_kept = std::clamp<std::int64_t>(n_kept, 0, n);
  std::fill(keep.begin(), keep.end(), KeepMask{0});
  std::vector<std::int32_t> order(score.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
  const auto at = [&](std::int32_t i) { return ordered(score[static_cast<std::size_t>(i)]); };
  std::nth_element(
      order.begin(), order.begin() + n_kept, order.end(),
      [&](std::int32_t a, std::int32_t b) { return at(a) != at(b) ? at(a) > at(b) : a < b; });
  for (std::int64_t i = 0; i < n_kept; ++i) {
    keep[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])] = kKeptByAll;
  }
}

/// Throws invalid_argument unless the library takes rows of this size and `keep` has n_rows masks.
inline void check_rows(const char* family, const PolicyRows& rows, std::span<KeepMask> keep) {
  if (rows.head_dim < kMinHeadDim || rows.head_dim > kMaxHeadDim || rows.head_dim % kLanes != 0) {
    throw invalid_argument(bad_value(family, "head_dim", rows.head_dim, "64..256 in steps of 16"));
  }
  if (rows.n_rows < 0 || rows.n_ahead < 0) {
    throw invalid_argument(
        bad_value(family, "n_rows or n_ahead", std::min(rows.n_rows, rows.n_ahead), "0 or more"));
  }
  if (static_cast<std::int64_t>(keep.size()) != rows.n_rows) {
    throw invalid_argument(
        bad_value(family, "keep.size()", keep.size(), "n_rows = " + std::to_string(rows.n_rows)));
  }
}

inline constexpr const char* kKeepRatioHelp = "r<keep ratio>: above 0 to 1 (default 0.5)";

/// Parses "r<keep ratio>". Returns false and leaves `keep_ratio` if it is something else.
inline bool parse_keep_ratio(const std::string& option, double& keep_ratio) {
  return !option.empty() && option[0] == 'r' &&
         parse_double(option.substr(1), std::numeric_limits<double>::min(), 1.0, keep_ratio);
}

/// Parses options of which the keep ratio is the only one.
template <class P>
P parse_keep_ratio_only(const std::string& options) {
  P p;
  for (const std::string& option : split_options(options)) {
    if (!parse_keep_ratio(option, p.keep_ratio)) {
      throw invalid_argument(bad_value(P::family, "option", option, P::options_help));
    }
  }
  return p;
}

/// A policy at the prompt that ranks rows by a score of their keys alone.
///
///   Ranking::family                                name of the policy
///   Ranking::scores(head_dim, n_rows, k, score)    k [n_rows, head_dim] -> score [n_rows]
///
/// Keeps floor(keep_ratio * n_rows) rows of largest score, at least one.
template <class Ranking>
struct KeepByKeyScore {
  static constexpr const char* family = Ranking::family;
  static constexpr const char* options_help = kKeepRatioHelp;

  double keep_ratio = 0.5;

  /// Throws invalid_argument.
  static KeepByKeyScore parse(const std::string& options) {
    return parse_keep_ratio_only<KeepByKeyScore>(options);
  }
  std::string name() const { return std::string(family) + ":r" + format_double(keep_ratio); }

  std::int32_t chunk_rows() const noexcept { return 0; }
  std::int32_t lookahead_rows() const noexcept { return 0; }
  std::int32_t observed_rows() const noexcept { return 0; }

  void select(const PolicyRows& rows, std::span<KeepMask> keep) const {
    check_rows(family, rows, keep);
    std::vector<double> score(keep.size());
    Ranking::scores(rows.head_dim, rows.n_rows, rows.k, score.data());
    keep_largest(score, std::max<std::int64_t>(kept_count(keep_ratio, rows.n_rows), 1), keep);
  }
};

}  // namespace kvcodec
