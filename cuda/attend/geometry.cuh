// Where a lane's words, rows and channels are: the maps between tiles and mma fragments.
//
// Codes are fragments A (16 rows: tokens of a K tile, channels of a V tile), query rows are columns of
// B and D, eight at a time (an octet), so that few query rows waste nothing:
//
//   scores   D [16 tokens x 8 query rows]   = A keys [tokens x channels] * B queries
//   sums     D [16 channels x 8 query rows] = A values [channels x tokens] * B weights
//
// Scores leave the first product with tokens over g and query rows over t (g = lane / 4, t = lane % 4)
// and are wanted by the second with tokens over t and query rows over g: movmatrix turns them, two
// tokens per register. Which tokens they must be follows from the value codes that lane t reads, so
// the keys of each row of A are chosen to match (key_quad).
#pragma once

#include "cuda/attend/codes.cuh"
#include "kvcodec/core/config.hpp"

namespace kvcodec::cuda {

/// Which four neighbouring tokens (quad 0..15 of the tile) lane g reads as keys for half r = 0..1 of the
/// tile. Turned, lane t has those of g = 2 t and 2 t + 1: the tokens whose value codes it reads.
template <CodeKind kValue>
__host__ __device__ constexpr int key_quad(int g, int r) {
  return kValue == CodeKind::table2 ? 4 * (g / 2) + g % 2 + 2 * r : g + 8 * r;
}

/// A plane of key codes, kWidth codes per row, read kMostQuads times 16 bytes at a time.
template <CodeKind kKind, int kWidth, int kMostQuads>
struct KeyPlane {
  using C = Codes<kKind>;
  static constexpr int words = (kWidth + C::per_word - 1) / C::per_word;  ///< of a row
  static constexpr int units = (words + 4 * C::unit_words - 1) / (4 * C::unit_words);
  static constexpr int steps = units * C::unit_steps;  ///< of 16 codes
  /// Units of one load: 16 bytes for each word and half.
  static constexpr int most_units = kMostQuads / 2 / C::unit_words;
  static constexpr int load_units = units < most_units ? units : most_units;
  static constexpr int loads = (units + load_units - 1) / load_units;
  static constexpr int load_quads = 2 * load_units * C::unit_words;

  /// Word of lane t: the w-th of unit u. Words from `words` on do not exist.
  __host__ __device__ static constexpr int word(int t, int u, int w) {
    return 4 * (u * C::unit_words + w) + t;
  }
  /// Channel of half i of register r of fragment B of step `step`.
  __host__ __device__ static constexpr int channel(int t, int step, int r, int i) {
    const int u = step / C::unit_steps;
    const int e = C::element(step % C::unit_steps, r, i);
    return word(t, u, e / C::per_word) * C::per_word + e % C::per_word;
  }
  /// 16 bytes of the plane, in units of 16 bytes.
  __host__ __device__ static constexpr int quad_index(int word_index, int quad) {
    return ((quad / 4) * words + word_index) * 4 + quad % 4;
  }
};

/// A plane of value codes, kHeadDim channels.
template <CodeKind kKind, int kHeadDim, int kMostQuads>
struct ValuePlane {
  using C = Codes<kKind>;
  static constexpr int words = kTileRows / C::per_word;  ///< of a channel
  static constexpr int lane_words = words / 4;           ///< of a channel and lane
  static constexpr int quads = kHeadDim / 4;             ///< four neighbouring channels
  static constexpr int rounds = (quads + 7) / 8;         ///< quads of a lane
  static constexpr int load_rounds = lane_words >= kMostQuads ? 1 : kMostQuads / lane_words;
  static constexpr int loads = (rounds + load_rounds - 1) / load_rounds;
  static constexpr int load_quads = load_rounds * lane_words;
  /// Whether elements that stand together in a register are tokens four apart (else neighbours).
  static constexpr bool pairs_quads = kKind == CodeKind::table2 || kKind == CodeKind::table4;

  /// The n-th word of lane t.
  __host__ __device__ static constexpr int word(int t, int n) {
    return kKind == CodeKind::table2   ? t
           : kKind == CodeKind::table4 ? 4 * n + t
           : C::bits == 8              ? 2 * t + n % 2 + 8 * (n / 2)
                                       : 4 * t + 2 * ((n / 2) % 2) + 16 * (n / 4) + n % 2;
  }
  __host__ __device__ static constexpr int quad_index(int word_index, int quad) {
    return ((quad / 4) * words + word_index) * 4 + quad % 4;
  }
};

}  // namespace kvcodec::cuda
