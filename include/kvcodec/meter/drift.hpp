// Running means of an error and the decision that it has drifted.
//
// Two things are wrong with an error: it is large (threshold), or it is larger than it used to be
// (factor times its own baseline). An alarm is raised once and lasts until the error is clearly below
// what raised it, so that an error near the limit does not ring over and over.
#pragma once

#include <algorithm>
#include <cstdint>

namespace kvcodec {

/// Settings of a drift alarm. Errors are relative: 0 is exact, 1 as large as the output itself.
struct DriftOptions {
  std::int32_t window = 4;            ///< observations of the running error; 1..65536
  std::int32_t baseline_window = 32;  ///< observations of the baseline; window..65536
  std::int32_t min_baseline = 8;      ///< observations before the baseline counts; 2..65536
  double threshold = 0.5;             ///< running error that is too large by itself; > 0
  double factor = 2.0;                ///< times the baseline; > 1
  double floor = 0.02;  ///< a running error below it is never drift; 0 <= floor < threshold
  double recover =
      0.75;  ///< an alarm ends below recover times what would raise it; 0 < recover < 1
};

/// Throws invalid_argument naming the field that is out of range.
void check(const DriftOptions& options);

/// The mean of the first `window` numbers, exponentially weighted (1 / window) from then on.
struct RunningMean {
  double mean = 0.0;
  std::int64_t n = 0;

  void add(double x, std::int32_t window) noexcept {
    ++n;
    mean += (x - mean) / static_cast<double>(std::min<std::int64_t>(n, window));
  }
};

/// Whether a running error is too large, drifts, or is clearly neither. A drift needs two observations,
/// so that a single one never rings.
struct DriftRule {
  const DriftOptions& options;

  bool has_baseline(const RunningMean& baseline) const noexcept {
    return baseline.n >= options.min_baseline;
  }
  /// The running error from which it is drift.
  double limit(const RunningMean& baseline) const noexcept {
    return std::max(options.factor * baseline.mean, options.floor);
  }
  bool too_large(const RunningMean& error) const noexcept { return error.mean > options.threshold; }
  bool drifts(const RunningMean& error, const RunningMean& baseline) const noexcept {
    return error.n >= 2 && has_baseline(baseline) && error.mean > limit(baseline);
  }
  /// Adds an observation to a baseline, at most as large as its limit: the beginning of a drift is not
  /// how it normally is.
  void learn(RunningMean& baseline, double error) const noexcept {
    baseline.add(has_baseline(baseline) ? std::min(error, limit(baseline)) : error,
                 options.baseline_window);
  }
  bool recovered(const RunningMean& error, const RunningMean& baseline) const noexcept {
    return error.mean <= options.recover * options.threshold &&
           (!has_baseline(baseline) || error.mean <= options.recover * limit(baseline));
  }
};

}  // namespace kvcodec
