// Observed attention (kvcodec/policy/observe.hpp). Weights need the whole softmax of a query before the
// first can be added, and logits are too many to keep: they are formed twice, alike.
//
//   totals    per query and split of kSplitRows rows: largest logit, sum of exp(logit - largest)
//   combine   per query: both over all splits
//   weights   per judged row: the weights of all queries of each query head
#include <cmath>
#include <limits>

#include "cuda/core/check.hpp"
#include "cuda/core/products.cuh"
#include "cuda/policy/arguments.hpp"
#include "cuda/policy/streams.cuh"

namespace kvcodec::cuda {
namespace {

/// Rows whose totals are formed by one CTA; results depend on it in their last bits.
constexpr std::int64_t kSplitRows = 1024;

constexpr float kNothing = -std::numeric_limits<float>::infinity();

/// Softmax of a query: weights are exp(logit - largest) * inverse.
struct Softmax {
  float largest;
  float inverse;
};

struct ObserveJob {
  Streams s;
  RowSource q;
  const std::int64_t* q_first;
  const std::int64_t* n_queries;
  const std::int64_t* n_before;
  float sm_scale;
  std::int32_t max_queries;
  std::int64_t n_splits;
  std::int64_t n_q_tiles;  ///< of one query head
  std::int64_t n_k_tiles;  ///< judged rows of one stream
  float* largest;          ///< [n_seq, n_q_heads, max_queries, n_splits]
  double* sum;             ///< the same
  Softmax* softmax;        ///< [n_seq, n_q_heads, max_queries]
  float* observed;
};

/// A sequence's rows as its queries see them.
struct Seen {
  std::int64_t first;  ///< token of row 0
  std::int64_t n;
  std::int64_t n_before;
  std::int64_t n_queries;

  __device__ Seen(const ObserveJob& job, std::int64_t seq) {
    n_before = job.n_before == nullptr ? 0 : job.n_before[seq];
    first = job.s.first[seq] - n_before;
    n = n_before + job.s.n_rows[seq] + job.s.ahead(seq);
    n_queries = job.n_queries[seq];
  }
  /// Rows that query j sees.
  __device__ std::int64_t of_query(std::int64_t j) const { return n - n_queries + j + 1; }
};

__device__ void stage_queries(const ObserveJob& job, std::int64_t seq, std::int64_t q_head,
                              std::int64_t begin, std::int64_t n_queries, float* tile) {
  const std::int64_t token = job.q_first[seq] + begin;
  stage_rows<kLeftRows>(job.s.head_dim, n_queries - begin, tile,
                        [&](int row, int channel, float(&x)[kOctet]) {
                          load_octet(job.q, job.q.row(token + row, q_head) + channel, x);
                        });
}

__device__ void stage_keys(const ObserveJob& job, std::int64_t token, std::int64_t head,
                           std::int64_t n, float* tile) {
  stage_rows<kRightRows>(job.s.head_dim, n, tile, [&](int row, int channel, float(&x)[kOctet]) {
    load_octet(job.s.k, job.s.k.row(token + row, head) + channel, x);
  });
}

/// The softmax of a few rows: what a thread, then its half warp has seen.
struct Running {
  float largest = kNothing;
  double sum = 0.0;

  __device__ void merge(float other_largest, double other_sum) {
    if (other_sum == 0.0) return;
    const float top = other_largest > largest ? other_largest : largest;
    const double own = sum == 0.0 ? 0.0 : sum * exp(static_cast<double>(largest) - top);
    sum = own + other_sum * exp(static_cast<double>(other_largest) - top);
    largest = top;
  }
};

/// Grid: streams times query heads of a group, times tiles of kLeftRows queries, times splits.
__global__ void __launch_bounds__(kProductThreads, 4)
    totals_kernel(const __grid_constant__ ObserveJob job) {
  const int head_dim = job.s.head_dim;
  float* queries = dynamic_shared<float>();
  float* keys = queries + kLeftRows * head_dim;
  const StreamShare at(job.s, job.s.gqa_group * job.n_q_tiles * job.n_splits);
  const std::int64_t split = at.share % job.n_splits;
  const std::int64_t q_begin = at.share / job.n_splits % job.n_q_tiles * kLeftRows;
  const std::int64_t in_group = at.share / job.n_splits / job.n_q_tiles;
  const Seen seen(job, at.seq);
  if (q_begin >= seen.n_queries) return;
  const std::int64_t begin = split * kSplitRows;
  const std::int64_t end = begin + kSplitRows < seen.n ? begin + kSplitRows : seen.n;
  const std::int64_t q_head = at.head * job.s.gqa_group + in_group;
  stage_queries(job, at.seq, q_head, q_begin, seen.n_queries, queries);
  Running running[4];
  for (std::int64_t row = begin; row < end; row += kRightRows) {
    __syncthreads();
    stage_keys(job, seen.first + row, at.head, end - row, keys);
    __syncthreads();
    float dot[4][4];
    dots_by_octet(head_dim, queries, keys, dot);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::int64_t n_seen = seen.of_query(q_begin + left_row() + i);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const std::int64_t key = row + right_row() + j;
        if (key >= end || key >= n_seen) continue;
        const float logit = dot[i][j] * job.sm_scale;
        Running& own = running[i];
        if (logit > own.largest) {
          own.sum *= own.sum == 0.0 ? 0.0 : exp(static_cast<double>(own.largest) - logit);
          own.largest = logit;
        }
        own.sum += static_cast<double>(expf(logit - own.largest));
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    for (int step = 8; step > 0; step /= 2) {
      const float largest = __shfl_xor_sync(0xffffffffu, running[i].largest, step);
      const double sum = __shfl_xor_sync(0xffffffffu, running[i].sum, step);
      running[i].merge(largest, sum);
    }
    const std::int64_t query = q_begin + left_row() + i;
    if (right_row() != 0 || query >= seen.n_queries) continue;
    const std::int64_t to =
        ((at.stream * job.s.gqa_group + in_group) * job.max_queries + query) * job.n_splits + split;
    job.largest[to] = running[i].largest;
    job.sum[to] = running[i].sum;
  }
}

/// Grid: streams times query heads of a group, times kProductThreads queries.
__global__ void __launch_bounds__(kProductThreads, 4)
    combine_totals_kernel(const __grid_constant__ ObserveJob job) {
  const std::int64_t n_shares = ceil_div(job.max_queries, kProductThreads);
  const StreamShare at(job.s, job.s.gqa_group * n_shares);
  const Seen seen(job, at.seq);
  const std::int64_t query = at.share % n_shares * kProductThreads + threadIdx.x;
  if (query >= seen.n_queries) return;
  const std::int64_t to =
      (at.stream * job.s.gqa_group + at.share / n_shares) * job.max_queries + query;
  Running all;
  const std::int64_t n_splits = ceil_div(seen.n, kSplitRows);
  for (std::int64_t split = 0; split < n_splits; ++split) {
    all.merge(job.largest[to * job.n_splits + split], job.sum[to * job.n_splits + split]);
  }
  job.softmax[to] = {all.largest, static_cast<float>(1.0 / all.sum)};
}

/// Grid: streams times tiles of kRightRows judged rows.
__global__ void __launch_bounds__(kProductThreads, 4)
    weights_kernel(const __grid_constant__ ObserveJob job) {
  KVCODEC_SHARED(columns, float[kLeftRows / 4][kRightRows]);
  const int head_dim = job.s.head_dim;
  float* queries = dynamic_shared<float>();
  float* keys = queries + kLeftRows * head_dim;
  const StreamShare at(job.s, job.n_k_tiles);
  const std::int64_t row = at.share * kRightRows;
  if (row >= at.n_rows) return;
  const Seen seen(job, at.seq);
  stage_keys(job, at.first + row, at.head, at.n_rows - row, keys);
  for (int in_group = 0; in_group < job.s.gqa_group; ++in_group) {
    const std::int64_t q_head = at.stream * job.s.gqa_group + in_group;
    float sum[4] = {};
    for (std::int64_t begin = 0; begin < seen.n_queries; begin += kLeftRows) {
      __syncthreads();
      stage_queries(job, at.seq, at.head * job.s.gqa_group + in_group, begin, seen.n_queries,
                    queries);
      __syncthreads();
      float dot[4][4];
      dots_by_octet(head_dim, queries, keys, dot);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const std::int64_t query = begin + left_row() + i;
        if (query >= seen.n_queries) continue;
        const Softmax softmax = job.softmax[q_head * job.max_queries + query];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (seen.n_before + row + right_row() + j >= seen.of_query(query)) continue;
          sum[j] += expf(dot[i][j] * job.sm_scale - softmax.largest) * softmax.inverse;
        }
      }
    }
    for (int j = 0; j < 4; ++j) columns[left_row() / 4][right_row() + j] = sum[j];
    __syncthreads();
    const auto own = static_cast<std::int64_t>(threadIdx.x);
    if (own < kRightRows && row + own < at.n_rows) {
      float total = 0.0f;
      for (const auto& part : columns) total += part[own];
      job.observed[q_head * job.s.max_rows + row + own] = total;
    }
    __syncthreads();
  }
}

constexpr const char* kCall = "observe_rows";

void require_queries(const JudgedRows& rows, const ObservedQueries& queries) {
  if (queries.max_queries < 0 || queries.max_queries > 1 << 16) {
    throw invalid_argument(
        bad_value(kCall, "queries.max_queries", queries.max_queries, "0..65536"));
  }
  if (queries.max_seen < rows.max_rows || queries.max_seen >= std::int64_t{1} << 31) {
    throw invalid_argument(
        bad_value(kCall, "queries.max_seen", queries.max_seen,
                  "max_rows = " + std::to_string(rows.max_rows) + " or more, below 2^31"));
  }
  if (!std::isfinite(queries.sm_scale)) {
    throw invalid_argument(bad_value(kCall, "queries.sm_scale", queries.sm_scale, "finite"));
  }
  const std::int64_t n_tiles =
      std::int64_t{rows.n_seq} * rows.shape.n_q_heads * ceil_div(queries.max_queries, kLeftRows);
  require_ctas(kCall, "n_seq * n_q_heads * (max_queries / 32)", n_tiles);
  require_ctas(kCall, "n_seq * n_q_heads * (max_queries / 32) * (max_seen / 1024)",
               n_tiles * ceil_div(queries.max_seen, kSplitRows));
}

ObserveJob plan(const JudgedRows& rows, const ObservedQueries& queries, Workspace& memory) {
  const std::int64_t n_queries =
      std::int64_t{rows.n_seq} * rows.shape.n_q_heads * queries.max_queries;
  const std::int64_t n_splits = ceil_div(queries.max_seen, kSplitRows);
  return {Streams(rows),
          RowSource(queries.q),
          queries.first,
          queries.n_queries,
          queries.n_before,
          queries.sm_scale,
          queries.max_queries,
          n_splits,
          ceil_div(queries.max_queries, kLeftRows),
          ceil_div(rows.max_rows, kRightRows),
          memory.take<float>(n_queries * n_splits),
          memory.take<double>(n_queries * n_splits),
          memory.take<Softmax>(n_queries),
          nullptr};
}

}  // namespace

std::size_t observe_workspace_bytes(const JudgedRows& rows, const ObservedQueries& queries) {
  require_judged(kCall, rows);
  require_queries(rows, queries);
  Workspace memory;
  static_cast<void>(plan(rows, queries, memory));
  return memory.bytes();
}

void observe_rows(const JudgedRows& rows, const ObservedQueries& queries, float* observed,
                  void* workspace, std::size_t workspace_bytes, Stream stream) {
  const std::size_t needed = observe_workspace_bytes(rows, queries);
  if (nothing_to_do(rows)) return;
  require_lengths(kCall, rows);
  require_pointer(kCall, "k.data", rows.k.data);
  require_pointer(kCall, "queries.q.data", queries.q.data);
  require_pointer(kCall, "queries.first", queries.first);
  require_pointer(kCall, "queries.n_queries", queries.n_queries);
  require_pointer(kCall, "observed", observed);
  require_workspace(kCall, workspace, workspace_bytes, needed);
  Workspace memory(workspace);
  ObserveJob job = plan(rows, queries, memory);
  job.observed = observed;
  const std::int64_t n_streams = std::int64_t{rows.n_seq} * rows.shape.n_kv_heads;
  const std::int64_t n_heads = n_streams * rows.shape.gqa_group();
  const std::size_t shared =
      static_cast<std::size_t>(product_floats(rows.shape.head_dim)) * sizeof(float);
  const auto shape = [&](std::int64_t n_ctas, std::size_t shared_bytes) {
    return LaunchShape{dim3(static_cast<unsigned>(n_ctas)), dim3(kProductThreads), shared_bytes,
                       stream};
  };
  check(launch(totals_kernel, shape(n_heads * job.n_q_tiles * job.n_splits, shared), job), kCall);
  check(launch(combine_totals_kernel,
               shape(n_heads * ceil_div(queries.max_queries, kProductThreads), 0), job),
        kCall);
  check(launch(weights_kernel, shape(n_streams * job.n_k_tiles, shared), job), kCall);
}

}  // namespace kvcodec::cuda
