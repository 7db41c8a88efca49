// Family "lagkv-stream": a cache with policy "lagkv", fed token by token and in chunks, against the
// authors' code.
#include <algorithm>
#include <vector>

#include "kvcodec/cache/cache.hpp"
#include "kvcodec/codec/make_codec.hpp"
#include "src/verify/policy_rows.hpp"
#include "src/verify/runners.hpp"

namespace kvcodec::golden {
namespace {

using Numbers = std::vector<std::int64_t>;

/// One sequence of a cache with the policy and codecs that lose nothing.
class Stream {
 public:
  Stream(const AnyPolicy& policy, std::int32_t n_sink, const HeadRows& rows)
      : rows_(rows), cache_(config(policy, n_sink, rows)), seq_(cache_.open()) {}

  void append(std::int64_t n) {
    const auto next = [&](const std::vector<float>& x) {
      Rows<float> r{x.data() + n_tokens() * rows_.head_dim, n, rows_.head_dim,
                    rows_.n_tokens * rows_.head_dim};
      return AnyRows(r);
    };
    cache_.append(seq_, 0, next(rows_.k), next(rows_.v));
  }

  std::int64_t n_tokens() const { return cache_.n_tokens(seq_); }
  /// The same for every head, or the case fails.
  std::int64_t n_kept() const {
    for (std::int32_t head = 0; head < rows_.n_heads; ++head) {
      require(cache_.n_kept(seq_, 0, head) == cache_.n_kept(seq_, 0, 0),
              "heads keep different numbers of rows");
    }
    return cache_.n_kept(seq_, 0, 0);
  }
  /// Positions of the rows of one head, oldest first.
  Numbers kept(std::int64_t head) const {
    ViewBuffers buffers;
    const KvView view = cache_.view(0, {&seq_, 1}, buffers);
    Numbers positions;
    const auto add = [&](const RawRows& raw) {
      for (std::int32_t i = 0; i < raw.n_rows; ++i) {
        positions.push_back(raw.pos != nullptr ? raw.pos[i] : raw.first_pos + i);
      }
    };
    add(view.sinks[head]);
    for (std::int64_t row = 0; row < view.encoded_rows(head); ++row) {
      const std::int64_t page = view.page_of(head, row);
      positions.push_back(
          view.slot_pos[page * view.format.page_size + row % view.format.page_size]);
    }
    add(view.kept[head]);
    add(view.recent[head]);
    return positions;
  }

 private:
  static CacheConfig config(const AnyPolicy& policy, std::int32_t n_sink, const HeadRows& rows) {
    CacheConfig c;
    const auto n_heads = static_cast<std::int32_t>(rows.n_heads);
    c.shape = {n_heads, n_heads, rows.head_dim};
    LayerConfig layer;
    layer.k.codec = make_codec("f32");
    layer.v.codec = make_codec("f32");
    layer.n_sink = n_sink;
    layer.policy = policy;
    c.layers.push_back(layer);
    c.max_tokens = rows.n_tokens;
    return c;
  }

  const HeadRows& rows_;
  Cache cache_;
  SeqId seq_;
};

/// What one feeding of a case should give; arrays are [number of chunks].
struct Feeding {
  Numbers chunks;
  Numbers length_after;     ///< rows that stay after a chunk
  Numbers length_attended;  ///< rows that the chunk's own tokens see: nothing evicted yet
};

void check_feeding(const AnyPolicy& policy, std::int32_t n_sink, const HeadRows& rows,
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

/// The token-wise feeding as seen by attention after each append, and its evictions: [n_events, 4],
/// token, rows before, rows after, rows after without the tail.
void check_events(const AnyPolicy& policy, std::int32_t n_sink, const HeadRows& rows,
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
  const auto n_sink = c.parameter<std::int32_t>("sink_S");
  const AnyPolicy policy =
      make_policy("lagkv:l" + std::to_string(c.parameter<int>("lag_size_L")) + ":r" +
                  format_double(c.parameter<double>("kept_fraction_r")) + ":w" +
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
