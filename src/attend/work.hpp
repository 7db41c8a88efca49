// How a call to attend is cut into units of work, and where each unit's results go.
//
// A unit is (sequence, KV head, up to kUnitRows query rows[, split]). Query rows of a unit are the
// gqa_group heads of neighbouring tokens. Long sequences with few query tokens (decode, verify)
// run each split as a unit of its own, and the last one merges them; others walk the
// splits inside a unit. Both merge in the order of the splits, so the results are the same.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kvcodec/attend/attend.hpp"

namespace kvcodec {

/// Query rows of one unit; at least kMaxGqaGroup.
inline constexpr int kUnitRows = 32;

/// Sequences with at most this many query tokens run their splits in parallel.
inline constexpr std::int64_t kSplitParallelTokens = 4;

/// Sequences with at most this many splits, one of them for rows that are not encoded, run them in one
/// unit per head: a state and a merge for each would take longer than the rows.
inline constexpr std::int64_t kFewestSplits = 2;

/// Units of one sequence.
struct SequencePlan {
  std::int64_t n_splits;         ///< of encoded rows, plus one for rows that are not encoded
  std::int64_t tokens_per_unit;  ///< query tokens in a unit
  std::int64_t n_token_groups;   ///< units per head (and split)
  bool split_parallel;

  std::int64_t n_groups(std::int64_t n_kv_heads) const noexcept {
    return n_token_groups * n_kv_heads;
  }
  std::int64_t n_units(std::int64_t n_kv_heads) const noexcept {
    return n_groups(n_kv_heads) * (split_parallel ? n_splits : 1);
  }
};

inline SequencePlan plan_sequence(const KvView& view, const Queries& queries,
                                  std::int64_t seq) noexcept {
  const std::int64_t n_tokens = queries.indptr[seq + 1] - queries.indptr[seq];
  const std::int64_t n_streams = view.n_streams_per_seq();
  std::int64_t longest = 0;
  for (std::int64_t s = seq * n_streams; s < (seq + 1) * n_streams; ++s) {
    longest = std::max(longest, view.encoded_rows(s));
  }
  SequencePlan plan;
  plan.n_splits = (longest + kSplitRows - 1) / kSplitRows + 1;
  plan.tokens_per_unit = std::max<std::int64_t>(1, kUnitRows / view.shape.gqa_group());
  plan.n_token_groups = (n_tokens + plan.tokens_per_unit - 1) / plan.tokens_per_unit;
  plan.split_parallel = n_tokens <= kSplitParallelTokens && plan.n_splits > kFewestSplits;
  return plan;
}

/// State of the online softmax of up to `rows` query rows.
struct PartialState {
  float* m;    ///< [rows]
  float* l;    ///< [rows]
  float* acc;  ///< [rows, head_dim]
};

/// Floats of one PartialState with `rows` query rows; a multiple of 16.
inline std::int64_t state_floats(std::int64_t rows, std::int64_t head_dim) noexcept {
  return (2 * rows + rows * head_dim + 15) / 16 * 16;
}

inline PartialState state_at(float* memory, std::int64_t rows) noexcept {
  return {memory, memory + rows, memory + 2 * rows};
}

}  // namespace kvcodec
