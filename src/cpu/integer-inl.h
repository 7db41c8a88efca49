// Products in integers: levels as bytes times multipliers as integers, several of each to a 32-bit lane
// and instruction, instead of one f32 multiply-add per value.
//
// A multiplier x (a query channel, or a token's weight times its scale) is unit * code with |code| <=
// 127, or for 8-bit levels with 15 bits; levels are IntegerLevels. Sums of a segment are exact, so they
// depend on nothing but the codes; their conversion, scales and zeros are f32 as in score-inl.h and
// add-inl.h.
//
// What an instruction set provides (integer_vnni-inl.h, integer_avx2-inl.h):
//
//   LargestMultiplier<Bytes>   what the unit of some multipliers is made of
//   put_codes<parts>    16 multipliers as codes of `parts` bytes
//   CodeSums            their sums, as biases of one query or of four
//   TableBytes<bits>, Table3Bytes, PlainBytes<signed>   how words become levels
//     kPerWord            codes of a lane's word
//     kParts              bytes of a multiplier's code
//     kLevelSteps, kZero  IntegerLevels: steps to the largest level, byte of level 0
//   sum_bytes           the products of some vectors of lanes
//   byte_vectors, most_byte_queries   how many vectors and queries share a pass
//
// They share how words and codes are loaded (integer_words-inl.h).

#if defined(KVCODEC_CPU_INTEGER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_INTEGER_INL_H_
#undef KVCODEC_CPU_INTEGER_INL_H_
#else
#define KVCODEC_CPU_INTEGER_INL_H_
#endif

#include "integer.hpp"
#include "params-inl.h"

#undef KVCODEC_BEFORE_INTEGERS
#if HWY_TARGET == HWY_AVX2
#define KVCODEC_BEFORE_INTEGERS() HWY_BEFORE_NAMESPACE()
#include "integer_avx2-inl.h"
#else
// Highway's AVX3_DL asks the processor for VNNI but does not tell the compiler.
#define KVCODEC_BEFORE_INTEGERS() \
  HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni,avx512vbmi") static_assert(true, "")
#include "integer_vnni-inl.h"
#endif

KVCODEC_BEFORE_INTEGERS();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// The largest code.
template <int kParts>
inline constexpr float kCodeLimit = kParts == 1 ? 127.0f : 127.0f * 128.0f;

/// Below this, which no product would notice, values count as 0: its inverse could overflow.
inline constexpr float kTinyMultiplier = 1e-30f;

/// Codes of x [n] (n a multiple of 16), `part_stride` bytes from part to part; bias[parts] becomes -kZero *
/// the sum of each part's codes. Returns the unit, NaN where x is not finite.
template <class Bytes>
HWY_INLINE float quantize(const float* x, int n, std::int8_t* codes, int part_stride,
                          std::int32_t* bias) {
  constexpr int kParts = Bytes::kParts;
  LargestMultiplier<Bytes> most;
  VF nan = hn::Zero(DF());
  for (int i = 0; i < n; i += kLanes) {
    VF value[kVectors];
    KVCODEC_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      value[v] = hn::LoadU(DF(), x + i + v * kN);
      nan = hn::MulAdd(value[v], hn::Zero(DF()), nan);
    }
    most.put(value);
  }
  const float largest =
      hn::GetLane(hn::MaxOfLanes(DF(), most.top())) + hn::GetLane(hn::SumOfLanes(DF(), nan));
  const bool tiny = largest < kTinyMultiplier;
  const VF inverse = hn::Set(DF(), tiny ? 0.0f : kCodeLimit<kParts> / largest);
  CodeSums<kParts> total;
  for (int i = 0; i < n; i += kLanes) {
    VF scaled[kVectors];
    KVCODEC_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      scaled[v] = hn::Mul(hn::LoadU(DF(), x + i + v * kN), inverse);
    }
    put_codes<kParts>(scaled, codes, i, part_stride, total);
  }
  total.template put_bias<Bytes::kZero>(bias);
  return tiny ? 0.0f : largest * (1.0f / kCodeLimit<kParts>);
}

/// query_passes(), for these instructions: the compiler inlines only into functions that have them all.
template <int kMost, class Pass>
HWY_INLINE void byte_passes(int n_q, const Pass& pass) {
  int i = 0;
  if constexpr (kMost >= 8) {
    for (; n_q - i >= 8; i += 8) pass.template run<8>(i);
  }
  for (; n_q - i >= 4; i += 4) pass.template run<4>(i);
  if (n_q - i == 3) pass.template run<3>(i);
  else if (n_q - i == 2) pass.template run<2>(i);
  else if (n_q - i == 1) pass.template run<1>(i);
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
