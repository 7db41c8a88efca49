// Scores of keys alone: knorm and keydiff (kvcodec/policy/knorm.hpp, keydiff.hpp).
#include "cuda/policy/launch.cuh"

namespace kvcodec::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

/// Calls use(row, x) for the rows of a CTA's share, by whole warps: x are the lane's channels, 0 where it
/// has none; rows from the end on are -1.
template <class Use>
__device__ void for_each_row(const Streams& s, const StreamShare& at, const Use& use) {
  const int lanes = lanes_per_row(s.head_dim);
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const int n_groups = kThreads / lanes;
  for (int base = 0; base < kScoreRows; base += n_groups) {
    const std::int64_t row =
        at.share * kScoreRows + base + static_cast<std::int64_t>(threadIdx.x) / lanes;
    const bool inside = row < at.n_rows;
    float x[kOctet] = {};
    if (inside && lane < s.head_dim / kOctet) {
      load_octet(s.k, s.k.row(at.first + row, at.head) + lane * kOctet, x);
    }
    use(inside ? row : -1, lane, lanes, x);
  }
}

__device__ double norm_of(const float (&x)[kOctet], int lanes) {
  double square = 0.0;
#pragma unroll
  for (int i = 0; i < kOctet; ++i) square += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sqrt(row_sum(square, lanes));
}

/// score <- -|k|. Grid: streams times shares of kScoreRows rows.
__global__ void __launch_bounds__(kThreads)
    knorm_kernel(const __grid_constant__ Streams s, std::int64_t n_shares, double* score) {
  const StreamShare at(s, n_shares);
  if (at.share * kScoreRows >= at.n_rows) return;
  score += at.stream * s.max_rows;
  for_each_row(s, at, [&](std::int64_t row, int lane, int lanes, const float(&x)[kOctet]) {
    const double norm = norm_of(x, lanes);
    if (row >= 0 && lane == 0) score[row] = -norm;
  });
}

/// norm <- |k|, partial [stream, share, head_dim] <- sums of k / |k|.
__global__ void __launch_bounds__(kThreads)
    directions_kernel(const __grid_constant__ Streams s, std::int64_t n_shares, double* norm,
                      double* partial) {
  KVCODEC_SHARED(sums, double[kWarps][kMaxHeadDim]);
  const StreamShare at(s, n_shares);
  if (at.share * kScoreRows >= at.n_rows) return;
  norm += at.stream * s.max_rows;
  double sum[kOctet] = {};
  for_each_row(s, at, [&](std::int64_t row, int lane, int lanes, const float(&x)[kOctet]) {
    const double length = norm_of(x, lanes);
    if (row < 0) return;
    if (lane == 0) norm[row] = length;
    if (length == 0.0) return;
    for (int i = 0; i < kOctet; ++i) sum[i] += static_cast<double>(x[i]) / length;
  });
  const int lanes = lanes_per_row(s.head_dim);
  for (int step = lanes; step < 32; step *= 2) {
    for (int i = 0; i < kOctet; ++i) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], step);
  }
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (lane < s.head_dim / kOctet) {
    for (int i = 0; i < kOctet; ++i) sums[threadIdx.x / 32][lane * kOctet + i] = sum[i];
  }
  __syncthreads();
  const int c = static_cast<int>(threadIdx.x);
  if (c >= s.head_dim) return;
  double total = 0.0;
  for (int w = 0; w < kWarps; ++w) total += sums[w][c];
  partial[(at.stream * n_shares + at.share) * s.head_dim + c] = total;
}

/// anchor [stream, head_dim + 1] <- the sum of a stream's partial ones, then its length. Grid: streams.
__global__ void __launch_bounds__(kMaxHeadDim)
    anchor_kernel(const __grid_constant__ Streams s, std::int64_t n_shares, const double* partial,
                  double* anchor) {
  KVCODEC_SHARED(values, double[kMaxHeadDim]);
  const StreamShare at(s, 1);
  anchor += at.stream * (s.head_dim + 1);
  const int c = static_cast<int>(threadIdx.x);
  if (c < s.head_dim) {
    const std::int64_t n = ceil_div(at.n_rows, kScoreRows);
    double total = 0.0;
    for (std::int64_t i = 0; i < n; ++i) {
      total += partial[(at.stream * n_shares + i) * s.head_dim + c];
    }
    values[c] = total;
    anchor[c] = total;
  }
  __syncthreads();
  if (c != 0) return;
  double square = 0.0;
  for (int i = 0; i < s.head_dim; ++i) square += values[i] * values[i];
  anchor[s.head_dim] = sqrt(square);
}

/// score, where |k| stands, <- -cos(k, anchor).
__global__ void __launch_bounds__(kThreads)
    cosine_kernel(const __grid_constant__ Streams s, std::int64_t n_shares, const double* anchor,
                  double* score) {
  const StreamShare at(s, n_shares);
  if (at.share * kScoreRows >= at.n_rows) return;
  score += at.stream * s.max_rows;
  anchor += at.stream * (s.head_dim + 1);
  const int own = static_cast<int>(threadIdx.x) % lanes_per_row(s.head_dim);
  double direction[kOctet] = {};
  if (own < s.head_dim / kOctet) {
    for (int i = 0; i < kOctet; ++i) direction[i] = anchor[own * kOctet + i];
  }
  for_each_row(s, at, [&](std::int64_t row, int lane, int lanes, const float(&x)[kOctet]) {
    double dot = 0.0;
    for (int i = 0; i < kOctet; ++i) dot += static_cast<double>(x[i]) * direction[i];
    dot = row_sum(dot, lanes);
    if (row < 0 || lane != 0) return;
    const double norms = score[row] * anchor[s.head_dim];
    const double cosine = norms == 0.0 ? 0.0 : -dot / norms;
    score[row] = cosine < -1.0 ? -1.0 : cosine > 1.0 ? 1.0 : cosine;
  });
}

LaunchShape shares_of(std::int64_t n_streams, std::int64_t n_shares, cudaStream_t stream) {
  return {dim3(static_cast<unsigned>(n_streams * n_shares)), dim3(kThreads), 0, stream};
}

}  // namespace

cudaError_t launch_knorm_scores(const Streams& s, std::int64_t n_streams, double* score,
                                cudaStream_t stream) {
  const std::int64_t n_shares = ceil_div(s.max_rows, kScoreRows);
  return launch(knorm_kernel, shares_of(n_streams, n_shares, stream), s, n_shares, score);
}

cudaError_t launch_keydiff_scores(const Streams& s, std::int64_t n_streams, double* score,
                                  double* partial, double* anchor, cudaStream_t stream) {
  const std::int64_t n_shares = ceil_div(s.max_rows, kScoreRows);
  const LaunchShape shape = shares_of(n_streams, n_shares, stream);
  cudaError_t status = launch(directions_kernel, shape, s, n_shares, score, partial);
  if (status != cudaSuccess) return status;
  status =
      launch(anchor_kernel, {dim3(static_cast<unsigned>(n_streams)), dim3(kMaxHeadDim), 0, stream},
             s, n_shares, partial, anchor);
  if (status != cudaSuccess) return status;
  return launch(cosine_kernel, shape, s, n_shares, anchor, score);
}

}  // namespace kvcodec::cuda
