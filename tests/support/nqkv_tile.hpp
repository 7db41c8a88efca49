// One tile of head_dim 64 and groups of 64, and how nqkv and its siblings encode it.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "kvcodec/codec/nqkv.hpp"

namespace kvcodec::test {

inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr int kDim = 64;

/// A tile of head_dim 64 with g64, filled with `rest`.
struct NqkvTile {
  std::vector<float> x;
  std::vector<std::byte> bytes;
  std::vector<float> decoded;
  bool finite = true;

  explicit NqkvTile(float rest = 0.0f) : x(kTileRows * kDim, rest) {}
  float& at(int row, int channel) { return x[static_cast<std::size_t>(row * kDim + channel)]; }

  template <class C>
  void run(const C& codec, Side side = Side::key) {
    bytes.assign(codec.tile_bytes(kDim), std::byte{0xee});
    decoded.assign(x.size(), kNan);
    finite = codec.encode_tile(side, kDim, x.data(), bytes.data());
    codec.decode_tile(side, kDim, bytes.data(), decoded.data());
  }
  std::uint32_t code(int row, int channel, Side side = Side::key) const {
    return TileLayout{side, 4, kDim}.get(bytes.data(), row, channel);
  }
  std::uint16_t scale(int row) const {
    return get_scale(bytes.data() + TileLayout{Side::key, 4, kDim}.plane_bytes(), row);
  }
  float value(int row, int channel) const {
    return decoded[static_cast<std::size_t>(row * kDim + channel)];
  }
};

}  // namespace kvcodec::test
