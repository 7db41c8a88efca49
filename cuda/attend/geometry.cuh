// Where a lane's words, rows and channels are: the maps between tiles and mma fragments.
//
// A warp takes a tile of 64 tokens. Scores are eight fragments D [16 query rows x 8 tokens], weights
// are the same registers, packed, as fragments A: no value moves between lanes. For that a lane must
// hold the scores of exactly those tokens whose value codes it reads. Lane (g, t) reads value words
// of the tokens token(t, ...), and as columns 2 t and 2 t + 1 of D belong to t, the keys of column g
// are chosen to match.
#pragma once

#include "cuda/attend/codes.cuh"
#include "kvcodec/core/config.hpp"

namespace kvcodec::cuda {

/// Indices of a score of one lane: half r = 0..1 of the tile, neighbour i = 0..3 of a 16-byte load,
/// column c = 0..3 of D: row g + 8 * (c / 2), token pair element e = c % 2.

/// Token of score (r, i, e) of lane t.
template <CodeKind kValue>
__host__ __device__ constexpr int token_of(int t, int r, int i, int e) {
  return kValue == CodeKind::table2 ? 16 * t + 8 * r + 4 * e + i : 8 * t + 4 * e + i + 32 * r;
}

/// First of the eight neighbouring tokens that lane t has in half r.
template <CodeKind kValue>
__host__ __device__ constexpr int first_token_of(int t, int r) {
  return token_of<kValue>(t, r, 0, 0);
}

/// Which four neighbouring tokens (quad 0..15) lane g reads as keys for half r: columns g of the four
/// fragments (r, 0..3).
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
  /// Whether a pair of a fragment A is two tokens of one i (else of one e).
  static constexpr bool pairs_by_column = kKind == CodeKind::table2 || kKind == CodeKind::table4;

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

/// First channel of the eight neighbours that lane t sums in round r.
__host__ __device__ constexpr int first_channel_of(int t, int round) { return 8 * t + 32 * round; }

}  // namespace kvcodec::cuda
