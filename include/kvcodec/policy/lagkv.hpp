// Policy "lagkv": each partition of a sequence is judged by the one that follows it.
// LagKV, arXiv 2504.04704, equations 7 to 12; counts and constants of the authors' code.
//
//   partitions  L = lag_size rows each, after the sinks of the window. Partition p is judged when
//               partition p + 1 is complete; the newest L to 2L - 1 rows always stay.
//   score       for Z in {K, V}, per channel c:  z_tc = (Z_tc - min_c) / (max_c - min_c), minimum
//               and maximum over the rows of p + 1; z is not clamped.
//               sigma_t = standard deviation of z_t. over channels, divisor head_dim - 1
//               a_t = softmax of sigma over the L rows of p;   score_t = a_t(K) + w a_t(V)
//   kept        floor(r L) rows of largest score per partition and KV head, K and V alike, ties to
//               the lower position. The product is taken in f64: r = 0.57, L = 100 keeps 56.
//   length      n <= n_sink + 2L - 1: all. Else, with m = n - n_sink:
//               n_sink + floor(r L) (floor(m / L) - 1) + L + m mod L
//   arithmetic  f64 over f32 rows, so that decisions do not hang on rounding.
//
// A channel that is constant in p + 1 has no scale: it is left out, of the divisor as well; with
// fewer than two channels left sigma is 0 for all rows. The authors' code divides by zero there and
// keeps arbitrary rows. (A floor under max - min instead would let one such channel outweigh all
// others by orders of magnitude.)
//
// Scores do not change if a channel of p and p + 1 is scaled by a positive number and shifted.
// Queries play no role. A window without sinks evicts the first tokens; the paper uses n_sink = 16.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kvcodec/core/config.hpp"
#include "kvcodec/core/error.hpp"
#include "kvcodec/core/options.hpp"
#include "kvcodec/policy/keep.hpp"
#include "kvcodec/policy/policy.hpp"

namespace kvcodec {

/// Per channel, what maps the rows of one partition's successor to 0..1.
struct LagScale {
  double low[kMaxHeadDim];      ///< smallest value; 0 if the channel is left out
  double inverse[kMaxHeadDim];  ///< 1 / (largest - smallest); 0 if the channel is left out
  double live[kMaxHeadDim];     ///< 1, or 0 if the channel is constant
  int n_live = 0;

  /// least, most [head_dim]: the ends of the successor's channels, as channel_ends finds them.
  LagScale(int head_dim, const float* least, const float* most) noexcept {
    for (int c = 0; c < head_dim; ++c) {
      const double range = static_cast<double>(most[c]) - static_cast<double>(least[c]);
      const bool scaled = range > 0.0 && std::isfinite(range);
      low[c] = scaled ? static_cast<double>(least[c]) : 0.0;
      inverse[c] = scaled ? 1.0 / range : 0.0;
      live[c] = scaled ? 1.0 : 0.0;
      n_live += scaled ? 1 : 0;
    }
  }

  /// Smallest and largest value of every channel of next [lag_size, head_dim].
  static void channel_ends(int head_dim, std::int64_t lag_size, const float* next, float* least,
                           float* most) noexcept {
    std::copy_n(next, head_dim, least);
    std::copy_n(next, head_dim, most);
    for (std::int64_t t = 1; t < lag_size; ++t) {
      const float* x = next + t * head_dim;
      for (int c = 0; c < head_dim; ++c) {
        least[c] = x[c] < least[c] ? x[c] : least[c];
        most[c] = x[c] > most[c] ? x[c] : most[c];
      }
    }
  }

  /// sigma of one row x[head_dim].
  double deviation(int head_dim, const float* x) const noexcept {
    if (n_live < 2) return 0.0;
    constexpr int kSums = 8;  // independent sums, in a fixed order, that a compiler can vectorise
    double z[kMaxHeadDim];
    double sums[kSums] = {};
    for (int c = 0; c < head_dim; c += kSums) {
      for (int i = 0; i < kSums; ++i) {
        z[c + i] = (static_cast<double>(x[c + i]) - low[c + i]) * inverse[c + i];
        sums[i] += z[c + i];
      }
    }
    double total = 0.0;
    for (double& sum : sums) {
      total += sum;
      sum = 0.0;
    }
    const double mean = total / n_live;
    for (int c = 0; c < head_dim; c += kSums) {
      for (int i = 0; i < kSums; ++i) {
        const double e = (z[c + i] - mean) * live[c + i];
        sums[i] += e * e;
      }
    }
    total = 0.0;
    for (const double sum : sums) total += sum;
    return std::sqrt(total / (n_live - 1));
  }
};

/// Scores of one side of a partition, a_t above: positive numbers that sum to 1. By the kernels of the
/// instruction set in use where it has them, with LagScale's bits.
///
/// rows, next [lag_size, head_dim], finite: the partition and the one after it. head_dim is 64..256
/// in steps of 16, lag_size >= 1. Writes score[lag_size].
void lag_scores(int head_dim, std::int64_t lag_size, const float* rows, const float* next,
                double* score) noexcept;

/// The partitions of a sequence that have a complete one behind them.
struct LagPartitions {
  std::int64_t first = 0;   ///< row where the first one starts
  std::int64_t count = 0;   ///< partitions to be judged
  std::int64_t n_tail = 0;  ///< rows behind them, which stay
};

/// Partitions of a sequence of n_tokens, of which the first n_sink are sinks.
KVCODEC_HD constexpr LagPartitions lag_partitions(std::int64_t n_tokens, std::int64_t n_sink,
                                                  std::int64_t lag_size) noexcept {
  const std::int64_t first = n_tokens < n_sink ? n_tokens : n_sink;
  const std::int64_t complete = (n_tokens - first) / lag_size;
  const std::int64_t count = complete > 1 ? complete - 1 : 0;
  return {first, count, n_tokens - first - count * lag_size};
}

struct LagKv {
  static constexpr const char* family = "lagkv";
  static constexpr const char* options_help =
      "l<lag size>: 8..65536 (default 128); r<keep ratio>: above 0 to 1 (default 0.5), r * l >= 1; "
      "w<value weight>: 0..1000 (default 1)";

  std::int32_t lag_size = 128;
  double keep_ratio = 0.5;
  double value_weight = 1.0;

  /// Throws invalid_argument.
  static LagKv parse(const std::string& options) {
    LagKv p;
    for (const std::string& option : split_options(options)) {
      long lag = 0;
      if (option[0] == 'l' && parse_int(option.substr(1), 8, 65536, lag)) {
        p.lag_size = static_cast<std::int32_t>(lag);
      } else if (!parse_keep_ratio(option, p.keep_ratio) &&
                 !(option[0] == 'w' &&
                   parse_double(option.substr(1), 0.0, 1000.0, p.value_weight))) {
        throw invalid_argument(bad_value(family, "option", option, options_help));
      }
    }
    if (p.kept_per_partition() < 1) {
      throw invalid_argument(bad_value(
          family, "r * l", p.keep_ratio * p.lag_size,
          "1 or more; r = " + format_double(p.keep_ratio) + ", l = " + std::to_string(p.lag_size)));
    }
    return p;
  }

  std::string name() const {
    std::string text = std::string(family) + ":l" + std::to_string(lag_size);
    text.append(":r").append(format_double(keep_ratio));
    if (value_weight != 1.0) text.append(":w").append(format_double(value_weight));
    return text;
  }

  std::int32_t chunk_rows() const noexcept { return lag_size; }
  std::int32_t lookahead_rows() const noexcept { return lag_size; }
  std::int32_t observed_rows() const noexcept { return 0; }

  /// Rows that stay of each partition.
  KVCODEC_HD std::int64_t kept_per_partition() const noexcept {
    return kept_count(keep_ratio, lag_size);
  }

  /// Rows that a sequence of n_tokens still has, of which the first n_sink are sinks.
  std::int64_t kept_rows(std::int64_t n_tokens, std::int64_t n_sink) const noexcept {
    const LagPartitions parts = lag_partitions(n_tokens, n_sink, lag_size);
    return parts.first + parts.count * kept_per_partition() + parts.n_tail;
  }

  /// Judges n_rows / lag_size partitions, each by the rows behind it, whether these stay or not.
  ///
  /// Throws invalid_argument unless n_rows is a multiple of lag_size and n_ahead >= lag_size.
  void select(const PolicyRows& rows, std::span<KeepMask> keep) const {
    check_rows(family, rows, keep);
    if (rows.n_rows % lag_size != 0 || (rows.n_rows > 0 && rows.n_ahead < lag_size)) {
      throw invalid_argument(bad_value(
          family, "n_rows + n_ahead",
          std::to_string(rows.n_rows) + " + " + std::to_string(rows.n_ahead),
          "a multiple of lag_size = " + std::to_string(lag_size) + " and at least as many ahead"));
    }
    const auto lag = static_cast<std::size_t>(lag_size);
    std::vector<double> score(lag);
    std::vector<double> v_score(lag);
    for (std::int64_t first = 0; first < rows.n_rows; first += lag_size) {
      const std::int64_t at = first * rows.head_dim;
      const std::int64_t next = at + static_cast<std::int64_t>(lag_size) * rows.head_dim;
      lag_scores(rows.head_dim, lag_size, rows.k + at, rows.k + next, score.data());
      lag_scores(rows.head_dim, lag_size, rows.v + at, rows.v + next, v_score.data());
      for (std::size_t t = 0; t < lag; ++t) score[t] += value_weight * v_score[t];
      keep_largest(score, kept_per_partition(), keep.subspan(static_cast<std::size_t>(first), lag));
    }
  }
};

static_assert(Policy<LagKv>);

}  // namespace kvcodec
