// Which channels of a key the QJL codec takes for outliers.
#pragma once

#include <cstddef>

#include "kvcodec/core/arith.hpp"
#include "kvcodec/core/config.hpp"
#include "kvcodec/core/dtype.hpp"

namespace kvcodec {

/// Sum of squares of a channel of x [n_rows, head_dim], rows `row_stride` floats apart, clamped to f16;
/// a square of a f32 is exact in float64.
KVCODEC_HD inline double qjl_channel_energy(int n_rows, const float* x, int row_stride,
                                            int channel) noexcept {
  double energy = 0.0;
  for (int row = 0; row < n_rows; ++row) {
    const auto value = static_cast<double>(clamp_finite(x[row * row_stride + channel], kF16Max));
    energy += value * value;
  }
  return energy;
}

/// channels [n]: the n <= head_dim channels with the largest qjl_channel_energy() over
/// x [n_rows, head_dim], ascending; ties go to the lower channel.
KVCODEC_HD inline void qjl_choose_outliers(int head_dim, int n_rows, const float* x, int row_stride,
                                           int n, std::byte* channels) noexcept {
  double energy[kMaxHeadDim];  // as qjl_channel_energy, row by row
  for (int c = 0; c < head_dim; ++c) energy[c] = 0.0;
  for (int row = 0; row < n_rows; ++row) {
    for (int c = 0; c < head_dim; ++c) {
      const auto value = static_cast<double>(clamp_finite(x[row * row_stride + c], kF16Max));
      energy[c] += value * value;
    }
  }
  for (int j = 0; j < n; ++j) {
    int best = 0;
    for (int c = 1; c < head_dim; ++c) best = energy[c] > energy[best] ? c : best;
    energy[best] = -1.0;
  }
  for (int c = 0, j = 0; c < head_dim; ++c) {
    if (energy[c] < 0.0) channels[j++] = static_cast<std::byte>(c);
  }
}

/// The same answer for one channel, from the energies [head_dim] of all.
KVCODEC_HD inline bool qjl_is_outlier(int head_dim, const double* energy, int n,
                                      int channel) noexcept {
  int n_before = 0;  // channels chosen before this one
  for (int c = 0; c < head_dim; ++c) {
    n_before +=
        energy[c] > energy[channel] || (energy[c] == energy[channel] && c < channel) ? 1 : 0;
  }
  return n_before < n;
}

}  // namespace kvcodec
