// The loops over the signs of the QJL codec: write them, sum them up into a vector, and sum a
// projected query over them. `signs` is the layout of their plane: K side, 1 bit, head_dim = number
// of signs, a multiple of 32.
#pragma once

#include "kvcodec/codec/qjl_projection.hpp"
#include "kvcodec/codec/tile_layout.hpp"
#include "kvcodec/core/arith.hpp"

namespace kvcodec {

/// Sign i alone: 1 where s_i . x > 0, for x [table.head_dim].
KVCODEC_HD inline std::uint32_t qjl_sign(const QjlTables& table, const float* x, int i) noexcept {
  double sum = 0.0;
  for (int c = 0; c < table.head_dim; ++c) {
    const float s = table.columns[static_cast<std::ptrdiff_t>(c) * table.sketch_dim + i];
    sum += static_cast<double>(x[c]) * static_cast<double>(s);
  }
  return sum > 0.0 ? 1u : 0u;
}

/// Sign i of the row: s_i . x > 0, for x [head_dim]; writes the row's words of the plane.
///
/// Products of two f32 are exact in float64, so a fused multiply-add changes nothing.
KVCODEC_HD inline void qjl_put_signs(const TileLayout& signs, const QjlTables& table,
                                     const float* x, std::byte* plane, int row) noexcept {
  double sum[kMaxSketchDim];
  std::uint8_t codes[kMaxSketchDim];
  for (int i = 0; i < signs.head_dim; ++i) sum[i] = 0.0;
  for (int c = 0; c < table.head_dim; ++c) {
    if (x[c] == 0.0f) continue;
    const auto value = static_cast<double>(x[c]);
    const float* column = table.columns + static_cast<std::ptrdiff_t>(c) * table.sketch_dim;
    for (int i = 0; i < signs.head_dim; ++i) sum[i] += value * static_cast<double>(column[i]);
  }
  for (int i = 0; i < signs.head_dim; ++i) codes[i] = sum[i] > 0.0 ? 1 : 0;
  signs.put_row(plane, row, codes);
}

/// out [head_dim] = sum over i of h_i s_i, h_i = +-1 from the row's signs; f32, in the order of i.
KVCODEC_HD inline void qjl_signed_sum(const TileLayout& signs, const QjlTables& table,
                                      const std::byte* plane, int row, float* out) noexcept {
  for (int c = 0; c < table.head_dim; ++c) out[c] = 0.0f;
  for (int i = 0; i < signs.head_dim; ++i) {
    const std::uint32_t flip = (signs.get(plane, row, i) ^ 1u) << 31;
    const float* s = table.rows + static_cast<std::ptrdiff_t>(i) * table.head_dim;
    for (int c = 0; c < table.head_dim; ++c) {
      out[c] += bit_cast<float>(bit_cast<std::uint32_t>(s[c]) ^ flip);
    }
  }
}

/// out [n]: the same for channels [n] of the vector only.
KVCODEC_HD inline void qjl_signed_sum_at(const TileLayout& signs, const QjlTables& table,
                                         const std::byte* plane, int row, const std::byte* channels,
                                         int n, float* out) noexcept {
  for (int j = 0; j < n; ++j) out[j] = 0.0f;
  for (int i = 0; i < signs.head_dim; ++i) {
    const std::uint32_t flip = (signs.get(plane, row, i) ^ 1u) << 31;
    const float* s = table.rows + static_cast<std::ptrdiff_t>(i) * table.head_dim;
    for (int j = 0; j < n; ++j) {
      out[j] += bit_cast<float>(bit_cast<std::uint32_t>(s[static_cast<int>(channels[j])]) ^ flip);
    }
  }
}

/// sum [kLanes] = sum over i of h_i * sketch[i] for rows first..first+15 of the plane; f32, no
/// branch and no product: a sign is a bit moved onto the float's sign.
KVCODEC_HD inline void qjl_flip_sum(const TileLayout& signs, const std::byte* plane, int first,
                                    const float* sketch, float* sum) noexcept {
  for (int lane = 0; lane < kLanes; ++lane) sum[lane] = 0.0f;
  const std::byte* line = plane + 4 * signs.place(first, 0).word;
  for (int i = 0; i < signs.head_dim; i += 32, line += 4 * kLanes) {
    std::uint32_t clear[kLanes];  // 1 where the sign is -
    memcpy(clear, line, sizeof clear);
    for (int lane = 0; lane < kLanes; ++lane) clear[lane] = ~clear[lane];
    for (int e = 0; e < 32; ++e) {
      const int to_top = 31 - ((e % 4) * 8 + e / 4);  // element e's place in the word
      const std::uint32_t value = bit_cast<std::uint32_t>(sketch[i + e]);
      for (int lane = 0; lane < kLanes; ++lane) {
        sum[lane] += bit_cast<float>(value ^ ((clear[lane] << to_top) & 0x80000000u));
      }
    }
  }
}

}  // namespace kvcodec
