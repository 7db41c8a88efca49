// Products of bytes by AVX2 (integer-inl.h): levels, unsigned, times codes, signed, are added in pairs to
// 16 bits, those of a word together, then in pairs to 32 bits: many processors without AVX-512 start one
// product per cycle. Levels of kLevelSteps leave a sum of 16 bits kCodesTogether for the magnitudes of
// its codes; where they would be more, all codes of the segment are smaller (LargestMultiplier). 8-bit
// levels are multiplied as 16-bit integers with codes of 15 bits.

// For one target only, so an ordinary guard.
#ifndef KVCODEC_CPU_INTEGER_AVX2_INL_H_
#define KVCODEC_CPU_INTEGER_AVX2_INL_H_

#include "integer_words-inl.h"

KVCODEC_BEFORE_INTEGERS();
namespace kvcodec::cpu::HWY_NAMESPACE {

// ---- Multipliers ----

/// The largest magnitude of multipliers, or what their sums that share 16 bits ask for instead.
template <class Bytes>
class LargestMultiplier {
 public:
  HWY_INLINE LargestMultiplier() : top_(hn::Zero(DF())), together_(hn::Zero(DF())) {}

  /// 16 neighbours.
  HWY_INLINE void put(const VF (&x)[2]) {
    const VF low = hn::Abs(x[0]);
    const VF high = hn::Abs(x[1]);
    top_ = hn::Max(top_, hn::Max(low, high));
    if constexpr (!Bytes::kAnyCodes) {
      together_ = hn::Max(together_, in_one_sum(low.raw, high.raw));
    }
  }

  HWY_INLINE VF top() const {
    if constexpr (Bytes::kAnyCodes) {
      return top_;
    } else {
      // Rounding moves each code by a half at most.
      constexpr float kLimit = Bytes::kCodesTogether - 0.5f * (2 * Bytes::kSteps);
      return hn::Max(top_, hn::Mul(together_, hn::Set(DF(), 127.0f / kLimit)));
    }
  }

 private:
  /// Sums of the magnitudes of codes that are multiplied to one sum of 16 bits, each somewhere.
  static HWY_INLINE VF in_one_sum(__m256 low, __m256 high) {
    const __m256 first = _mm256_insertf128_ps(low, _mm256_castps256_ps128(high), 1);
    const __m256 second =
        _mm256_blend_ps(_mm256_castps128_ps256(_mm256_extractf128_ps(low, 1)), high, 0xf0);
    __m256 sum = _mm256_add_ps(first, second);  // of steps 0 and 1, of steps 2 and 3
    if constexpr (Bytes::kSteps == 4) {
      sum = _mm256_zextps128_ps256(
          _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1)));
    }
    return VF{_mm256_add_ps(sum, _mm256_permute_ps(sum, 0xb1))};
  }

  VF top_;
  VF together_;
};

/// Sum of codes of one byte; those of two bytes need none.
template <int kParts>
struct CodeSums {
  HWY_INLINE CodeSums() : total(hn::Zero(DI())) {}

  template <int kZero>
  HWY_INLINE void put_bias(std::int32_t* bias) const {
    if constexpr (kZero != 0) bias[0] = -kZero * hn::GetLane(hn::SumOfLanes(DI(), total));
  }

  /// bias [kReduced, kParts] of as many queries.
  template <int kZero>
  static HWY_INLINE void put_biases(const CodeSums (&of)[kReduced], std::int32_t* bias) {
    if constexpr (kZero != 0) {
      static_assert(kParts == 1);
      const VI each[kReduced] = {of[0].total, of[1].total, of[2].total, of[3].total};
      store_four(DI(), hn::Mul(reduce_each(SumOf(), DI(), each), hn::Set(DI(), -kZero)), bias);
    }
  }

  VI total;
};

/// Codes of 16 scaled multipliers to codes + kParts * at. Codes of two bytes stand in the order that
/// PlainBytes multiplies them in: channels 0, 2, 1, 3 of four.
template <int kParts>
HWY_INLINE void put_codes(const VF (&scaled)[2], std::int8_t* codes, int at, int /*part_stride*/,
                          CodeSums<kParts>& sums) {
  const __m256i low = _mm256_cvtps_epi32(scaled[0].raw);
  const __m256i high = _mm256_cvtps_epi32(scaled[1].raw);
  __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
  std::int8_t* out = codes + kParts * at;
  if constexpr (kParts == 2) {
    words = _mm256_shufflelo_epi16(_mm256_shufflehi_epi16(words, 0xd8), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), words);
  } else {
    sums.total = hn::Add(sums.total, hn::Add(hn::Vec<DI>{low}, hn::Vec<DI>{high}));
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), bytes);
  }
}

/// The same of a tile's rows to codes [kParts, kTileRows].
template <int kParts>
HWY_INLINE void put_tile_codes(const VF (&scaled)[kTileRows / kN], std::int8_t* codes,
                               CodeSums<kParts>& sums) {
  KVCODEC_UNROLL
  for (int v = 0; v < kTileRows / kN; v += 2) {
    const VF two[2] = {scaled[v], scaled[v + 1]};
    put_codes<kParts>(two, codes, v * kN, kTileRows, sums);
  }
}

/// Bytes from the start of a query's codes to that of channel `first`.
template <int kParts>
constexpr int code_offset(int first) {
  return kParts * first;
}

// ---- Levels ----

/// What decoders of tables share: how a vector of words becomes kSteps vectors of levels, each four
/// neighbours of the summed axis per lane. The products of a word are added in 16 bits.
template <int kStepsOfWord, int kStepsOfLevel>
struct ByteTable {
  static constexpr int kSteps = kStepsOfWord;
  static constexpr int kParts = 1;
  static constexpr int kLevelSteps = kStepsOfLevel;
  static constexpr int kZero = kLevelSteps + 1;
  static constexpr int kCodesTogether = 32767 / (2 * kLevelSteps + 1);
  static constexpr bool kAnyCodes = kCodesTogether >= 2 * kSteps * 127;

  HWY_INLINE explicit ByteTable(const IntegerLevels& levels)
      : table(_mm256_load_si256(reinterpret_cast<const __m256i*>(levels.bytes))) {}

  /// The level of the low four bits of every byte: tables of fewer bits repeat.
  HWY_INLINE __m256i level(__m256i code) const {
    return _mm256_shuffle_epi8(table, _mm256_and_si256(code, _mm256_set1_epi8(15)));
  }

  __m256i table;
};

/// Of 4 and of 2 bits. With 32 steps 4 bits would share sums of 16 bits as those of 3 do, but attention
/// whose weight lies on few keys was up to a quarter less exact.
template <int kBits>
using WordTable = ByteTable<8 / kBits, kBits == 4 ? 64 : 15>;

template <int kBits>
struct TableBytes : WordTable<kBits> {
  using Loaded = VU;
  static constexpr int kPerWord = 32 / kBits;
  static constexpr bool kHighPlane = false;

  HWY_INLINE explicit TableBytes(const IntegerLevels& levels) : WordTable<kBits>(levels) {}

  template <int kStep>
  HWY_INLINE __m256i bytes(VU word) const {
    if constexpr (kStep > 0) word = hn::ShiftRight<kBits * kStep>(word);
    return this->level(word.raw);
  }
};

struct Table3Bytes : ByteTable<4, 32> {
  using Loaded = Word3;
  static constexpr int kPerWord = 16;
  static constexpr bool kHighPlane = true;

  HWY_INLINE explicit Table3Bytes(const IntegerLevels& levels) : ByteTable(levels) {}

  template <int kStep>
  HWY_INLINE __m256i bytes(const Loaded& word) const {
    return level(codes_of_three_bits<kStep>(word).raw);
  }
};

/// Codes that are the levels themselves, as 16-bit integers: first the even ones of a word, then the odd
/// ones. Only formats with zeros have codes without a sign; their levels are code - 128.
template <bool kSigned>
struct PlainBytes {
  using Loaded = VU;
  static constexpr int kPerWord = 4;
  static constexpr int kSteps = 2;
  static constexpr int kParts = 2;
  static constexpr int kLevelSteps = 127;
  static constexpr int kZero = 0;
  static constexpr bool kAnyCodes = true;
  static constexpr bool kHighPlane = false;

  HWY_INLINE explicit PlainBytes(const IntegerLevels&) {}

  template <int kStep>
  HWY_INLINE __m256i bytes(VU word) const {
    if (!kSigned) word = hn::Xor(word, hn::Set(DU(), 0x80808080u));
    return _mm256_srai_epi16(kStep == 0 ? _mm256_slli_epi16(word.raw, 8) : word.raw, 8);
  }
};

// ---- The product ----

/// All levels of a word.
template <int kStep, class Bytes>
HWY_INLINE void decode_steps(const Bytes& decoder, const typename Bytes::Loaded& word,
                             __m256i (&levels)[Bytes::kSteps]) {
  levels[kStep] = decoder.template bytes<kStep>(word);
  if constexpr (kStep + 1 < Bytes::kSteps) decode_steps<kStep + 1>(decoder, word, levels);
}

/// Sums of 32 bits of levels times codes.
template <class Bytes>
HWY_INLINE __m256i multiply_steps(const __m256i (&levels)[Bytes::kSteps],
                                  const std::int8_t* codes) {
  if constexpr (Bytes::kParts == 2) {
    return _mm256_add_epi32(_mm256_madd_epi16(levels[0], four_codes(codes).raw),
                            _mm256_madd_epi16(levels[1], four_codes(codes + 4).raw));
  } else {
    __m256i sum = _mm256_maddubs_epi16(levels[0], four_codes(codes).raw);
    KVCODEC_UNROLL
    for (int f = 1; f < Bytes::kSteps; ++f) {
      sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(levels[f], four_codes(codes + 4 * f).raw));
    }
    return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
  }
}

/// sum[i][j] = sums of the lanes of vector j for query i, times the query's unit still.
template <int kQueries, int kCount, class Bytes>
HWY_INLINE void sum_bytes(const Bytes& decoder, const Lines& lines, const CodeRows& m,
                          const Biases& bias, VF (&sum)[kQueries][kCount]) {
  __m256i acc[kQueries][kCount];
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    const std::int32_t begin =
        Bytes::kParts == 2 ? 0 : bias.data[static_cast<std::size_t>(i) * bias.stride];
    KVCODEC_UNROLL
    for (int j = 0; j < kCount; ++j) acc[i][j] = _mm256_set1_epi32(begin);
  }
  const std::int8_t* codes = m.data;
  Fetch<static_cast<std::size_t>(kCount * kN * 4)> fetch(lines.ahead);
  for (int w = 0; w < lines.n_words; ++w, codes += 4 * Bytes::kSteps) {
    fetch.step();
    KVCODEC_UNROLL
    for (int j = 0; j < kCount; ++j) {
      __m256i levels[Bytes::kSteps];
      decode_steps<0>(decoder, load_word<Bytes>(lines, w, j), levels);
      KVCODEC_UNROLL
      for (int i = 0; i < kQueries; ++i) {
        const std::int8_t* of_query = codes + static_cast<std::size_t>(i) * m.stride;
        acc[i][j] = _mm256_add_epi32(acc[i][j], multiply_steps<Bytes>(levels, of_query));
      }
    }
  }
  fetch.finish();
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    KVCODEC_UNROLL
    for (int j = 0; j < kCount; ++j) sum[i][j] = VF{_mm256_cvtepi32_ps(acc[i][j])};
  }
}

/// Vectors of a pass of kQueries queries: 8 accumulators at most.
template <class Bytes, int kQueries>
constexpr int byte_vectors() {
  return kQueries >= 8 ? 1 : kQueries >= 3 ? 2 : 4;
}

/// Queries of a pass.
template <class Bytes>
constexpr int most_byte_queries() {
  return 8;
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
