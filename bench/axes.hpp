// The shapes and inputs every benchmark shares, and what each row reports.
#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kvcodec/codec/make_codec.hpp"

namespace kvcodec::bench {

inline constexpr int kHeadDims[] = {64, 128};
inline constexpr int kGqaGroups[] = {1, 4, 8};
inline constexpr std::int64_t kContexts[] = {4096, 16384, 65536};
inline constexpr int kKvHeads = 8;

/// Standard normal values from a seed.
inline std::vector<float> gaussian(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& value : x) value = normal(random);
  return x;
}

/// Calls fn(codec) for every built-in codec with its default options.
template <class F>
void for_each_codec(F&& fn) {
  BuiltinCodecs::for_each([&]<class C>() { fn(AnyCodec(C{})); });
}

/// Registers fn(state, codec, side, head_dim) as "<operation>/<codec>/<side>/head_dim:<n>" for every
/// codec, side and head size. Returns true, for the initialiser of a constant.
inline bool register_tiles(const std::string& operation,
                           void (*fn)(benchmark::State&, const AnyCodec&, Side, int)) {
  for_each_codec([&](const AnyCodec& codec) {
    for (const Side side : {Side::key, Side::value}) {
      if (codec.key_only() && side == Side::value) continue;
      for (const int head_dim : kHeadDims) {
        if (!codec.supports(head_dim)) continue;
        const std::string name = operation + "/" + codec.name() + "/" + to_string(side) +
                                 "/head_dim:" + std::to_string(head_dim);
        benchmark::RegisterBenchmark(name.c_str(), fn, codec.with_tables(head_dim), side, head_dim);
      }
    }
  });
  return true;
}

/// Bytes per second as a counter of the row.
inline benchmark::Counter rate(double per_iteration) {
  return benchmark::Counter(per_iteration, benchmark::Counter::kIsIterationInvariantRate,
                            benchmark::Counter::kIs1024);
}

}  // namespace kvcodec::bench
