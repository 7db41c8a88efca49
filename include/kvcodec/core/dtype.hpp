// Storage types f32, f16 and bf16 and their conversions.
//
// Conversions are written in integer arithmetic, so that every compiler and back-end produces the
// same bits: round to nearest, ties to even; NaN stays a quiet NaN; f16 overflows to infinity from
// 65520 on, exactly as hardware conversions do.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcodec/core/config.hpp"

namespace kvcodec {

/// Largest finite f16.
inline constexpr float kF16Max = 65504.0f;
/// Largest finite bf16.
inline constexpr float kBf16Max = 3.3895313892515355e38f;
/// Largest finite f32.
inline constexpr float kF32Max = 3.4028234663852886e38f;

/// IEEE 754 binary16, storage only.
struct f16 {
  std::uint16_t bits = 0;
};

/// The upper half of an IEEE 754 binary32, storage only.
struct bf16 {
  std::uint16_t bits = 0;
};

/// Storage type of rows that are not encoded.
enum class DType : std::uint8_t { f32, f16, bf16 };

/// Bytes of one value.
KVCODEC_HD constexpr std::size_t dtype_bytes(DType t) noexcept { return t == DType::f32 ? 4 : 2; }

/// Largest finite value; larger input is clamped to it when rows are stored.
KVCODEC_HD constexpr float dtype_max(DType t) noexcept {
  return t == DType::f32 ? kF32Max : t == DType::f16 ? kF16Max : kBf16Max;
}

/// "f32", "f16" or "bf16"; static storage.
constexpr const char* to_string(DType t) noexcept {
  return t == DType::f32 ? "f32" : t == DType::f16 ? "f16" : "bf16";
}

/// Rounds to f16, to nearest even.
KVCODEC_HD constexpr f16 to_f16(float x) noexcept {
  const std::uint32_t u = bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = (u >> 16) & 0x8000u;
  const std::uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7e00u)};
  if (a >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};  // 65520 and above
  if (a < 0x33000001u) return {static_cast<std::uint16_t>(sign)};             // 2^-25 and below
  if (a < 0x38800000u) {
    // Subnormal result: shift the 24-bit significand so that one unit is 2^-24.
    const std::uint32_t shift = 126u - (a >> 23);
    const std::uint32_t m = (a & 0x7fffffu) | 0x800000u;
    const std::uint32_t kept = m >> shift;
    const std::uint32_t rest = m & ((1u << shift) - 1u);
    const std::uint32_t half = 1u << (shift - 1u);
    const std::uint32_t up = (rest > half || (rest == half && (kept & 1u) != 0u)) ? 1u : 0u;
    return {static_cast<std::uint16_t>(sign | (kept + up))};
  }
  const std::uint32_t rebased = a - 0x38000000u;
  const std::uint32_t rounded = rebased + 0xfffu + ((rebased >> 13) & 1u);
  return {static_cast<std::uint16_t>(sign | (rounded >> 13))};
}

/// Rounds to bf16, to nearest even.
KVCODEC_HD constexpr bf16 to_bf16(float x) noexcept {
  const std::uint32_t u = bit_cast<std::uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

/// Exact.
KVCODEC_HD constexpr float to_f32(f16 h) noexcept {
  const std::uint32_t sign = (static_cast<std::uint32_t>(h.bits) & 0x8000u) << 16;
  const std::uint32_t exponent = (h.bits >> 10) & 0x1fu;
  const std::uint32_t mantissa = h.bits & 0x3ffu;
  if (exponent == 0x1fu) return bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24
  return sign != 0 ? -magnitude : magnitude;
}

/// Exact.
KVCODEC_HD constexpr float to_f32(bf16 h) noexcept {
  return bit_cast<float>(static_cast<std::uint32_t>(h.bits) << 16);
}

/// Exact.
KVCODEC_HD constexpr float to_f32(float x) noexcept { return x; }

/// Rounds to `T`.
template <class T>
KVCODEC_HD constexpr T from_f32(float x) noexcept;
template <>
KVCODEC_HD constexpr float from_f32<float>(float x) noexcept {
  return x;
}
template <>
KVCODEC_HD constexpr f16 from_f32<f16>(float x) noexcept {
  return to_f16(x);
}
template <>
KVCODEC_HD constexpr bf16 from_f32<bf16>(float x) noexcept {
  return to_bf16(x);
}

/// The `DType` of a C++ storage type.
template <class T>
inline constexpr DType dtype_of = DType::f32;
template <>
inline constexpr DType dtype_of<f16> = DType::f16;
template <>
inline constexpr DType dtype_of<bf16> = DType::bf16;

/// Reads value `i` of an array of type `t`.
KVCODEC_HD inline float load_value(DType t, const void* data, std::int64_t i) noexcept {
  switch (t) {
    case DType::f16: return to_f32(static_cast<const f16*>(data)[i]);
    case DType::bf16: return to_f32(static_cast<const bf16*>(data)[i]);
    default: return static_cast<const float*>(data)[i];
  }
}

/// Rounds and writes value `i` of an array of type `t`.
KVCODEC_HD inline void store_value(DType t, void* data, std::int64_t i, float x) noexcept {
  switch (t) {
    case DType::f16: static_cast<f16*>(data)[i] = to_f16(x); break;
    case DType::bf16: static_cast<bf16*>(data)[i] = to_bf16(x); break;
    default: static_cast<float*>(data)[i] = x; break;
  }
}

}  // namespace kvcodec
