// Encodes tiles on a CUDA device and decodes them again. Without a device it says so and is content.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "kvcodec/codec/make_codec.hpp"
#include "kvcodec/cuda/codec.hpp"

int main() {
  using namespace kvcodec;
  if (cuda::device_count() == 0) {
    std::printf("no CUDA device\n");
    return 0;
  }
  std::printf("%s\n", cuda::describe_device(0).name.c_str());
  constexpr int kHeadDim = 128;
  constexpr int kTiles = 100;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(kTiles * kTileRows * kHeadDim);
  for (float& value : x) value = normal(random);

  // [use]
  const AnyCodec codec = make_codec("nqkv:g64");
  const cuda::DeviceCodec device_codec(codec, kHeadDim);  // with its tables on the device
  cuda::DeviceBuffer<float> values{std::span<const float>(x)};
  cuda::DeviceBuffer<std::byte> tiles(kTiles * codec.tile_bytes(kHeadDim));
  cuda::encode_tiles(device_codec.codec(), Side::key, kHeadDim, kTiles, {values.data(), DType::f32},
                     tiles.data(), /*not_finite=*/nullptr);
  cuda::decode_tiles(device_codec.codec(), Side::key, kHeadDim, kTiles, tiles.data(),
                     {values.data(), DType::f32});
  const std::vector<float> y = values.to_host();
  // [/use]

  double error = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double e = static_cast<double>(x[i]) - static_cast<double>(y[i]);
    error += e * e;
    norm += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  std::printf("%s: relative squared error %.5f\n", codec.name().c_str(), error / norm);
  return error / norm < 0.02 ? 0 : 1;
}
