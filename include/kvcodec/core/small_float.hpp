// The 8-bit and 4-bit floats of hardware matrix units, storage only, and their conversions:
//
//   e4m3   sign, 4 exponent bits (bias 7), 3 mantissa bits; the "fn" variant of OCP's 8-bit formats:
//          no infinity, NaN is 0x7f and 0xff, largest 448 (0x7e), smallest normal 2^-6 (0x08),
//          subnormals in steps of 2^-9.
//   e2m1   sign, 2 exponent bits (bias 1), 1 mantissa bit: 0, 0.5, 1, 1.5, 2, 3, 4, 6 for codes 0..7
//          and their negatives for 8..15; no infinity, no NaN.
//   e8m0   no sign, 8 exponent bits: 2^(bits - 127) for 0..254, NaN for 255.
//
// Sources: OCP 8-bit Floating Point Specification (OFP8) 1.0; OCP Microscaling Formats (MX) 1.0.
// Conversions to them are written in integers and comparisons, so that every compiler and back-end
// produces the same bits: to nearest, ties to the code whose last bit is 0, and saturating, which is
// what the hardware's "satfinite" mode does.
#pragma once

#include <cstdint>

#include "kvcodec/core/config.hpp"

namespace kvcodec {

/// Largest finite e4m3.
inline constexpr float kE4m3Max = 448.0f;
/// Largest e2m1.
inline constexpr float kE2m1Max = 6.0f;

/// 8-bit float, see the head of the file.
struct e4m3 {
  std::uint8_t bits = 0;
};

/// 4-bit float in the low half of a byte.
struct e2m1 {
  std::uint8_t bits = 0;
};

/// A power of two.
struct e8m0 {
  std::uint8_t bits = 0;
};

/// Rounds to e4m3; beyond +-448, infinities included, becomes +-448. NaN becomes NaN.
KVCODEC_HD constexpr e4m3 to_e4m3(float x) noexcept {
  const std::uint32_t u = bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = (u >> 24) & 0x80u;
  const std::uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return {static_cast<std::uint8_t>(sign | 0x7fu)};
  if (a >= 0x43e00000u) return {static_cast<std::uint8_t>(sign | 0x7eu)};  // 448 and above
  if (a < 0x3a800001u) return {static_cast<std::uint8_t>(sign)};           // 2^-10 and below
  if (a < 0x3c800000u) {
    // Subnormal result: shift the 24-bit significand so that one unit is 2^-9.
    const std::uint32_t shift = 141u - (a >> 23);
    const std::uint32_t m = (a & 0x7fffffu) | 0x800000u;
    const std::uint32_t kept = m >> shift;
    const std::uint32_t rest = m & ((1u << shift) - 1u);
    const std::uint32_t half = 1u << (shift - 1u);
    const std::uint32_t up = (rest > half || (rest == half && (kept & 1u) != 0u)) ? 1u : 0u;
    return {static_cast<std::uint8_t>(sign | (kept + up))};
  }
  const std::uint32_t rebased = a - 0x3c000000u;  // exponent bias 127 -> 7
  const std::uint32_t rounded = rebased + 0x7ffffu + ((rebased >> 20) & 1u);
  return {static_cast<std::uint8_t>(sign | (rounded >> 20))};
}

/// Exact; the NaN codes become quiet NaN.
KVCODEC_HD constexpr float to_f32(e4m3 v) noexcept {
  const std::uint32_t sign = (static_cast<std::uint32_t>(v.bits) & 0x80u) << 24;
  const std::uint32_t a = v.bits & 0x7fu;
  if (a == 0x7fu) return bit_cast<float>(sign | 0x7fc00000u);
  if (a >= 8u) return bit_cast<float>(sign | ((a << 20) + 0x3c000000u));
  const float magnitude = static_cast<float>(a) * 0.001953125f;  // 2^-9
  return sign != 0 ? -magnitude : magnitude;
}

/// Midpoint between the levels of codes i and i + 1, i = 0..6.
KVCODEC_HD constexpr float e2m1_midpoint(int i) noexcept {
  constexpr float midpoints[7] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  return midpoints[i];
}

/// Code 0..7 of a magnitude counted in units of `unit` > 0: nearest level * unit, with each midpoint
/// rounded once to f32; a value equal to it goes to the even code. NaN gives 0.
KVCODEC_HD constexpr std::uint8_t e2m1_code_of(float magnitude, float unit) noexcept {
  int code = 0;
  for (int i = 0; i < 7; i += 2) code += magnitude > e2m1_midpoint(i) * unit ? 1 : 0;
  for (int i = 1; i < 7; i += 2) code += magnitude >= e2m1_midpoint(i) * unit ? 1 : 0;
  return static_cast<std::uint8_t>(code);
}

/// Rounds to e2m1; beyond +-6, infinities included, becomes +-6. NaN becomes 0.
KVCODEC_HD constexpr e2m1 to_e2m1(float x) noexcept {
  if (x != x) return {};
  const std::uint32_t u = bit_cast<std::uint32_t>(x);
  const std::uint32_t code = e2m1_code_of(bit_cast<float>(u & 0x7fffffffu), 1.0f);
  return {static_cast<std::uint8_t>(((u >> 28) & 8u) | code)};
}

/// Exact. Bits above the fourth are ignored.
KVCODEC_HD constexpr float to_f32(e2m1 v) noexcept {
  constexpr float levels[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
  return levels[v.bits & 15u];
}

/// floor(log2(x)) of a finite x > 0, subnormals included: -149..127.
KVCODEC_HD constexpr int floor_log2(float x) noexcept {
  const std::uint32_t a = bit_cast<std::uint32_t>(x) & 0x7fffffffu;
  if (a >= 0x800000u) return static_cast<int>(a >> 23) - 127;
  int exponent = -149;
  for (std::uint32_t rest = a >> 1; rest != 0; rest >>= 1) ++exponent;
  return exponent;
}

/// 2^exponent; exponents outside -127..127 become the nearer end.
KVCODEC_HD constexpr e8m0 to_e8m0(int exponent) noexcept {
  const int limited = exponent < -127 ? -127 : exponent > 127 ? 127 : exponent;
  return {static_cast<std::uint8_t>(limited + 127)};
}

/// Exact; 2^-127 is a subnormal f32.
KVCODEC_HD constexpr float to_f32(e8m0 v) noexcept {
  if (v.bits == 255) return bit_cast<float>(0x7fc00000u);
  if (v.bits == 0) return bit_cast<float>(0x00400000u);
  return bit_cast<float>(static_cast<std::uint32_t>(v.bits) << 23);
}

}  // namespace kvcodec
