// encode_tiles and decode_tiles of every built-in codec and variant against the CPU's.
#include <gtest/gtest.h>

#include <cmath>
#include <initializer_list>
#include <limits>

#include "kvcodec/cuda/codec.hpp"
#include "tests/cuda/device_tools.hpp"
#include "tests/support/codecs.hpp"
#include "tests/support/compare.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec {
namespace {

constexpr int kTiles = 2;

/// One codec at one head size on one side.
struct Subject {
  AnyCodec host;
  const cuda::DeviceCodec& device;
  int head_dim;
  Side side;

  std::size_t tile_bytes() const { return host.tile_bytes(head_dim); }
  std::size_t tile_values() const {
    return static_cast<std::size_t>(kTileRows * host.head_span(head_dim) * head_dim);
  }
  std::vector<std::byte> encode_on_host(const std::vector<float>& x) const {
    std::vector<std::byte> tiles(x.size() / tile_values() * tile_bytes());
    for (std::size_t t = 0; t < x.size() / tile_values(); ++t) {
      host.encode_tile(side, head_dim, x.data() + t * tile_values(),
                       tiles.data() + t * tile_bytes());
    }
    return tiles;
  }
  template <class T>
  std::vector<std::byte> encode(const std::vector<T>& x,
                                std::vector<std::uint32_t>* not_finite = nullptr) const {
    const std::size_t n = x.size() / tile_values();
    const auto in = test::on_device(x);
    test::GuardedBuffer<> tiles(n * tile_bytes());
    test::GuardedBuffer<std::uint32_t> flags(n);
    flags.upload(std::vector<std::uint32_t>(n, 0));
    cuda::encode_tiles(device.codec(), side, head_dim, static_cast<std::int64_t>(n),
                       {in.data(), dtype_of<T>}, tiles.data(),
                       not_finite == nullptr ? nullptr : flags.data());
    if (not_finite != nullptr) *not_finite = flags.to_host();
    return tiles.to_host();
  }
  std::vector<float> decode_on_host(const std::vector<std::byte>& tiles) const {
    std::vector<float> x(tiles.size() / tile_bytes() * tile_values());
    for (std::size_t t = 0; t < tiles.size() / tile_bytes(); ++t) {
      host.decode_tile(side, head_dim, tiles.data() + t * tile_bytes(),
                       x.data() + t * tile_values());
    }
    return x;
  }
  template <class T>
  std::vector<T> decode(const std::vector<std::byte>& tiles) const {
    const std::size_t n = tiles.size() / tile_bytes();
    const auto in = test::on_device(tiles);
    test::GuardedBuffer<T> x(n * tile_values());
    cuda::decode_tiles(device.codec(), side, head_dim, static_cast<std::int64_t>(n), in.data(),
                       {x.data(), dtype_of<T>});
    return x.to_host();
  }
};

class Tiles : public test::OnDevice<::testing::TestWithParam<std::string>> {
 protected:
  /// Head sizes are shared out among the tests: the emulator is no GPU.
  template <class F>
  void for_each_subject(std::initializer_list<int> head_dims, F&& fn) const {
    int n = 0;
    const AnyCodec codec = make_codec(GetParam());
    for (const int head_dim : head_dims) {
      if (!codec.supports(head_dim)) continue;
      EXPECT_TRUE(cuda::can_encode(codec, head_dim) && cuda::can_decode(codec, head_dim));
      const cuda::DeviceCodec device(codec, head_dim);
      for (const Side side : test::kSides) {
        if (codec.key_only() && side == Side::value) continue;
        const Subject s{codec.with_tables(head_dim), device, head_dim, side};
        SCOPED_TRACE(codec.name() + ", head_dim " + std::to_string(head_dim) + ", side " +
                     to_string(side));
        fn(s);
        ++n;
      }
    }
    EXPECT_GT(n, 0);
  }
};

/// Rows with one outlier channel, one row of zeros and one of tiny values.
std::vector<float> some_rows(const Subject& s, std::uint64_t seed) {
  const int width = s.host.head_span(s.head_dim) * s.head_dim;
  std::vector<float> x = test::make_rows(test::Input::outlier, kTiles * kTileRows, width, seed);
  for (int c = 0; c < width; ++c) {
    x[static_cast<std::size_t>(3 * width + c)] = 0.0f;
    x[static_cast<std::size_t>(5 * width + c)] *= 0x1p-20f;
  }
  return x;
}

TEST_P(Tiles, BytesAndValuesAreThoseOfTheCpu) {
  for_each_subject({80, 96, 256}, [](const Subject& s) {
    const std::vector<float> x = some_rows(s, 1);
    std::vector<std::uint32_t> not_finite;
    const std::vector<std::byte> want = s.encode_on_host(x);
    const std::vector<std::byte> tiles = s.encode(x, &not_finite);
    EXPECT_EQ(not_finite, std::vector<std::uint32_t>(kTiles, 0));
    ASSERT_EQ(tiles, want);
    ASSERT_TRUE(s.host.bit_exact()) << "compare with a tolerance";
    EXPECT_EQ(test::bits_of(s.decode<float>(want)), test::bits_of(s.decode_on_host(want)));
  });
}

TEST_P(Tiles, ValuesOfSixteenBits) {
  for_each_subject({128}, [](const Subject& s) {
    const std::vector<float> x = some_rows(s, 2);
    const auto half = test::rounded<f16>(x);
    const auto brain = test::rounded<bf16>(x);
    const std::vector<std::byte> of_half = s.encode(half);
    EXPECT_EQ(of_half, s.encode_on_host(test::widened(half)));
    EXPECT_EQ(s.encode(brain), s.encode_on_host(test::widened(brain)));
    const std::vector<float> y = s.decode_on_host(of_half);
    EXPECT_EQ(test::widened(s.decode<f16>(of_half)), test::widened(test::rounded<f16>(y)));
    EXPECT_EQ(test::widened(s.decode<bf16>(of_half)), test::widened(test::rounded<bf16>(y)));
  });
}

TEST_P(Tiles, WhatIsNotFiniteIsFlaggedAndSpoilsNothing) {
  for_each_subject({64}, [](const Subject& s) {
    std::vector<float> x = some_rows(s, 3);
    const std::size_t second = s.tile_values();
    x[second + 70] = std::numeric_limits<float>::quiet_NaN();
    x[second + 1000] = -std::numeric_limits<float>::infinity();
    x[second + 1001] = 3e38f;
    std::vector<std::uint32_t> not_finite;
    const std::vector<std::byte> tiles = s.encode(x, &not_finite);
    EXPECT_EQ(not_finite, (std::vector<std::uint32_t>{0, 1}));
    EXPECT_EQ(tiles, s.encode_on_host(x));
    for (const float y : s.decode<float>(tiles)) ASSERT_TRUE(std::isfinite(y));
  });
}

INSTANTIATE_TEST_SUITE_P(Builtin, Tiles, ::testing::ValuesIn(test::codec_specs()),
                         test::name_of_param);

class QjlTiles : public test::OnDevice<> {};

// Keys that are rows of S stand at right angles to all others of their piece: nearly every sign hangs
// on what float64 rounding leaves, more of them than the kernel can put aside.
TEST_F(QjlTiles, SignsThatNoProductOfFewerBitsSettles) {
  constexpr int kDim = 64;
  const AnyCodec host = make_codec("qjl:m256").with_tables(kDim);
  const cuda::DeviceCodec device(host, kDim);
  const Subject s{host, device, kDim, Side::key};
  const QjlTables table = host.as<Qjl>()->table;
  for (const float factor : {1.0f, 0x1p-100f, 3e3f}) {
    std::vector<float> x(s.tile_values());
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = factor * table.rows[i];
    EXPECT_EQ(s.encode(x), s.encode_on_host(x)) << factor;
  }
}

class CodebookTiles : public test::OnDevice<> {};

// A codebook is decoded on the device, its table and the turning of keys included.
TEST_F(CodebookTiles, DecodedWithTheirTableAndPositions) {
  constexpr int kDim = 64;
  const std::vector<float> x = test::gauss_rows(kTileRows, kDim, 4);
  Codebook codec = Codebook::parse("t0.9");
  CodebookTable table = codec.make_table(kDim);
  std::vector<std::uint32_t> index(kTileRows);
  std::vector<float> magnitude(kTileRows);
  table.cover(kTileRows, x.data(), nullptr, index.data(), magnitude.data());
  std::vector<double> frequencies;
  for (int i = 0; i < kDim / 2; ++i) frequencies.push_back(std::pow(1e4, -2.0 * i / kDim));
  const RopeTable rope(frequencies, 1000);
  codec = codec.bind(table, &rope);
  std::vector<std::int32_t> pos;
  for (int row = 0; row < kTileRows; ++row) pos.push_back(7 * row);
  index[9] = 0xffffffff;
  std::vector<std::byte> tile(codec.tile_bytes(kDim));
  codec.put_rows(0, kTileRows, index.data(), magnitude.data(), pos.data(), tile.data());

  EXPECT_FALSE(cuda::can_encode(codec, kDim));
  EXPECT_TRUE(cuda::can_decode(codec, kDim));
  const cuda::DeviceCodec device(codec, kDim);
  for (const Side side : test::kSides) {
    const Subject s{codec, device, kDim, side};
    const std::vector<float> want = s.decode_on_host(tile);
    EXPECT_TRUE(test::close(s.decode<float>(tile), std::vector<double>(want.begin(), want.end()),
                            kDim, {1e-6, 1e-6}, to_string(side)));
  }
}

// Refused before anything is launched, so also where there is no device.
TEST(TileArguments, AreRefusedByName) {
  const auto encode = [](const AnyCodec& codec, Side side, int head_dim, std::int64_t n,
                         const void* x, std::byte* tiles) {
    cuda::encode_tiles(codec, side, head_dim, n, {x, DType::f32}, tiles, nullptr);
  };
  const auto message = [&](auto... args) {
    return test::message_of<invalid_argument>([&] { encode(args...); });
  };
  alignas(16) std::byte here[32];
  EXPECT_TRUE(test::contains(message(AnyCodec(Int8Token{}), Side::key, 64, -1, here, here),
                             {"encode_tiles", "n_tiles = -1", "allowed: 0.."}));
  EXPECT_TRUE(test::contains(message(AnyCodec(Int8Token{}), Side::key, 64, 1, nullptr, here),
                             {"x = null"}));
  EXPECT_TRUE(test::contains(message(AnyCodec(Int8Token{}), Side::key, 64, 1, here, here + 4),
                             {"tiles = ", "a multiple of 16"}));
  EXPECT_TRUE(test::contains(message(make_codec("qjl"), Side::key, 64, 1, here, here),
                             {"qjl", "without tables", "DeviceCodec"}));
  EXPECT_TRUE(test::contains(message(AnyCodec(), Side::key, 64, 1, here, here), {"codec"}));
  const auto not_served = [&](auto... args) {
    return test::message_of<unsupported>([&] { encode(args...); });
  };
  EXPECT_TRUE(test::contains(not_served(AnyCodec(Int8Token{}), Side::key, 72, 1, here, here),
                             {"int8", "head_dim = 72"}));
  EXPECT_TRUE(
      test::contains(not_served(make_codec("qjl").with_tables(64), Side::value, 64, 1, here, here),
                     {"qjl", "for keys only"}));
  EXPECT_TRUE(
      test::contains(test::message_of<unsupported>([&] {
                       cuda::decode_tiles(Int8Token{}, Side::key, 8, 1, here, {here, DType::f16});
                     }),
                     {"decode_tiles", "head_dim = 8"}));
}

}  // namespace
}  // namespace kvcodec
