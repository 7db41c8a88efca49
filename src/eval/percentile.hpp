// Ranks of measured values.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace kvcodec::eval {

/// The smallest of `samples` (not empty) that a share of 0..1 of them does not exceed.
inline double percentile(std::vector<double> samples, double share) {
  std::sort(samples.begin(), samples.end());
  const double rank = std::ceil(share * static_cast<double>(samples.size()));
  return samples[static_cast<std::size_t>(std::max(rank, 1.0)) - 1];
}

}  // namespace kvcodec::eval
