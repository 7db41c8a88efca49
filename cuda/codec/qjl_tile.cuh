// A tile of QJL keys by a whole CTA: its projections are tensor-core products.
//
// Signs must be those of the float64 sum (codec/qjl_signs.hpp). A product of tf32 factors with f32 sums is
// within kTf32Error |s_i| |x| of it and settles about 99 of 100 signs of keys in any direction; the others
// go to a list, and the threads share out their float64 sums.
#pragma once

#include "cuda/codec/atomic_tile.cuh"
#include "cuda/codec/tile_memory.cuh"
#include "cuda/core/ptx.cuh"
#include "kvcodec/codec/qjl.hpp"

namespace kvcodec::cuda {

/// Two factors, each rounded by 2^-11 of its size at most, make 2^-10 + 2^-22; up to kMaxHeadDim / 8 f32
/// sums of 9 terms, each cut off below 2^-22 of the largest, another 2^-17. By Cauchy and Schwarz, times
/// |s_i| |x| for the sum over channels. The rest is for the norms, which are rounded as well.
inline constexpr float kTf32Error = 1.1f * 0x1p-10f;

/// Projections of a tile done at once by a warp: a 32-bit word of signs for each row.
inline constexpr int kWordSigns = 32;

/// What the CTA shares besides values and tile.
struct QjlShared {
  static constexpr int kMostOpen = 768;
  union {
    double energy[kMaxHeadDim];     ///< of the channels, while outliers are chosen
    std::uint16_t open[kMostOpen];  ///< signs that the products leave open: row * kMaxSketchDim + i
  };
  std::uint32_t chosen[kMaxHeadDim / 32];  ///< bit c: channel c is an outlier
  float norm[kTileRows];                   ///< |x| of a row without its outliers
  int n_open;                              ///< may count beyond kMostOpen
};

/// Outlier channels of the rows of one set into the tile's list. All threads; x is in place.
__device__ inline void choose_outliers_by_cta(const Qjl& codec, int head_dim, const float* x,
                                              int row_stride, int set, std::byte* tile,
                                              QjlShared& s) {
  const float* rows = x + set * codec.set_rows() * row_stride;
  for (int c = static_cast<int>(threadIdx.x); c < head_dim; c += kTileThreads) {
    s.energy[c] = qjl_channel_energy(codec.set_rows(), rows, row_stride, c);
  }
  __syncthreads();
  for (int first = 0; first < head_dim; first += kTileThreads) {
    const int c = first + static_cast<int>(threadIdx.x);
    const bool is_one =
        c < head_dim && qjl_is_outlier(head_dim, s.energy, codec.outlier_channels, c);
    const std::uint32_t word = __ballot_sync(0xffffffffu, is_one);
    if (threadIdx.x % 32 == 0 && c < kMaxHeadDim) s.chosen[c / 32] = word;
  }
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < head_dim; c += kTileThreads) {
    const std::uint32_t word = s.chosen[c / 32];
    if ((word >> (c % 32) & 1u) == 0) continue;
    int place = __popc(word & ((1u << (c % 32)) - 1u));
    for (int w = 0; w < c / 32; ++w) place += __popc(s.chosen[w]);
    codec.channels_of(tile, set)[place] = static_cast<std::byte>(c);
  }
  __syncthreads();
}

/// The signs of the rows' outliers: float64 sums of a few terms, one lane to a sign.
__device__ inline void sign_outliers_by_cta(const Qjl& codec, const float* x, int row_stride,
                                            std::byte* tile) {
  const TileLayout plane = codec.outlier_signs();
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int element = lane % 8 * 4 + lane / 8;  // the one at bit `lane` of its word
  const int words = codec.outlier_sketch_dim / kWordSigns;
  for (int at = static_cast<int>(threadIdx.x / 32); at < kTileRows * words;
       at += kTileThreads / 32) {
    const int row = at / words;
    const int i = at % words * kWordSigns + element;
    const std::byte* channels = codec.channels_of(tile, row / codec.set_rows());
    double sum = 0.0;
    for (int j = 0; j < codec.outlier_channels; ++j) {
      const auto c = static_cast<int>(channels[j]);
      const float s =
          codec.table.columns[static_cast<std::ptrdiff_t>(c) * codec.table.sketch_dim + i];
      sum += static_cast<double>(x[row * row_stride + c]) * static_cast<double>(s);
    }
    const std::uint32_t word = __ballot_sync(0xffffffffu, sum > 0.0);
    if (lane != 0) continue;
    const std::size_t place = plane.place(row, at % words * kWordSigns).word;
    memcpy(codec.outlier_sign_offset() + tile + 4 * place, &word, 4);
  }
}

/// Products of one warp: all rows of the tile times kWordSigns rows of S.
struct QjlProducts {
  static constexpr int kRowTiles = kTileRows / 16;
  static constexpr int kSignTiles = kWordSigns / 8;
  float sum[kRowTiles][kSignTiles][4] = {};  ///< fragments D
  float square[kSignTiles] = {};             ///< |s_i|^2, i = 8 * tile + g; over all lanes of a g

  /// Adds channels first .. first + 31. Lane t takes 8 t .. 8 t + 7 of them, as the contraction's
  /// indices t and t + 4 of four products: rows an odd stride apart are then read without conflicts.
  __device__ __forceinline__ void add(const Qjl& codec, int head_dim, const float* x,
                                      int row_stride, int first_sign, int first) {
    const int g = static_cast<int>(threadIdx.x % 32 / 4);
    const int channel = first + static_cast<int>(threadIdx.x % 4) * 8;
    const bool inside = channel < head_dim;  // multiples of 16: all eight or none
    std::uint32_t b[kSignTiles][8] = {};
#pragma unroll
    for (int n = 0; n < kSignTiles; ++n) {
      if (!inside) continue;
      const float* s = codec.table.rows +
                       static_cast<std::ptrdiff_t>(first_sign + 8 * n + g) * codec.table.head_dim +
                       channel;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint4 four = load_vector(reinterpret_cast<const uint4*>(s) + half);
        const std::uint32_t words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float value = pun<float>(words[e]);
          b[n][4 * half + e] = tf32_of(value);
          square[n] += value * value;
        }
      }
    }
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      const float* low = x + (16 * m + g) * row_stride + channel;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        std::uint32_t a[4] = {};
        if (inside) {
          a[0] = tf32_of(low[2 * k]);
          a[1] = tf32_of(low[8 * row_stride + 2 * k]);
          a[2] = tf32_of(low[2 * k + 1]);
          a[3] = tf32_of(low[8 * row_stride + 2 * k + 1]);
        }
#pragma unroll
        for (int n = 0; n < kSignTiles; ++n) {
          mma_m16n8k8_tf32(sum[m][n], a, {b[n][2 * k], b[n][2 * k + 1]});
        }
      }
    }
  }
};

/// Signs first_sign .. first_sign + 31 of all rows, by one warp.
__device__ inline void sign_word_by_warp(const Qjl& codec, int head_dim, const float* x,
                                         int row_stride, int first_sign, std::byte* tile,
                                         QjlShared& s) {
  const int g = static_cast<int>(threadIdx.x % 32 / 4);
  const int t = static_cast<int>(threadIdx.x % 4);
  QjlProducts p;
  for (int c = 0; c < head_dim; c += 32) p.add(codec, head_dim, x, row_stride, first_sign, c);
  float limit[QjlProducts::kSignTiles][2];  // of this lane's columns 2 t and 2 t + 1
#pragma unroll
  for (int n = 0; n < QjlProducts::kSignTiles; ++n) {
    float square = p.square[n] + __shfl_xor_sync(0xffffffffu, p.square[n], 1);
    square += __shfl_xor_sync(0xffffffffu, square, 2);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      limit[n][h] = kTf32Error * sqrtf(__shfl_sync(0xffffffffu, square, 4 * (2 * t + h)));
    }
  }
#pragma unroll
  for (int m = 0; m < QjlProducts::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = 16 * m + 8 * half + g;
      const float norm = s.norm[row];
      std::uint32_t word = 0;
#pragma unroll
      for (int n = 0; n < QjlProducts::kSignTiles; ++n) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int e = 8 * n + 2 * t + h;
          const float sum = p.sum[m][n][2 * half + h];
          const float error = limit[n][h] * norm;
          std::uint32_t sign = sum > 0.0f ? 1u : 0u;
          // What is not clear, not finite, or so small that f32 may have lost it; zeros have no signs.
          if (!(fabsf(sum) > error && error > 1e-25f) && norm != 0.0f) {
            const int at = atomicAdd(&s.n_open, 1);
            const int i = first_sign + e;
            if (at < QjlShared::kMostOpen) {
              s.open[at] = static_cast<std::uint16_t>(row * kMaxSketchDim + i);
              sign = 0;
            } else {
              sign = qjl_sign(codec.table, x + row * row_stride, i);
            }
          }
          word |= sign << (e % 4 * 8 + e / 4);
        }
      }
      word |= __shfl_xor_sync(0xffffffffu, word, 1);
      word |= __shfl_xor_sync(0xffffffffu, word, 2);
      const std::size_t place = codec.signs().place(row, first_sign).word;
      if (t == 0) memcpy(tile + 4 * place, &word, 4);
    }
  }
}

/// tile <- x by all threads, the bytes of encode_tile, or with first_tile of encode_tile_after; x is
/// overwritten. False if a value that this thread read was not finite. The tile is zeroed before.
__device__ inline bool encode_by_cta(const Qjl& codec, Side, int head_dim,
                                     const std::byte* first_tile, float* x, int row_stride,
                                     std::byte* tile) {
  KVCODEC_SHARED(s, QjlShared);
  const int thread = static_cast<int>(threadIdx.x);
  if (codec.outlier_channels > 0) {
    if (first_tile != nullptr && codec.outliers == QjlOutliers::fixed) {
      if (thread < codec.outlier_channels) {
        codec.channels_of(tile, 0)[thread] = codec.channels_of(first_tile, 0)[thread];
      }
    } else {
      for (int set = 0; set < codec.n_sets(); ++set) {
        choose_outliers_by_cta(codec, head_dim, x, row_stride, set, tile, s);
      }
    }
  }
  bool finite = true;
  if (thread < kTileRows) {
    float* row = x + thread * row_stride;
    finite = load_finite(row, head_dim, kF16Max, row);
  }
  if (thread == 0) s.n_open = 0;
  __syncthreads();
  if (codec.sketches_outliers()) {
    sign_outliers_by_cta(codec, x, row_stride, tile);
    __syncthreads();
  }
  if (thread < kTileRows) {
    const std::byte* channels = codec.channels_of(tile, thread / codec.set_rows());
    s.norm[thread] =
        codec.encode_magnitudes(head_dim, x + thread * row_stride, thread, channels, tile);
  }
  __syncthreads();
  for (int word = thread / 32; word < codec.sketch_dim / kWordSigns; word += kTileThreads / 32) {
    sign_word_by_warp(codec, head_dim, x, row_stride, word * kWordSigns, tile, s);
  }
  __syncthreads();
  const int n_open = s.n_open < QjlShared::kMostOpen ? s.n_open : QjlShared::kMostOpen;
  for (int at = thread; at < n_open; at += kTileThreads) {
    const int row = s.open[at] / kMaxSketchDim;
    const int i = s.open[at] % kMaxSketchDim;
    if (qjl_sign(codec.table, x + row * row_stride, i) == 0) continue;
    const TileLayout::Place place = codec.signs().place(row, i);
    AtomicTile{tile}.set_bits(place.word, 1u << place.shift);
  }
  return finite;
}

}  // namespace kvcodec::cuda
