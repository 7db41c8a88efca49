// Dense attention in float64: slow, obvious, the judge of everything else.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kvcodec/attend/attend.hpp"

namespace kvcodec {

/// One query row against n_rows rows of one KV head.
///
/// q [head_dim]; k, v [n_rows, head_dim] with row_stride elements from row to row; pos [n_rows]
/// positions of the rows; q_pos the query's; sink_logit: -inf for none. Writes out [head_dim] and
/// returns the natural-log LSE.
template <class T>
double reference_attend(std::int32_t head_dim, std::int64_t n_rows, const T* q, const T* k,
                        const T* v, std::int64_t row_stride, const std::int32_t* pos,
                        std::int32_t q_pos, const AttendOptions& options, double sink_logit,
                        double* out) {
  constexpr double kEmpty = -std::numeric_limits<double>::infinity();
  std::vector<double> logit(static_cast<std::size_t>(n_rows), kEmpty);
  double top = sink_logit;
  for (std::int64_t r = 0; r < n_rows; ++r) {
    const bool in_window =
        options.window <= 0 || pos[r] > q_pos - options.window || pos[r] < options.window_sinks;
    if (pos[r] > q_pos || !in_window) continue;
    double dot = 0.0;
    for (std::int32_t c = 0; c < head_dim; ++c) {
      dot += static_cast<double>(q[c]) * static_cast<double>(k[r * row_stride + c]);
    }
    double x = static_cast<double>(options.sm_scale) * dot;
    const double cap = static_cast<double>(options.logits_soft_cap);
    if (cap > 0.0) x = cap * std::tanh(x / cap);
    logit[static_cast<std::size_t>(r)] = x;
    top = std::max(top, x);
  }
  std::fill_n(out, head_dim, 0.0);
  if (top == kEmpty) return kEmpty;
  double sum = sink_logit == kEmpty ? 0.0 : std::exp(sink_logit - top);
  for (std::int64_t r = 0; r < n_rows; ++r) {
    const double x = logit[static_cast<std::size_t>(r)];
    if (x == kEmpty) continue;
    const double weight = std::exp(x - top);
    sum += weight;
    for (std::int32_t c = 0; c < head_dim; ++c) {
      out[c] += weight * static_cast<double>(v[r * row_stride + c]);
    }
  }
  for (std::int32_t c = 0; c < head_dim; ++c) out[c] /= sum;
  return top + std::log(sum);
}

}  // namespace kvcodec
