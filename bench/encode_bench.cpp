// Encoding K and V tiles: bytes of f32 input per second, per codec, instruction set and head size.
//
//   encode/<codec>/<side>/d<head_dim>/<isa>/hot    the same tile over and over, in L1 or L2
//   .../dram                                       192 MiB of rows in turn, 1 MiB an iteration
//
// "scalar" is the codec's own encode_tile, the definition. Counters, all of the best iteration, because
// other work on the machine only ever adds time: input_GB/s (1e9), ns_per_value, and read_share, input
// bytes per second over what one thread reads on this machine in the same run; for sketches also
// product_share, the multiply-adds of keys and S over those that the instruction set does in registers.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <string>
#include <vector>

#include "axes.hpp"
#include "bandwidth.hpp"
#include "kvcodec/attend/cpu_isa.hpp"
#include "kvcodec/codec/encode_tile.hpp"
#include "multiply_add.hpp"

namespace kvcodec::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kDramValues = (std::size_t{192} << 20) / sizeof(float);
constexpr std::size_t kWindowValues = (std::size_t{1} << 20) / sizeof(float);

struct Case {
  AnyCodec codec;
  Side side;
  int head_dim;
  std::string isa;
  bool hot;
};

/// Rows that every case of one memory level reads.
const std::vector<float>& rows(bool hot) {
  const auto make = [](std::size_t n) {
    const std::vector<float> some = gaussian(kWindowValues, 1);
    std::vector<float> x(n);
    for (std::size_t i = 0; i < n; ++i) x[i] = some[i % some.size()];
    return x;
  };
  static const std::vector<float> few = make(kTileRows * kMaxTileWidth);
  if (hot) return few;
  static const std::vector<float> many = make(kDramValues);
  return many;
}

void encode(benchmark::State& state, const Case& c) {
  const std::string before = cpu_isa();
  force_cpu_isa(c.isa);
  const auto n = static_cast<std::size_t>(kTileRows * c.codec.head_span(c.head_dim) * c.head_dim);
  const std::vector<float>& x = rows(c.hot);
  const std::size_t n_tiles = std::max<std::size_t>(kWindowValues / n, 1);
  const std::size_t tile_bytes = c.codec.tile_bytes(c.head_dim);
  std::vector<std::byte> tiles((c.hot ? 1 : n_tiles) * tile_bytes);
  std::size_t first = 0;
  double best = std::numeric_limits<double>::max();
  for (auto _ : state) {
    const Clock::time_point start = Clock::now();
    for (std::size_t i = 0; i < n_tiles; ++i) {
      const float* from = x.data() + (c.hot ? 0 : first + i * n);
      std::byte* to = tiles.data() + (c.hot ? 0 : i * tile_bytes);
      benchmark::DoNotOptimize(encode_tile(c.codec, c.side, c.head_dim, nullptr, from, to));
    }
    benchmark::ClobberMemory();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
    first += n_tiles * n;
    if (first + n_tiles * n > x.size()) first = 0;
  }
  force_cpu_isa(before);
  const auto values = static_cast<double>(n_tiles * n);
  state.counters["bits_per_value"] = 8.0 * static_cast<double>(tile_bytes) / static_cast<double>(n);
  state.counters["ns_per_value"] = 1e9 * best / values;
  state.counters["input_GB/s"] = 4e-9 * values / best;
  const Qjl* sketch = c.codec.as<Qjl>();
  if (sketch != nullptr && c.isa != "scalar") {
    const double most = multiply_add_rate(c.isa == "avx512" ? 16 : 8);
    if (most > 0.0) {
      state.counters["product_share"] = values * sketch->sketch_dim / best / most;
    }
  }
  if (!c.hot) state.counters["read_share"] = 4.0 * values / best / read_bandwidth();
}

const bool registered = [] {
  std::vector<AnyCodec> codecs;
  for_each_codec([&](const AnyCodec& codec) { codecs.push_back(codec); });
  for (const char* spec : {"fp8:row", "wkv:b2:g32", "wkv:b3:g128", "wkv:b8:g128", "kivi:b4:g64",
                           "lm:b3", "lm:b2", "lm:b1", "rabitq:b4:fast", "rabitq:b1", "qjl:m256:o8",
                           "qjl:m256:o8:exact", "nqkv:search", "nqfit:search"}) {
    codecs.push_back(make_codec(spec));
  }
  for (const AnyCodec& codec : codecs) {
    for (const Side side : {Side::key, Side::value}) {
      if (codec.key_only() && side == Side::value) continue;
      for (const int head_dim : kHeadDims) {
        if (!codec.supports(head_dim)) continue;
        for (const std::string& isa : available_cpu_isas()) {
          for (const bool hot : {true, false}) {
            if (isa == "scalar" && !hot) continue;  // far from any memory limit
            const Case c = {codec.with_tables(head_dim), side, head_dim, isa, hot};
            const std::string name = "encode/" + codec.name() + "/" + to_string(side) + "/d" +
                                     std::to_string(head_dim) + "/" + isa +
                                     (hot ? "/hot" : "/dram");
            benchmark::RegisterBenchmark(name.c_str(),
                                         [c](benchmark::State& state) { encode(state, c); });
          }
        }
      }
    }
  }
  return true;
}();

}  // namespace
}  // namespace kvcodec::bench
