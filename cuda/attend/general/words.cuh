// The words of a plane of codes, shared out over a CTA so that neither reading them nor storing their
// values into rows of an odd stride makes lanes collide: lanes have neighbouring rows of a K tile,
// neighbouring channels of a V tile.
#pragma once

#include "cuda/core/device.cuh"
#include "kvcodec/codec/tile_layout.hpp"

namespace kvcodec::cuda {

/// Code of element `e` of a word (tile_layout.hpp).
template <int kBits>
__device__ __forceinline__ std::uint32_t code_at(std::uint32_t word, int e) {
  if constexpr (kBits == 32) return word;
  const int shift = kBits == 16 ? 16 * e : (e % 4) * 8 + (e / 4) * kBits;
  return (word >> shift) & ((1u << (kBits % 32)) - 1u);
}

/// fn(row, first channel, word) for every word of a head's plane of a K tile.
template <int kBits, class F>
__device__ __forceinline__ void for_each_key_word(int head_dim, const std::byte* plane,
                                                  const F& fn) {
  constexpr int kPerWord = 32 / kBits;
  const int words = (head_dim + kPerWord - 1) / kPerWord;
  const int row = static_cast<int>(threadIdx.x) % kTileRows;
  const auto* line =
      reinterpret_cast<const std::uint32_t*>(plane) + row / kLanes * words * kLanes + row % kLanes;
  const int step = static_cast<int>(blockDim.x) / kTileRows;
#pragma unroll 2
  for (int w = static_cast<int>(threadIdx.x) / kTileRows; w < words; w += step) {
    fn(row, w * kPerWord, line[w * kLanes]);
  }
}

/// fn(channel, first row, word) for every word of a head's plane of a V tile.
template <int kBits, class F>
__device__ __forceinline__ void for_each_value_word(int head_dim, const std::byte* plane,
                                                    const F& fn) {
  constexpr int kPerWord = 32 / kBits;
  constexpr int kWords = kTileRows / kPerWord;
  const auto* words = reinterpret_cast<const std::uint32_t*>(plane);
  int c = static_cast<int>(threadIdx.x);
  int w = 0;
  for (;; c += static_cast<int>(blockDim.x)) {
    for (; c >= head_dim; c -= head_dim) ++w;
    if (w >= kWords) return;
    fn(c, w * kPerWord, words[(c / kLanes * kWords + w) * kLanes + c % kLanes]);
  }
}

/// x <- the values of a head's plane, all threads of the CTA: value(row, channel, code,
/// params(row, channel)). The channels of a word of a K tile have the params of the first.
template <Side kSide, int kBits, class Value, class Params>
__device__ __forceinline__ void decode_words(int head_dim, const std::byte* plane, float* x,
                                             int row_stride, const Params& params,
                                             const Value& value) {
  constexpr int kPerWord = 32 / kBits;
  if constexpr (kSide == Side::key) {
    for_each_key_word<kBits>(head_dim, plane, [&](int row, int first, std::uint32_t word) {
      const auto shared = params(row, first);
      float* to = x + row * row_stride + first;
#pragma unroll
      for (int e = 0; e < kPerWord; ++e) {
        // Only words of 1-bit codes can be longer than the row.
        if (kBits > 1 || first + e < head_dim) {
          to[e] = value(row, first + e, code_at<kBits>(word, e), shared);
        }
      }
    });
  } else {
    for_each_value_word<kBits>(head_dim, plane, [&](int c, int first, std::uint32_t word) {
      float* to = x + first * row_stride + c;
#pragma unroll
      for (int e = 0; e < kPerWord; ++e) {
        to[e * row_stride] = value(first + e, c, code_at<kBits>(word, e), params(first + e, c));
      }
    });
  }
}

}  // namespace kvcodec::cuda
