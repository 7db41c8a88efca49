// What the attention kernels are given, and how a call is cut into units and splits.
//
// A unit is (sequence, KV head, up to 16 query rows); a query row is one query head of one token, and
// the rows of a (sequence, KV head) are its tokens, each with its gqa_group heads. A CTA takes one
// split of a unit: `split_rows` encoded rows, or kRawSplitRows rows that are not encoded. Its state
// goes to the workspace; combine.cuh merges the states of a unit in the order of the splits.
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
  std::int32_t n_page_splits;  ///< of a unit, enough for the longest stream
  std::int32_t n_raw_splits;   ///< the same for rows that are not encoded
  std::int32_t unit_rows;      ///< query rows of a unit, at most kUnitRows
  std::int32_t n_units;        ///< of a (sequence, KV head)
  float* states;               ///< [n_seq, n_kv_heads, n_units, n_splits()] of state_floats()
  void* out;                   ///< [n_tokens, n_q_heads, head_dim]
  float* lse;                  ///< [n_tokens, n_q_heads]; or null

  KVCODEC_HD std::int32_t n_splits() const noexcept { return n_page_splits + n_raw_splits; }
  /// Floats of one state: m [unit_rows], l [unit_rows], acc [unit_rows, head_dim]. m counts in
  /// powers of two.
  KVCODEC_HD std::int64_t state_floats() const noexcept {
    return std::int64_t{unit_rows} * (2 + view.shape.head_dim);
  }
  KVCODEC_HD float* state(std::int64_t unit, std::int64_t split) const noexcept {
    return states + (unit * n_splits() + split) * state_floats();
  }
};

/// One unit.
struct Unit {
  std::int64_t index;  ///< among all units
  std::int64_t seq;
  std::int32_t head;         ///< KV head
  std::int64_t first_row;    ///< among the query rows of the (sequence, KV head)
  std::int32_t n_rows;       ///< 0: nothing to do
  std::int64_t first_token;  ///< of the sequence, among all query tokens of the call
  std::int32_t group;        ///< query heads of a KV head

  KVCODEC_HD static Unit at(const AttendParams& p, std::int64_t seq, std::int32_t head,
                            std::int32_t unit) noexcept {
    Unit u;
    u.index = (seq * p.view.shape.n_kv_heads + head) * p.n_units + unit;
    u.seq = seq;
    u.head = head;
    u.first_row = std::int64_t{unit} * p.unit_rows;
    u.first_token = p.q_indptr[seq];
    u.group = p.view.shape.gqa_group();
    const std::int64_t left = (p.q_indptr[seq + 1] - u.first_token) * u.group - u.first_row;
    u.n_rows = left < 0 ? 0 : left < p.unit_rows ? static_cast<std::int32_t>(left) : p.unit_rows;
    return u;
  }

  /// The same from head * n_units + unit, as grids count them.
  KVCODEC_HD static Unit at(const AttendParams& p, std::int64_t seq,
                            std::uint32_t head_unit) noexcept {
    const auto i = static_cast<std::int32_t>(head_unit);
    return at(p, seq, i / p.n_units, i % p.n_units);
  }

  /// Query token of a row, and its head within the group.
  KVCODEC_HD std::int64_t token(int row) const noexcept {
    return first_token + (first_row + row) / group;
  }
  KVCODEC_HD int head_in_group(int row) const noexcept {
    return static_cast<int>((first_row + row) % group);
  }
  /// Index of a query row in q and out: [n_tokens, n_q_heads].
  KVCODEC_HD std::int64_t q_row(const AttendParams& p, int row) const noexcept {
    return token(row) * p.view.shape.n_q_heads + std::int64_t{head} * group + head_in_group(row);
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
  return pos <= q_pos &&
         (p.window <= 0 || pos > std::int64_t{q_pos} - p.window || pos < p.window_sinks);
}

}  // namespace kvcodec::cuda
