// What the attention kernels are given, and how a call is cut into units and splits.
//
// A unit is (sequence, KV head, up to kUnitRows query rows); query rows of a unit are the gqa_group
// heads of neighbouring tokens. A CTA takes one split of a unit: `split_rows` encoded rows, or
// kRawSplitRows rows that are not encoded. Its state goes to the workspace; combine.cuh merges the
// states of a unit in the order of the splits.
#pragma once

#include <cstdint>

#include "kvcodec/attend/attend.hpp"
#include "kvcodec/codec/tile_format.hpp"
#include "kvcodec/page/kv_view.hpp"

namespace kvcodec::cuda {

/// Query rows of a unit at most: rows of one mma fragment.
inline constexpr int kUnitRows = 16;
/// Rows that are not encoded, per split.
inline constexpr int kRawSplitRows = 256;
/// Threads of a CTA of the attention kernel.
inline constexpr int kAttendThreads = 128;

/// Arguments of the attention kernels, by value.
struct AttendParams {
  KvView view;  ///< pointers into device memory
  TileFormat k;
  TileFormat v;

  const void* q;  ///< [n_tokens, n_q_heads, head_dim]
  DType q_dtype;
  const float* q_prepared;  ///< [n_tokens, n_q_heads, k.width] what key codes are multiplied with
                            ///< (PreparingCodec); or null: q
  DType out_dtype;
  const std::int64_t* q_indptr;  ///< [n_seq + 1]
  const std::int32_t* q_pos;     ///< [n_tokens]
  const float* k_new;            ///< [n_tokens, n_kv_heads, head_dim]; or null
  const float* v_new;

  float sm_scale;
  float logits_soft_cap;
  std::int32_t window;
  std::int32_t window_sinks;
  const float* sink_logits;  ///< [n_q_heads]; or null

  bool one_table;  ///< K and V codes have the same table
  std::int32_t split_rows;
  std::int32_t n_page_splits;    ///< of a unit, enough for the longest stream
  std::int32_t n_raw_splits;     ///< the same for rows that are not encoded
  std::int32_t tokens_per_unit;  ///< query tokens
  std::int32_t n_token_groups;   ///< units per (sequence, KV head)
  float* states;  ///< [n_seq, n_kv_heads, n_token_groups, n_splits()] of state_floats()
  void* out;      ///< [n_tokens, n_q_heads, head_dim]
  float* lse;     ///< [n_tokens, n_q_heads]; or null

  KVCODEC_HD std::int32_t n_splits() const noexcept { return n_page_splits + n_raw_splits; }
  KVCODEC_HD std::int32_t unit_rows() const noexcept {
    return tokens_per_unit * view.shape.gqa_group();
  }
  /// Floats of one state: m [unit_rows], l [unit_rows], acc [unit_rows, head_dim]. m counts in
  /// powers of two.
  KVCODEC_HD std::int64_t state_floats() const noexcept {
    return std::int64_t{unit_rows()} * (2 + view.shape.head_dim);
  }
  KVCODEC_HD float* state(std::int64_t unit, std::int64_t split) const noexcept {
    return states + (unit * n_splits() + split) * state_floats();
  }
};

/// One unit.
struct Unit {
  std::int64_t index;
  std::int64_t seq;
  std::int32_t head;         ///< KV head
  std::int64_t first_token;  ///< among all query tokens of the call
  std::int32_t n_tokens;     ///< 0: nothing to do
  std::int32_t n_rows;       ///< n_tokens * gqa_group

  KVCODEC_HD static Unit at(const AttendParams& p, std::int64_t seq, std::int32_t head,
                            std::int32_t token_group) noexcept {
    Unit u;
    u.seq = seq;
    u.head = head;
    u.index = (seq * p.view.shape.n_kv_heads + head) * p.n_token_groups + token_group;
    u.first_token = p.q_indptr[seq] + std::int64_t{token_group} * p.tokens_per_unit;
    const std::int64_t left = p.q_indptr[seq + 1] - u.first_token;
    u.n_tokens = left < 0                   ? 0
                 : left < p.tokens_per_unit ? static_cast<std::int32_t>(left)
                                            : p.tokens_per_unit;
    u.n_rows = u.n_tokens * p.view.shape.gqa_group();
    return u;
  }

  /// Index of a query row in q and out: [n_tokens, n_q_heads].
  KVCODEC_HD std::int64_t q_row(const AttendParams& p, int row) const noexcept {
    const std::int32_t group = p.view.shape.gqa_group();
    return (first_token + row / group) * p.view.shape.n_q_heads + std::int64_t{head} * group +
           row % group;
  }
};

/// The rows of a (sequence, KV head) that are not encoded, one after the other: sinks, kept, recent,
/// then the query tokens' own.
KVCODEC_HD inline std::int64_t n_raw_rows(const AttendParams& p, std::int64_t seq,
                                          std::int32_t head) noexcept {
  const std::int64_t at = seq * p.view.shape.n_kv_heads + head;
  std::int64_t n = 0;
  if (p.view.sinks != nullptr) n += p.view.sinks[at].n_rows;
  if (p.view.kept != nullptr) n += p.view.kept[at].n_rows;
  if (p.view.recent != nullptr) n += p.view.recent[at].n_rows;
  if (p.k_new != nullptr) n += p.q_indptr[seq + 1] - p.q_indptr[seq];
  return n;
}

/// Whether a row at `pos` is visible to a query at q_pos (attend.hpp).
KVCODEC_HD inline bool in_view(const AttendParams& p, std::int32_t pos,
                               std::int32_t q_pos) noexcept {
  return pos <= q_pos && (p.window <= 0 || pos > std::int64_t{q_pos} - p.window ||
                          pos < p.window_sinks);
}

}  // namespace kvcodec::cuda
