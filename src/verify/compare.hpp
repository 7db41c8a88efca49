// The comparator of golden arrays: infinities and NaN must match, finite values lie within a bound.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "kvcodec/core/dtype.hpp"
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

/// sqrt(mean of x^2); 0 for none.
inline double root_mean_square(const std::vector<float>& x) {
  double square = 0.0;
  for (const float value : x) square += static_cast<double>(value) * static_cast<double>(value);
  return x.empty() ? 0.0 : std::sqrt(square / static_cast<double>(x.size()));
}

/// Distance of two f16 values in steps of f16; both must be representable.
inline int f16_ulps_apart(float a, float b) noexcept {
  const auto place = [](float x) {
    const int bits = to_f16(x).bits;
    return (bits & 0x8000) != 0 ? -(bits & 0x7fff) : bits;
  };
  return std::abs(place(a) - place(b));
}

/// Distance of neighbouring f16 at |x|: 2^-24 at least.
inline double f16_ulp(float x) noexcept {
  return x == 0.0f ? 0x1p-24 : std::max(0x1p-24, std::ldexp(1.0, std::ilogb(x) - 10));
}

/// Throws mismatch(message) unless `holds`.
inline void require(bool holds, const std::string& message) {
  if (!holds) throw mismatch(message);
}

}  // namespace kvcodec::golden
