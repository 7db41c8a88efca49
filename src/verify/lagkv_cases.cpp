// Families "lagkv-inputs", "lagkv-oneshot" and "lagkv-stream": policy "lagkv" against the authors'
// code, scores and kept tokens of whole prompts and of prompts fed in parts.
#include <algorithm>
#include <cmath>
#include <vector>

#include "src/verify/policy_rows.hpp"
#include "src/verify/runners.hpp"

namespace kvcodec::golden {
namespace {

/// From the cases' rule "relative 4e-6 (fp32 arithmetic)".
constexpr double kRelativeBound = 4e-6;

/// The policy of a case and its sinks, which are the window's.
struct Lag {
  explicit Lag(const Case& c) : n_sink(c.parameter<std::int64_t>("sink_S")) {
    std::string spec = "lagkv:l" + std::to_string(c.parameter<int>("lag_size_L"));
    spec += ":r" + format_double(c.parameter<double>("kept_fraction_r"));
    if (c.has_parameter("value_score_weight")) {
      spec += ":w" + format_double(c.parameter<double>("value_score_weight"));
    }
    any = make_policy(spec);
    policy = *any.as<LagKv>();
    require(policy.kept_per_partition() == c.parameter<std::int64_t>("kept_per_partition"),
            "kept_per_partition is " + std::to_string(policy.kept_per_partition()));
  }

  LagPartitions partitions(std::int64_t n_tokens) const noexcept {
    return lag_partitions(n_tokens, n_sink, policy.lag_size);
  }

  /// Tokens of one head that stay of the first n_tokens, ascending: the whole prompt at once.
  std::vector<std::int64_t> kept(const HeadRows& rows, std::int64_t head,
                                 std::int64_t n_tokens) const {
    const LagPartitions parts = partitions(n_tokens);
    const std::int64_t n_judged = parts.count * policy.lag_size;
    std::vector<std::int64_t> tokens;
    for (std::int64_t t = 0; t < parts.first; ++t) tokens.push_back(t);
    for (const std::int64_t t : kept_of(any, rows, head, parts.first, n_judged, parts.n_tail)) {
      tokens.push_back(t);
    }
    for (std::int64_t t = parts.first + n_judged; t < n_tokens; ++t) tokens.push_back(t);
    return tokens;
  }

  AnyPolicy any;
  LagKv policy;
  std::int64_t n_sink;
};

std::string head_text(std::int64_t head) { return " of head " + std::to_string(head); }

/// `official` holds sinks, kept tokens of each partition in any order, tail.
void require_same_kept(const Lag& lag, const std::vector<std::int64_t>& kept,
                       std::vector<std::int64_t> official, std::int64_t n_tokens,
                       const std::string& what) {
  require(kept.size() == official.size(), "number of kept tokens" + what);
  const LagPartitions parts = lag.partitions(n_tokens);
  for (std::int64_t p = 0; p < parts.count; ++p) {
    const auto begin = official.begin() + parts.first + p * lag.policy.kept_per_partition();
    std::sort(begin, begin + lag.policy.kept_per_partition());
  }
  require(kept == official, "kept tokens" + what);
}

/// Largest relative error of the scores of one partition; throws beyond the bound.
double check_scores(const Lag& lag, const HeadRows& rows, std::int64_t head, std::int64_t partition,
                    const float* k_expected, const float* v_expected) {
  const std::int64_t at = lag.n_sink + partition * lag.policy.lag_size;
  const std::int64_t next = at + lag.policy.lag_size;
  std::vector<double> score(static_cast<std::size_t>(lag.policy.lag_size));
  double worst = 0.0;
  for (const bool key : {true, false}) {
    const float* own = key ? rows.key(head, at) : rows.value(head, at);
    const float* behind = key ? rows.key(head, next) : rows.value(head, next);
    const float* expected = key ? k_expected : v_expected;
    lag_scores(rows.head_dim, lag.policy.lag_size, own, behind, score.data());
    const std::string what = std::string(key ? "k" : "v") + "_scores" + head_text(head) +
                             " partition " + std::to_string(partition) + " ";
    compare(what, score.size(), score, expected, [&](std::size_t i) {
      return kRelativeBound * std::abs(static_cast<double>(expected[i]));
    });
    for (std::size_t i = 0; i < score.size(); ++i) {
      worst = std::max(worst, std::abs(score[i] / static_cast<double>(expected[i]) - 1.0));
    }
  }
  return worst;
}

}  // namespace

std::string run_lagkv_inputs(const Case& c) {
  const AnyPolicy policy = make_policy("lagkv");
  std::int64_t n_kept = 0;
  for (const std::string& key_name : c.arrays_of("input")) {
    if (!key_name.ends_with("_k")) continue;
    const std::string data = key_name.substr(0, key_name.size() - 2);
    const HeadRows rows(c.array(key_name), c.array(data + "_v"));
    const LagKv& lag = *policy.as<LagKv>();
    const LagPartitions parts = lag_partitions(rows.n_tokens, 0, lag.lag_size);
    for (std::int64_t head = 0; head < rows.n_heads; ++head) {
      const auto kept =
          kept_of(policy, rows, head, 0, parts.count * lag.lag_size, parts.n_tail).size();
      require(static_cast<std::int64_t>(kept) == parts.count * lag.kept_per_partition(),
              data + ": number of kept tokens" + head_text(head));
      n_kept += static_cast<std::int64_t>(kept);
    }
  }
  return policy.name() + " keeps " + std::to_string(n_kept) + " judged rows";
}

std::string run_lagkv_oneshot(const Case& c) {
  const Lag lag(c);
  const HeadRows rows(c);
  const std::vector<std::int64_t> official = c.array("kept").integers();
  const std::vector<std::int64_t> sorted = c.array("kept_sorted").integers();
  const std::vector<float> k_scores = c.array("k_scores").floats();
  const std::vector<float> v_scores = c.array("v_scores").floats();
  const std::int64_t n_parts = lag.partitions(rows.n_tokens).count;
  double worst = 0.0;
  for (std::int64_t head = 0; head < rows.n_heads; ++head) {
    const std::vector<std::int64_t> kept = lag.kept(rows, head, rows.n_tokens);
    require(kept == row_of(sorted, head, rows.n_heads), "kept_sorted" + head_text(head));
    require_same_kept(lag, kept, row_of(official, head, rows.n_heads), rows.n_tokens,
                      head_text(head));
    for (std::int64_t p = 0; p < n_parts; ++p) {
      const std::int64_t at = (head * n_parts + p) * lag.policy.lag_size;
      worst = std::max(
          worst, check_scores(lag, rows, head, p, k_scores.data() + at, v_scores.data() + at));
    }
  }
  return lag.policy.name() + " keeps " + std::to_string(sorted.size()) +
         " rows, largest relative error of a score " + number_text(worst);
}

std::string run_lagkv_lengths(const Case& c) {
  const Lag lag(c);
  const std::vector<std::int64_t> expected = c.array("cache_length").integers();
  const auto n = static_cast<std::int64_t>(expected.size());
  const Array zeros =
      make_array<float>("f4", {1, n, 64}, std::vector<float>(static_cast<std::size_t>(64 * n)));
  const HeadRows rows(zeros, zeros);
  for (std::int64_t t = 0; t < n; ++t) {
    const std::int64_t want = expected[static_cast<std::size_t>(t)];
    require(lag.policy.kept_rows(t, lag.n_sink) == want &&
                static_cast<std::int64_t>(lag.kept(rows, 0, t).size()) == want,
            "cache_length[" + std::to_string(t) + "]");
  }
  return lag.policy.name() + ", " + std::to_string(n) + " prompt lengths";
}

std::string run_lagkv_threshold(const Case& c) {
  const Lag lag(c);
  const HeadRows rows(c);
  const std::vector<std::int64_t> lengths = c.array("prompt_length").integers();
  const std::vector<std::int64_t> stored = c.array("cache_length").integers();
  const std::vector<std::int64_t> frozen = c.array("frozen").integers();
  const std::vector<std::int64_t> sorted = c.array("kept_sorted").integers();
  const auto n_lengths = static_cast<std::int64_t>(lengths.size());
  for (std::int64_t i = 0; i < n_lengths; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const std::string what = " at prompt length " + std::to_string(lengths[at]);
    const std::int64_t n_judged = lag.partitions(lengths[at]).count;
    require(lag.policy.kept_rows(lengths[at], lag.n_sink) == stored[at], "cache_length" + what);
    require(lag.n_sink + n_judged * lag.policy.kept_per_partition() == frozen[at], "frozen" + what);
    const std::vector<std::int64_t> of_length = row_of(sorted, i, n_lengths);
    for (std::int64_t head = 0; head < rows.n_heads; ++head) {
      std::vector<std::int64_t> want = row_of(of_length, head, rows.n_heads);
      const std::size_t width = want.size();
      std::vector<std::int64_t> kept = lag.kept(rows, head, lengths[at]);
      kept.resize(width, -1);
      require(kept == want, "kept_sorted" + head_text(head) + what);
    }
  }
  return lag.policy.name() + ", " + std::to_string(n_lengths) + " prompt lengths around " +
         std::to_string(lag.n_sink + 2 * lag.policy.lag_size);
}

// The published code divides by zero in a constant channel. Where the case marks a side of a
// partition as bad, only finite scores and the number of kept rows are required.
std::string run_lagkv_constant(const Case& c) {
  const Lag lag(c);
  const HeadRows rows(c);
  const std::vector<std::int64_t> official = c.array("official_kept").integers();
  const std::vector<float> k_scores = c.array("official_k_scores").floats();
  const std::vector<float> v_scores = c.array("official_v_scores").floats();
  const LagPartitions parts = lag.partitions(rows.n_tokens);
  const std::int64_t per_part = lag.policy.kept_per_partition();
  std::vector<double> score(static_cast<std::size_t>(lag.policy.lag_size));
  int n_bad = 0;
  for (std::int64_t head = 0; head < rows.n_heads; ++head) {
    const std::vector<std::int64_t> kept = lag.kept(rows, head, rows.n_tokens);
    std::vector<std::int64_t> theirs = row_of(official, head, rows.n_heads);
    require(kept.size() == theirs.size(), "number of kept tokens" + head_text(head));
    for (std::int64_t p = 0; p < parts.count; ++p) {
      const std::int64_t at = (head * parts.count + p) * lag.policy.lag_size;
      const auto own = kept.begin() + parts.first + p * per_part;
      const auto other = theirs.begin() + parts.first + p * per_part;
      const std::int64_t begin = parts.first + p * lag.policy.lag_size;
      require(*own >= begin && *(own + per_part - 1) < begin + lag.policy.lag_size,
              "number of kept tokens of a partition" + head_text(head));
      if (std::isnan(k_scores[static_cast<std::size_t>(at)]) ||
          std::isnan(v_scores[static_cast<std::size_t>(at)])) {
        ++n_bad;
        for (const bool key : {true, false}) {
          const std::int64_t next = begin + lag.policy.lag_size;
          lag_scores(rows.head_dim, lag.policy.lag_size,
                     key ? rows.key(head, begin) : rows.value(head, begin),
                     key ? rows.key(head, next) : rows.value(head, next), score.data());
          for (const double s : score) require(std::isfinite(s), "a score is not finite");
        }
        std::copy_n(own, per_part, other);
        continue;
      }
      check_scores(lag, rows, head, p, k_scores.data() + at, v_scores.data() + at);
    }
    require_same_kept(lag, kept, theirs, rows.n_tokens, head_text(head));
  }
  const auto listed = c.check<nlohmann::json>("nan_partitions_head_partition_k_v").size();
  require(n_bad == static_cast<int>(listed), "partitions with NaN in the official scores");
  return lag.policy.name() + ", finite where the published code is not, the same elsewhere";
}

}  // namespace kvcodec::golden
