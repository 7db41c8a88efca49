// The scores that policies rank by on the CPU, and how clearly they decide.
#pragma once

#include <limits>

#include "tests/cuda/policy_tools.hpp"

namespace kvcodec::test {

/// The CPU's scores of stream i; what score_rows() writes per score head.
inline std::vector<std::vector<double>> host_scores(const AnyPolicy& policy,
                                                    const PolicyStreams& streams, std::size_t i) {
  std::vector<float> dense;
  const PolicyRows r = streams.on_host(i, dense);
  const auto n = static_cast<std::size_t>(r.n_rows);
  std::vector<double> own(n);
  if (const auto* p = policy.as<LagKv>()) {
    std::vector<double> v(static_cast<std::size_t>(p->lag_size));
    for (std::int64_t at = 0; at < r.n_rows; at += p->lag_size) {
      const std::int64_t lag = p->lag_size;
      const float* k_rows = r.k + at * r.head_dim;
      const float* v_rows = r.v + at * r.head_dim;
      lag_scores(r.head_dim, lag, k_rows, k_rows + lag * r.head_dim, own.data() + at);
      lag_scores(r.head_dim, lag, v_rows, v_rows + lag * r.head_dim, v.data());
      for (std::int64_t t = 0; t < lag; ++t) {
        own[static_cast<std::size_t>(at + t)] += p->value_weight * v[static_cast<std::size_t>(t)];
      }
    }
  } else if (const auto* press = policy.as<KvpressLagKv>()) {
    press->scores(r.head_dim, r.n_rows, r.k, r.v, own);
  } else if (policy.as<KeyDiff>() != nullptr) {
    keydiff_scores(r.head_dim, r.n_rows, r.k, own.data());
  } else if (policy.as<Knorm>() != nullptr) {
    knorm_scores(r.head_dim, r.n_rows, r.k, own.data());
  } else if (const auto* snap = policy.as<SnapKv>()) {
    snap->scores(r.gqa_group, r.n_rows, r.observed, own.data());
  } else if (const auto* spindle = policy.as<SpindlePyramid>()) {
    std::vector<std::vector<double>> heads;
    std::vector<double> mean(n);
    for (int g = 0; g < r.gqa_group; ++g) {
      spindle_scores(spindle->score, r.n_rows, r.n_ahead, r.observed + g * r.n_rows, own.data());
      heads.push_back(own);
      for (std::size_t a = 0; a < n; ++a) mean[a] += own[a] / r.gqa_group;
    }
    if (spindle->shared) return {mean};
    return heads;
  }
  return {own};
}

/// Smallest relative distance between the last score that stays and the first that goes, over all
/// segments in which these are not equal: what says that rounding cannot decide.
inline double cut_margin(const AnyPolicy& policy, const PolicyStreams& streams) {
  double least = 1.0;
  const std::vector<KeepMask> masks = host_masks(policy, streams);
  const auto width = static_cast<std::size_t>(streams.max_rows);
  for (std::size_t i = 0; i < streams.n_streams(); ++i) {
    const std::vector<std::vector<double>> heads = host_scores(policy, streams, i);
    for (std::size_t g = 0; g < heads.size(); ++g) {
      const std::vector<double>& score = heads[g];
      const std::size_t segment = policy.chunk_rows() > 0
                                      ? static_cast<std::size_t>(policy.chunk_rows())
                                      : std::max<std::size_t>(score.size(), 1);
      for (std::size_t begin = 0; begin < score.size(); begin += segment) {
        double kept = std::numeric_limits<double>::infinity();
        double gone = -kept;
        for (std::size_t t = begin; t < begin + segment; ++t) {
          const bool stays = (masks[i * width + t] >> (heads.size() > 1 ? g : 0) & 1) != 0;
          if (stays) kept = std::min(kept, score[t]);
          else gone = std::max(gone, score[t]);
        }
        if (std::isinf(kept) || std::isinf(gone) || kept == gone) continue;
        least = std::min(least, (kept - gone) / std::max(std::abs(kept), std::abs(gone)));
      }
    }
  }
  return least;
}

}  // namespace kvcodec::test
