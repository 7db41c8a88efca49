// LagKV's scores (kvcodec/policy/lagkv.hpp): one CTA per partition of a stream. Lanes share rows, eight
// channels each; what maps a channel to 0..1 stays in registers.
#include <limits>

#include "cuda/core/cta.cuh"
#include "cuda/policy/launch.cuh"

namespace kvcodec::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Smallest and largest value per channel, by warp.
struct ChannelRanges {
  float least[kWarps][kMaxHeadDim];
  float most[kWarps][kMaxHeadDim];
};

/// The channels of one lane: what LagScale holds of them.
struct LaneScale {
  double low[kOctet];
  double inverse[kOctet];  ///< 0: the channel is left out
  int n_live;              ///< of all channels
};

/// Where a thread stands: a group of `lanes` lanes takes a row at a time.
struct Place {
  int lanes;
  int lane;      ///< octet of the row
  int group;     ///< first row
  int n_groups;  ///< rows that the CTA takes at a time
  bool active;   ///< the octet exists

  __device__ explicit Place(int head_dim) {
    lanes = lanes_per_row(head_dim);
    lane = static_cast<int>(threadIdx.x) % lanes;
    group = static_cast<int>(threadIdx.x) / lanes;
    n_groups = kThreads / lanes;
    active = lane < head_dim / kOctet;
  }
};

__device__ void find_ranges(const RowSource& rows, std::int64_t token, std::int64_t head,
                            std::int64_t lag_size, const Place& at, ChannelRanges& ranges) {
  float least[kOctet] = {};
  float most[kOctet] = {};
  if (at.active) {
    // Everybody begins with the first row, so that a NaN there decides as it does on the CPU.
    load_octet(rows, rows.row(token, head) + at.lane * kOctet, least);
    for (int i = 0; i < kOctet; ++i) most[i] = least[i];
    for (std::int64_t t = at.group; t < lag_size; t += at.n_groups) {
      float x[kOctet];
      load_octet(rows, rows.row(token + t, head) + at.lane * kOctet, x);
#pragma unroll
      for (int i = 0; i < kOctet; ++i) {
        least[i] = x[i] < least[i] ? x[i] : least[i];
        most[i] = x[i] > most[i] ? x[i] : most[i];
      }
    }
  }
  for (int step = at.lanes; step < 32; step *= 2) {
#pragma unroll
    for (int i = 0; i < kOctet; ++i) {
      const float low = __shfl_xor_sync(0xffffffffu, least[i], step);
      const float high = __shfl_xor_sync(0xffffffffu, most[i], step);
      least[i] = low < least[i] ? low : least[i];
      most[i] = high > most[i] ? high : most[i];
    }
  }
  if (static_cast<int>(threadIdx.x) % 32 < at.lanes && at.active) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    for (int i = 0; i < kOctet; ++i) {
      ranges.least[warp][at.lane * kOctet + i] = least[i];
      ranges.most[warp][at.lane * kOctet + i] = most[i];
    }
  }
  __syncthreads();
}

__device__ LaneScale scale_of(const ChannelRanges& ranges, const Place& at) {
  LaneScale scale{};
  int n_live = 0;
  if (at.active) {
    for (int i = 0; i < kOctet; ++i) {
      const int c = at.lane * kOctet + i;
      float least = ranges.least[0][c];
      float most = ranges.most[0][c];
      for (int w = 1; w < kWarps; ++w) {
        least = ranges.least[w][c] < least ? ranges.least[w][c] : least;
        most = ranges.most[w][c] > most ? ranges.most[w][c] : most;
      }
      const double range = static_cast<double>(most) - static_cast<double>(least);
      if (!(range > 0.0 && range < kInfinity)) continue;
      scale.low[i] = static_cast<double>(least);
      scale.inverse[i] = 1.0 / range;
      ++n_live;
    }
  }
  scale.n_live = row_sum(n_live, at.lanes);
  __syncthreads();  // the ranges may be overwritten
  return scale;
}

/// sigma of one row; all lanes of the warp call it, each with its own row's octet.
__device__ double deviation(const LaneScale& scale, const float (&x)[kOctet], int lanes) {
  double z[kOctet];
  double sum = 0.0;
#pragma unroll
  for (int i = 0; i < kOctet; ++i) {
    z[i] = (static_cast<double>(x[i]) - scale.low[i]) * scale.inverse[i];
    sum += z[i];
  }
  const double mean = row_sum(sum, lanes) / scale.n_live;
  double square = 0.0;
#pragma unroll
  for (int i = 0; i < kOctet; ++i) {
    const double e = scale.inverse[i] > 0.0 ? z[i] - mean : 0.0;
    square += e * e;
  }
  square = row_sum(square, lanes);
  return scale.n_live < 2 ? 0.0 : sqrt(square / (scale.n_live - 1));
}

/// a [lag_size] <- softmax of sigma of the rows from `token` on, by those that follow them.
__device__ void score_side(const RowSource& rows, std::int64_t token, std::int64_t head,
                           std::int64_t lag_size, const Place& at, ChannelRanges& ranges,
                           double* a) {
  find_ranges(rows, token + lag_size, head, lag_size, at, ranges);
  const LaneScale scale = scale_of(ranges, at);
  for (std::int64_t base = 0; base < lag_size; base += at.n_groups) {
    const std::int64_t t = base + at.group;
    float x[kOctet] = {};
    if (at.active && t < lag_size) {
      load_octet(rows, rows.row(token + t, head) + at.lane * kOctet, x);
    }
    const double sigma = deviation(scale, x, at.lanes);
    if (at.lane == 0 && t < lag_size) a[t] = sigma;
  }
  __syncthreads();
  double largest = 0.0;
  for (std::int64_t t = threadIdx.x; t < lag_size; t += kThreads) {
    largest = largest < a[t] ? a[t] : largest;
  }
  largest = cta_max(largest);
  double sum = 0.0;
  for (std::int64_t t = threadIdx.x; t < lag_size; t += kThreads) {
    a[t] = exp(a[t] - largest);
    sum += a[t];
  }
  sum = cta_sum(sum);
  for (std::int64_t t = threadIdx.x; t < lag_size; t += kThreads) a[t] /= sum;
}

/// Rows that no partition judges.
__device__ void fill_rest(const LagForm& form, const LagPartitions& parts, std::int64_t n_rows,
                          double* score) {
  const bool is_short = n_rows < form.n_sink + 2 * form.lag_size;
  const std::int64_t judged_end = parts.first + parts.count * form.lag_size;
  for (std::int64_t i = threadIdx.x; i < n_rows; i += kThreads) {
    if (i >= parts.first && i < judged_end) {
      i += (judged_end - i - 1) / kThreads * kThreads;  // over what partitions judge
      continue;
    }
    double value = form.kvpress ? 1.0 : kInfinity;
    if (form.kvpress && is_short && i >= form.n_sink) {
      value = static_cast<double>(i - form.n_sink) / static_cast<double>(n_rows - form.n_sink);
    }
    score[i] = value;
  }
}

/// Grid: streams times (max_partitions + 1); the last CTA of a stream fills the rest.
__global__ void __launch_bounds__(kThreads)
    lag_scores_kernel(const __grid_constant__ Streams s, const __grid_constant__ LagForm form,
                      std::int64_t max_partitions, double* score, double* work) {
  KVCODEC_SHARED(ranges, ChannelRanges);
  const StreamShare at(s, max_partitions + 1);
  const LagPartitions parts = form.partitions(at.n_rows, s.ahead(at.seq));
  score += at.stream * s.max_rows;
  work += at.stream * s.max_rows;
  if (at.share == max_partitions) {
    fill_rest(form, parts, at.n_rows, score);
    return;
  }
  if (at.share >= parts.count) return;
  const std::int64_t row = parts.first + at.share * form.lag_size;
  const Place place(s.head_dim);
  score_side(s.k, at.first + row, at.head, form.lag_size, place, ranges, score + row);
  score_side(s.v, at.first + row, at.head, form.lag_size, place, ranges, work + row);
  double* to = form.ranks ? work : score;
  for (std::int64_t t = row + threadIdx.x; t < row + form.lag_size; t += kThreads) {
    to[t] = (score[t] + form.value_weight * work[t]) * form.factor;
  }
}

constexpr int kRankThreads = 128;

/// score <- rank / lag_size of a row's `work` in its partition, 0 for the smallest; of equal ones the
/// lower row has the higher rank. Grid: streams times partitions times pieces of kRankThreads rows.
__global__ void __launch_bounds__(kRankThreads)
    lag_ranks_kernel(const __grid_constant__ Streams s, const __grid_constant__ LagForm form,
                     std::int64_t max_partitions, std::int64_t n_pieces, const double* work,
                     double* score) {
  KVCODEC_SHARED(others, double[kRankThreads]);
  const StreamShare at(s, max_partitions * n_pieces);
  const LagPartitions parts = form.partitions(at.n_rows, s.ahead(at.seq));
  const std::int64_t partition = at.share / n_pieces;
  if (partition >= parts.count) return;
  const std::int64_t begin = at.stream * s.max_rows + parts.first + partition * form.lag_size;
  const std::int64_t own = at.share % n_pieces * kRankThreads + threadIdx.x;
  const double mine = own < form.lag_size ? ordered(work[begin + own]) : 0.0;
  std::int64_t rank = 0;
  for (std::int64_t base = 0; base < form.lag_size; base += kRankThreads) {
    const std::int64_t n =
        form.lag_size - base < kRankThreads ? form.lag_size - base : kRankThreads;
    if (threadIdx.x < n) others[threadIdx.x] = ordered(work[begin + base + threadIdx.x]);
    __syncthreads();
    for (std::int64_t j = 0; j < n; ++j) {
      rank += others[j] < mine || (others[j] == mine && base + j > own) ? 1 : 0;
    }
    __syncthreads();
  }
  if (own >= form.lag_size) return;
  score[begin + own] = static_cast<double>(rank) / static_cast<double>(form.lag_size);
}

}  // namespace

cudaError_t launch_lag_scores(const Streams& s, const LagForm& form, std::int64_t n_streams,
                              double* score, double* work, cudaStream_t stream) {
  const std::int64_t n_parts = form.max_partitions(s.max_rows);
  const cudaError_t status =
      launch(lag_scores_kernel,
             {dim3(static_cast<unsigned>(n_streams * (n_parts + 1))), dim3(kThreads), 0, stream}, s,
             form, n_parts, score, work);
  if (status != cudaSuccess || !form.ranks) return status;
  const std::int64_t n_pieces = ceil_div(form.lag_size, kRankThreads);
  return launch(
      lag_ranks_kernel,
      {dim3(static_cast<unsigned>(n_streams * n_parts * n_pieces)), dim3(kRankThreads), 0, stream},
      s, form, n_parts, n_pieces, work, score);
}

}  // namespace kvcodec::cuda
