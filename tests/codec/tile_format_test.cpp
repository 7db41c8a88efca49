// Tiles read by their TileFormat alone have the values that decode_tile gives.
#include <gtest/gtest.h>

#include <vector>

#include "kvcodec/codec/make_codec.hpp"
#include "tests/support/codecs.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

float level_of(const TileFormat& f, std::uint32_t code) {
  switch (f.level) {
    case TileFormat::Level::table: return f.table[code];
    case TileFormat::Level::int8: return static_cast<float>(static_cast<std::int8_t>(code));
    case TileFormat::Level::uint8: return static_cast<float>(code);
    case TileFormat::Level::e4m3: return to_f32(e4m3{static_cast<std::uint8_t>(code)});
    case TileFormat::Level::f16: return to_f32(f16{static_cast<std::uint16_t>(code)});
    case TileFormat::Level::bf16: return to_f32(bf16{static_cast<std::uint16_t>(code)});
    case TileFormat::Level::f32: return bit_cast<float>(code);
  }
  return 0.0f;
}

std::uint32_t code_at(const TileFormat& f, Side side, const std::byte* tile, int head, int row,
                      int c) {
  const TileLayout low{side, f.bits == 3 ? 2 : f.bits, f.width};
  if (f.bits != 3) {
    return low.get(tile + low.plane_bytes() * static_cast<std::size_t>(head), row, c);
  }
  const TileLayout high{side, 1, f.width};
  const std::byte* plane =
      tile + (low.plane_bytes() + high.plane_bytes()) * static_cast<std::size_t>(head);
  return low.get(plane, row, c) | high.get(plane + low.plane_bytes(), row, c) << 2;
}

float scale_at(const TileFormat& f, const std::byte* plane, int i) {
  const auto byte = static_cast<std::uint8_t>(plane[i]);
  switch (f.stored) {
    case TileFormat::Stored::f16: return to_f32(f16{get_scale(plane, i)});
    case TileFormat::Stored::e4m3: return to_f32(e4m3{byte});
    case TileFormat::Stored::e8m0: return to_f32(e8m0{byte});
  }
  return 0.0f;
}

float value_at(const TileFormat& f, Side side, const std::byte* tile, int head, int row, int c) {
  const float level = level_of(f, code_at(f, side, tile, head, row, c));
  if (f.group == 0) return f.scale * level;
  const auto g = static_cast<std::size_t>((head * f.width + c) / f.group);
  const std::byte* scales = tile + f.scale_offset + f.plane_bytes() * g;
  const std::byte* zeros = tile + f.zero_offset + kScalePlaneBytes * g;
  int at = row;
  if (f.run > 0) {
    scales = tile + f.scale_offset;
    zeros = tile + f.zero_offset;
    at = row / f.run * f.width + c;
  }
  const float zero = f.has_zeros() ? to_f32(f16{get_scale(zeros, at)}) : 0.0f;
  return f.scale * scale_at(f, scales, at) * level + zero;
}

TEST(TileFormat, DescribesWhatDecodeTileDoes) {
  int n_formats = 0;
  for (const std::string& spec : test::codec_specs()) {
    const AnyCodec codec = make_codec(spec);
    if (codec.query_width(128) != 128) continue;  // a sketch: codes are signs, not values
    for (const int head_dim : {64, 80, 128}) {
      if (!codec.supports(head_dim)) continue;
      for (const Side side : {Side::key, Side::value}) {
        if (side == Side::value && codec.key_only()) continue;
        TileFormat f;
        if (!codec.tile_format(side, head_dim, f)) continue;
        ++n_formats;
        ASSERT_EQ(f.width, head_dim);
        const int width = codec.head_span(head_dim) * head_dim;
        const std::vector<float> x = test::gauss_rows(kTileRows, width, 5);
        std::vector<std::byte> tile(codec.tile_bytes(head_dim));
        codec.encode_tile(side, head_dim, x.data(), tile.data());
        std::vector<float> want(x.size());
        codec.decode_tile(side, head_dim, tile.data(), want.data());
        for (int row = 0; row < kTileRows; ++row) {
          for (int c = 0; c < width; ++c) {
            ASSERT_FLOAT_EQ(value_at(f, side, tile.data(), c / head_dim, row, c % head_dim),
                            want[static_cast<std::size_t>(row * width + c)])
                << spec << " " << to_string(side) << " head_dim " << head_dim << " row " << row
                << " channel " << c;
          }
        }
      }
    }
  }
  EXPECT_GE(n_formats, 100);
}

}  // namespace
}  // namespace kvcodec
