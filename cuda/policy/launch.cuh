// The launches that a judgement is made of. Each returns the CUDA status; n_streams is n_seq *
// n_kv_heads.
#pragma once

#include <cstdint>

#include "cuda/policy/streams.cuh"
#include "kvcodec/policy/builtin.hpp"

namespace kvcodec::cuda {

/// Partitions of streaming rows that a complete one follows.
KVCODEC_HD constexpr LagPartitions streaming_partitions(std::int64_t n_rows, std::int64_t n_ahead,
                                                        std::int64_t lag_size) noexcept {
  const std::int64_t followed = lag_partitions(n_rows + n_ahead, 0, lag_size).count;
  const std::int64_t complete = n_rows / lag_size;
  const std::int64_t count = followed < complete ? followed : complete;
  return {0, count, n_rows - count * lag_size};
}

/// Both forms of LagKV: scores per partition of lag_size rows.
struct LagForm {
  std::int64_t lag_size = 128;
  std::int64_t n_sink = 0;  ///< kvpress: rows before the first partition
  double value_weight = 1.0;
  double factor = 1.0;   ///< of a(K) + w a(V)
  bool kvpress = false;  ///< the whole prompt; else streaming
  bool ranks = false;    ///< scores are ranks within the partition

  explicit LagForm(const LagKv& p) noexcept : lag_size(p.lag_size), value_weight(p.value_weight) {}
  explicit LagForm(const KvpressLagKv& p) noexcept
      : lag_size(p.lag_size), n_sink(p.n_sink), factor(0.5), kvpress(true), ranks(!p.cross) {}

  /// Partitions of a stream that are judged.
  KVCODEC_HD LagPartitions partitions(std::int64_t n_rows, std::int64_t n_ahead) const noexcept {
    return kvpress ? lag_partitions(n_rows, n_sink, lag_size)
                   : streaming_partitions(n_rows, n_ahead, lag_size);
  }
  /// Most of them.
  std::int64_t max_partitions(std::int64_t max_rows) const noexcept {
    return kvpress ? lag_partitions(max_rows, n_sink, lag_size).count : max_rows / lag_size;
  }
};

/// score [n_streams, max_rows]; work [n_streams, max_rows] as well.
cudaError_t launch_lag_scores(const Streams& s, const LagForm& form, std::int64_t n_streams,
                              double* score, double* work, cudaStream_t stream);

/// -|k|.
cudaError_t launch_knorm_scores(const Streams& s, std::int64_t n_streams, double* score,
                                cudaStream_t stream);

/// partial [n_streams, ceil_div(max_rows, kScoreRows), head_dim], anchor [n_streams, head_dim + 1].
cudaError_t launch_keydiff_scores(const Streams& s, std::int64_t n_streams, double* score,
                                  double* partial, double* anchor, cudaStream_t stream);

/// From s.observed.
cudaError_t launch_snapkv_scores(const Streams& s, const SnapKv& policy, std::int64_t n_streams,
                                 double* score, cudaStream_t stream);
/// score [n_streams, policy.shared ? 1 : gqa_group, max_rows].
cudaError_t launch_spindle_scores(const Streams& s, const SpindlePyramid& policy,
                                  std::int64_t n_streams, double* score, cudaStream_t stream);

/// How many rows of a segment stay, and which segments there are.
struct SelectRule {
  enum class Kind : std::uint8_t {
    ratio,    ///< floor(keep_ratio n) of a stream, at least one
    snapkv,   ///< floor(keep_ratio (n + ahead)) - ahead of a stream
    spindle,  ///< pyramid.count() of a stream
    lag,      ///< n_kept of every partition; rows that are in none stay
    given,    ///< lists per segment
    all,      ///< every row
  };
  Kind kind = Kind::all;
  std::int32_t n_score_heads = 1;  ///< score rows of a stream
  bool per_query_head = false;     ///< one bit of the mask for each of them
  KeepMask kept = kKeptByAll;      ///< mask of kept rows otherwise
  double keep_ratio = 1.0;
  std::int64_t n_kept = 0;
  std::int64_t lag_size = 0;
  std::int64_t max_partitions = 0;
  const std::int64_t* given = nullptr;  ///< [n_streams] rows that stay
  SpindlePyramid pyramid;
};

/// keep [n_streams, max_rows] from score [n_streams, n_score_heads, max_rows].
cudaError_t launch_select(const Streams& s, const SelectRule& rule, std::int64_t n_streams,
                          const double* score, KeepMask* keep, cudaStream_t stream);

}  // namespace kvcodec::cuda
