// Scores of codes of one bit in integers: a nibble of a word's byte b selects one of the 16 possible sums of
// four levels times their multipliers, rounded to bytes. With AVX-512 a vector of 64 bytes holds the tables
// of all four bytes, so one lookup serves 16 codes of 16 keys and one product with ones adds them. With
// AVX2 a lookup knows one table, so words of 32 keys are first parted into their bytes b.

#if defined(KVCODEC_CPU_INTEGER_BITS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVCODEC_CPU_INTEGER_BITS_INL_H_
#undef KVCODEC_CPU_INTEGER_BITS_INL_H_
#else
#define KVCODEC_CPU_INTEGER_BITS_INL_H_
#endif

#include "bits-inl.h"
#include "integer-inl.h"
#include "kvcodec/codec/qjl_projection.hpp"

KVCODEC_BEFORE_INTEGERS();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// Elements of a table, and bytes of it.
inline constexpr int kTableCodes = 16;
inline constexpr int kTableBytes = 64;

/// What put_signs_query() wrote for query i: at data + i * stride.
struct SignRows {
  const std::uint8_t* data;
  std::size_t stride;
};

#if HWY_TARGET == HWY_AVX2

/// Vectors of keys that are looked up together, and queries.
inline constexpr int kSignVectors = 4;
inline constexpr int kSignQueries = 4;

/// x [kTableCodes] without signs: lane b of the result is the sum of elements 4 k + b, k = 0..3.
HWY_INLINE VF entry_sums(const VF (&x)[2]) {
  const VF sum = hn::Add(x[0], x[1]);
  return hn::Add(sum, VF{_mm256_permute2f128_ps(sum.raw, sum.raw, 1)});
}

/// The 16 entries of one byte's table: sums of the levels that the bits of their number select, times
/// x [4 * k] for bit k. The last bit is the number of the vector.
HWY_INLINE void put_table(const BitLevels& levels, const float* x, std::uint8_t* table) {
  HWY_ALIGN float level[kN];
  hn::Store(levels.bit[0], DF(), level);  // of codes 0 and 1
  VF low = hn::Set(DF(), 128.0f);
  KVCODEC_UNROLL
  for (int k = 0; k < 3; ++k) low = hn::MulAdd(hn::Set(DF(), x[4 * k]), levels.bit[k], low);
  const VF high = hn::Add(low, hn::Set(DF(), x[12] * level[1]));
  low = hn::Add(low, hn::Set(DF(), x[12] * level[0]));
  const __m256i words = _mm256_permute4x64_epi64(
      _mm256_packs_epi32(_mm256_cvtps_epi32(low.raw), _mm256_cvtps_epi32(high.raw)), 0xd8);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(table),
      _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

/// Byte b of word w of 32 keys, b = 0..3: in byte[b] of the low half those of keys 8 j + 0..3, j = 0..3, in
/// the high half those of keys 8 j + 4..7.
HWY_INLINE void load_sign_bytes(const Lines& lines, int w, __m256i (&byte)[4]) {
  const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4,
                                         8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m256i x[kSignVectors];
  KVCODEC_UNROLL
  for (int j = 0; j < kSignVectors; ++j) {
    x[j] = _mm256_shuffle_epi8(load_word<TableBytes<2>>(lines, w, j).raw, order);
  }
  const __m256i a = _mm256_unpacklo_epi32(x[0], x[1]);
  const __m256i b = _mm256_unpacklo_epi32(x[2], x[3]);
  const __m256i c = _mm256_unpackhi_epi32(x[0], x[1]);
  const __m256i d = _mm256_unpackhi_epi32(x[2], x[3]);
  byte[0] = _mm256_unpacklo_epi64(a, b);
  byte[1] = _mm256_unpackhi_epi64(a, b);
  byte[2] = _mm256_unpacklo_epi64(c, d);
  byte[3] = _mm256_unpackhi_epi64(c, d);
}

/// Adds entries of every query's table to its sums: 16 bits each, of even bytes less 256 times odd ones, and
/// of odd bytes.
template <int kQueries>
HWY_INLINE void look_up_signs(__m256i index, const SignRows& tables, int offset,
                              __m256i (&acc)[kQueries][2]) {
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    const std::uint8_t* table = tables.data + static_cast<std::size_t>(i) * tables.stride + offset;
    const __m256i entry = _mm256_shuffle_epi8(
        _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))),
        index);
    acc[i][0] = _mm256_add_epi16(acc[i][0], entry);
    acc[i][1] = _mm256_add_epi16(acc[i][1], _mm256_srli_epi16(entry, 8));
  }
}

/// sum[i][j] = products of vector j's codes with query i, in units of put_signs_query(): at most 256 entries
/// of 8 bits each fill 16 bits.
template <int kQueries, int kCount>
HWY_INLINE void sum_signs(const Lines& lines, const SignRows& tables, VF (&sum)[kQueries][kCount]) {
  static_assert(kCount == kSignVectors && kMaxSketchDim <= 4 * 256);
  const __m256i nibble = _mm256_set1_epi8(15);
  __m256i acc[kQueries][2];
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) acc[i][0] = acc[i][1] = _mm256_setzero_si256();
  Fetch<2 * kCacheLine> fetch(lines.ahead);
  for (int w = 0; w < lines.n_words; ++w) {
    __m256i byte[4];
    load_sign_bytes(lines, w, byte);
    fetch.step();
    KVCODEC_UNROLL
    for (int b = 0; b < 4; ++b) {
      const int table = 2 * w * kTableBytes + 16 * b;
      look_up_signs(_mm256_and_si256(byte[b], nibble), tables, table, acc);
      look_up_signs(_mm256_and_si256(_mm256_srli_epi16(byte[b], 4), nibble), tables,
                    table + kTableBytes, acc);
    }
  }
  fetch.finish();
  const __m256i bias = _mm256_set1_epi32(-128 * 8 * lines.n_words);
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    const __m256i even = _mm256_sub_epi16(acc[i][0], _mm256_slli_epi16(acc[i][1], 8));
    const __m256i pairs[2] = {
        _mm256_permute4x64_epi64(_mm256_unpacklo_epi16(even, acc[i][1]), 0xd8),
        _mm256_permute4x64_epi64(_mm256_unpackhi_epi16(even, acc[i][1]), 0xd8)};
    KVCODEC_UNROLL
    for (int j = 0; j < kSignVectors; ++j) {
      const __m128i words = j % 2 == 0 ? _mm256_castsi256_si128(pairs[j / 2])
                                       : _mm256_extracti128_si256(pairs[j / 2], 1);
      sum[i][j] = VF{_mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_cvtepu16_epi32(words), bias))};
    }
  }
}

#else

inline constexpr int kSignQueries = 8;

/// x [kTableCodes] without signs: lane b of the result is the sum of elements 4 k + b, k = 0..3.
HWY_INLINE VF entry_sums(const VF (&x)[1]) {
  const VF sum = hn::Add(x[0], VF{_mm512_shuffle_f32x4(x[0].raw, x[0].raw, 0x4e)});
  return hn::Add(sum, VF{_mm512_shuffle_f32x4(sum.raw, sum.raw, 0xb1)});
}

/// The 16 entries of one byte's table: sums of the levels that the bits of their number select, times
/// x [4 * k] for bit k.
HWY_INLINE void put_table(const BitLevels& levels, const float* x, std::uint8_t* table) {
  VF sum = hn::Set(DF(), 128.0f);
  KVCODEC_UNROLL
  for (int k = 0; k < 4; ++k) sum = hn::MulAdd(hn::Set(DF(), x[4 * k]), levels.bit[k], sum);
  _mm_store_si128(reinterpret_cast<__m128i*>(table),
                  _mm512_cvtusepi32_epi8(_mm512_cvtps_epu32(sum.raw)));
}

/// sum[i][j] = products of vector j's codes with query i, in units of put_signs_query().
template <int kQueries, int kCount>
HWY_INLINE void sum_signs(const Lines& lines, const SignRows& tables, VF (&sum)[kQueries][kCount]) {
  const __m512i low = _mm512_set1_epi32(0x0f0f0f0f);
  const __m512i byte = _mm512_set1_epi32(0x30201000);
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i acc[kQueries][kCount];
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    KVCODEC_UNROLL
    for (int j = 0; j < kCount; ++j) acc[i][j] = _mm512_set1_epi32(-128 * 8 * lines.n_words);
  }
  for (int w = 0; w < lines.n_words; ++w) {
    const std::uint8_t* at = lines.data + w * kLineBytes;
    KVCODEC_UNROLL
    for (int half = 0; half < 2; ++half) {
      __m512i index[kCount];
      KVCODEC_UNROLL
      for (int j = 0; j < kCount; ++j) {
        __m512i word = _mm512_loadu_si512(at + static_cast<std::size_t>(j) * lines.stride);
        if (half == 1) word = _mm512_srli_epi32(word, 4);
        index[j] = _mm512_ternarylogic_epi32(word, low, byte, 0xea);  // (word & low) | byte
      }
      KVCODEC_UNROLL
      for (int i = 0; i < kQueries; ++i) {
        const __m512i table =
            _mm512_loadu_si512(tables.data + static_cast<std::size_t>(i) * tables.stride +
                               (2 * w + half) * kTableBytes);
        KVCODEC_UNROLL
        for (int j = 0; j < kCount; ++j) {
          acc[i][j] =
              _mm512_dpbusd_epi32(acc[i][j], _mm512_permutexvar_epi8(index[j], table), ones);
        }
      }
    }
  }
  KVCODEC_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    KVCODEC_UNROLL
    for (int j = 0; j < kCount; ++j) sum[i][j] = VF{_mm512_cvtepi32_ps(acc[i][j])};
  }
}

#endif

/// Tables [n / 16, kTableBytes] of x [n], n a multiple of 32, to `tables`. Returns the unit of sum_signs().
HWY_INLINE float put_signs_query(const BitLevels& levels, float largest_level, const float* x,
                                 int n, std::uint8_t* tables) {
  VF top = hn::Zero(DF());
  VF nan = hn::Zero(DF());
  for (int e = 0; e < n; e += kTableCodes) {
    VF size[kVectors];
    KVCODEC_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const VF value = hn::LoadU(DF(), x + e + v * kN);
      nan = hn::MulAdd(value, hn::Zero(DF()), nan);
      size[v] = hn::Abs(value);
    }
    top = hn::Max(top, entry_sums(size));
  }
  const float largest = largest_level * hn::GetLane(hn::MaxOfLanes(DF(), top)) +
                        hn::GetLane(hn::SumOfLanes(DF(), nan));
  const bool tiny = largest < kTinyMultiplier;
  const VF inverse = hn::Set(DF(), tiny ? 0.0f : 127.0f / largest);
  HWY_ALIGN float scaled[kTableCodes];
  for (int e = 0; e < n; e += kTableCodes, tables += kTableBytes) {
    for (int i = 0; i < kTableCodes; i += kN) {
      hn::Store(hn::Mul(hn::LoadU(DF(), x + e + i), inverse), DF(), scaled + i);
    }
    KVCODEC_UNROLL
    for (int b = 0; b < 4; ++b) put_table(levels, scaled + b, tables + 16 * b);
  }
  return tiny ? 0.0f : largest / 127.0f;
}

/// Bytes of a query's tables per element.
inline constexpr int kSignBytes = kTableBytes / kTableCodes;

/// Vectors of a pass of kQueries queries.
template <int kQueries>
constexpr int sign_vectors() {
  return HWY_TARGET == HWY_AVX2 || kQueries <= 4 ? 4 : 2;
}

// ---- Formats ----

HWY_INLINE std::size_t bit_query_bytes(int width) {
  return sizeof(BitQuery) + static_cast<std::size_t>(width * kSignBytes);
}

/// A PrepareIntegers for codes of one bit; format.width is a multiple of 32.
inline void prepare_signs(const TileFormat& f, const float* q, std::size_t q_stride, int n_q,
                          std::byte* out) {
  const BitLevels levels(f);
  const float center = level_center(f);
  const float largest = HWY_MAX(std::fabs(f.table[0] - center), std::fabs(f.table[1] - center));
  const int length = segment_length(f);
  for (int i = 0; i < n_q; ++i, q += q_stride, out += bit_query_bytes(f.width)) {
    auto* query = reinterpret_cast<BitQuery*>(out);
    auto* bytes = reinterpret_cast<std::uint8_t*>(query + 1);
    for (int s = 0; s * length < f.width; ++s) {
      const int first = s * length;
      const int n = HWY_MIN(length, f.width - first);
      query->unit[s] = put_signs_query(levels, largest, q + first, n, bytes + first * kSignBytes);
      query->sum[s] = f.zero_offset == 0 ? 0.0f : sum_of(q + first, n);
    }
  }
}

struct ScoreSignsPass {
  const HeadPlanes& at;
  int width;
  const std::byte* queries;
  float* scores;

  template <int kQueries>
  HWY_INLINE void run(int first_query) const {
    constexpr int kCount = sign_vectors<kQueries>();
    const Params& p = at.params;
    const std::size_t stride = bit_query_bytes(width);
    const std::size_t line_stride = static_cast<std::size_t>(width / 32) * kLineBytes;
    const std::byte* first = queries + static_cast<std::size_t>(first_query) * stride;
    const auto query = [&](int i) HWY_ATTR {
      return reinterpret_cast<const BitQuery*>(first + static_cast<std::size_t>(i) * stride);
    };
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(query(0) + 1);
    float* out = scores + first_query * kTileRows;
    for (int row = 0; row < kTileRows; row += kCount * kN) {
      for (int s = 0; s < p.n; ++s) {
        const int begin = s * p.length;
        const int n = HWY_MIN(p.length, width - begin);
        const Lines lines = {at.codes + static_cast<std::size_t>(row / kLanes) * line_stride +
                                 static_cast<std::size_t>(begin / 32) * kLineBytes +
                                 vector_offset(row),
                             line_stride,
                             n / 32,
                             nullptr,
                             0,
                             0};
        VF sum[kQueries][kCount];
        sum_signs(lines, SignRows{bytes + begin * kSignBytes, stride}, sum);
        for (int j = 0; j < kCount; ++j) {
          const int at_row = row + j * kN;
          const VF scale = p.scales == nullptr ? hn::Set(DF(), p.factor) : load_scale(p, s, at_row);
          const VF zero = p.zeros == nullptr ? hn::Zero(DF()) : load_zero(p, s, at_row, scale);
          KVCODEC_UNROLL
          for (int i = 0; i < kQueries; ++i) {
            float* score = out + i * kTileRows + at_row;
            const VF before = s == 0 ? hn::Zero(DF()) : hn::LoadU(DF(), score);
            const VF part = hn::Mul(sum[i][j], hn::Set(DF(), query(i)->unit[s]));
            const VF total = hn::MulAdd(part, scale, before);
            hn::StoreU(hn::MulAdd(zero, hn::Set(DF(), query(i)->sum[s]), total), DF(), score);
          }
        }
      }
    }
  }
};

/// A ScoreIntegers for codes of one bit.
inline void score_signs_integers(const TileFormat& f, const IntegerLevels&, const std::byte* tile,
                                 int head, const float*, std::size_t, const std::byte* queries,
                                 int n_q, Ahead& ahead, float* scores) {
  const HeadPlanes at = planes_of(f, tile, head, ahead);
  byte_passes<kSignQueries>(n_q, ScoreSignsPass{at, f.width, queries, scores});
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
