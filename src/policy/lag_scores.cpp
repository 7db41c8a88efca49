// LagKV's scores by the kernels of the instruction set in use.
#include "kvcodec/policy/lagkv.hpp"
#include "src/cpu/kernels.hpp"

namespace kvcodec {

void lag_scores(int head_dim, std::int64_t lag_size, const float* rows, const float* next,
                double* score) noexcept {
  const cpu::Kernels& table = cpu::kernels();
  float least[kMaxHeadDim];
  float most[kMaxHeadDim];
  if (table.channel_ends != nullptr) {
    table.channel_ends(head_dim, lag_size, next, least, most);
  } else {
    LagScale::channel_ends(head_dim, lag_size, next, least, most);
  }
  const LagScale scale(head_dim, least, most);
  if (table.lag_deviations != nullptr) {
    table.lag_deviations(head_dim, {scale.low, scale.inverse, scale.live, scale.n_live}, lag_size,
                         rows, score);
  } else {
    for (std::int64_t t = 0; t < lag_size; ++t) {
      score[t] = scale.deviation(head_dim, rows + t * head_dim);
    }
  }
  const double largest = std::max(0.0, *std::max_element(score, score + lag_size));
  double sum = 0.0;
  for (std::int64_t t = 0; t < lag_size; ++t) {
    score[t] = std::exp(score[t] - largest);
    sum += score[t];
  }
  for (std::int64_t t = 0; t < lag_size; ++t) score[t] /= sum;
}

}  // namespace kvcodec
