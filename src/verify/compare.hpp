// The comparator of golden arrays: infinities and NaN must match, finite values lie within a bound.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>

#include "src/verify/case.hpp"

namespace kvcodec::golden {

/// "1.234e-05"
inline std::string number_text(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", x);
  return text;
}

/// Largest |got - expected| over n values, `bound(i)` allowed at value i.
///
/// Throws mismatch naming `what`, the worst index, both values and the bound.
template <class Got, class Expected, class Bound>
double compare(const std::string& what, std::size_t n, const Got& got, const Expected& expected,
               const Bound& bound) {
  double worst = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    const auto a = static_cast<double>(got[i]);
    const auto b = static_cast<double>(expected[i]);
    const bool both_finite = std::isfinite(a) && std::isfinite(b);
    const double difference = std::abs(a - b);
    const auto allowed = static_cast<double>(bound(i));
    if (both_finite ? difference > allowed : !(a == b)) {
      char text[160];
      std::snprintf(text, sizeof text, "[%zu] = %.9g, expected %.9g +- %.3g", i, a, b, allowed);
      throw mismatch(what + text);
    }
    if (both_finite) worst = std::max(worst, difference);
  }
  return worst;
}

/// Throws mismatch(message) unless `holds`.
inline void require(bool holds, const std::string& message) {
  if (!holds) throw mismatch(message);
}

}  // namespace kvcodec::golden
