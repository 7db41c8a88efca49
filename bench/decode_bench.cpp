// Decoding one K or V tile: tile bytes per second.
#include "axes.hpp"

namespace kvcodec::bench {
namespace {

void decode(benchmark::State& state, const AnyCodec& codec, Side side, int head_dim) {
  const auto n = static_cast<std::size_t>(kTileRows * codec.head_span(head_dim) * head_dim);
  const std::vector<float> x = gaussian(n, 1);
  std::vector<float> decoded(n);
  std::vector<std::byte> tile(codec.tile_bytes(head_dim));
  codec.encode_tile(side, head_dim, x.data(), tile.data());
  for (auto _ : state) {
    codec.decode_tile(side, head_dim, tile.data(), decoded.data());
    benchmark::ClobberMemory();
  }
  state.counters["bits_per_value"] =
      8.0 * static_cast<double>(tile.size()) / static_cast<double>(n);
  state.counters["tile_bytes/s"] = rate(static_cast<double>(tile.size()));
}

const bool registered = register_tiles("decode", decode);

}  // namespace
}  // namespace kvcodec::bench
