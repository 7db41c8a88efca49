// Encode and decode one tile, and print the size and the error of every built-in codec.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "kvcodec/codec/make_codec.hpp"

int main() {
  using namespace kvcodec;
  constexpr int kHeadDim = 128;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;

  std::printf("%-8s %14s %14s\n", "codec", "bits per value", "relative error");
  BuiltinCodecs::for_each([&]<class C>() {
    const AnyCodec codec = C{};
    const int width = codec.head_span(kHeadDim) * kHeadDim;
    std::vector<float> rows(static_cast<std::size_t>(kTileRows * width));
    for (float& x : rows) x = normal(random);

    std::vector<std::byte> tile(codec.tile_bytes(kHeadDim));
    std::vector<float> decoded(rows.size());
    codec.encode_tile(Side::key, kHeadDim, rows.data(), tile.data());
    codec.decode_tile(Side::key, kHeadDim, tile.data(), decoded.data());

    double error = 0.0;
    double power = 0.0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const double x = static_cast<double>(rows[i]);
      const double difference = static_cast<double>(decoded[i]) - x;
      error += difference * difference;
      power += x * x;
    }
    const double bits = 8.0 * static_cast<double>(tile.size()) / static_cast<double>(rows.size());
    std::printf("%-8s %14.4f %14.2e\n", C::family, bits, std::sqrt(error / power));
  });
  return 0;
}
