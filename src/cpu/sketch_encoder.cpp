// Encoding of "qjl" tiles around the kernel that writes signs.
#include "sketch_encoder.hpp"

#include <algorithm>

#include "kvcodec/core/arith.hpp"

namespace kvcodec::cpu {
namespace {

/// The rows of a tile that share a list of outliers.
struct SketchSet {
  int first_row;
  int n_rows;
  float* rows;                ///< [n_rows, head_dim]; outliers become 0
  const std::byte* channels;  ///< [outlier_channels]
};

std::byte* plane_at(const TileLayout& signs, std::byte* plane, int row) noexcept {
  return plane + 4 * signs.place(row, 0).word;
}

/// Signs and norms of the outliers, as rows of their own: a few channels, padded with zeros.
void put_outlier_signs(const Kernels& table, const Qjl& codec, int head_dim, const SketchSet& set,
                       std::byte* tile) noexcept {
  constexpr int kWidth = Qjl::kMaxOutliers;
  float taken[kTileRows * kWidth];
  double squares[kTileRows];
  std::uint8_t channels[kWidth] = {};
  const int o = codec.outlier_channels;
  const int width = (o + 3) / 4 * 4;
  for (int j = 0; j < o; ++j) channels[j] = static_cast<std::uint8_t>(set.channels[j]);
  for (int row = 0; row < set.n_rows; ++row) {
    float* to = taken + row * width;
    for (int j = 0; j < width; ++j) to[j] = j < o ? set.rows[row * head_dim + channels[j]] : 0.0f;
  }
  const SketchSigns signs = {codec.table.columns, codec.table.sketch_dim, codec.outlier_sketch_dim,
                             width, channels};
  table.put_signs(
      signs, set.n_rows, taken, squares,
      plane_at(codec.outlier_signs(), tile + codec.outlier_sign_offset(), set.first_row));
  for (int row = 0; row < set.n_rows; ++row) {
    codec.put_norm(tile, codec.outlier_offset(), set.first_row + row, squares[row]);
  }
}

void encode_set(const Kernels& table, const Qjl& codec, int head_dim, const SketchSet& set,
                std::byte* tile) noexcept {
  if (codec.sketches_outliers()) put_outlier_signs(table, codec, head_dim, set, tile);
  for (int row = 0; row < set.n_rows && codec.outlier_channels > 0; ++row) {
    codec.take_outliers(set.rows + row * head_dim, set.first_row + row, set.channels, tile);
  }
  double squares[kTileRows];
  const SketchSigns signs = {codec.table.columns, codec.table.sketch_dim, codec.sketch_dim,
                             head_dim, nullptr};
  table.put_signs(signs, set.n_rows, set.rows, squares,
                  plane_at(codec.signs(), tile, set.first_row));
  for (int row = 0; row < set.n_rows; ++row) {
    codec.put_norm(tile, codec.norm_offset(), set.first_row + row, squares[row]);
  }
}

}  // namespace

bool encode_sketch(const Kernels& table, const Qjl& codec, int head_dim,
                   const std::byte* first_tile, const float* x, std::byte* tile) noexcept {
  float clean[kTileRows * kMaxHeadDim];
  const std::int64_t n = std::int64_t{kTileRows} * head_dim;
  const bool clamped = table.load_clamped[static_cast<int>(DType::f32)](x, n, kF16Max, clean);
  const bool finite = !clamped || std::all_of(x, x + n, [](float v) { return is_finite(v); });
  codec.clear_channels(head_dim, tile);
  const bool fixed = codec.outliers == QjlOutliers::fixed && first_tile != nullptr;
  const int n_rows = codec.outlier_channels > 0 ? codec.set_rows() : kTileRows;
  for (int row = 0; row < kTileRows; row += n_rows) {
    float* rows = clean + row * head_dim;
    std::byte* list = codec.channels_of(tile, row / codec.set_rows());
    if (codec.outlier_channels > 0) {
      if (fixed) std::copy_n(codec.channels_of(first_tile, 0), codec.outlier_channels, list);
      else qjl_choose_outliers(head_dim, n_rows, rows, head_dim, codec.outlier_channels, list);
    }
    encode_set(table, codec, head_dim, {row, n_rows, rows, list}, tile);
  }
  return finite;
}

}  // namespace kvcodec::cpu
