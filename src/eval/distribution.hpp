// How keys and values are distributed, and whether small groups of them pass for normal.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "src/eval/captured.hpp"
#include "src/output/output.hpp"

namespace kvcodec::eval {

/// D'Agostino and Pearson's test: from skewness and kurtosis together, how likely samples of a
/// normal distribution are at least as far from it.
struct Normality {
  double z_skew = 0.0;      ///< standard normal under the hypothesis
  double z_kurtosis = 0.0;  ///< the same
  double p = 1.0;           ///< of z_skew^2 + z_kurtosis^2, chi-squared with 2 degrees of freedom
};

/// Throws invalid_argument for less than 8 samples. Samples that are all the same have p = 0.
Normality normality(std::span<const float> samples);

/// One side of one layer.
struct Distribution {
  std::int32_t layer = 0;
  bool keys = true;
  double lo = 0.0, hi = 0.0;         ///< ends of the histogram: the smallest and largest value
  std::vector<std::int64_t> counts;  ///< equal bins from lo to hi
  double mean = 0.0, stddev = 0.0, skew = 0.0;
  double kurtosis = 0.0;      ///< 3 for a normal distribution
  double normal_share = 0.0;  ///< of groups of 64 tokens of one channel with p >= 5 %
  /// The same for what a group of NQKV holds: 64 neighbouring channels of one token.
  double normal_share_pooled = 0.0;
};

/// For every layer the keys, then the values. Shares are 0 where there are less than 64 tokens.
std::vector<Distribution> distributions(const Captured& data, std::int32_t n_bins = 64);

output::Json to_json(const std::vector<Distribution>& rows);

}  // namespace kvcodec::eval
