// The definition of scoring and summing a tile: decode it, then multiply. Fast paths are tested
// against these, and codecs without a fast path run them.
#pragma once

#include <cstddef>

#include "kvcodec/codec/codec.hpp"

namespace kvcodec {

/// scores[i, row] = sum over channels of q[i, c] * k[row, c].
///
/// tile: a K tile of `codec`; head: 0..head_span-1; q [n_q, head_dim]; scores [n_q, kTileRows].
/// Uses 64 KiB of stack when the codec cannot score by itself.
template <Codec C>
void score_tile_scalar(const C& codec, int head_dim, const std::byte* tile, int head,
                       const float* q, int n_q, float* scores) noexcept {
  if constexpr (ScoringCodec<C>) {
    codec.score_tile(head_dim, tile, head, q, n_q, scores);
  } else {
    float x[kTileRows * kMaxTileWidth];
    const int width = codec.head_span(head_dim) * head_dim;
    codec.decode_tile(Side::key, head_dim, tile, x);
    for (int i = 0; i < n_q; ++i) {
      for (int row = 0; row < kTileRows; ++row) {
        const float* key = x + row * width + head * head_dim;
        float sum = 0.0f;
        for (int c = 0; c < head_dim; ++c) sum += q[i * head_dim + c] * key[c];
        scores[i * kTileRows + row] = sum;
      }
    }
  }
}

/// acc[i, c] += sum over rows of w[i, row] * v[row, c].
///
/// tile: a V tile of `codec`; head: 0..head_span-1; w [n_q, kTileRows]; acc [n_q, head_dim].
template <Codec C>
void add_tile_scalar(const C& codec, int head_dim, const std::byte* tile, int head, const float* w,
                     int n_q, float* acc) noexcept {
  if constexpr (SummingCodec<C>) {
    codec.add_tile(head_dim, tile, head, w, n_q, acc);
  } else {
    float x[kTileRows * kMaxTileWidth];
    const int width = codec.head_span(head_dim) * head_dim;
    codec.decode_tile(Side::value, head_dim, tile, x);
    for (int i = 0; i < n_q; ++i) {
      for (int row = 0; row < kTileRows; ++row) {
        const float* v = x + row * width + head * head_dim;
        const float weight = w[i * kTileRows + row];
        for (int c = 0; c < head_dim; ++c) acc[i * head_dim + c] += weight * v[c];
      }
    }
  }
}

}  // namespace kvcodec
