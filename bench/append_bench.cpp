// Appending tokens to a cache, one at a time and 256 at a time: tokens and input bytes per second.
#include "axes.hpp"
#include "kvcodec/cache/cache.hpp"
#include "kvcodec/plan/plan.hpp"

namespace kvcodec::bench {
namespace {

void append(benchmark::State& state, const std::string& plan, int head_dim, std::int64_t n_tokens) {
  const HeadShape shape{kKvHeads, kKvHeads, head_dim};
  constexpr std::int64_t kMost = 8192;
  Cache cache(make_cache_config(plan, shape, 1, kMost));
  const std::vector<float> x =
      gaussian(static_cast<std::size_t>(n_tokens * kKvHeads * head_dim), 1);
  const auto rows = dense_rows(x.data(), n_tokens, kKvHeads, head_dim);
  SeqId seq = cache.open();
  for (auto _ : state) {
    if (cache.n_tokens(seq) + n_tokens > kMost) {
      state.PauseTiming();
      cache.close(seq);
      seq = cache.open();
      state.ResumeTiming();
    }
    benchmark::DoNotOptimize(cache.try_append(seq, 0, rows, rows));
  }
  state.counters["tokens/s"] = rate(static_cast<double>(n_tokens));
  state.counters["input_bytes/s"] = rate(8.0 * static_cast<double>(x.size()));
}

const bool registered = [] {
  for_each_codec([](const AnyCodec& codec) {
    for (const char* transform : {"", "hadamard+"}) {
      for (const std::int64_t n_tokens : {1, 256}) {
        const std::string plan = "kv=" + std::string(transform) + codec.name();
        const std::string name = "append/" + plan + "/n_tokens:" + std::to_string(n_tokens);
        benchmark::RegisterBenchmark(name.c_str(), append, plan, 128, n_tokens);
      }
    }
  });
  return true;
}();

}  // namespace
}  // namespace kvcodec::bench
