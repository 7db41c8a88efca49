// Policy "spindle": attention eviction of SpindleKV (arXiv 2507.06517, section 3.3) at the end of
// the prompt: many rows in the first layers, few in the last. Without a codebook it is PyramidKV.
//
//   l = n_rows + n_ahead (sinks are never judged and do not count), window = n_ahead, context = n_rows
//
// Score    of context row a for a query head, from S_a = sum over the window's queries of the
//          attention weight on a:
//          default: mean of S over a - 2..a + 2, always divided by 5, rows outside counting as 0;
//          `paper`: S_a / (l - a), the printed form, which favours late rows by up to l / window.
// Budget   rows per query head, r_c = (r l - window) / context, layer 0..m-1 of m:
//          r_c <= beta:            r_c in every layer
//          r_c <= (1 + beta) / 2:  from 2 r_c - beta down to beta, linear in the layer
//          else:                   from 1 down to 2 r_c - 1
//          floor(ratio * context). The mean ratio over the layers is r_c. The paper prints 1 - 2 r_c
//          (negative) in the last line and nothing for the first.
//          `cap`: PyramidKV's rule, see pyramidkv_count().
// Select   per query head the rows of largest score, ties to the lower row. `shared`: once per KV
//          head by the mean score of its group (what the paper compares against).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kvcodec/core/config.hpp"
#include "kvcodec/core/options.hpp"
#include "kvcodec/policy/keep.hpp"
#include "kvcodec/policy/policy.hpp"

namespace kvcodec {

/// Share of the context that layer `layer` of n_layers keeps if all keep r_c on average.
KVCODEC_HD inline double spindle_ratio(double r_c, double beta, std::int32_t layer,
                                       std::int32_t n_layers) {
  if (r_c <= beta || n_layers < 2) return r_c;
  const bool wide = r_c > (1.0 + beta) / 2.0;
  const double top = wide ? 1.0 : 2.0 * r_c - beta;
  const double bottom = wide ? 2.0 * r_c - 1.0 : beta;
  return top + (bottom - top) * layer / (n_layers - 1);
}

/// `count` rows of a context, or as many as there are.
KVCODEC_HD constexpr std::int64_t of_context(std::int64_t count, std::int64_t context) noexcept {
  return count < 0 ? 0 : count < context ? count : context;
}

/// Context rows per query head for a prompt of n_tokens whose last `window` stay anyway, so that
/// keep_ratio of the prompt stays on average over the layers. 0 if the window alone is more.
KVCODEC_HD inline std::int64_t spindle_count(std::int64_t n_tokens, std::int32_t window,
                                             double keep_ratio, double beta, std::int32_t layer,
                                             std::int32_t n_layers) {
  const std::int64_t context = n_tokens - window;
  if (context <= 0) return 0;
  double r_c = (keep_ratio * static_cast<double>(n_tokens) - window) / static_cast<double>(context);
  r_c = r_c < 0.0 ? 0.0 : r_c > 1.0 ? 1.0 : r_c;
  const double ratio = spindle_ratio(r_c, beta, layer, n_layers);
  // Ratios are decimal fractions: a product this close below an integer is that integer.
  return of_context(static_cast<std::int64_t>(ratio * static_cast<double>(context) + 1e-9),
                    context);
}

/// PyramidKV's rows per query head in one layer, for `capacity` rows on average, window included:
/// linear from 2 cap - cap / 20 down to cap / 20 with cap = capacity - window and integer division,
/// the first limited to the context and the last raised to match.
KVCODEC_HD constexpr std::int64_t pyramidkv_layer_count(std::int64_t n_tokens, std::int32_t window,
                                                        std::int64_t capacity, std::int32_t layer,
                                                        std::int32_t n_layers) noexcept {
  const std::int64_t context = n_tokens > window ? n_tokens - window : 0;
  const std::int64_t cap = capacity - window;
  std::int64_t least = cap / 20;
  std::int64_t most = 2 * cap - least;
  if (most >= context) {
    most = context;
    least = 2 * cap - most;
  }
  if (n_layers < 2) return cap < context ? cap : context;
  return of_context(most - layer * ((most - least) / (n_layers - 1)), context);
}

/// What PyramidKV keeps in one layer: everything of a prompt below `capacity`, capacity - window
/// rows in every layer below 2 (capacity - window), pyramidkv_layer_count() from there on.
KVCODEC_HD constexpr std::int64_t pyramidkv_count(std::int64_t n_tokens, std::int32_t window,
                                                  std::int64_t capacity, std::int32_t layer,
                                                  std::int32_t n_layers) noexcept {
  const std::int64_t context = n_tokens > window ? n_tokens - window : 0;
  if (n_tokens < capacity) return context;
  if (n_tokens < 2 * (capacity - window)) {
    return capacity - window < context ? capacity - window : context;
  }
  return pyramidkv_layer_count(n_tokens, window, capacity, layer, n_layers);
}

/// How window attention becomes a score.
enum class SpindleScore : std::uint8_t { pooled, paper };

/// score[n_rows] from the summed attention observed[n_rows] of one query head; n_ahead rows follow.
inline void spindle_scores(SpindleScore form, std::int64_t n_rows, std::int64_t n_ahead,
                           const float* observed, double* score) {
  for (std::int64_t a = 0; a < n_rows; ++a) {
    if (form == SpindleScore::paper) {
      score[a] = static_cast<double>(observed[a]) / static_cast<double>(n_rows + n_ahead - a);
      continue;
    }
    double sum = 0.0;
    for (std::int64_t b = std::max<std::int64_t>(a - 2, 0); b <= std::min(a + 2, n_rows - 1); ++b) {
      sum += static_cast<double>(observed[b]);
    }
    score[a] = sum / 5.0;
  }
}

/// See the head of this file.
struct SpindlePyramid {
  static constexpr const char* family = "spindle";
  static constexpr bool per_query_head = true;
  static constexpr const char* options_help =
      "r<ratio>: share of the prompt to keep, above 0 to 1 (default 0.4); w<rows>: observed "
      "window, "
      "1..65536 (default 32); beta<ratio>: least share of the context per layer, 0..0.99 (default "
      "0.05); cap<rows>: PyramidKV's budget instead of r and beta, more than the window; paper: "
      "the "
      "printed score; shared: one selection per KV head";

  double keep_ratio = 0.4;
  double beta = 0.05;
  std::int32_t window = 32;
  std::int32_t capacity = 0;  ///< 0: by keep_ratio and beta
  SpindleScore score = SpindleScore::pooled;
  bool shared = false;

  /// Throws invalid_argument naming the option.
  static SpindlePyramid parse(const std::string& options);
  std::string name() const;

  std::int32_t chunk_rows() const { return 0; }
  std::int32_t lookahead_rows() const { return window; }
  std::int32_t observed_rows() const { return window; }

  /// Context rows per query head in one layer for a prompt of n_tokens, sinks not counted.
  KVCODEC_HD std::int64_t count(std::int64_t n_tokens, std::int32_t layer,
                                std::int32_t n_layers) const {
    if (capacity > 0) return pyramidkv_count(n_tokens, window, capacity, layer, n_layers);
    return spindle_count(n_tokens, window, keep_ratio, beta, layer, n_layers);
  }

  /// Bit i of keep[a]: query head i of the group keeps row a. Bits from gqa_group on are 0.
  /// Throws invalid_argument if rows.observed is null or a size is wrong.
  void select(const PolicyRows& rows, std::span<KeepMask> keep) const;
};

/// count() of every layer.
inline std::vector<std::int64_t> pyramid_counts(const SpindlePyramid& policy, std::int64_t n_tokens,
                                                std::int32_t n_layers) {
  std::vector<std::int64_t> counts;
  for (std::int32_t layer = 0; layer < n_layers; ++layer) {
    counts.push_back(policy.count(n_tokens, layer, n_layers));
  }
  return counts;
}

inline SpindlePyramid SpindlePyramid::parse(const std::string& options) {
  SpindlePyramid p;
  bool by_ratio = false;
  for (const std::string& option : split_options(options)) {
    long number = 0;
    bool good = true;
    if (option == "paper") {
      p.score = SpindleScore::paper;
    } else if (option == "shared") {
      p.shared = true;
    } else if (option.starts_with("beta")) {
      good = parse_double(option.substr(4), 0.0, 0.99, p.beta);
      by_ratio = true;
    } else if (option.starts_with("cap")) {
      good = parse_int(option.substr(3), 2, 1 << 30, number);
      p.capacity = static_cast<std::int32_t>(number);
    } else if (option.starts_with("r")) {
      good = parse_double(option.substr(1), 0.0, 1.0, p.keep_ratio) && p.keep_ratio > 0.0;
      by_ratio = true;
    } else if (option.starts_with("w")) {
      good = parse_int(option.substr(1), 1, 65536, number);
      p.window = static_cast<std::int32_t>(number);
    } else {
      good = false;
    }
    if (!good) throw invalid_argument(bad_value(family, "option", option, options_help));
  }
  if (p.capacity > 0 && (by_ratio || p.capacity <= p.window)) {
    throw invalid_argument(bad_value(family, "options", options, options_help));
  }
  return p;
}

inline std::string SpindlePyramid::name() const {
  const SpindlePyramid usual;
  std::string text = family;
  if (capacity > 0) {
    text += ":cap" + std::to_string(capacity);
  } else {
    text += ":r" + format_double(keep_ratio);
    if (beta != usual.beta) text += ":beta" + format_double(beta);
  }
  if (window != usual.window) text += ":w" + std::to_string(window);
  if (score == SpindleScore::paper) text += ":paper";
  return shared ? text + ":shared" : text;
}

inline void SpindlePyramid::select(const PolicyRows& rows, std::span<KeepMask> keep) const {
  check_rows(family, rows, keep);
  const int group = rows.gqa_group;
  if (group < 1 || group > kMaxGqaGroup) {
    throw invalid_argument(bad_value(family, "gqa_group", group, "1..16"));
  }
  if (rows.layer < 0 || rows.layer >= rows.n_layers) {
    throw invalid_argument(
        bad_value(family, "layer", rows.layer, "0.." + std::to_string(rows.n_layers - 1)));
  }
  if (rows.n_rows == 0) return;
  if (rows.observed == nullptr) {
    throw invalid_argument(
        std::string(family) + ": no attention was observed; observe the newest " +
        std::to_string(window) + " queries before the prompt is declared complete");
  }
  const std::int64_t n_keep = count(rows.n_rows + rows.n_ahead, rows.layer, rows.n_layers);
  std::vector<double> scores(keep.size());
  std::vector<double> mean(shared ? keep.size() : 0);
  std::vector<KeepMask> kept(keep.size());
  std::fill(keep.begin(), keep.end(), KeepMask{0});
  for (int head = 0; head < group; ++head) {
    spindle_scores(score, rows.n_rows, rows.n_ahead, rows.observed + head * rows.n_rows,
                   scores.data());
    for (std::size_t a = 0; a < mean.size(); ++a) mean[a] += scores[a] / group;
    if (shared && head < group - 1) continue;
    keep_largest(shared ? mean : scores, n_keep, kept);
    const std::uint32_t bits = shared ? (1u << group) - 1u : 1u << head;
    for (std::size_t a = 0; a < kept.size(); ++a) {
      keep[a] = static_cast<KeepMask>(keep[a] | (kept[a] & bits));
    }
  }
}

static_assert(Policy<SpindlePyramid>);

}  // namespace kvcodec
