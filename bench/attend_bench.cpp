// Decode attention of one layer: milliseconds, bytes per second, share of the read bandwidth.
//
// Several sequences take turns, so that the cache of each has left the processor's caches when its
// turn comes again. Rows run on the instruction set in use; force one with KVCODEC_FORCE_ISA.
#include <cmath>

#include "axes.hpp"
#include "bandwidth.hpp"
#include "kvcodec/attend/attend.hpp"
#include "kvcodec/attend/cpu_isa.hpp"
#include "kvcodec/plan/plan.hpp"

namespace kvcodec::bench {
namespace {

/// Bytes that rotate through the caches between two visits of one sequence.
constexpr double kRotatedBytes = 192.0 * 1024 * 1024;

void attend_once(benchmark::State& state, const AnyCodec& codec, int head_dim, int gqa_group,
                 std::int64_t context, int n_threads) {
  const HeadShape shape{kKvHeads * gqa_group, kKvHeads, head_dim};
  const double bytes = 2.0 * static_cast<double>(context * kKvHeads / codec.head_span(head_dim)) *
                       static_cast<double>(codec.tile_bytes(head_dim)) / kTileRows;
  const auto n_seqs = static_cast<std::int32_t>(std::ceil(kRotatedBytes / bytes)) + 1;
  Cache cache(make_cache_config("recent=1,kv=" + codec.name(), shape, 1, context * n_seqs, n_seqs));
  constexpr std::int64_t kPiece = 1024;
  const std::vector<float> rows =
      gaussian(static_cast<std::size_t>(kPiece * kKvHeads * head_dim), 1);
  std::vector<SeqId> seqs;
  for (std::int32_t s = 0; s < n_seqs; ++s) {
    seqs.push_back(cache.open());
    for (std::int64_t t = 0; t < context; t += kPiece) {
      const auto piece = dense_rows(rows.data(), kPiece, kKvHeads, head_dim);
      cache.append(seqs.back(), 0, piece, piece);
    }
  }
  const std::vector<float> q = gaussian(static_cast<std::size_t>(shape.n_q_heads * head_dim), 2);
  std::vector<float> out(q.size());
  AttendOptions options;
  options.sm_scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  AttendWorkspace workspace;
  ThreadPool pool(n_threads);
  Step step;
  step.q = dense_rows(q.data(), 1, shape.n_q_heads, head_dim);
  std::size_t turn = 0;
  for (auto _ : state) {
    step.seqs = {&seqs[turn++ % seqs.size()], 1};
    attend(cache, 0, step, out.data(), nullptr, options, workspace, pool.executor());
    benchmark::ClobberMemory();
  }
  state.SetLabel(cpu_isa());
  state.counters["bits_per_value"] =
      8.0 * bytes / (2.0 * static_cast<double>(context * kKvHeads * head_dim));
  state.counters["bytes/s"] = rate(bytes);
  state.counters["share_of_read_bw"] = benchmark::Counter(
      bytes / (read_bandwidth() * n_threads), benchmark::Counter::kIsIterationInvariantRate);
}

const bool registered = [] {
  for_each_codec([](const AnyCodec& codec) {
    if (codec.key_only()) return;  // V would have to be another codec's: kernels_bench scores it
    for (const int head_dim : kHeadDims) {
      for (const int group : kGqaGroups) {
        for (const std::int64_t context : kContexts) {
          for (const int n_threads : {1, 2}) {
            const std::string name =
                "attend/" + codec.name() + "/head_dim:" + std::to_string(head_dim) +
                "/gqa:" + std::to_string(group) + "/context:" + std::to_string(context) +
                "/threads:" + std::to_string(n_threads);
            benchmark::RegisterBenchmark(name.c_str(), attend_once, codec, head_dim, group, context,
                                         n_threads)
                ->Unit(benchmark::kMillisecond)
                ->UseRealTime();
          }
        }
      }
    }
  });
  return true;
}();

}  // namespace
}  // namespace kvcodec::bench
