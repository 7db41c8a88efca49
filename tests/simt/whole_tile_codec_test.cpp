// A codec without parts on the device: one thread makes and reads a whole tile. No built-in codec is
// like that, so this one is the test's own.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "cuda/codec/launch.cuh"
#include "tests/simt/emulator/runtime.hpp"
#include "tests/simt/launches.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec::cuda {
namespace {

/// Keeps the sign of a value: one byte, +-1. The rows are the transposed tile, so that a row's bytes
/// come from all rows.
struct Signs {
  static constexpr const char* family = "signs";
  static constexpr bool bit_exact = true;
  std::string name() const { return family; }
  KVCODEC_HD constexpr int head_span(int) const noexcept { return 1; }
  KVCODEC_HD constexpr bool supports(int head_dim) const noexcept { return head_dim == 64; }
  KVCODEC_HD constexpr std::size_t tile_bytes(int head_dim) const noexcept {
    return static_cast<std::size_t>(kTileRows * head_dim);
  }
  constexpr LossBounds loss(int) const noexcept { return {0.0, 1.0}; }
  KVCODEC_HD bool encode_tile(Side, int head_dim, const float* x, std::byte* out) const noexcept {
    bool finite = true;
    for (int i = 0; i < kTileRows * head_dim; ++i) {
      finite &= is_finite(x[i]);
      out[i % head_dim * kTileRows + i / head_dim] =
          std::byte{x[i] > 0.0f ? std::uint8_t{1} : std::uint8_t{0}};
    }
    return finite;
  }
  KVCODEC_HD void decode_tile(Side, int head_dim, const std::byte* in, float* x) const noexcept {
    for (int i = 0; i < kTileRows * head_dim; ++i) {
      x[i] = in[i % head_dim * kTileRows + i / head_dim] == std::byte{1} ? 1.0f : -1.0f;
    }
  }
};
static_assert(Codec<Signs> && !PartedCodec<Signs>);

TEST(WholeTileCodec, OneThreadMakesAndReadsATile) {
  constexpr int kDim = 64;
  constexpr int kTiles = 2;
  std::vector<float> x = test::gauss_rows(kTiles * kTileRows, kDim, 1);
  x[70] = std::numeric_limits<float>::infinity();
  const Signs codec;
  const std::size_t bytes = codec.tile_bytes(kDim);
  std::vector<std::byte> want(kTiles * bytes);
  std::vector<float> values(x.size());
  for (std::size_t t = 0; t < kTiles; ++t) {
    codec.encode_tile(Side::key, kDim, x.data() + t * x.size() / kTiles, want.data() + t * bytes);
    codec.decode_tile(Side::key, kDim, want.data() + t * bytes,
                      values.data() + t * x.size() / kTiles);
  }
  DeviceArray<float> device_x(x.size());
  std::memcpy(device_x.data(), x.data(), x.size() * sizeof(float));
  DeviceArray<std::byte> tiles(want.size());
  DeviceArray<std::uint32_t> flags(kTiles);
  flags[0] = flags[1] = 0;

  AnyEncodeJob encode;
  encode.codec[0] = codec;
  encode.source[0].rows = Rows<float>{device_x.data(), kTiles * kTileRows, kDim, kDim};
  encode.target.tiles = tiles.data();
  encode.target.flags = flags.data();
  encode.head_dim = kDim;
  encode.n_ctas = kTiles;
  EXPECT_LAUNCHES(detail::launch_encode(encode, codec));
  EXPECT_EQ(std::memcmp(tiles.data(), want.data(), want.size()), 0);
  EXPECT_EQ(flags[0], 1u);
  EXPECT_EQ(flags[1], 0u);

  DeviceArray<float> y(x.size());
  AnyDecodeJob decode;
  decode.codec = codec;
  decode.head_dim = kDim;
  decode.n_tiles = kTiles;
  decode.tiles = tiles.data();
  decode.x = y.data();
  EXPECT_LAUNCHES(detail::launch_decode(decode, codec));
  EXPECT_EQ(std::memcmp(y.data(), values.data(), values.size() * sizeof(float)), 0);
}

}  // namespace
}  // namespace kvcodec::cuda
