// Products of bytes by AVX-512 with VNNI, levels by VBMI (integer-inl.h): four products are summed to a
// 32-bit lane by one instruction. Codes of 15 bits are 128 * high + low, each part a signed byte.

// For one target only, so an ordinary guard.
#ifndef KVCODEC_CPU_INTEGER_VNNI_INL_H_
#define KVCODEC_CPU_INTEGER_VNNI_INL_H_

#include "integer_words-inl.h"

KVCODEC_BEFORE_INTEGERS();
namespace kvcodec::cpu::HWY_NAMESPACE {

// ---- Multipliers ----

/// The largest magnitude of multipliers.
template <class>
class LargestMultiplier {
 public:
  HWY_INLINE LargestMultiplier() : top_(hn::Zero(DF())) {}

  HWY_INLINE void put(const VF (&x)[1]) { top_ = hn::Max(top_, hn::Abs(x[0])); }

  HWY_INLINE VF top() const { return top_; }

 private:
  VF top_;
};

/// Sums of codes, part by part.
template <int kParts>
struct CodeSums {
  HWY_INLINE CodeSums() {
    KVCODEC_UNROLL
    for (int p = 0; p < kParts; ++p) total[p] = _mm512_setzero_si512();
  }

  template <int kZero>
  HWY_INLINE void put_bias(std::int32_t* bias) const {
    KVCODEC_UNROLL
    for (int p = 0; p < kParts; ++p) bias[p] = -kZero * _mm512_reduce_add_epi32(total[p]);
  }

  /// bias [kReduced, kParts] of as many queries.
  template <int kZero>
  static HWY_INLINE void put_biases(const CodeSums (&of)[kReduced], std::int32_t* bias) {
    alignas(64) std::int32_t sums[kParts][kLanes];
    KVCODEC_UNROLL
    for (int p = 0; p < kParts; ++p) {
      const VI each[kReduced] = {VI{of[0].total[p]}, VI{of[1].total[p]}, VI{of[2].total[p]},
                                 VI{of[3].total[p]}};
      hn::Store(hn::Mul(reduce_each(SumOf(), DI(), each), hn::Set(DI(), -kZero)), DI(), sums[p]);
    }
    KVCODEC_UNROLL
    for (int i = 0; i < kReduced; ++i) {
      KVCODEC_UNROLL
      for (int p = 0; p < kParts; ++p) bias[i * kParts + p] = sums[p][i];
    }
  }

  __m512i total[kParts];
};

/// Codes of 16 scaled multipliers to codes + at, the second part part_stride bytes behind the first.
template <int kParts>
HWY_INLINE void put_codes(const VF (&scaled)[1], std::int8_t* codes, int at, int part_stride,
                          CodeSums<kParts>& sums) {
  const __m512i code = _mm512_cvtps_epi32(scaled[0].raw);
  __m512i part[2] = {code, code};
  if constexpr (kParts == 2) {
    part[0] = _mm512_srai_epi32(code, 7);
    part[1] = _mm512_sub_epi32(code, _mm512_slli_epi32(part[0], 7));
  }
  KVCODEC_UNROLL
  for (int p = 0; p < kParts; ++p) {
    sums.total[p] = _mm512_add_epi32(sums.total[p], part[p]);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + p * part_stride + at),
                     _mm512_cvtepi32_epi8(part[p]));
  }
}

/// Bytes of 64 words of 16 bits, in their order after _mm512_packs_epi32 of two vectors each.
HWY_INLINE __m512i bytes_in_order(__m512i low, __m512i high) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, high));
}

/// The same of a tile's rows to codes [kParts, kTileRows].
template <int kParts>
HWY_INLINE void put_tile_codes(const VF (&scaled)[kTileRows / kN], std::int8_t* codes,
                               CodeSums<kParts>& sums) {
  static_assert(kTileRows == 4 * kN);
  const __m512i words[2] = {
      _mm512_packs_epi32(_mm512_cvtps_epi32(scaled[0].raw), _mm512_cvtps_epi32(scaled[1].raw)),
      _mm512_packs_epi32(_mm512_cvtps_epi32(scaled[2].raw), _mm512_cvtps_epi32(scaled[3].raw))};
  __m512i part[kParts][2] = {{words[0], words[1]}};
  if constexpr (kParts == 2) {
    KVCODEC_UNROLL
    for (int i = 0; i < 2; ++i) {
      part[0][i] = _mm512_srai_epi16(words[i], 7);
      part[1][i] = _mm512_sub_epi16(words[i], _mm512_slli_epi16(part[0][i], 7));
    }
  }
  KVCODEC_UNROLL
  for (int p = 0; p < kParts; ++p) {
    const __m512i bytes = bytes_in_order(part[p][0], part[p][1]);
    sums.total[p] = _mm512_dpbusd_epi32(sums.total[p], _mm512_set1_epi8(1), bytes);
    _mm512_store_si512(codes + p * kTileRows, bytes);
  }
}

/// Bytes from the start of a query's codes to that of channel `first`.
template <int kParts>
constexpr int code_offset(int first) {
  return first;
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

  using Loaded = VU;
  static constexpr int kPerWord = 32 / kBits;
  static constexpr int kSteps = 8 / kBits;
  static constexpr int kParts = 1;
  static constexpr int kLevelSteps = 127;
  static constexpr int kZero = 128;
  static constexpr bool kHighPlane = false;

  template <int kStep>
  HWY_INLINE __m512i bytes(VU word) const {
    if constexpr (kStep > 0) word = hn::ShiftRight<kBits * kStep>(word);
    return _mm512_permutexvar_epi8(word.raw, table);
  }
};

struct Table3Bytes : ByteTable {
  HWY_INLINE explicit Table3Bytes(const IntegerLevels& levels) : ByteTable(levels) {}

  using Loaded = Word3;
  static constexpr int kPerWord = 16;
  static constexpr int kSteps = 4;
  static constexpr int kParts = 1;
  static constexpr int kLevelSteps = 127;
  static constexpr int kZero = 128;
  static constexpr bool kHighPlane = true;

  template <int kStep>
  HWY_INLINE __m512i bytes(const Loaded& word) const {
    return _mm512_permutexvar_epi8(codes_of_three_bits<kStep>(word).raw, table);
  }
};

/// Codes that are the levels themselves; two's complement ones are moved up by 128.
template <bool kSigned>
struct PlainBytes {
  using Loaded = VU;
  static constexpr int kPerWord = 4;
  static constexpr int kSteps = 1;
  static constexpr int kParts = 2;
  static constexpr int kLevelSteps = 127;
  static constexpr int kZero = 128;
  static constexpr bool kHighPlane = false;

  HWY_INLINE explicit PlainBytes(const IntegerLevels&) {}

  template <int kStep>
  HWY_INLINE __m512i bytes(VU word) const {
    return kSigned ? _mm512_xor_si512(word.raw, _mm512_set1_epi8(-128)) : word.raw;
  }
};

// ---- The product ----

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
      const VU multiplier =
          four_codes(m.data + static_cast<std::size_t>(i) * m.stride +
                     static_cast<std::size_t>(p) * m.part_stride + at + 4 * kStep);
      KVCODEC_UNROLL
      for (int j = 0; j < kCount; ++j) {
        __m512i& sum = acc[kStep % kChains][i][p][j];
        sum = _mm512_dpbusd_epi32(sum, bytes[j], multiplier.raw);
      }
    }
  }
  if constexpr (kStep + 1 < Bytes::kSteps) multiply_bytes<kStep + 1>(decoder, x, m, at, acc);
}

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
  Fetch<kCount * kCacheLine> fetch(lines.ahead);
  for (int w = 0; w < lines.n_words; ++w) {
    typename Bytes::Loaded x[kCount];
    KVCODEC_UNROLL
    for (int j = 0; j < kCount; ++j) x[j] = load_word<Bytes>(lines, w, j);
    fetch.step();
    multiply_bytes<0>(decoder, x, m, static_cast<std::size_t>(w * Bytes::kPerWord), acc);
  }
  fetch.finish();
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

/// Vectors of a pass of kQueries queries: 16 accumulators at most.
template <class Bytes, int kQueries>
constexpr int byte_vectors() {
  constexpr int vectors = 16 / (kQueries * Bytes::kParts);
  return vectors >= 4 ? 4 : vectors >= 2 ? 2 : 1;
}

/// Queries of a pass.
template <class Bytes>
constexpr int most_byte_queries() {
  return Bytes::kParts == 1 ? 8 : 4;
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
