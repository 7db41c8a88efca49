// Kernels that keep windows: planning an append, moving rows into windows and along in them, truncating.
//
// Compile with --fmad=false: the bytes must be those of the CPU.
#pragma once

#include "cuda/codec/encode.cuh"
#include "kvcodec/cuda/append.hpp"

namespace kvcodec::cuda {

/// Threads of a CTA that plans or truncates, and words of 16 bytes that a thread moves at a time.
inline constexpr int kPlanThreads = 128;
inline constexpr int kMovedWords = 4;

/// What attention sees of a sequence <- its counts, by all threads of the CTA.
__device__ inline void publish(const LayerWindow& w, std::int32_t seq, const WindowCounts& counts) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) w.counts[seq] = counts;
  for (int head = thread; head < w.shape.n_kv_heads; head += kPlanThreads) {
    const std::int64_t at = static_cast<std::int64_t>(seq) * w.shape.n_kv_heads + head;
    w.sinks[at].n_rows = counts.n_sink;
    w.recent[at].n_rows = counts.n_recent;
    w.recent[at].first_pos = static_cast<std::int32_t>(counts.n_sink + counts.n_encoded);
  }
  const int n_streams = w.shape.n_kv_heads / w.format.span;
  for (int i = thread; i < n_streams; i += kPlanThreads) {
    const std::int64_t stream = static_cast<std::int64_t>(seq) * n_streams + i;
    w.n_encoded[stream] = counts.n_encoded;
    w.first_pos[stream] = counts.n_sink;
  }
}

/// Whether the lists have the pages that rows begin .. end - 1 of every stream lie in: this thread's
/// share of them.
__device__ inline bool has_pages(const LayerWindow& w, const PageTable& pages, std::int32_t seq,
                                 std::int64_t begin, std::int64_t end) {
  if (begin >= end) return true;
  const std::int64_t first = begin / w.format.page_size;
  const std::int64_t n = (end - 1) / w.format.page_size + 1 - first;
  const int n_streams = w.shape.n_kv_heads / w.format.span;
  for (std::int64_t i = threadIdx.x; i < n * n_streams; i += kPlanThreads) {
    const std::int64_t stream = static_cast<std::int64_t>(seq) * n_streams + i / n;
    const std::int64_t at = pages.indptr[stream] + first + i % n;
    if (at >= pages.indptr[stream + 1]) return false;
    const std::int32_t page = pages.indices[at];
    if (page < 0 || page >= pages.n_pages) return false;
  }
  return true;
}

/// What is wrong with the range of new rows of a sequence.
__device__ inline std::uint32_t check_range(const AppendRows& rows, std::int64_t first,
                                            std::int64_t n, const WindowCounts& counts) {
  const bool good = n >= 0 && n <= rows.max_tokens_per_seq && first >= 0 &&
                    first <= rows.k.n_tokens - n && counts.n_tokens() <= 0x7fffffff - n;
  return good ? kWindowOk : kBadRange;
}

/// Grid: [n_seq].
static __global__ void __launch_bounds__(kPlanThreads)
    plan_kernel(const __grid_constant__ LayerWindow w, const __grid_constant__ PageTable pages,
                const __grid_constant__ AppendRows rows) {
  const auto seq = static_cast<std::int32_t>(blockIdx.x);
  const WindowCounts before = w.counts[seq];
  const std::uint32_t old_status = w.status[seq];
  const std::int64_t first = rows.indptr[seq];
  const std::int64_t n = rows.indptr[seq + 1] - first;
  std::uint32_t status = check_range(rows, first, n, before);
  WindowPlan plan;
  WindowCounts after = before;
  if (status == kWindowOk) {
    plan.first_token = first;
    plan.n_encoded = before.n_encoded;
    plan.n_new = static_cast<std::int32_t>(n);
    plan.n_sink = before.n_sink;
    plan.n_recent = before.n_recent;
    const std::int32_t sinks_left = w.n_sink - before.n_sink;
    plan.n_to_sink = plan.n_new < sinks_left ? plan.n_new : sinks_left;
    const std::int64_t recent = static_cast<std::int64_t>(before.n_recent) + n - plan.n_to_sink;
    after.n_sink += plan.n_to_sink;
    after.n_encoded = w.rule.encoded_after(before.n_encoded + recent, before.n_encoded);
    plan.n_leaving = after.n_encoded - before.n_encoded;
    after.n_recent = static_cast<std::int32_t>(recent - plan.n_leaving);
    for (std::int64_t i = threadIdx.x; rows.pos != nullptr && i < n; i += kPlanThreads) {
      rows.pos[first + i] = static_cast<std::int32_t>(before.n_tokens() + i);
    }
    if (w.n_centered > 0 && n > 0 && before.n_encoded == 0) status = kLacksCenter;
  }
  const bool mine = status != kWindowOk ||
                    has_pages(w, pages, seq, before.n_encoded, before.n_encoded + plan.n_leaving);
  // Also the barrier between the reads above and the writes below.
  if (__syncthreads_and(mine ? 1 : 0) == 0) status = kLacksPages;
  const bool stays = status != kWindowOk || old_status != kWindowOk || n == 0;
  if (stays) plan.n_new = 0;
  if (threadIdx.x == 0) {
    w.plans[seq] = plan;
    w.status[seq] = old_status | status;
  }
  if (!stays) publish(w, seq, after);
}

/// to [bytes] <- the bytes `shift` further on, by all threads; both multiples of 16.
__device__ inline void move_down(std::byte* to, std::int64_t shift, std::int64_t bytes) {
  const auto n = bytes / static_cast<std::int64_t>(sizeof(uint4));
  const auto* from = reinterpret_cast<const uint4*>(to + shift);
  auto* words = reinterpret_cast<uint4*>(to);
  for (std::int64_t first = 0; first < n; first += kMovedWords * kTileThreads) {
    uint4 moved[kMovedWords];
#pragma unroll
    for (int i = 0; i < kMovedWords; ++i) {
      const std::int64_t at = first + i * kTileThreads + threadIdx.x;
      if (at < n) moved[i] = load_vector(from + at);
    }
    __syncthreads();  // a later word's place is written only when it has been read
#pragma unroll
    for (int i = 0; i < kMovedWords; ++i) {
      const std::int64_t at = first + i * kTileThreads + threadIdx.x;
      if (at < n) words[at] = moved[i];
    }
  }
  __syncthreads();
}

/// Arguments of store_kernel.
struct StoreJob {
  LayerWindow window;
  EncodeSource source[2];
  int chunk_rows;  ///< new rows in shared memory at a time
};

/// The window of one (sequence, head) and side.
struct StorePlace {
  std::int32_t seq;
  std::int32_t head;
  std::byte* sinks;
  std::byte* recent;
};

/// Stores n new rows from `first` on, counted among those that go to sinks or stay in the window.
/// x [n, head_dim + 1]. Returns whether a value of this thread was clamped.
__device__ inline bool store_rows(const EncodeSource& source, const WindowPlan& plan,
                                  const StorePlace& at, int head_dim, int first, int n, float* x) {
  // Behind the sinks come rows that went to pages without ever being in the window.
  const std::int64_t from_window = plan.n_leaving < plan.n_recent ? plan.n_leaving : plan.n_recent;
  const std::int64_t skipped = plan.n_leaving - from_window;
  const std::int64_t staying = plan.n_recent - from_window;
  const AnyRows& rows = source.rows;
  const float limit = dtype_max(source.raw_dtype);
  const int stride = head_dim + 1;
  bool clamped = false;
  for (int i = static_cast<int>(threadIdx.x); i < n * head_dim; i += kTileThreads) {
    const int row = first + i / head_dim;
    const int channel = i % head_dim;
    const std::int64_t token = plan.first_token + row + (row < plan.n_to_sink ? 0 : skipped);
    const float value = load_value(
        rows.dtype, rows.data, token * rows.token_stride + at.head * rows.head_stride + channel);
    clamped |= !(abs_of(value) <= limit);
    x[i / head_dim * stride + channel] = clamp_finite(value, limit);
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x / 32); i < n; i += kTileThreads / 32) {
    clamped |= prepare_row(source.transform, source.raw_dtype, head_dim, at.head, x + i * stride);
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < n * head_dim; i += kTileThreads) {
    const int row = first + i / head_dim;
    const bool to_sink = row < plan.n_to_sink;
    const std::int64_t slot = to_sink ? plan.n_sink + row : staying + row - plan.n_to_sink;
    store_value(source.raw_dtype, to_sink ? at.sinks : at.recent, slot * head_dim + i % head_dim,
                x[i / head_dim * stride + i % head_dim]);
  }
  return clamped;
}

/// After the tiles were encoded: moves what stays in the windows to their fronts, and stores new rows.
/// Grid: [n_seq, n_kv_heads] in x, sides in z.
static __global__ void __launch_bounds__(kTileThreads)
    store_kernel(const __grid_constant__ StoreJob job) {
  const LayerWindow& w = job.window;
  const auto unit = static_cast<std::int64_t>(blockIdx.x);
  const EncodeSource& source = job.source[blockIdx.z];
  const WindowSide& side = blockIdx.z == 0 ? w.k : w.v;
  const int head_dim = w.shape.head_dim;
  StorePlace at{};
  at.seq = static_cast<std::int32_t>(unit / w.shape.n_kv_heads);
  at.head = static_cast<std::int32_t>(unit % w.shape.n_kv_heads);
  const WindowPlan plan = w.plans[at.seq];
  if (plan.n_new == 0) return;
  const std::int64_t row_bytes = head_dim * static_cast<std::int64_t>(dtype_bytes(side.raw_dtype));
  at.sinks = side.sinks + unit * w.n_sink * row_bytes;
  at.recent = side.recent + unit * w.rule.capacity() * row_bytes;
  if (plan.n_leaving > 0 && plan.n_leaving < plan.n_recent) {
    move_down(at.recent, plan.n_leaving * row_bytes, (plan.n_recent - plan.n_leaving) * row_bytes);
  }
  const std::int64_t direct = plan.n_leaving > plan.n_recent ? plan.n_leaving - plan.n_recent : 0;
  const int n_stored = static_cast<int>(plan.n_new - direct);
  auto* x = dynamic_shared<float>();
  bool clamped = false;
  for (int first = 0; first < n_stored; first += job.chunk_rows) {
    const int n = n_stored - first < job.chunk_rows ? n_stored - first : job.chunk_rows;
    clamped |= store_rows(source, plan, at, head_dim, first, n, x);
    __syncthreads();
  }
  if (clamped) atomicOr(w.clamped + at.seq, 1u);
}

/// Whether a sequence may be cut to n tokens: the rule of Cache::truncate.
__device__ inline std::uint32_t check_cut(const LayerWindow& w, const WindowCounts& counts,
                                          std::int64_t n) {
  if (n > counts.n_tokens()) return kBadRange;
  const std::int64_t rows = n > counts.n_sink ? n - counts.n_sink : 0;
  if (n < counts.n_tokens() && rows < w.n_centered) return kCannotTruncate;
  if (rows >= counts.n_encoded || rows % kTileRows == 0 || w.cuts_tiles) return kWindowOk;
  return kCannotTruncate;
}

/// Grid: [n_seq].
static __global__ void __launch_bounds__(kPlanThreads)
    truncate_kernel(const __grid_constant__ LayerWindow w, const std::int64_t* n_tokens) {
  const auto seq = static_cast<std::int32_t>(blockIdx.x);
  const std::int64_t n = n_tokens[seq];
  const WindowCounts before = w.counts[seq];
  const std::uint32_t old_status = w.status[seq];
  if (n < 0) return;
  const std::uint32_t status = n == 0 ? kWindowOk : check_cut(w, before, n);
  __syncthreads();  // between the reads above and the writes below
  if (threadIdx.x == 0) {
    w.status[seq] = n == 0 ? kWindowOk : old_status | status;
    if (n == 0) w.clamped[seq] = 0;
  }
  if (n > 0 && (status != kWindowOk || old_status != kWindowOk)) return;
  WindowCounts after;
  after.n_sink = static_cast<std::int32_t>(n < before.n_sink ? n : before.n_sink);
  const std::int64_t rows = n - after.n_sink;
  after.n_encoded = rows < before.n_encoded ? rows : before.n_encoded;
  after.n_recent = static_cast<std::int32_t>(rows - after.n_encoded);
  publish(w, seq, after);
}

}  // namespace kvcodec::cuda
