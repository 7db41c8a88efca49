// What the probe costs: decode steps with and without one, and its own clocks.
//
// "share" is the probe's time (checks and shadow appends, by its own clocks) over the time of the whole
// steps, which are appends, attention and the probe: no model. "predicted_share" counts multiply-adds:
// rows of the shadow over rows of all layers and heads, once per `every` steps.
#include <chrono>
#include <cmath>

#include "axes.hpp"
#include "kvcodec/attend/attend.hpp"
#include "kvcodec/attend/cpu_isa.hpp"
#include "kvcodec/meter/probe.hpp"
#include "kvcodec/plan/plan.hpp"

namespace kvcodec::bench {
namespace {

constexpr std::int64_t kContext = 16384;
constexpr int kHeadDim = 128;

/// One sequence of kContext tokens; each iteration is a step of `every` tokens, so that every
/// iteration holds one check.
void decode(benchmark::State& state, const std::string& plan, int gqa_group, int n_layers,
            bool probed) {
  const HeadShape shape{kKvHeads * gqa_group, kKvHeads, kHeadDim};
  constexpr std::int64_t kRoom = 1 << 16;
  Cache cache(make_cache_config(plan, shape, n_layers, kContext + kRoom, 1));
  const ProbeOptions probe_options;
  QualityProbe probe(cache, probe_options);
  const SeqId seq = cache.open();
  constexpr std::int64_t kPiece = 1024;
  const std::vector<float> rows =
      gaussian(static_cast<std::size_t>(kPiece * kKvHeads * kHeadDim), 1);
  const auto add = [&](std::int32_t layer, const AnyRows& row) {
    cache.append(seq, layer, row, row);
    if (probed) probe.append(cache, seq, layer, row, row);
  };
  for (std::int64_t t = 0; t < kContext; t += kPiece) {
    for (std::int32_t layer = 0; layer < n_layers; ++layer) {
      add(layer, dense_rows(rows.data(), kPiece, kKvHeads, kHeadDim));
    }
  }
  const std::vector<float> q = gaussian(static_cast<std::size_t>(shape.n_q_heads * kHeadDim), 2);
  std::vector<float> out(q.size());
  AttendOptions options;
  options.sm_scale = 1.0f / std::sqrt(static_cast<float>(kHeadDim));
  AttendWorkspace workspace;
  Step step;
  step.seqs = {&seq, 1};
  step.q = dense_rows(q.data(), 1, shape.n_q_heads, kHeadDim);
  const ProbeStats before = probe.stats();
  CallTimes whole;
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    for (std::int32_t i = 0; i < probe_options.every; ++i) {
      for (std::int32_t layer = 0; layer < n_layers; ++layer) {
        add(layer, dense_rows(rows.data() + i * kKvHeads * kHeadDim, 1, kKvHeads, kHeadDim));
        attend(cache, layer, step, out.data(), nullptr, options, workspace);
        if (probed) probe.observe(cache, layer, step, out.data(), options);
      }
    }
    whole.nanoseconds += std::chrono::duration_cast<std::chrono::nanoseconds>(
                             std::chrono::steady_clock::now() - start)
                             .count();
    if (cache.n_tokens(seq) > kContext + 2048) {
      state.PauseTiming();
      if (cache.truncate(seq, kContext) == Status::ok) probe.truncate(seq, kContext);
      state.ResumeTiming();
    }
  }
  state.SetLabel(cpu_isa());
  state.counters["ms_per_step"] = static_cast<double>(whole.nanoseconds) * 1e-6 /
                                  static_cast<double>(state.iterations() * probe_options.every);
  if (!probed) return;
  const ProbeStats after = probe.stats();
  const auto ns = [](const CallTimes& a, const CallTimes& b) {
    return static_cast<double>(a.nanoseconds - b.nanoseconds);
  };
  const double check = ns(after.check, before.check);
  const double shadow = ns(after.shadow, before.shadow);
  state.counters["share"] = (check + shadow) / static_cast<double>(whole.nanoseconds);
  state.counters["predicted_share"] = 1.0 / (probe_options.every * kKvHeads * n_layers);
  state.counters["us_per_check"] =
      1e-3 * check / static_cast<double>(after.check.calls - before.check.calls);
  state.counters["checks"] = static_cast<double>(after.check.calls - before.check.calls);
}

/// Prompt of kContext tokens: what keeping the shadow costs where most of it is written.
void prompt(benchmark::State& state, const std::string& plan, int n_layers) {
  const HeadShape shape{kKvHeads, kKvHeads, kHeadDim};
  Cache cache(make_cache_config(plan, shape, n_layers, kContext, 1));
  QualityProbe probe(cache);
  constexpr std::int64_t kPiece = 512;
  const std::vector<float> rows =
      gaussian(static_cast<std::size_t>(kPiece * kKvHeads * kHeadDim), 1);
  const AnyRows piece = dense_rows(rows.data(), kPiece, kKvHeads, kHeadDim);
  for (auto _ : state) {
    const SeqId seq = cache.open();
    for (std::int64_t t = 0; t < kContext; t += kPiece) {
      for (std::int32_t layer = 0; layer < n_layers; ++layer) {
        cache.append(seq, layer, piece, piece);
        probe.append(cache, seq, layer, piece, piece);
      }
    }
    cache.close(seq);
    probe.close(seq);
  }
  const auto appended = static_cast<double>(cache.stats().append.nanoseconds);
  state.counters["share_of_append"] =
      static_cast<double>(probe.stats().shadow.nanoseconds) / appended;
}

void stats(benchmark::State& state) {
  const HeadShape shape{kKvHeads, kKvHeads, kHeadDim};
  Cache cache(make_cache_config("kv=nqkv", shape, 32, 1 << 16, 64));
  for (int i = 0; i < 64; ++i) cache.open();
  for (auto _ : state) {
    const CacheStats s = cache.stats();
    benchmark::DoNotOptimize(&s);
  }
}

const bool registered = [] {
  for (const std::string plan : {"kv=nqkv", "kv=f16", "kv=nqkv,policy=lagkv:l128:r0.5,sink=16"}) {
    for (const int group : {1, 4}) {
      for (const int n_layers : {1, 4}) {
        for (const bool probed : {false, true}) {
          const std::string name = "meter/" + plan + "/gqa:" + std::to_string(group) +
                                   "/layers:" + std::to_string(n_layers) +
                                   (probed ? "/probe" : "/plain");
          benchmark::RegisterBenchmark(name.c_str(), decode, plan, group, n_layers, probed)
              ->Unit(benchmark::kMillisecond);
        }
      }
    }
  }
  benchmark::RegisterBenchmark("meter/prompt/kv=nqkv/layers:1", prompt, "kv=nqkv", 1)
      ->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("meter/prompt/kv=nqkv/layers:4", prompt, "kv=nqkv", 4)
      ->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("meter/stats/sequences:64/layers:32", stats)
      ->Unit(benchmark::kMicrosecond);
  return true;
}();

}  // namespace
}  // namespace kvcodec::bench
