// Products of bytes by AMX: all queries of a tile at once, instead of one instruction per query. The sums are
// those of integer_vnni-inl.h and so are their conversions, so results are the same to the bit.
//
// A register of levels is 16 vectors as the decoders make them: a lane has four neighbours of the summed
// axis, and a register 64 of it, which is a tile's rows and most groups of channels. Codes of 8 bits are
// loaded from the tile as they stand. Levels of tables are written to memory first, all of them before the
// first is loaded: a load of a register waits until all stores before it are done.

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

/// sums += queries (signed) . levels
template <int kSums, int kQueries, int kLevels, bool kSignedLevels>
HWY_INLINE void multiply_matrices() {
  if constexpr (kSignedLevels) {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0"
                 :
                 : "i"(kSums), "i"(kQueries), "i"(kLevels));
  } else {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0"
                 :
                 : "i"(kSums), "i"(kQueries), "i"(kLevels));
  }
}

// ---- Levels ----

/// Vectors of lanes whose sums are made and used together: a pair.
inline constexpr int kPair = 2;

/// Vectors of lanes of a piece, which is decoded at once: two pairs.
inline constexpr int kSideVectors = 2 * kPair;

/// Levels of all vectors of a tile's side, one register each.
inline constexpr int kMostMatrices = kMaxHeadDim / kLanes;

/// Where levels are decoded to: [vector of lanes][a quarter of kMatrixDepth].
using MatrixLevels = std::uint8_t[kMostMatrices][kMatrixDepth / 4][64];

/// Whether codes are levels as they stand.
template <class Bytes>
inline constexpr bool kAsTheyStand = false;
template <bool kSigned>
inline constexpr bool kAsTheyStand<PlainBytes<kSigned>> = true;

/// Whether products take levels as signed bytes, so that there is no bias.
template <class Bytes>
inline constexpr bool kSignedLevels = false;
template <>
inline constexpr bool kSignedLevels<PlainBytes<true>> = true;

template <int kStep, class Bytes>
HWY_INLINE void put_levels(const Bytes& decoder, const typename Bytes::Loaded& word,
                           std::uint8_t (*out)[64]) {
  _mm512_store_si512(out[kStep], decoder.template bytes<kStep>(word));
  if constexpr (kStep + 1 < Bytes::kSteps) put_levels<kStep + 1>(decoder, word, out);
}

/// Levels of a piece, kMatrixDepth neighbours of the summed axis whose words `lines` has, to `out`.
template <class Bytes>
HWY_INLINE void decode_matrices(const Bytes& decoder, const Lines& lines,
                                std::uint8_t (*out)[kMatrixDepth / 4][64]) {
  KVCODEC_UNROLL
  for (int w = 0; w < kMatrixDepth / Bytes::kPerWord; ++w) {
    KVCODEC_UNROLL
    for (int j = 0; j < kSideVectors; ++j) {
      put_levels<0>(decoder, load_word<Bytes>(lines, w, j), out[j] + w * Bytes::kSteps);
    }
  }
}

/// Where the levels of a side stand: kSideVectors vectors of lanes per piece, `next` bytes after one another.
struct SideLevels {
  const std::uint8_t* of[kMostMatrices / kSideVectors];
  std::size_t next;
};

/// Levels of n pieces, whose words lines_of(piece) has; decoded to `bytes` if they are not as they stand.
template <class Bytes, class LinesOf>
HWY_INLINE SideLevels decode_side(const Bytes& decoder, int n, const LinesOf& lines_of,
                                  MatrixLevels& bytes) {
  SideLevels levels = {{}, sizeof(bytes[0])};
  for (int i = 0; i < n; ++i) {
    const Lines lines = lines_of(i);
    if constexpr (kAsTheyStand<Bytes>) {
      levels.of[i] = lines.data;
      levels.next = lines.stride;
    } else {
      decode_matrices<Bytes>(decoder, lines, bytes + i * kSideVectors);
      levels.of[i] = bytes[i * kSideVectors][0];
    }
  }
  return levels;
}

// ---- Sums of a pair ----

/// Sums of a pair [part][vector][query][lane].
template <class Bytes>
struct PairSums {
  alignas(64) std::int32_t of[Bytes::kParts][kPair][kMatrixRows][kLanes];
};

/// The register of sums of `part` and vector j. Codes of one byte leave two for the other pair.
template <class Bytes, int kSide>
constexpr int sum_register(int part, int j) {
  return kPair * (Bytes::kParts == 2 ? part : kSide) + j;
}

template <class Bytes, int kSide>
HWY_INLINE void clear_sums() {
  clear_matrix<sum_register<Bytes, kSide>(0, 0)>();
  clear_matrix<sum_register<Bytes, kSide>(0, 1)>();
  if constexpr (Bytes::kParts == 2) {
    clear_matrix<sum_register<Bytes, kSide>(1, 0)>();
    clear_matrix<sum_register<Bytes, kSide>(1, 1)>();
  }
}

/// Sums += codes of all queries . levels of two vectors, the second `next` bytes behind the first.
template <class Bytes, int kSide>
HWY_INLINE void add_products(const CodeRows& codes, const std::uint8_t* levels, std::size_t next) {
  constexpr bool kSigned = kSignedLevels<Bytes>;
  load_matrix<4>(codes.data, codes.stride);
  load_matrix<6>(levels, 64);
  load_matrix<7>(levels + next, 64);
  multiply_matrices<sum_register<Bytes, kSide>(0, 0), 4, 6, kSigned>();
  multiply_matrices<sum_register<Bytes, kSide>(0, 1), 4, 7, kSigned>();
  if constexpr (Bytes::kParts == 2) {
    load_matrix<5>(codes.data + codes.part_stride, codes.stride);
    multiply_matrices<sum_register<Bytes, kSide>(1, 0), 5, 6, kSigned>();
    multiply_matrices<sum_register<Bytes, kSide>(1, 1), 5, 7, kSigned>();
  }
}

template <class Bytes, int kSide>
HWY_INLINE void store_sums(PairSums<Bytes>& sums) {
  store_matrix<sum_register<Bytes, kSide>(0, 0)>(sums.of[0][0], 64);
  store_matrix<sum_register<Bytes, kSide>(0, 1)>(sums.of[0][1], 64);
  if constexpr (Bytes::kParts == 2) {
    store_matrix<sum_register<Bytes, kSide>(1, 0)>(sums.of[1][0], 64);
    store_matrix<sum_register<Bytes, kSide>(1, 1)>(sums.of[1][1], 64);
  }
}

/// Sums of pair kSide, 0 or 1, over n pieces from `piece` on, which follow one another in the codes as well.
template <int kSide, class Bytes>
HWY_INLINE void sum_pair(CodeRows codes, const SideLevels& levels, int piece, int n,
                         PairSums<Bytes>& sums) {
  clear_sums<Bytes, kSide>();
  for (int i = piece; i < piece + n; ++i, codes.data += kMatrixDepth) {
    add_products<Bytes, kSide>(codes, levels.of[i] + kSide * kPair * levels.next, levels.next);
  }
  store_sums<Bytes, kSide>(sums);
}

/// Sums of query i in both vectors, its bias added.
template <class Bytes>
HWY_INLINE void pair_of_sums(const PairSums<Bytes>& sums, int i, const Biases& bias,
                             VF (&out)[kPair]) {
  const std::int32_t* at = bias.data + static_cast<std::size_t>(i) * bias.stride;
  KVCODEC_UNROLL
  for (int j = 0; j < kPair; ++j) {
    __m512i total = _mm512_load_si512(sums.of[0][j][i]);
    if constexpr (!kSignedLevels<Bytes>) total = _mm512_add_epi32(total, _mm512_set1_epi32(at[0]));
    if constexpr (Bytes::kParts == 2) {
      __m512i low = _mm512_load_si512(sums.of[1][j][i]);
      if constexpr (!kSignedLevels<Bytes>) {
        low = _mm512_add_epi32(low, _mm512_set1_epi32(at[bias.part_stride]));
      }
      total = _mm512_add_epi32(_mm512_slli_epi32(total, 7), low);
    }
    out[j] = VF{_mm512_cvtepi32_ps(total)};
  }
}

// ---- Scores ----

/// Scores, or what segment `segment` adds to them, of the rows of a pair from `row` on.
template <class Bytes>
HWY_INLINE void put_matrix_scores(const Params& p, int segment, int row, float level_unit,
                                  const PairSums<Bytes>& sums, const IntegerQuery* q, int n_q,
                                  Ahead& ahead, float* scores) {
  constexpr std::size_t kInts = sizeof(IntegerQuery) / sizeof(std::int32_t);
  const Biases bias = {q->bias[0] + segment, kInts, kMaxIntegerSegments};
  VF unit[kPair], zero[kPair];
  KVCODEC_UNROLL
  for (int j = 0; j < kPair; ++j) {
    const int at_row = row + j * kN;
    const VF scale = p.scales == nullptr ? hn::Set(DF(), p.factor) : load_scale(p, segment, at_row);
    unit[j] = hn::Mul(scale, hn::Set(DF(), level_unit));
    zero[j] = p.zeros == nullptr ? hn::Zero(DF()) : load_zero(p, segment, at_row, scale);
  }
  for (int i = 0; i < n_q; ++i) {
    VF sum[kPair];
    pair_of_sums<Bytes>(sums, i, bias, sum);
    KVCODEC_UNROLL
    for (int j = 0; j < kPair; ++j) {
      float* out = scores + i * kTileRows + row + j * kN;
      const VF part = hn::Mul(sum[j], hn::Set(DF(), q[i].unit[segment]));
      VF total =
          segment == 0 ? hn::Mul(part, unit[j]) : hn::MulAdd(part, unit[j], hn::LoadU(DF(), out));
      if (p.zeros != nullptr) total = hn::MulAdd(zero[j], hn::Set(DF(), q[i].sum[segment]), total);
      hn::StoreU(total, DF(), out);
    }
    ahead.step();
  }
}

/// scores [n_q, kTileRows], n_q <= kMatrixRows.
template <class Bytes>
HWY_INLINE void score_group(const Bytes& decoder, const HeadPlanes& at, int width, float level_unit,
                            const IntegerQuery* q, int n_q, float* scores) {
  static_assert(kTileRows == kSideVectors * kN);
  const Params& p = at.params;
  const int n_pieces = p.length / kMatrixDepth;
  alignas(64) MatrixLevels bytes;
  PairSums<Bytes> sums[2];
  for (int s = 0; s < p.n; ++s) {
    const int first = s * p.length;
    const auto lines_of = [&](int piece) HWY_ATTR {
      return byte_key_lines<Bytes>(at, width, 0, first + piece * kMatrixDepth, kMatrixDepth);
    };
    const SideLevels levels = decode_side<Bytes>(decoder, n_pieces, lines_of, bytes);
    const CodeRows codes = {q->codes[0] + code_offset<Bytes::kParts>(first), sizeof(IntegerQuery),
                            kMaxHeadDim};
    sum_pair<0>(codes, levels, 0, n_pieces, sums[0]);
    sum_pair<1>(codes, levels, 0, n_pieces, sums[1]);
    put_matrix_scores<Bytes>(p, s, 0, level_unit, sums[0], q, n_q, *at.ahead, scores);
    put_matrix_scores<Bytes>(p, s, kPair * kN, level_unit, sums[1], q, n_q, *at.ahead, scores);
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

/// acc += a pair of vectors of channels, from `channel` on.
template <class Bytes, class Weights>
HWY_INLINE void add_matrix_sums(const PairSums<Bytes>& sums, const Weights& w, bool offsets,
                                int n_q, float level_unit, int head_dim, int channel, Ahead& ahead,
                                float* acc) {
  const Biases bias = {w.bias[0], Bytes::kParts, 1};
  for (int i = 0; i < n_q; ++i) {
    const VF unit = hn::Set(DF(), w.unit[i] * level_unit);
    const VF offset = hn::Set(DF(), w.offset[i]);
    VF sum[kPair];
    pair_of_sums<Bytes>(sums, i, bias, sum);
    KVCODEC_UNROLL
    for (int j = 0; j < kPair; ++j) {
      float* out = acc + i * head_dim + channel + j * kN;
      VF before = hn::LoadU(DF(), out);
      if (offsets) before = hn::Add(before, offset);
      hn::StoreU(hn::MulAdd(sum[j], unit, before), DF(), out);
    }
    ahead.step();
  }
}

/// acc [n_q, head_dim], n_q <= kMatrixRows.
template <class Bytes>
HWY_INLINE void add_group(const Bytes& decoder, const HeadPlanes& at, int head_dim,
                          float level_unit, const float* w, int n_q, float* acc) {
  static_assert(kTileRows == kMatrixDepth);
  constexpr int kChannels = kSideVectors * kN;
  const Params& p = at.params;
  const bool offsets = p.zeros != nullptr;
  WeightBytes<kMatrixRows, Bytes::kParts> weights;
  alignas(64) MatrixLevels bytes;
  PairSums<Bytes> sums[2];
  const auto lines_of = [&](int piece)
                            HWY_ATTR { return value_lines<Bytes>(at, piece * kChannels); };
  const SideLevels levels = decode_side<Bytes>(decoder, head_dim / kChannels, lines_of, bytes);
  for (int s = 0; s < p.n; ++s) {
    weight_bytes<Bytes>(p, s, w, n_q, weights);
    const CodeRows codes = {weights.codes[0][0], Bytes::kParts * kTileRows, kTileRows};
    for (int channel = s * p.length; channel < (s + 1) * p.length; channel += kChannels) {
      sum_pair<0>(codes, levels, channel / kChannels, 1, sums[0]);
      sum_pair<1>(codes, levels, channel / kChannels, 1, sums[1]);
      add_matrix_sums<Bytes>(sums[0], weights, offsets, n_q, level_unit, head_dim, channel,
                             *at.ahead, acc);
      add_matrix_sums<Bytes>(sums[1], weights, offsets, n_q, level_unit, head_dim,
                             channel + kPair * kN, *at.ahead, acc);
    }
  }
}

/// An AddIntegers between begin_matrices(n_q) and end_matrices().
template <class Bytes>
void add_matrices(const TileFormat& f, const IntegerLevels& levels, const std::byte* tile, int head,
                  const float* w, int n_q, Ahead& ahead, float* acc) {
  const int length = segment_length(f);
  if (!fills_matrices(n_q) || length % kMatrixDepth != 0 || f.width % length != 0) {
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
