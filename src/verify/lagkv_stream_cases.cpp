// Family "lagkv-stream": policy "lagkv" fed token by token and in chunks, against the authors' code.
#include <algorithm>
#include <array>
#include <vector>

#include "src/verify/policy_rows.hpp"
#include "src/verify/runners.hpp"

namespace kvcodec::golden {
namespace {

using Numbers = std::vector<std::int64_t>;

/// The streaming rule of policy.hpp over the rows of a case: whenever a chunk has its rows ahead, it
/// is judged; what was judged once is not judged again.
class Stream {
 public:
  Stream(const AnyPolicy& policy, std::int64_t n_sink, const HeadRows& rows)
      : policy_(policy),
        n_sink_(n_sink),
        rows_(rows),
        kept_(static_cast<std::size_t>(rows.n_heads)) {}

  void append(std::int64_t n) {
    for (Numbers& kept : kept_) {
      for (std::int64_t t = n_tokens_; t < n_tokens_ + n; ++t) kept.push_back(t);
    }
    n_tokens_ += n;
    const std::int64_t chunk = policy_.chunk_rows();
    const std::int64_t first = n_sink_ + n_judged_;
    const std::int64_t free = n_tokens_ - first - policy_.lookahead_rows();
    const std::int64_t n_rows = std::max<std::int64_t>(free, 0) / chunk * chunk;
    if (n_rows == 0) return;
    for (std::int64_t head = 0; head < rows_.n_heads; ++head) {
      Numbers& kept = kept_[static_cast<std::size_t>(head)];
      kept.resize(kept.size() - static_cast<std::size_t>(n_tokens_ - first));
      for (const std::int64_t t :
           kept_of(policy_, rows_, head, first, n_rows, n_tokens_ - first - n_rows)) {
        kept.push_back(t);
      }
      for (std::int64_t t = first + n_rows; t < n_tokens_; ++t) kept.push_back(t);
    }
    n_judged_ += n_rows;
  }

  std::int64_t n_tokens() const noexcept { return n_tokens_; }
  const Numbers& kept(std::int64_t head) const { return kept_[static_cast<std::size_t>(head)]; }
  /// The same for every head, or the case fails.
  std::int64_t n_kept() const {
    for (const Numbers& kept : kept_) {
      require(kept.size() == kept_[0].size(), "heads keep different numbers of rows");
    }
    return static_cast<std::int64_t>(kept_[0].size());
  }

 private:
  AnyPolicy policy_;
  std::int64_t n_sink_;
  const HeadRows& rows_;
  std::int64_t n_tokens_ = 0;
  std::int64_t n_judged_ = 0;
  std::vector<Numbers> kept_;
};

/// What one feeding of a case should give; arrays are [number of chunks].
struct Feeding {
  Numbers chunks;
  Numbers length_after;     ///< rows that stay after a chunk
  Numbers length_attended;  ///< rows that the chunk's own tokens see: nothing evicted yet
};

void check_feeding(const AnyPolicy& policy, std::int64_t n_sink, const HeadRows& rows,
                   const Feeding& feeding, const std::vector<Numbers>& final_kept,
                   const std::string& what) {
  Stream stream(policy, n_sink, rows);
  for (std::size_t i = 0; i < feeding.chunks.size(); ++i) {
    const std::string where = what + "[" + std::to_string(i) + "]";
    const std::int64_t before = stream.n_kept();
    stream.append(feeding.chunks[i]);
    require(before + feeding.chunks[i] == feeding.length_attended.at(i), "length_attended" + where);
    require(stream.n_kept() == feeding.length_after.at(i), "length_after" + where);
  }
  require(stream.n_tokens() == rows.n_tokens, "the chunks are not the whole sequence" + what);
  for (std::int64_t head = 0; head < rows.n_heads; ++head) {
    require(stream.kept(head) == final_kept[static_cast<std::size_t>(head)],
            "kept_final of head " + std::to_string(head) + what);
  }
}

/// Rows that freezing events of a token-wise feeding leave: [n_events, 4], see the case.
void check_events(const AnyPolicy& policy, std::int64_t n_sink, const HeadRows& rows,
                  const Numbers& immediate, const Numbers& events) {
  Stream stream(policy, n_sink, rows);
  Numbers own;
  for (std::int64_t t = 0; t < rows.n_tokens; ++t) {
    const std::int64_t before = stream.n_kept() + 1;
    stream.append(1);
    const std::int64_t after = stream.n_kept();
    require(after == immediate.at(static_cast<std::size_t>(t)),
            "length_attended_immediate[" + std::to_string(t) + "]");
    if (after == before) continue;
    const std::int64_t tail = lag_partitions(t + 1, n_sink, policy.chunk_rows()).n_tail;
    for (const std::int64_t x : {t, before, after, after - tail}) own.push_back(x);
  }
  require(own == events, "events");
}

}  // namespace

std::string run_lagkv_stream(const Case& c) {
  const HeadRows rows(c);
  const std::int64_t n_sink = c.parameter<std::int64_t>("sink_S");
  const AnyPolicy policy = make_policy("lagkv:l" + std::to_string(c.parameter<int>("lag_size_L")) +
                                       ":r" + format_double(c.parameter<double>("kept_fraction_r")) +
                                       ":w" +
                                       format_double(c.parameter<double>("value_score_weight")));
  const LagKv& lag = *policy.as<LagKv>();
  require(lag.kept_per_partition() == c.parameter<std::int64_t>("kept_per_partition"),
          "kept_per_partition is " + std::to_string(lag.kept_per_partition()));
  const auto numbers = [&](const std::string& name) { return c.array(name).integers(); };

  const Numbers sorted = numbers("kept_final_sorted");
  const Numbers in_order = numbers("kept_final");
  std::vector<Numbers> final_kept;
  for (std::int64_t head = 0; head < rows.n_heads; ++head) {
    final_kept.push_back(row_of(sorted, head, rows.n_heads));
    Numbers theirs = row_of(in_order, head, rows.n_heads);
    const std::int64_t n_parts = lag_partitions(rows.n_tokens, n_sink, lag.lag_size).count;
    for (std::int64_t p = 0; p < n_parts; ++p) {
      const auto begin = theirs.begin() + n_sink + p * lag.kept_per_partition();
      std::sort(begin, begin + lag.kept_per_partition());
    }
    require(theirs == final_kept.back(), "kept_final and kept_final_sorted differ");
  }
  const Numbers ones(static_cast<std::size_t>(rows.n_tokens), 1);
  check_feeding(policy, n_sink, rows, {ones, numbers("length_after"), numbers("length_attended")},
                final_kept, " token by token");
  for (const std::string feeding : {"paper_chunks", "random_chunks"}) {
    check_feeding(policy, n_sink, rows,
                  {numbers(feeding), numbers(feeding + "_length_after"),
                   numbers(feeding + "_length_attended")},
                  final_kept, " in " + feeding);
  }
  check_events(policy, n_sink, rows, numbers("length_attended_immediate"), numbers("events"));
  return lag.name() + ", " + std::to_string(rows.n_tokens) + " tokens one by one and in chunks";
}

}  // namespace kvcodec::golden
