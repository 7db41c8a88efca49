// Scores of codes of one bit in integers. With AVX-512 a nibble of a word's byte b selects one of the 16
// possible sums of four levels times their multipliers, rounded to bytes: a vector of 64 bytes holds the
// tables of all four bytes, so one lookup serves 16 codes of 16 keys and one product with ones adds them.
// AVX2 has one table per 16 bytes only; there codes are levels of -1 and 1 times multipliers in bytes.

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

/// What put_signs_query() wrote for query i: at data + i * stride.
struct SignRows {
  const std::uint8_t* data;
  std::size_t stride;
};

#if HWY_TARGET == HWY_AVX2

/// Codes [n] of x [n], n a multiple of 32, and their bias to `bytes`. Returns the unit of sum_signs().
HWY_INLINE float put_signs_query(const BitLevels& levels, float, const float* x, int n,
                                 std::uint8_t* bytes) {
  HWY_ALIGN float level[kN];
  hn::Store(levels.bit[0], DF(), level);  // of codes 0 and 1
  const float half = 0.5f * (level[1] - level[0]);
  const float middle = 0.5f * (level[1] + level[0]);
  std::int32_t bias;
  const float unit = quantize<1, 1>(x, n, reinterpret_cast<std::int8_t*>(bytes), 0, &bias) * half;
  if (middle != 0.0f && unit != 0.0f) {
    bias += hn::GetLane(hn::NearestInt(hn::Set(DF(), middle * sum_of(x, n) / unit)));
  }
  std::memcpy(bytes + n, &bias, sizeof(bias));
  return unit;
}

/// sum[i][j] = products of vector j's codes with query i, in units of put_signs_query().
template <int kQueries, int kCount>
HWY_INLINE void sum_signs(const Lines& lines, const SignRows& rows, VF (&sum)[kQueries][kCount]) {
  const auto* bias = reinterpret_cast<const std::int32_t*>(rows.data + 32 * lines.n_words);
  sum_bytes(SignBytes(), lines,
            CodeRows{reinterpret_cast<const std::int8_t*>(rows.data), rows.stride, 0},
            Biases{bias, rows.stride / sizeof(*bias), 0}, sum);
}

#else

/// Elements of a table, and bytes of it.
inline constexpr int kTableCodes = 16;
inline constexpr int kTableBytes = 64;

/// Tables [n / 16, kTableBytes] of x [n], n a multiple of 32, to `tables`. Returns the unit of sum_signs().
HWY_INLINE float put_signs_query(const BitLevels& levels, float largest_level, const float* x,
                                 int n, std::uint8_t* tables) {
  VF top = hn::Zero(DF());
  VF nan = hn::Zero(DF());
  for (int e = 0; e < n; e += kTableCodes) {
    const VF value = hn::LoadU(DF(), x + e);
    nan = hn::MulAdd(value, hn::Zero(DF()), nan);
    // Elements 4 k + b, k = 0..3, share an entry of byte b: sums over the quarters of the vector.
    VF sum = hn::Abs(value);
    sum = hn::Add(sum, VF{_mm512_shuffle_f32x4(sum.raw, sum.raw, 0x4e)});
    sum = hn::Add(sum, VF{_mm512_shuffle_f32x4(sum.raw, sum.raw, 0xb1)});
    top = hn::Max(top, sum);
  }
  const float largest = largest_level * hn::GetLane(hn::MaxOfLanes(DF(), top)) +
                        hn::GetLane(hn::SumOfLanes(DF(), nan));
  const bool tiny = largest < kTinyMultiplier;
  const float inverse = tiny ? 0.0f : 127.0f / largest;
  HWY_ALIGN float scaled[kTableCodes];
  for (int e = 0; e < n; e += kTableCodes, tables += kTableBytes) {
    hn::Store(hn::Mul(hn::LoadU(DF(), x + e), hn::Set(DF(), inverse)), DF(), scaled);
    KVCODEC_UNROLL
    for (int b = 0; b < 4; ++b) {
      VF sum = hn::Set(DF(), 128.0f);
      KVCODEC_UNROLL
      for (int k = 0; k < 4; ++k) {
        sum = hn::MulAdd(hn::Set(DF(), scaled[4 * k + b]), levels.bit[k], sum);
      }
      _mm_store_si128(reinterpret_cast<__m128i*>(tables + 16 * b),
                      _mm512_cvtusepi32_epi8(_mm512_cvtps_epu32(sum.raw)));
    }
  }
  return tiny ? 0.0f : largest / 127.0f;
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

/// Bytes per element of a query.
inline constexpr int kSignBytes = 4;

/// As a decoder: what says how many queries and vectors share a pass.
struct SignPasses {
  static constexpr int kParts = 1;
};

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
    constexpr int kCount = byte_vectors<SignPasses, kQueries>();
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
  byte_passes<SignPasses>(n_q, ScoreSignsPass{at, f.width, queries, scores});
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
