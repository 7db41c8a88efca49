// Policy "kvpress-lagkv": LagKV as NVIDIA's kvpress applies it, once, to a whole prompt.
//
//   n >= n_sink + 2L   score_t = (a_t(K) + a_t(V)) / 2 with a of lagkv.hpp, then, unless `cross`,
//                      replaced by its rank in the partition / L (0 for the smallest). The first
//                      n_sink rows, the last partition and what follows it have 1.
//   n < n_sink + 2L    1 for the first n_sink rows, then the ramp i / (n - n_sink), i = 0, 1, ...
//   kept               floor(r n) rows of largest score of all, the product taken in f64, at least
//                      one. kvpress counts the share that it removes: r = 1 - compression_ratio.
//
// Differences from "lagkv": short prompts lose rows, generated tokens never do, and the share is of
// the whole prompt. Ranks give every partition the same budget up to the cut; `cross` lets scores
// compete across partitions. Ranks tie across partitions: the lower position stays, where kvpress
// leaves the choice to its sort. If floor(r n) is smaller than the rows of score 1, the newest rows
// go; no score says which of them matter. kvpress casts ranks to the type of the keys: in bf16
// different ranks collide for L > 256; here they never do.
//
// n counts the judged rows: to match kvpress the window needs n_sink = 0, this policy has its own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "kvcodec/core/error.hpp"
#include "kvcodec/core/options.hpp"
#include "kvcodec/policy/keep.hpp"
#include "kvcodec/policy/lagkv.hpp"
#include "kvcodec/policy/policy.hpp"

namespace kvcodec {

struct KvpressLagKv {
  static constexpr const char* family = "kvpress-lagkv";
  static constexpr const char* options_help =
      "l<lag size>: 8..65536 (default 128); r<keep ratio>: above 0 to 1 (default 0.5); "
      "s<sink rows>: 0..65536 (default 4); cross";

  std::int32_t lag_size = 128;
  std::int32_t n_sink = 4;
  double keep_ratio = 0.5;
  bool cross = false;

  /// Throws invalid_argument.
  static KvpressLagKv parse(const std::string& options) {
    KvpressLagKv p;
    for (const std::string& option : split_options(options)) {
      long number = 0;
      if (option == "cross") {
        p.cross = true;
      } else if (option[0] == 'l' && parse_int(option.substr(1), 8, 65536, number)) {
        p.lag_size = static_cast<std::int32_t>(number);
      } else if (option[0] == 's' && parse_int(option.substr(1), 0, 65536, number)) {
        p.n_sink = static_cast<std::int32_t>(number);
      } else if (!parse_keep_ratio(option, p.keep_ratio)) {
        throw invalid_argument(bad_value(family, "option", option, options_help));
      }
    }
    return p;
  }

  std::string name() const {
    std::string text = std::string(family) + ":l" + std::to_string(lag_size);
    text.append(":r").append(format_double(keep_ratio));
    if (n_sink != 4) text.append(":s").append(std::to_string(n_sink));
    return cross ? text.append(":cross") : text;
  }

  std::int32_t chunk_rows() const noexcept { return 0; }
  std::int32_t lookahead_rows() const noexcept { return 0; }
  std::int32_t observed_rows() const noexcept { return 0; }

  /// Writes score[n_rows]; k, v [n_rows, head_dim]. Allocates.
  void scores(int head_dim, std::int64_t n_rows, const float* k, const float* v,
              std::span<double> score) const {
    std::fill(score.begin(), score.end(), 1.0);
    if (n_rows < n_sink + 2 * static_cast<std::int64_t>(lag_size)) {
      for (std::int64_t i = n_sink; i < n_rows; ++i) {
        score[static_cast<std::size_t>(i)] =
            static_cast<double>(i - n_sink) / static_cast<double>(n_rows - n_sink);
      }
      return;
    }
    const auto lag = static_cast<std::size_t>(lag_size);
    std::vector<double> v_score(lag);
    std::vector<std::int32_t> order(lag);
    const LagPartitions parts = lag_partitions(n_rows, n_sink, lag_size);
    for (std::int64_t p = 0; p < parts.count; ++p) {
      const std::int64_t first = parts.first + p * lag_size;
      const std::int64_t at = first * head_dim;
      const std::int64_t next = at + static_cast<std::int64_t>(lag_size) * head_dim;
      const std::span<double> own = score.subspan(static_cast<std::size_t>(first), lag);
      lag_scores(head_dim, lag_size, k + at, k + next, own.data());
      lag_scores(head_dim, lag_size, v + at, v + next, v_score.data());
      for (std::size_t t = 0; t < lag; ++t) own[t] = (own[t] + v_score[t]) / 2.0;
      if (!cross) replace_by_ranks(own, order);
    }
  }

  void select(const PolicyRows& rows, std::span<KeepMask> keep) const {
    check_rows(family, rows, keep);
    std::vector<double> score(keep.size());
    scores(rows.head_dim, rows.n_rows, rows.k, rows.v, score);
    keep_largest(score, std::max<std::int64_t>(kept_count(keep_ratio, rows.n_rows), 1), keep);
  }

 private:
  /// Of equal scores the lower position has the higher rank.
  static void replace_by_ranks(std::span<double> score, std::vector<std::int32_t>& order) {
    std::iota(order.begin(), order.end(), 0);
    const auto at = [&](std::int32_t i) { return ordered(score[static_cast<std::size_t>(i)]); };
    std::sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
      return at(a) != at(b) ? at(a) < at(b) : a > b;
    });
    for (std::size_t rank = 0; rank < order.size(); ++rank) {
      score[static_cast<std::size_t>(order[rank])] =
          static_cast<double>(rank) / static_cast<double>(order.size());
    }
  }
};

static_assert(Policy<KvpressLagKv>);

}  // namespace kvcodec
