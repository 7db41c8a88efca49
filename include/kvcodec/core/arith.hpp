// The few float operations codecs may use and stay bit-exact on every back-end.
//
// A product that feeds a sum may be fused by one compiler and not by another; codecs use single
// products, divisions and the functions below, and nothing that can be fused.
#pragma once

#include <cstdint>

#include "kvcodec/core/config.hpp"

namespace kvcodec {

/// |x|, NaN included.
KVCODEC_HD constexpr float abs_of(float x) noexcept {
  return bit_cast<float>(bit_cast<std::uint32_t>(x) & 0x7fffffffu);
}

/// True unless x is NaN or infinite.
KVCODEC_HD constexpr bool is_finite(float x) noexcept {
  return (bit_cast<std::uint32_t>(x) & 0x7f800000u) != 0x7f800000u;
}

/// NaN becomes 0; everything beyond +-limit becomes +-limit. Never NaN, never infinite.
KVCODEC_HD constexpr float clamp_finite(float x, float limit) noexcept {
  if (x != x) return 0.0f;
  return x > limit ? limit : x < -limit ? -limit : x;
}

/// y [n] <- clamp_finite(x [n], limit); false if a value of x was not finite.
KVCODEC_HD constexpr bool load_finite(const float* x, int n, float limit, float* y) noexcept {
  bool finite = true;
  for (int i = 0; i < n; ++i) {
    finite &= is_finite(x[i]);
    y[i] = clamp_finite(x[i], limit);
  }
  return finite;
}

/// The largest |x| of n values; 0 for none.
KVCODEC_HD constexpr float largest_magnitude(const float* x, int n) noexcept {
  float largest = 0.0f;
  for (int i = 0; i < n; ++i) {
    const float a = abs_of(x[i]);
    largest = a > largest ? a : largest;
  }
  return largest;
}

/// Nearest integer, ties to even, for |x| < 2^22.
///
/// Adding and subtracting 1.5 * 2^23 rounds in the hardware's default mode, on every back-end the
/// same; it needs a compiler that does not reassociate, which is the default of all of them.
KVCODEC_HD constexpr int round_even(float x) noexcept {
  const float magic = 12582912.0f;
  const float shifted = x + magic;
  return static_cast<int>(shifted - magic);
}

}  // namespace kvcodec
