// Products in integers: levels as bytes times multipliers as signed bytes, four of each to a 32-bit
// lane and instruction (VNNI), instead of one f32 multiply-add per value.
//
// A multiplier x (a query channel, or a token's weight times its scale) is unit * code with |code| <=
// 127, or in two parts unit * (128 * high + low) with 15 bits; levels are IntegerLevels. Sums of a
// segment are exact, so they depend on nothing but the codes; their conversion, scales and zeros are
// f32 as in score-inl.h and add-inl.h.
//
// Compiled for AVX-512 with VNNI and VBMI only.

#if defined(KVCODEC_CPU_INTEGER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_INTEGER_INL_H_
#undef KVCODEC_CPU_INTEGER_INL_H_
#else
#define KVCODEC_CPU_INTEGER_INL_H_
#endif

#include <cstring>

#include "integer.hpp"
#include "params-inl.h"

// Highway's AVX3_DL asks the processor for VNNI but does not tell the compiler.
#undef KVCODEC_BEFORE_INTEGERS
#define KVCODEC_BEFORE_INTEGERS() \
  HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni,avx512vbmi") static_assert(true, "")

KVCODEC_BEFORE_INTEGERS();
namespace kvcodec::cpu::HWY_NAMESPACE {

// ---- Multipliers ----

/// Codes of x [n] (n <= kMaxHeadDim, a multiple of 16), `part_stride` bytes from part to part. Adds
/// -128 * the sum of each part's codes to bias[parts]. Returns the unit: 0 where x is 0, NaN where x is
/// not finite.
template <int kParts>
HWY_INLINE float quantize(const float* x, int n, std::int8_t* codes, int part_stride,
                          std::int32_t* bias) {
  VF top = hn::Zero(DF());
  VF nan = hn::Zero(DF());
  for (int i = 0; i < n; i += kN) {
    const VF value = hn::LoadU(DF(), x + i);
    top = hn::Max(top, hn::Abs(value));
    nan = hn::MulAdd(value, hn::Zero(DF()), nan);
  }
  const float largest =
      hn::GetLane(hn::MaxOfLanes(DF(), top)) + hn::GetLane(hn::SumOfLanes(DF(), nan));
  constexpr float kLimit = kParts == 1 ? 127.0f : 127.0f * 128.0f;
  // Below the smallest normal number 1 / largest could overflow.
  const bool tiny = largest < 1e-30f;
  const VF inverse = hn::Set(DF(), tiny ? 0.0f : kLimit / largest);
  __m512i total[kParts];
  KVCODEC_UNROLL
  for (int part = 0; part < kParts; ++part) total[part] = _mm512_setzero_si512();
  for (int i = 0; i < n; i += kN) {
    const __m512i code = _mm512_cvtps_epi32(hn::Mul(hn::LoadU(DF(), x + i), inverse).raw);
    __m512i part[2] = {code, code};
    if constexpr (kParts == 2) {
      part[0] = _mm512_srai_epi32(_mm512_add_epi32(code, _mm512_set1_epi32(64)), 7);
      part[1] = _mm512_sub_epi32(code, _mm512_slli_epi32(part[0], 7));
    }
    KVCODEC_UNROLL
    for (int p = 0; p < kParts; ++p) {
      total[p] = _mm512_add_epi32(total[p], part[p]);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + p * part_stride + i),
                       _mm512_cvtepi32_epi8(part[p]));
    }
  }
  KVCODEC_UNROLL
  for (int p = 0; p < kParts; ++p) bias[p] = -128 * _mm512_reduce_add_epi32(total[p]);
  return tiny ? 0.0f : largest / kLimit;
}

// ---- Levels ----

/// What decoders share: how a vector of words becomes kSteps vectors of bytes, each four neighbours of
/// the summed axis per lane. Bits above those of a code may be anything: the table repeats.
struct ByteTable {
  HWY_INLINE explicit ByteTable(const IntegerLevels& levels)
      : table(_mm512_load_si512(levels.bytes)) {}

  __m512i table;
};

template <int kBits>
struct TableBytes : ByteTable {
  HWY_INLINE explicit TableBytes(const IntegerLevels& levels) : ByteTable(levels) {}

  using Loaded = __m512i;
  static constexpr int kPerWord = 32 / kBits;
  static constexpr int kSteps = 8 / kBits;
  static constexpr int kParts = 1;
  static constexpr bool kHighPlane = false;

  template <int kStep>
  HWY_INLINE __m512i bytes(__m512i word) const {
    const __m512i index = kStep == 0 ? word : _mm512_srli_epi32(word, kBits * kStep);
    return _mm512_permutexvar_epi8(index, table);
  }
};

struct Table3Bytes : ByteTable {
  HWY_INLINE explicit Table3Bytes(const IntegerLevels& levels) : ByteTable(levels) {}

  struct Loaded {
    __m512i low, high;
  };
  static constexpr int kPerWord = 16;
  static constexpr int kSteps = 4;
  static constexpr int kParts = 1;
  static constexpr bool kHighPlane = true;

  template <int kStep>
  HWY_INLINE __m512i bytes(const Loaded& word) const {
    const __m512i low = kStep == 0 ? word.low : _mm512_srli_epi32(word.low, 2 * kStep);
    const __m512i high = kStep == 2  ? word.high
                         : kStep < 2 ? _mm512_slli_epi32(word.high, 2 - kStep)
                                     : _mm512_srli_epi32(word.high, kStep - 2);
    const __m512i two = _mm512_set1_epi8(3);
    return _mm512_permutexvar_epi8(_mm512_ternarylogic_epi32(two, low, high, 0xca), table);
  }
};

/// Codes that are the levels themselves; two's complement ones are moved up by 128.
template <bool kSigned>
struct PlainBytes {
  using Loaded = __m512i;
  static constexpr int kPerWord = 4;
  static constexpr int kSteps = 1;
  static constexpr int kParts = 2;
  static constexpr bool kHighPlane = false;

  HWY_INLINE explicit PlainBytes(const IntegerLevels&) {}

  template <int kStep>
  HWY_INLINE __m512i bytes(__m512i word) const {
    return kSigned ? _mm512_xor_si512(word, _mm512_set1_epi8(-128)) : word;
  }
};

// ---- The product ----

/// Codes of query i, part p at data + i * stride + p * part_stride.
struct CodeRows {
  const std::int8_t* data;
  std::size_t stride;
  std::size_t part_stride;
};

template <class Bytes>
HWY_INLINE typename Bytes::Loaded load_word(const Lines& lines, int w, int line) {
  const auto j = static_cast<std::size_t>(line);
  const std::uint8_t* at = lines.data + j * lines.stride + static_cast<std::size_t>(w) * kLineBytes;
  if constexpr (Bytes::kHighPlane) {
    const int half = lines.first_word + w;
    const std::uint8_t* high = lines.high + j * lines.high_stride + half / 2 * kLineBytes;
    return {_mm512_loadu_si512(at),
            _mm512_srl_epi32(_mm512_loadu_si512(high), _mm_cvtsi32_si128(4 * (half % 2)))};
  } else {
    return _mm512_loadu_si512(at);
  }
}

template <int kStep, class Bytes, int kQueries, int kCount, int kChains>
HWY_INLINE void multiply_bytes(const Bytes& decoder, const typename Bytes::Loaded (&x)[kCount],
                               const CodeRows& m, std::size_t at,
                               __m512i (&acc)[kChains][kQueries][Bytes::kParts][kCount]) {
  __m512i bytes[kCount];
  KVCODEC_UNROLL
  for (int j = 0; j < kCount; ++j) bytes[j] = decoder.template bytes<kStep>(x[j]);
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    KVCODEC_UNROLL
    for (int p = 0; p < Bytes::kParts; ++p) {
      std::int32_t four;
      std::memcpy(&four,
                  m.data + static_cast<std::size_t>(i) * m.stride +
                      static_cast<std::size_t>(p) * m.part_stride + at + 4 * kStep,
                  sizeof(four));
      const __m512i multiplier = _mm512_set1_epi32(four);
      KVCODEC_UNROLL
      for (int j = 0; j < kCount; ++j) {
        __m512i& sum = acc[kStep % kChains][i][p][j];
        sum = _mm512_dpbusd_epi32(sum, bytes[j], multiplier);
      }
    }
  }
  if constexpr (kStep + 1 < Bytes::kSteps) multiply_bytes<kStep + 1>(decoder, x, m, at, acc);
}

/// Where the biases of query i stand: data + i * stride, one per part.
struct Biases {
  const std::int32_t* data;
  std::size_t stride;
  std::size_t part_stride;
};

/// sum[i][j] = lane sums of line j for query i, times the query's unit still.
template <int kQueries, int kCount, class Bytes>
HWY_INLINE void sum_bytes(const Bytes& decoder, const Lines& lines, const CodeRows& m,
                          const Biases& bias, VF (&sum)[kQueries][kCount]) {
  constexpr int kChains = Bytes::kSteps >= 2 && kQueries * Bytes::kParts * kCount <= 8 ? 2 : 1;
  __m512i acc[kChains][kQueries][Bytes::kParts][kCount];
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    KVCODEC_UNROLL
    for (int p = 0; p < Bytes::kParts; ++p) {
      KVCODEC_UNROLL
      for (int j = 0; j < kCount; ++j) {
        acc[0][i][p][j] =
            _mm512_set1_epi32(bias.data[static_cast<std::size_t>(i) * bias.stride +
                                        static_cast<std::size_t>(p) * bias.part_stride]);
        if constexpr (kChains == 2) acc[1][i][p][j] = _mm512_setzero_si512();
      }
    }
  }
  for (int w = 0; w < lines.n_words; ++w) {
    typename Bytes::Loaded x[kCount];
    KVCODEC_UNROLL
    for (int j = 0; j < kCount; ++j) x[j] = load_word<Bytes>(lines, w, j);
    multiply_bytes<0>(decoder, x, m, static_cast<std::size_t>(w * Bytes::kPerWord), acc);
  }
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    KVCODEC_UNROLL
    for (int j = 0; j < kCount; ++j) {
      __m512i total = acc[0][i][0][j];
      if constexpr (kChains == 2) total = _mm512_add_epi32(total, acc[1][i][0][j]);
      if constexpr (Bytes::kParts == 2) {
        __m512i low = acc[0][i][1][j];
        if constexpr (kChains == 2) low = _mm512_add_epi32(low, acc[1][i][1][j]);
        total = _mm512_add_epi32(_mm512_slli_epi32(total, 7), low);
      }
      sum[i][j] = VF{_mm512_cvtepi32_ps(total)};
    }
  }
}

/// Lines of a pass of kQueries queries: 16 accumulators at most.
template <class Bytes, int kQueries>
constexpr int byte_lines() {
  constexpr int lines = 16 / (kQueries * Bytes::kParts);
  return lines >= 4 ? 4 : lines >= 2 ? 2 : 1;
}

/// step(n) for any number of queries, in passes of 8 if one part allows it, 4, 2 and 1.
template <class Bytes, class Pass>
HWY_INLINE void byte_passes(int n_q, const Pass& pass) {
  int i = 0;
  if constexpr (Bytes::kParts == 1) {
    for (; n_q - i >= 8; i += 8) pass.template run<8>(i);
  }
  for (; n_q - i >= 4; i += 4) pass.template run<4>(i);
  for (; n_q - i >= 2; i += 2) pass.template run<2>(i);
  if (n_q - i >= 1) pass.template run<1>(i);
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
