// Scores from observed attention: snapkv and spindle (kvcodec/policy/snapkv.hpp, spindle.hpp), operation by
// operation what the CPU does.
#include "cuda/policy/launch.cuh"

namespace kvcodec::cuda {
namespace {

constexpr int kThreads = kScoreRows;
constexpr int kMaxReach = 31;

/// Grid: streams times shares of kScoreRows rows.
__global__ void __launch_bounds__(kThreads)
    snapkv_kernel(const __grid_constant__ Streams s, std::int64_t n_shares, std::int32_t window,
                  std::int32_t pooling, double* score) {
  KVCODEC_SHARED(weight, double[kScoreRows + 2 * kMaxReach]);
  const StreamShare at(s, n_shares);
  const std::int64_t begin = at.share * kScoreRows;
  if (begin >= at.n_rows) return;
  const float* observed = s.observed + at.stream * s.gqa_group * s.max_rows;
  const std::int64_t reach = pooling / 2;
  const double terms = static_cast<double>(s.gqa_group) * window;
  for (std::int64_t i = threadIdx.x; i < kScoreRows + 2 * reach; i += kThreads) {
    const std::int64_t row = begin - reach + i;
    if (row < 0 || row >= at.n_rows) continue;
    double sum = 0.0;
    for (int g = 0; g < s.gqa_group; ++g) {
      sum += static_cast<double>(observed[g * s.max_rows + row]);
    }
    weight[i] = sum / terms;
  }
  __syncthreads();
  const std::int64_t row = begin + threadIdx.x;
  if (row >= at.n_rows) return;
  double sum = 0.0;
  for (std::int64_t j = row - reach; j <= row + reach; ++j) {
    if (j >= 0 && j < at.n_rows) sum += weight[j - begin + reach];
  }
  score[at.stream * s.max_rows + row] = sum / pooling;
}

/// The score of one row for one query head; observed [n_rows].
__device__ double spindle_score(SpindleScore form, const float* observed, std::int64_t a,
                                std::int64_t n_rows, std::int64_t n_ahead) {
  if (form == SpindleScore::paper) {
    return static_cast<double>(observed[a]) / static_cast<double>(n_rows + n_ahead - a);
  }
  double sum = 0.0;
  for (std::int64_t b = a - 2; b <= a + 2; ++b) {
    if (b >= 0 && b < n_rows) sum += static_cast<double>(observed[b]);
  }
  return sum / 5.0;
}

__global__ void __launch_bounds__(kThreads)
    spindle_kernel(const __grid_constant__ Streams s, std::int64_t n_shares, SpindleScore form,
                   bool shared, double* score) {
  const StreamShare at(s, n_shares);
  const std::int64_t row = at.share * kScoreRows + threadIdx.x;
  if (row >= at.n_rows) return;
  const std::int64_t n_ahead = s.ahead(at.seq);
  const float* observed = s.observed + at.stream * s.gqa_group * s.max_rows;
  double mean = 0.0;
  for (int g = 0; g < s.gqa_group; ++g) {
    const double own = spindle_score(form, observed + g * s.max_rows, row, at.n_rows, n_ahead);
    mean += own / s.gqa_group;
    if (!shared) score[(at.stream * s.gqa_group + g) * s.max_rows + row] = own;
  }
  if (shared) score[at.stream * s.max_rows + row] = mean;
}

}  // namespace

cudaError_t launch_snapkv_scores(const Streams& s, const SnapKv& policy, std::int64_t n_streams,
                                 double* score, cudaStream_t stream) {
  const std::int64_t n_shares = ceil_div(s.max_rows, kScoreRows);
  return launch(snapkv_kernel,
                {dim3(static_cast<unsigned>(n_streams * n_shares)), dim3(kThreads), 0, stream}, s,
                n_shares, policy.window, policy.pooling, score);
}

cudaError_t launch_spindle_scores(const Streams& s, const SpindlePyramid& policy,
                                  std::int64_t n_streams, double* score, cudaStream_t stream) {
  const std::int64_t n_shares = ceil_div(s.max_rows, kScoreRows);
  return launch(spindle_kernel,
                {dim3(static_cast<unsigned>(n_streams * n_shares)), dim3(kThreads), 0, stream}, s,
                n_shares, policy.score, policy.shared, score);
}

}  // namespace kvcodec::cuda
