// What the probe costs: decode steps with and without one.
//
// "share" is the CPU time of all calls of the probe over that of the steps without them, which are
// appends and attention: no model. "predicted_share" counts multiply-adds of attention where nothing is
// evicted: one KV head of one layer against all of all layers, once per `every` steps.
#include <cmath>
#include <ctime>

#include "axes.hpp"
#include "kvcodec/attend/attend.hpp"
#include "kvcodec/attend/cpu_isa.hpp"
#include "kvcodec/meter/probe.hpp"
#include "kvcodec/plan/plan.hpp"

namespace kvcodec::bench {
namespace {

/// CPU time of this thread: the machine may be shared.
std::int64_t cpu_ns() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return std::int64_t{t.tv_sec} * 1000000000 + t.tv_nsec;
}

/// What a pair of readings adds to what lies between them: a system call, which costs microseconds on
/// some machines.
std::int64_t reading_ns() {
  constexpr int kPairs = 10000;
  std::int64_t sum = 0;
  for (int i = 0; i < kPairs; ++i) {
    const std::int64_t start = cpu_ns();
    sum += cpu_ns() - start;
  }
  return sum / kPairs;
}

constexpr std::int64_t kContext = 16384;
constexpr int kHeadDim = 128;

/// One sequence of kContext tokens; each iteration is a step of `every` tokens, so that every
/// iteration holds one check.
void decode(benchmark::State& state, const std::string& plan, int gqa_group, int n_layers,
            bool probed) {
  const HeadShape shape{kKvHeads * gqa_group, kKvHeads, kHeadDim};
  constexpr std::int64_t kRoom = 1 << 16;
  Cache cache(make_cache_config(plan, shape, n_layers, kContext + kRoom, 1));
  QualityProbe probe(cache);
  const std::int32_t every = probe.options().every;
  const SeqId seq = cache.open();
  constexpr std::int64_t kPiece = 1024;
  const std::vector<float> rows =
      gaussian(static_cast<std::size_t>(kPiece * kKvHeads * kHeadDim), 1);
  const std::int64_t reading = reading_ns();
  std::int64_t in_probe = 0;
  const auto timed = [&](auto call) {
    const std::int64_t start = cpu_ns();
    call();
    in_probe += cpu_ns() - start - reading;
  };
  const auto add = [&](std::int32_t layer, const AnyRows& row) {
    cache.append(seq, layer, row, row);
    if (probed) timed([&] { probe.append(cache, seq, layer, row, row); });
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
  in_probe = 0;
  std::int64_t whole = 0;
  for (auto _ : state) {
    const std::int64_t start = cpu_ns();
    for (std::int32_t i = 0; i < every; ++i) {
      for (std::int32_t layer = 0; layer < n_layers; ++layer) {
        add(layer,
            dense_rows(rows.data() + i % kPiece * kKvHeads * kHeadDim, 1, kKvHeads, kHeadDim));
        attend(cache, layer, step, out.data(), nullptr, options, workspace);
        if (probed) timed([&] { probe.observe(cache, layer, step, out.data(), options); });
      }
    }
    whole += cpu_ns() - start;
    if (cache.n_tokens(seq) > kContext + 2048) {
      state.PauseTiming();
      if (cache.truncate(seq, kContext) == Status::ok) probe.truncate(seq, kContext);
      state.ResumeTiming();
    }
  }
  state.SetLabel(cpu_isa());
  const auto steps = static_cast<double>(state.iterations() * every);
  state.counters["ms_per_step"] = 1e-6 * static_cast<double>(whole - in_probe) / steps;
  if (!probed) return;
  state.counters["share"] = static_cast<double>(in_probe) / static_cast<double>(whole - in_probe);
  state.counters["predicted_share"] = 1.0 / (every * kKvHeads * n_layers);
  state.counters["checks"] = static_cast<double>(probe.stats().observations - before.observations);
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
  const std::int64_t reading = reading_ns();
  std::int64_t in_cache = 0;
  std::int64_t in_probe = 0;
  for (auto _ : state) {
    const SeqId seq = cache.open();
    for (std::int64_t t = 0; t < kContext; t += kPiece) {
      for (std::int32_t layer = 0; layer < n_layers; ++layer) {
        const std::int64_t start = cpu_ns();
        cache.append(seq, layer, piece, piece);
        const std::int64_t appended = cpu_ns();
        probe.append(cache, seq, layer, piece, piece);
        in_cache += appended - start - reading;
        in_probe += cpu_ns() - appended - reading;
      }
    }
    cache.close(seq);
    probe.close(seq);
  }
  state.counters["share_of_append"] = static_cast<double>(in_probe) / static_cast<double>(in_cache);
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
