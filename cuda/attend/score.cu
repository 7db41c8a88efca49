#include "kvcodec/cuda/score.hpp"

#include "cuda/attend/call.hpp"
#include "cuda/attend/general/general.hpp"
#include "cuda/core/check.hpp"

namespace kvcodec::cuda {
namespace {

constexpr const char* kWhat = "score on the device";
constexpr float kLn2 = 0.693147180559945309f;  // logits of a wave are in powers of two

/// scores <- logits of one wave. Grid: x splits of the wave, y KV heads times units, z sequences.
__global__ void __launch_bounds__(kAttendThreads)
    spread_kernel(const GeneralParams g, float* scores, std::int64_t stride) {
  const AttendParams& p = g.p;
  const auto split = static_cast<std::int32_t>(blockIdx.x);
  const Unit u = Unit::at(p, blockIdx.z, blockIdx.y);
  if (u.n_rows == 0) return;
  const SplitRows rows = SplitRows::at(g, u, split);
  const int row = static_cast<int>(threadIdx.x) % kTileRows;
  for (std::int32_t at = rows.begin; at < rows.end; at += kTileRows) {
    const float* logits = g.tile_logits(u, split, (at - rows.begin) / kTileRows);
    if (at + row >= rows.end || at + row >= stride) continue;
    for (int q = static_cast<int>(threadIdx.x) / kTileRows; q < u.n_rows;
         q += kAttendThreads / kTileRows) {
      scores[u.q_row(p, q) * stride + at + row] = kLn2 * logits[q * kTileRows + row];
    }
  }
}

struct Plan {
  Plan(const KvView& view, const AttendLimits& limits) {
    check_sizes(kWhat, view, limits);
    if (!view.k_codec) throw unsupported(std::string(kWhat) + ": the view has no codec for k");
    const std::string why = why_not_general_keys(view);
    if (!why.empty()) throw unsupported(std::string(kWhat) + ": " + why);
    AttendLimits of_pages = limits;
    of_pages.max_raw_rows = 0;
    p = plan_call(view, of_pages, kUnitRows);
    p.k = general_format(view.shape.head_dim);
    p.v = p.k;
    waves = plan_waves(p, of_pages);
  }
  std::size_t bytes() const { return waves.bytes + sketch_bytes(p); }

  AttendParams p;
  Waves waves;
};

}  // namespace

std::string why_no_scores(const KvView& view) {
  return view.k_codec ? why_not_general_keys(view) : "the view has no codec for k";
}

std::size_t score_workspace_bytes(const KvView& view, const AttendLimits& limits) {
  return Plan(view, limits).bytes();
}

void score(const KvView& view, const DeviceQueries& queries, const AttendOptions& options,
           const AttendLimits& limits, float* scores, std::int64_t stride, void* workspace,
           std::size_t workspace_bytes, Stream stream) {
  Plan plan(view, limits);
  if (view.n_seq == 0) return;
  AttendParams& p = plan.p;
  check_call(kWhat, view, queries, options);
  if (scores == nullptr) {
    throw invalid_argument(bad_value(kWhat, "scores", "null", "a device pointer"));
  }
  if (stride < limits.max_encoded_rows) {
    throw invalid_argument(
        bad_value(kWhat, "stride", stride,
                  "at least max_encoded_rows = " + std::to_string(limits.max_encoded_rows)));
  }
  check_workspace(kWhat, workspace, workspace_bytes, plan.bytes());
  set_call(p, queries, options);
  auto* logits = static_cast<float*>(workspace);
  float* sketch = sketch_bytes(p) > 0 ? logits + plan.waves.bytes / sizeof(float) : nullptr;
  launch_sketch(kWhat, p, sketch, stream);
  GeneralParams g{p, sketch, logits, plan.waves.wave_splits, plan.waves.tiles_per_split, 0};
  const dim3 grid(static_cast<unsigned>(plan.waves.wave_splits),
                  static_cast<unsigned>(view.shape.n_kv_heads * p.n_units),
                  static_cast<unsigned>(view.n_seq));
  for (; g.first_split < p.n_page_splits; g.first_split += plan.waves.wave_splits) {
    check(launch_scores(g, stream), "score on the device, logits");
    check(launch(spread_kernel, {grid, dim3(kAttendThreads), 0, stream}, g, scores, stride),
          "score on the device, spreading logits");
  }
}

}  // namespace kvcodec::cuda
