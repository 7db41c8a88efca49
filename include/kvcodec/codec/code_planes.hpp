// Rows of codes of 1 to 4 bits in the planes of a tile, for codecs whose width is an option.
//
// 1, 2 and 4 bits are one plane of TileLayout. 3 bits are two: first a 2-bit plane with the low two
// bits of every code, then a 1-bit plane with the high bit.
#pragma once

#include "kvcodec/codec/tile_layout.hpp"

namespace kvcodec {

/// The planes of codes of one head: kTileRows x head_dim codes of `bits` bits.
struct CodePlanes {
  Side side = Side::key;
  int bits = 4;      ///< 1..4
  int head_dim = 0;  ///< a multiple of 16

  /// Bytes of all planes; a multiple of 64.
  KVCODEC_HD constexpr std::size_t bytes() const noexcept {
    return bits == 3 ? plane(2).plane_bytes() + plane(1).plane_bytes() : plane(bits).plane_bytes();
  }

  /// Zeroes what no code fills; encoders call it before the first put_row.
  KVCODEC_HD void clear_padding(std::byte* planes) const noexcept {
    if (bits == 1) plane(1).clear_padding(planes);
    if (bits == 3) plane(1).clear_padding(planes + plane(2).plane_bytes());
  }

  /// Writes the codes of a row, codes[head_dim], to std::byte* or a TileWriter; other rows stay.
  template <class Out>
  KVCODEC_HD void put_row(Out planes, int row, const std::uint8_t* codes) const noexcept {
    if (bits != 3) {
      plane(bits).put_row(planes, row, codes);
      return;
    }
    std::uint8_t part[kMaxHeadDim] = {};
    for (int c = 0; c < head_dim; ++c) part[c] = static_cast<std::uint8_t>(codes[c] & 3u);
    plane(2).put_row(planes, row, part);
    for (int c = 0; c < head_dim; ++c) part[c] = static_cast<std::uint8_t>(codes[c] >> 2);
    plane(1).put_row(planes + plane(2).plane_bytes(), row, part);
  }

  /// Reads the codes of a row into codes[head_dim].
  KVCODEC_HD void get_row(const std::byte* planes, int row, std::uint8_t* codes) const noexcept {
    for (int c = 0; c < head_dim; ++c) codes[c] = 0;
    switch (bits) {
      case 1: add_row<1, 0>(planes, row, codes); break;
      case 2: add_row<2, 0>(planes, row, codes); break;
      case 4: add_row<4, 0>(planes, row, codes); break;
      default:
        add_row<2, 0>(planes, row, codes);
        add_row<1, 2>(planes + plane(2).plane_bytes(), row, codes);
    }
  }

  /// Copies rows begin..end-1 of all planes, bit for bit.
  KVCODEC_HD void copy_rows(const std::byte* from, std::byte* to, int begin,
                            int end) const noexcept {
    std::uint8_t codes[kMaxHeadDim];
    for (int row = begin; row < end; ++row) {
      get_row(from, row, codes);
      put_row(to, row, codes);
    }
  }

 private:
  KVCODEC_HD constexpr TileLayout plane(int plane_bits) const noexcept {
    return {side, plane_bits, head_dim};
  }

  /// codes[c] |= code << kShift. The width is a constant: place() then has no division, and a word
  /// is read once.
  template <int kBits, int kShift>
  KVCODEC_HD void add_row(const std::byte* plane_data, int row,
                          std::uint8_t* codes) const noexcept {
    constexpr int n = 32 / kBits;
    constexpr std::uint32_t mask = (1u << kBits) - 1u;
    const TileLayout at = plane(kBits);
    const TileLayout::Place first = at.place(row, 0);
    const auto word_at = [plane_data](std::size_t index) {
      std::uint32_t word;
      memcpy(&word, plane_data + 4 * index, 4);
      return word;
    };
    const auto add = [codes](int c, std::uint32_t code) {
      codes[c] = static_cast<std::uint8_t>(codes[c] | (code << kShift));
    };
    if (side == Side::key) {
      for (int c = 0; c < head_dim; c += n) {
        const std::uint32_t word = word_at(first.word + static_cast<std::size_t>(c / n) * kLanes);
        for (int e = 0; e < n && c + e < head_dim; ++e) {
          add(c + e, (word >> ((e % 4) * 8 + (e / 4) * kBits)) & mask);
        }
      }
      return;
    }
    constexpr std::size_t group = static_cast<std::size_t>(kTileRows / n) * kLanes;
    for (int c = 0; c < head_dim; ++c) {
      const std::size_t index = first.word + static_cast<std::size_t>(c / kLanes) * group +
                                static_cast<std::size_t>(c % kLanes);
      add(c, (word_at(index) >> first.shift) & mask);
    }
  }
};

}  // namespace kvcodec
