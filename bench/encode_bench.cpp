// Encoding one K or V tile: input bytes per second.
#include "axes.hpp"

namespace kvcodec::bench {
namespace {

void encode(benchmark::State& state, const AnyCodec& codec, Side side, int head_dim) {
  const auto n = static_cast<std::size_t>(kTileRows * codec.head_span(head_dim) * head_dim);
  const std::vector<float> x = gaussian(n, 1);
  std::vector<std::byte> tile(codec.tile_bytes(head_dim));
  for (auto _ : state) {
    benchmark::DoNotOptimize(codec.encode_tile(side, head_dim, x.data(), tile.data()));
    benchmark::ClobberMemory();
  }
  state.counters["bits_per_value"] =
      8.0 * static_cast<double>(tile.size()) / static_cast<double>(n);
  state.counters["input_bytes/s"] = rate(4.0 * static_cast<double>(n));
}

const bool registered = register_tiles("encode", encode);

}  // namespace
}  // namespace kvcodec::bench
