// Family "kvpress-scores": policies "kvpress-lagkv", "keydiff" and "knorm" against kvpress.
#include <algorithm>
#include <cmath>
#include <vector>

#include "src/verify/policy_rows.hpp"
#include "src/verify/runners.hpp"

namespace kvcodec::golden {
namespace {

std::vector<double> lag_press_scores(const KvpressLagKv& policy, const HeadRows& rows,
                                     std::int64_t head, std::int64_t n_tokens) {
  std::vector<double> score(static_cast<std::size_t>(n_tokens));
  policy.scores(rows.head_dim, n_tokens, rows.key(head, 0), rows.value(head, 0), score);
  return score;
}

KvpressLagKv lag_press(const Case& c, double keep_ratio) {
  const AnyPolicy policy =
      make_policy("kvpress-lagkv:l" + std::to_string(c.parameter<int>("lag_size")) + ":s" +
                  std::to_string(c.parameter<int>("n_sink")) + ":r" + format_double(keep_ratio));
  return *policy.as<KvpressLagKv>();
}

/// The rules "absolute 2e-6" and "relative 1e-6" of both kinds of case.
double check_key_scores(const Case& c, const HeadRows& rows) {
  const std::vector<float> keydiff = c.array("keydiff_score").floats();
  const std::vector<float> knorm = c.array("knorm_score").floats();
  const double bound = c.absolute_tolerances("keydiff_score").at(0);
  const auto n = static_cast<std::size_t>(rows.n_tokens);
  std::vector<double> score(n);
  double worst = 0.0;
  for (std::int64_t head = 0; head < rows.n_heads; ++head) {
    keydiff_scores(rows.head_dim, rows.n_tokens, rows.key(head, 0), score.data());
    worst = std::max(
        worst, compare("keydiff_score of head " + std::to_string(head) + " ", n, score,
                       keydiff.data() + head * rows.n_tokens, [&](std::size_t) { return bound; }));
    knorm_scores(rows.head_dim, rows.n_tokens, rows.key(head, 0), score.data());
    const float* expected = knorm.data() + head * rows.n_tokens;
    compare("knorm_score of head " + std::to_string(head) + " ", n, score, expected,
            [&](std::size_t i) { return 1e-6 * std::abs(static_cast<double>(expected[i])); });
  }
  return worst;
}

/// "exact where rank_stable = 1; elsewhere a swap with the neighbouring rank (1/L) is acceptable"
void check_lag_scores(const Case& c, const HeadRows& rows, KvpressLagKv policy) {
  const std::vector<float> ranks = c.array("lagkv_rank_score").floats();
  const std::vector<float> cross = c.array("lagkv_cross_score").floats();
  const std::vector<std::int64_t> stable = c.array("rank_stable").integers();
  for (std::int64_t head = 0; head < rows.n_heads; ++head) {
    const auto at = static_cast<std::size_t>(head * rows.n_tokens);
    policy.cross = false;
    const std::vector<double> own = lag_press_scores(policy, rows, head, rows.n_tokens);
    std::vector<float> rounded(own.begin(), own.end());
    compare("lagkv_rank_score of head " + std::to_string(head) + " ", own.size(), rounded,
            ranks.data() + at,
            [&](std::size_t i) { return stable[at + i] != 0 ? 0.0 : 1.000001 / policy.lag_size; });
    policy.cross = true;
    compare("lagkv_cross_score of head " + std::to_string(head) + " ", own.size(),
            lag_press_scores(policy, rows, head, rows.n_tokens), cross.data() + at,
            [&](std::size_t i) { return 4e-6 * std::abs(static_cast<double>(cross[at + i])); });
  }
}

/// "keep all tokens of class 2, none of class 0, and exactly n_kept tokens"
void check_kept(const Case& c, const HeadRows& rows, const std::string& method,
                const AnyPolicy& policy) {
  const std::vector<std::int64_t> official = c.array(method + "_kept_sorted").integers();
  const std::vector<std::int64_t> classes = c.array(method + "_keep_class").integers();
  const auto n_kept = c.check<std::size_t>("n_kept");
  for (std::int64_t head = 0; head < rows.n_heads; ++head) {
    const std::string where = " of " + method + " in head " + std::to_string(head);
    const std::vector<std::int64_t> of_row = row_of(classes, head, rows.n_heads);
    const auto require_allowed = [&](const std::vector<std::int64_t>& kept, const char* whose) {
      require(kept.size() == n_kept, std::string(whose) + " number of kept tokens" + where);
      std::vector<bool> stays(of_row.size());
      for (const std::int64_t t : kept) stays.at(static_cast<std::size_t>(t)) = true;
      for (std::size_t t = 0; t < of_row.size(); ++t) {
        require(of_row[t] == 1 || of_row[t] == (stays[t] ? 2 : 0),
                std::string(whose) + " choice of token " + std::to_string(t) + where);
      }
    };
    require_allowed(kept_of(policy, rows, head, 0, rows.n_tokens, 0), "our");
    require_allowed(row_of(official, head, rows.n_heads), "the official");
  }
}

}  // namespace

std::string run_kvpress_scores(const Case& c) {
  const HeadRows rows(c);
  // kvpress names the share it removes and counts with 1 minus it.
  const double keep_ratio = 1.0 - c.parameter<double>("compression_ratio_removed_fraction");
  const KvpressLagKv lag = lag_press(c, keep_ratio);
  check_lag_scores(c, rows, lag);
  const double worst = check_key_scores(c, rows);
  const std::string ratio = ":r" + format_double(keep_ratio);
  check_kept(c, rows, "lagkv", lag);
  check_kept(c, rows, "keydiff", make_policy("keydiff" + ratio));
  check_kept(c, rows, "knorm", make_policy("knorm" + ratio));
  return lag.name() + ", keydiff, knorm keep " + std::to_string(c.check<int>("n_kept")) +
         " rows, largest error of a keydiff score " + number_text(worst);
}

std::string run_kvpress_short(const Case& c) {
  const HeadRows rows(c);
  const KvpressLagKv lag = lag_press(c, 0.5);
  const double bound = c.absolute_tolerances("lagkv_rank_score").at(0);
  const std::int64_t n_tiny = c.parameter<std::int64_t>("tiny_tokens");
  for (const bool tiny : {false, true}) {
    const std::string name = tiny ? "lagkv_rank_score_T_equals_n_sink" : "lagkv_rank_score";
    const std::vector<float> expected = c.array(name).floats();
    const std::int64_t n = tiny ? n_tiny : rows.n_tokens;
    for (std::int64_t head = 0; head < rows.n_heads; ++head) {
      compare(name + " of head " + std::to_string(head) + " ", static_cast<std::size_t>(n),
              lag_press_scores(lag, rows, head, n), expected.data() + head * n,
              [&](std::size_t) { return bound; });
    }
  }
  const double worst = check_key_scores(c, rows);
  return lag.name() + " on a short prompt, largest error of a keydiff score " + number_text(worst);
}

}  // namespace kvcodec::golden
