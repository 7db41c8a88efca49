// One tile of a codec with planes of codes and one f16 scale per row, read back part by part.
#pragma once

#include <string>
#include <vector>

#include "kvcodec/codec/code_planes.hpp"
#include "kvcodec/codec/codec.hpp"
#include "kvcodec/core/dtype.hpp"
#include "src/verify/backend.hpp"
#include "src/verify/compare.hpp"

namespace kvcodec::golden {

template <RowCodec C>
class RowTile {
 public:
  /// Encodes rows [n, head_dim], n <= kTileRows; the other rows of the tile are zeros.
  RowTile(const C& codec, Side side, int head_dim, std::vector<float> rows)
      : codec_(codec), side_(side), head_dim_(head_dim) {
    const auto size = static_cast<std::size_t>(kTileRows * head_dim);
    require(rows.size() <= size, "more rows than a tile holds");
    rows.resize(size);
    tile_.resize(codec.tile_bytes(head_dim));
    values_.resize(size);
    require(backend().encode_tile(codec, side, head_dim, rows.data(), tile_.data()),
            "finite input was refused");
    backend().decode_tile(codec, side, head_dim, tile_.data(), values_.data());
  }

  std::vector<std::uint8_t> codes(std::size_t row) const {
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(head_dim_));
    codec_.planes(side_, head_dim_).get_row(tile_.data(), static_cast<int>(row), codes.data());
    return codes;
  }
  float scale(std::size_t row) const {
    return to_f32(
        f16{get_scale(tile_.data() + codec_.scale_offset(head_dim_), static_cast<int>(row))});
  }
  /// The decoded row, head_dim values.
  const float* values(std::size_t row) const {
    return values_.data() + row * static_cast<std::size_t>(head_dim_);
  }

 private:
  C codec_;
  Side side_;
  int head_dim_;
  std::vector<std::byte> tile_;
  std::vector<float> values_;
};

/// a . b over n values in float64.
template <class A, class B>
double dot(std::size_t n, const A& a, const B& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

/// Throws mismatch unless |got - expected| <= bound.
inline void require_near(const std::string& what, double got, double expected, double bound) {
  require(std::abs(got - expected) <= bound, what + " = " + number_text(got) + ", expected " +
                                                 number_text(expected) + " +- " +
                                                 number_text(bound));
}

}  // namespace kvcodec::golden
