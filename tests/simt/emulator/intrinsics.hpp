// Intrinsics that the CUDA headers offer only to nvcc. Included by device_language.hpp. What a kernel
// needs and does not find here is a compile error: add it, exactly.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_types.h>

namespace kvcodec::simt {

constexpr bool is_subnormal(float x) {
  const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(x) & 0x7fffffffu;
  return magnitude != 0 && magnitude < 0x00800000u;
}

/// What .ftz does to operands and results: a zero of the same sign.
constexpr float flush_subnormal(float x) {
  if (!is_subnormal(x)) return x;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) & 0x80000000u);
}

constexpr std::uint32_t lop3(int table, std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t d = 0;
  for (int row = 0; row < 8; ++row) {  // row = 4 * bit of a + 2 * bit of b + bit of c
    if ((table >> row & 1) == 0) continue;
    d |= ((row & 4) != 0 ? a : ~a) & ((row & 2) != 0 ? b : ~b) & ((row & 1) != 0 ? c : ~c);
  }
  return d;
}

/// Nearest integer of the type, NaN becomes 0, too large becomes the limit: what cvt does.
template <class Int>
Int convert_to_integer(double rounded) {
  if (std::isnan(rounded)) return 0;
  constexpr double kLow = static_cast<double>(std::numeric_limits<Int>::min());
  constexpr double kHigh = static_cast<double>(std::numeric_limits<Int>::max());
  if (rounded <= kLow) return std::numeric_limits<Int>::min();
  if (rounded >= kHigh) return std::numeric_limits<Int>::max();
  return static_cast<Int>(rounded);
}

}  // namespace kvcodec::simt

// CUDA's names, which are reserved; half2 and its like go by value.
// NOLINTBEGIN(bugprone-reserved-identifier,performance-unnecessary-value-param)

// ---- Bits. ----

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline int __ffsll(long long x) {
  return x == 0 ? 0 : std::countr_zero(static_cast<unsigned long long>(x)) + 1;
}
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= (x >> i & 1u) << (31 - i);
  return r;
}
/// Byte i of the result is byte (selector >> 4 * i) & 7 of the eight bytes b:a; selector bit 3 of
/// the four spreads that byte's sign instead.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const std::uint64_t bytes = std::uint64_t{b} << 32 | a;
  unsigned r = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned s = selector >> (4 * i) & 0xfu;
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (s & 7u))) & 0xffu;
    if ((s & 8u) != 0) byte = (byte & 0x80u) != 0 ? 0xffu : 0u;
    r |= byte << (8 * i);
  }
  return r;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((std::uint64_t{high} << 32 | low) << (shift & 31u) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((std::uint64_t{high} << 32 | low) >> (shift & 31u));
}
inline int __dp4a(int a, int b, int c) {
  unsigned sum = static_cast<unsigned>(c);
  for (int i = 0; i < 4; ++i) {
    sum += static_cast<unsigned>(static_cast<std::int8_t>(a >> (8 * i)) *
                                 static_cast<std::int8_t>(b >> (8 * i)));
  }
  return static_cast<int>(sum);
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 4; ++i) c += (a >> (8 * i) & 0xffu) * (b >> (8 * i) & 0xffu);
  return c;
}

inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }

// ---- Numbers. ----

inline int min(int a, int b) { return b < a ? b : a; }
inline int max(int a, int b) { return a < b ? b : a; }
inline unsigned min(unsigned a, unsigned b) { return b < a ? b : a; }
inline unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
inline long min(long a, long b) { return b < a ? b : a; }
inline long max(long a, long b) { return a < b ? b : a; }
inline unsigned long min(unsigned long a, unsigned long b) { return b < a ? b : a; }
inline unsigned long max(unsigned long a, unsigned long b) { return a < b ? b : a; }
inline long long min(long long a, long long b) { return b < a ? b : a; }
inline long long max(long long a, long long b) { return a < b ? b : a; }
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __saturatef(float x) { return std::fmin(std::fmax(x, 0.0f), 1.0f); }

inline int __float2int_rn(float x) {
  return kvcodec::simt::convert_to_integer<int>(std::nearbyint(double{x}));
}
inline int __float2int_rz(float x) {
  return kvcodec::simt::convert_to_integer<int>(std::trunc(double{x}));
}
inline int __float2int_rd(float x) {
  return kvcodec::simt::convert_to_integer<int>(std::floor(double{x}));
}
inline int __float2int_ru(float x) {
  return kvcodec::simt::convert_to_integer<int>(std::ceil(double{x}));
}
inline unsigned __float2uint_rn(float x) {
  return kvcodec::simt::convert_to_integer<unsigned>(std::nearbyint(double{x}));
}
inline unsigned __float2uint_rz(float x) {
  return kvcodec::simt::convert_to_integer<unsigned>(std::trunc(double{x}));
}
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }

// ---- Loads and stores with a cache hint. ----

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, std::type_identity_t<T> v) {
  *p = v;
}
template <class T>
void __stcg(T* p, std::type_identity_t<T> v) {
  *p = v;
}

// ---- Fused multiply-add of 16-bit floats: in double, so that a result may differ in rare cases of
// double rounding. ----

inline __half __hfma(__half a, __half b, __half c) {
  return __double2half(double{__half2float(a)} * double{__half2float(b)} + double{__half2float(c)});
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return __halves2half2(__hfma(__low2half(a), __low2half(b), __low2half(c)),
                        __hfma(__high2half(a), __high2half(b), __high2half(c)));
}
inline __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c) {
  return __double2bfloat16(double{__bfloat162float(a)} * double{__bfloat162float(b)} +
                           double{__bfloat162float(c)});
}
inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) {
  return __halves2bfloat162(__hfma(__low2bfloat16(a), __low2bfloat16(b), __low2bfloat16(c)),
                            __hfma(__high2bfloat16(a), __high2bfloat16(b), __high2bfloat16(c)));
}

inline __half hexp2(__half x) { return __float2half_rn(std::exp2(__half2float(x))); }
inline __half2 h2exp2(__half2 x) {
  return __halves2half2(hexp2(__low2half(x)), hexp2(__high2half(x)));
}
inline __half hrcp(__half x) { return __float2half_rn(1.0f / __half2float(x)); }
inline __half2 h2rcp(__half2 x) {
  return __halves2half2(hrcp(__low2half(x)), hrcp(__high2half(x)));
}
inline int __half2int_rn(__half x) { return __float2int_rn(__half2float(x)); }

// ---- Ends. ----

inline void __nanosleep(unsigned) {}

[[noreturn]] inline void __trap() { kvcodec::simt::fail("__trap", "the kernel gave up"); }

// NOLINTEND(bugprone-reserved-identifier,performance-unnecessary-value-param)
