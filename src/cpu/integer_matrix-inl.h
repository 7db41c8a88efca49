// Products of bytes by AMX: all queries of a tile at once, instead of one instruction per query. The sums are
// those of integer_vnni-inl.h and so are their conversions, so results are the same to the bit.
//
// A register of levels is 16 vectors as the decoders make them: a lane has four neighbours of the summed
// axis, and a register 64 of it, which is a tile's rows and most groups of channels.

// For one target only, so an ordinary guard.
#ifndef KVCODEC_CPU_INTEGER_MATRIX_INL_H_
#define KVCODEC_CPU_INTEGER_MATRIX_INL_H_

#include "integer_add-inl.h"
#include "integer_score-inl.h"
#include "matrix.hpp"

KVCODEC_BEFORE_INTEGERS();
namespace kvcodec::cpu::HWY_NAMESPACE {

/// With fewer queries preparing matrices costs more than their products save.
inline constexpr int kFewestMatrixRows = 6;

/// Whether queries fill registers as begin_matrices() shapes them, none of them in part.
HWY_INLINE bool fills_matrices(int n_q) {
  return n_q >= kFewestMatrixRows && (n_q <= kMatrixRows || n_q % kMatrixRows == 0) &&
         matrix_usable();
}

// ---- Instructions: compilers do not know what the registers are, so each states its memory ----

template <int kRegister>
HWY_INLINE void clear_matrix() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kRegister));
}

template <int kRegister>
HWY_INLINE void load_matrix(const void* from, std::size_t stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0"
               :
               : "i"(kRegister), "r"(from), "r"(stride)
               : "memory");
}

template <int kRegister>
HWY_INLINE void store_matrix(void* to, std::size_t stride) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)"
               :
               : "i"(kRegister), "r"(to), "r"(stride)
               : "memory");
}

/// sums += queries (signed) . levels (unsigned)
template <int kSums, int kQueries, int kLevels>
HWY_INLINE void multiply_matrices() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kQueries), "i"(kLevels));
}

// ---- One pass: some vectors of lanes, all queries ----

/// Vectors of lanes of a pass: four registers hold sums, of each part of the codes.
template <class Bytes>
inline constexpr int kMatrixVectors = 4 / Bytes::kParts;

/// Sums of a pass [part][vector][query][lane].
template <class Bytes>
struct MatrixSums {
  alignas(64) std::int32_t of[Bytes::kParts][kMatrixVectors<Bytes>][kMatrixRows][kLanes];
};

template <class Bytes>
using MatrixLevels = std::uint8_t[kMatrixVectors<Bytes>][kMatrixDepth / 4][64];

template <int kStep, class Bytes>
HWY_INLINE void put_levels(const Bytes& decoder, const typename Bytes::Loaded& word,
                           std::uint8_t (*out)[64]) {
  _mm512_store_si512(out[kStep], decoder.template bytes<kStep>(word));
  if constexpr (kStep + 1 < Bytes::kSteps) put_levels<kStep + 1>(decoder, word, out);
}

/// Levels of kMatrixDepth neighbours of the summed axis, whose words `lines` has.
template <class Bytes>
HWY_INLINE void decode_matrices(const Bytes& decoder, const Lines& lines,
                                MatrixLevels<Bytes>& levels) {
  constexpr int kCount = kMatrixVectors<Bytes>;
  Fetch<kCount * kCacheLine> fetch(lines.ahead);
  KVCODEC_UNROLL
  for (int w = 0; w < kMatrixDepth / Bytes::kPerWord; ++w) {
    fetch.step();
    KVCODEC_UNROLL
    for (int j = 0; j < kCount; ++j) {
      put_levels<0>(decoder, load_word<Bytes>(lines, w, j), levels[j] + w * Bytes::kSteps);
    }
  }
  fetch.finish();
}

HWY_INLINE void clear_sums() {
  clear_matrix<0>();
  clear_matrix<1>();
  clear_matrix<2>();
  clear_matrix<3>();
}

/// Sums += codes of all queries . levels.
template <class Bytes>
HWY_INLINE void add_products(const CodeRows& codes, const MatrixLevels<Bytes>& levels) {
  load_matrix<4>(codes.data, codes.stride);
  load_matrix<6>(levels[0], 64);
  load_matrix<7>(levels[1], 64);
  multiply_matrices<0, 4, 6>();
  multiply_matrices<1, 4, 7>();
  if constexpr (Bytes::kParts == 2) {
    load_matrix<5>(codes.data + codes.part_stride, codes.stride);
    multiply_matrices<2, 5, 6>();
    multiply_matrices<3, 5, 7>();
  } else {
    load_matrix<6>(levels[2], 64);
    load_matrix<7>(levels[3], 64);
    multiply_matrices<2, 4, 6>();
    multiply_matrices<3, 4, 7>();
  }
}

template <class Bytes>
HWY_INLINE void store_sums(MatrixSums<Bytes>& sums) {
  auto* all = &sums.of[0][0];
  store_matrix<0>(all[0], 64);
  store_matrix<1>(all[1], 64);
  store_matrix<2>(all[2], 64);
  store_matrix<3>(all[3], 64);
}

/// Sum of query i in vector j, its bias added.
template <class Bytes>
HWY_INLINE VF matrix_sum(const MatrixSums<Bytes>& sums, int i, int j, const Biases& bias) {
  const std::int32_t* at = bias.data + static_cast<std::size_t>(i) * bias.stride;
  __m512i total = _mm512_add_epi32(_mm512_load_si512(sums.of[0][j][i]), _mm512_set1_epi32(at[0]));
  if constexpr (Bytes::kParts == 2) {
    const __m512i low = _mm512_add_epi32(_mm512_load_si512(sums.of[1][j][i]),
                                         _mm512_set1_epi32(at[bias.part_stride]));
    total = _mm512_add_epi32(_mm512_slli_epi32(total, 7), low);
  }
  return VF{_mm512_cvtepi32_ps(total)};
}

// ---- Scores ----

template <class Bytes>
HWY_INLINE void put_matrix_scores(const Params& p, int segment, int row, float level_unit,
                                  const MatrixSums<Bytes>& sums, const IntegerQuery* q, int n_q,
                                  float* scores) {
  constexpr std::size_t kInts = sizeof(IntegerQuery) / sizeof(std::int32_t);
  const Biases bias = {q->bias[0] + segment, kInts, kMaxIntegerSegments};
  KVCODEC_UNROLL
  for (int j = 0; j < kMatrixVectors<Bytes>; ++j) {
    const int at_row = row + j * kN;
    const VF scale = p.scales == nullptr ? hn::Set(DF(), p.factor) : load_scale(p, segment, at_row);
    const VF unit = hn::Mul(scale, hn::Set(DF(), level_unit));
    const VF zero = p.zeros == nullptr ? hn::Zero(DF()) : load_zero(p, segment, at_row, scale);
    for (int i = 0; i < n_q; ++i) {
      float* out = scores + i * kTileRows + at_row;
      const VF part =
          hn::Mul(matrix_sum<Bytes>(sums, i, j, bias), hn::Set(DF(), q[i].unit[segment]));
      VF total = segment == 0 ? hn::Mul(part, unit) : hn::MulAdd(part, unit, hn::LoadU(DF(), out));
      if (p.zeros != nullptr) total = hn::MulAdd(zero, hn::Set(DF(), q[i].sum[segment]), total);
      hn::StoreU(total, DF(), out);
    }
  }
}

/// scores [n_q, kTileRows], n_q <= kMatrixRows.
template <class Bytes>
HWY_INLINE void score_group(const Bytes& decoder, const HeadPlanes& at, int width, float level_unit,
                            const IntegerQuery* q, int n_q, float* scores) {
  const Params& p = at.params;
  alignas(64) MatrixLevels<Bytes> bytes;
  MatrixSums<Bytes> sums;
  for (int row = 0; row < kTileRows; row += kMatrixVectors<Bytes> * kN) {
    for (int s = 0; s < p.n; ++s) {
      clear_sums();
      for (int first = s * p.length; first < (s + 1) * p.length; first += kMatrixDepth) {
        decode_matrices<Bytes>(decoder, byte_key_lines<Bytes>(at, width, row, first, kMatrixDepth),
                               bytes);
        add_products<Bytes>(CodeRows{q->codes[0] + code_offset<Bytes::kParts>(first),
                                     sizeof(IntegerQuery), kMaxHeadDim},
                            bytes);
      }
      store_sums<Bytes>(sums);
      put_matrix_scores<Bytes>(p, s, row, level_unit, sums, q, n_q, scores);
    }
  }
}

/// A ScoreIntegers between begin_matrices(n_q) and end_matrices().
template <class Bytes>
void score_matrices(const TileFormat& f, const IntegerLevels& levels, const std::byte* tile,
                    int head, const float* q, std::size_t q_stride, const std::byte* queries,
                    int n_q, Ahead& ahead, float* scores) {
  const int length = segment_length(f);
  if (!fills_matrices(n_q) || length % kMatrixDepth != 0 || f.width % length != 0) {
    score_integers<Bytes>(f, levels, tile, head, q, q_stride, queries, n_q, ahead, scores);
    return;
  }
  const Bytes decoder(levels);
  const HeadPlanes at = planes_of(f, tile, head, ahead);
  const auto* query = reinterpret_cast<const IntegerQuery*>(queries);
  for (int i = 0; i < n_q; i += kMatrixRows) {
    score_group<Bytes>(decoder, at, f.width, levels.unit, query + i, HWY_MIN(n_q, kMatrixRows),
                       scores + i * kTileRows);
  }
}

// ---- Sums of values ----

/// acc += the vectors of channels from `channel` on.
template <class Bytes, class Weights>
HWY_INLINE void add_matrix_sums(const MatrixSums<Bytes>& sums, const Weights& w, int n_q,
                                float level_unit, int head_dim, int channel, float* acc) {
  const Biases bias = {w.bias[0], Bytes::kParts, 1};
  for (int i = 0; i < n_q; ++i) {
    const VF unit = hn::Set(DF(), w.unit[i] * level_unit);
    const VF offset = hn::Set(DF(), w.offset[i]);
    KVCODEC_UNROLL
    for (int j = 0; j < kMatrixVectors<Bytes>; ++j) {
      float* out = acc + i * head_dim + channel + j * kN;
      const VF before = hn::Add(hn::LoadU(DF(), out), offset);
      hn::StoreU(hn::MulAdd(matrix_sum<Bytes>(sums, i, j, bias), unit, before), DF(), out);
    }
  }
}

/// acc [n_q, head_dim], n_q <= kMatrixRows.
template <class Bytes>
HWY_INLINE void add_group(const Bytes& decoder, const HeadPlanes& at, int head_dim,
                          float level_unit, const float* w, int n_q, float* acc) {
  static_assert(kTileRows == kMatrixDepth);
  constexpr int kCount = kMatrixVectors<Bytes>;
  const Params& p = at.params;
  WeightBytes<kMatrixRows, Bytes::kParts> weights;
  alignas(64) MatrixLevels<Bytes> bytes;
  MatrixSums<Bytes> sums;
  for (int s = 0; s < p.n; ++s) {
    weight_bytes<Bytes>(p, s, w, n_q, weights);
    const CodeRows codes = {weights.codes[0][0], Bytes::kParts * kTileRows, kTileRows};
    for (int channel = s * p.length; channel < (s + 1) * p.length; channel += kCount * kN) {
      decode_matrices<Bytes>(decoder, value_lines<Bytes>(at, channel), bytes);
      clear_sums();
      add_products<Bytes>(codes, bytes);
      store_sums<Bytes>(sums);
      add_matrix_sums<Bytes>(sums, weights, n_q, level_unit, head_dim, channel, acc);
    }
  }
}

/// An AddIntegers between begin_matrices(n_q) and end_matrices().
template <class Bytes>
void add_matrices(const TileFormat& f, const IntegerLevels& levels, const std::byte* tile, int head,
                  const float* w, int n_q, Ahead& ahead, float* acc) {
  const int length = segment_length(f);
  if (!fills_matrices(n_q) || length % (kMatrixVectors<Bytes> * kN) != 0 || f.width % length != 0) {
    add_integers<Bytes>(f, levels, tile, head, w, n_q, ahead, acc);
    return;
  }
  const Bytes decoder(levels);
  const HeadPlanes at = planes_of(f, tile, head, ahead);
  for (int i = 0; i < n_q; i += kMatrixRows) {
    add_group<Bytes>(decoder, at, f.width, levels.unit, w + i * kTileRows,
                     HWY_MIN(n_q, kMatrixRows), acc + i * f.width);
  }
}

}  // namespace kvcodec::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
