// Policy "snapkv": the newest queries of the prompt say which of its rows stay.
// SnapKV, arXiv 2404.14469, with the parameters of NVIDIA's kvpress.
//
//   window   the newest w rows of the prompt, which all stay; their queries are observed
//   weight   of row i = mean over the w queries and the query heads of the group of the softmax
//            weight they give it; the softmax runs over all rows a query sees (observe.hpp)
//   score    average of weight over p neighbouring rows, i - p/2 to i + p/2; rows outside the
//            judged ones count as 0 and the divisor is p at the borders too
//   kept     floor(r n) - w of the judged rows besides the window, the product taken in f64, n the
//            rows of judged part and window together; for all query heads of the group alike
//
// If floor(r n) <= w only the window stays. Sinks of the cache's window stay besides and are not
// counted; their weights are not seen, so pooling does not reach over to them. The questions asked
// at the end of the prompt decide: rows that only a later turn needs are gone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kvcodec/core/error.hpp"
#include "kvcodec/core/options.hpp"
#include "kvcodec/policy/keep.hpp"
#include "kvcodec/policy/policy.hpp"

namespace kvcodec {

struct SnapKv {
  static constexpr const char* family = "snapkv";
  static constexpr const char* options_help =
      "r<keep ratio>: above 0 to 1 (default 0.5); w<window>: 1..1024 (default 64); "
      "p<pooling>: an odd number 1..63 (default 5)";

  double keep_ratio = 0.5;
  std::int32_t window = 64;
  std::int32_t pooling = 5;

  /// Throws invalid_argument.
  static SnapKv parse(const std::string& options) {
    SnapKv p;
    for (const std::string& option : split_options(options)) {
      long number = 0;
      if (option[0] == 'w' && parse_int(option.substr(1), 1, 1024, number)) {
        p.window = static_cast<std::int32_t>(number);
      } else if (option[0] == 'p' && parse_int(option.substr(1), 1, 63, number) &&
                 number % 2 == 1) {
        p.pooling = static_cast<std::int32_t>(number);
      } else if (!parse_keep_ratio(option, p.keep_ratio)) {
        throw invalid_argument(bad_value(family, "option", option, options_help));
      }
    }
    return p;
  }

  std::string name() const {
    std::string text = std::string(family) + ":r" + format_double(keep_ratio);
    text.append(":w").append(std::to_string(window));
    if (pooling != 5) text.append(":p").append(std::to_string(pooling));
    return text;
  }

  std::int32_t chunk_rows() const noexcept { return 0; }
  std::int32_t lookahead_rows() const noexcept { return window; }
  std::int32_t observed_rows() const noexcept { return window; }

  /// observed [gqa_group, n_rows] sums over the window's queries; writes score[n_rows]. Allocates.
  void scores(int gqa_group, std::int64_t n_rows, const float* observed, double* score) const {
    std::vector<double> weight(static_cast<std::size_t>(n_rows));
    const double terms = static_cast<double>(gqa_group) * window;
    for (std::int64_t i = 0; i < n_rows; ++i) {
      double sum = 0.0;
      for (int g = 0; g < gqa_group; ++g) sum += static_cast<double>(observed[g * n_rows + i]);
      weight[static_cast<std::size_t>(i)] = sum / terms;
    }
    const std::int64_t reach = pooling / 2;
    for (std::int64_t i = 0; i < n_rows; ++i) {
      const std::int64_t end = std::min(i + reach + 1, n_rows);
      double sum = 0.0;
      for (std::int64_t j = std::max<std::int64_t>(i - reach, 0); j < end; ++j) {
        sum += weight[static_cast<std::size_t>(j)];
      }
      score[i] = sum / pooling;
    }
  }

  /// Throws invalid_argument if there are rows to judge and nothing was observed.
  void select(const PolicyRows& rows, std::span<KeepMask> keep) const {
    check_rows(family, rows, keep);
    if (rows.n_rows == 0) return;
    if (rows.observed == nullptr) {
      throw invalid_argument(
          std::string(family) + ": no attention was observed; observe the newest " +
          std::to_string(window) + " queries before the prompt is declared complete");
    }
    std::vector<double> score(keep.size());
    scores(rows.gqa_group, rows.n_rows, rows.observed, score.data());
    keep_largest(score, kept_count(keep_ratio, rows.n_rows + rows.n_ahead) - rows.n_ahead, keep);
  }
};

static_assert(Policy<SnapKv>);

}  // namespace kvcodec
