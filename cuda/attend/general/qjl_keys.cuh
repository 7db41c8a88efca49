// Scores of QJL keys as qjl.hpp has them: signs against sketches, outliers apart.
//
// Sketched outliers cost every set of rows sketches of its own: S q without the outlier channels, and
// S q of these alone. They are made for kSketchRows query rows at a time.
#pragma once

#include "cuda/attend/general/params.hpp"
#include "cuda/attend/general/tiles.cuh"
#include "cuda/attend/general/unit_queries.cuh"
#include "kvcodec/codec/qjl.hpp"

namespace kvcodec::cuda {

/// The sum of a sketch over the signs of one row: qjl_flip_sum for a thread.
__device__ __forceinline__ float flip_sum_of_row(const TileLayout& signs, const std::byte* plane,
                                                 int row, const float* sketch) {
  const auto* word = reinterpret_cast<const std::uint32_t*>(plane) + signs.place(row, 0).word;
  float sum = 0.0f;
  for (int i = 0; i < signs.head_dim; i += 32, word += kLanes) {
    const std::uint32_t clear = ~*word;  // 1 where the sign is -
#pragma unroll
    for (int e = 0; e < 32; e += 4) {
      const uint4 s = load_vector(reinterpret_cast<const uint4*>(sketch + i + e));
      const std::uint32_t four[4] = {s.x, s.y, s.z, s.w};
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const int to_top = 31 - (n * 8 + e / 4);  // element e + n's place in the word
        sum += pun<float>(four[n] ^ ((clear << to_top) & 0x80000000u));
      }
    }
  }
  return sum;
}

/// What score_kernel wants of keys (DecodedKeys), for QJL.
class QjlKeys {
 public:
  static constexpr int kSketchRows = 4;

  using Tiles = CodecTiles<Qjl>;

  KVCODEC_HD static std::size_t shared_bytes(const AttendParams& p, const Tiles& tiles) noexcept {
    return tile_offset(p, tiles.codec) + tiles.codec.tile_bytes(p.view.shape.head_dim);
  }

  __device__ QjlKeys(const GeneralParams& g, const Unit& u, const Tiles& tiles,
                     const QueryTable& queries)
      : codec_(tiles.codec), g_(g), u_(u), queries_(queries), q_(unit_queries()) {
    load_unit_queries(g.p, u, queries, q_);
    std::byte* memory = dynamic_shared<std::byte>();
    sketch_ = reinterpret_cast<float*>(memory + queries_end(g.p));
    outlier_sketch_ = sketch_ + kSketchRows * codec_.sketch_dim;
    tile_ = memory + tile_offset(g.p, codec_);
  }

  template <class F>
  __device__ void score(const std::byte* tile, int, const F& emit) {
    copy_by_cta(tile_, tile, codec_.tile_bytes(g_.p.view.shape.head_dim));
    // Rows that take the same sketches.
    const bool by_set = codec_.sketches_outliers();
    const int n_rows = by_set ? codec_.set_rows() : kTileRows;
    const int thread = static_cast<int>(threadIdx.x);
    for (int first = 0; first < u_.n_rows; first += kSketchRows) {
      const int n = u_.n_rows - first < kSketchRows ? u_.n_rows - first : kSketchRows;
      for (int begin = 0; begin < kTileRows; begin += n_rows) {
        __syncthreads();  // the tile is there; nobody reads the sketches before
        if (by_set || !filled_) {
          fill_sketches(first, n, codec_.channels_of(tile_, begin / codec_.set_rows()));
          __syncthreads();
        }
        const int row = begin + thread % n_rows;
        for (int i = thread / n_rows; i < n; i += kAttendThreads / n_rows) {
          emit(first + i, row, score_of(first + i, i, row));
        }
      }
    }
    filled_ = u_.n_rows <= kSketchRows;
  }

 private:
  KVCODEC_HD static std::size_t tile_offset(const AttendParams& p, const Qjl& codec) noexcept {
    const int n = codec.sketch_dim + codec.outlier_signs().head_dim;
    return queries_end(p) + sizeof(float) * static_cast<std::size_t>(kSketchRows * n);
  }

  /// Sketches of query rows first .. first + n - 1 for rows with these outliers.
  __device__ void fill_sketches(int first, int n, const std::byte* channels) const {
    const int m = codec_.sketch_dim;
    const int n_outlier_signs = codec_.outlier_signs().head_dim;
    const int n_channels = codec_.sketches_outliers() ? codec_.outlier_channels : 0;
    const int head_dim = g_.p.view.shape.head_dim;
    for (int i = static_cast<int>(threadIdx.x); i < m; i += kAttendThreads) {
      float out[kSketchRows] = {};
      for (int j = 0; j < n_channels; ++j) {
        const auto c = static_cast<int>(channels[j]);
        const float s = codec_.table.columns[std::int64_t{c} * codec_.table.sketch_dim + i];
#pragma unroll
        for (int r = 0; r < kSketchRows; ++r) {
          if (r < n) out[r] = fmaf(q_[(first + r) * head_dim + c], s, out[r]);
        }
      }
#pragma unroll
      for (int r = 0; r < kSketchRows; ++r) {
        if (r >= n) continue;
        const float whole = g_.sketch[u_.q_row(g_.p, first + r) * m + i] / queries_.unit[first + r];
        sketch_[r * m + i] = whole - out[r];
        if (i < n_outlier_signs) outlier_sketch_[r * n_outlier_signs + i] = out[r];
      }
    }
  }

  /// Score of row `row` of the tile for query row q_row, whose sketches are the i-th.
  __device__ float score_of(int q_row, int i, int row) const {
    const TileLayout signs = codec_.signs();
    float score = codec_.weight_of(tile_, codec_.norm_offset(), row, signs.head_dim) *
                  flip_sum_of_row(signs, tile_, row, sketch_ + i * signs.head_dim);
    if (codec_.sketches_outliers()) {
      const TileLayout own = codec_.outlier_signs();
      return fmaf(codec_.weight_of(tile_, codec_.outlier_offset(), row, own.head_dim),
                  flip_sum_of_row(own, tile_ + codec_.outlier_sign_offset(), row,
                                  outlier_sketch_ + i * own.head_dim),
                  score);
    }
    const std::byte* channels = codec_.channels_of(tile_, row / codec_.set_rows());
    for (int j = 0; j < codec_.outlier_channels; ++j) {
      const float q = q_[q_row * g_.p.view.shape.head_dim + static_cast<int>(channels[j])];
      score = fmaf(q, codec_.exact_value(tile_, row, j), score);
    }
    return score;
  }

  const Qjl& codec_;
  const GeneralParams& g_;
  const Unit& u_;
  const QueryTable& queries_;
  float* q_;               ///< [n_rows, head_dim]
  float* sketch_;          ///< [kSketchRows, sketch_dim]
  float* outlier_sketch_;  ///< [kSketchRows, outlier signs]
  std::byte* tile_;
  bool filled_ = false;  ///< with sketches of all query rows of the unit, for rows of any set
};

}  // namespace kvcodec::cuda
