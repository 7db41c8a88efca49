// Eviction on the device: which rows of a layer stay (kvcodec/policy/), and moving those together.
//
// All (sequence, KV head) streams of a layer are judged by one call. All pointers are device pointers
// unless said otherwise. Every call is ordered on its stream, returns before the work is done, allocates
// nothing, waits for nothing and may be captured into a graph: lengths lie on the device, `max_...`
// sizes the launches. Arguments are checked on the host; what stands in device memory is not, but for
// what is said below. Calls that need working memory tell its size (a multiple of 256) before; it is
// aligned to 256 bytes.
//
// Scores are f64 as on the CPU and differ from the CPU's in their last bits, where sums are taken in
// another order: a row whose score lies within about 1e-13 of another's at the edge may be judged the
// other way. Snapkv's and Spindle's scores of the same observed attention have no such difference.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcodec/core/rows.hpp"
#include "kvcodec/core/shape.hpp"
#include "kvcodec/cuda/device.hpp"
#include "kvcodec/policy/policy.hpp"

namespace kvcodec::cuda {

/// Rows of all streams of a layer, of which a policy judges some: per sequence the same tokens of every
/// KV head, as the model made them, oldest first.
struct JudgedRows {
  HeadShape shape;
  std::int32_t layer = 0;  ///< 0..n_layers - 1
  std::int32_t n_layers = 1;
  std::int32_t n_seq = 0;
  /// Most rows of one sequence that are judged, 0..2^31 - 1: sizes launches and working memory, and is
  /// the stride of everything that has one value per row.
  std::int64_t max_rows = 0;
  /// [tokens, n_kv_heads, head_dim] of all sequences, any strides (n_tokens is not looked at); reads are
  /// 16 bytes wide where address and strides allow. v may be null for policies that judge keys alone.
  AnyRows k;
  AnyRows v;
  const std::int64_t* first = nullptr;    ///< [n_seq] token of the first judged row
  const std::int64_t* n_rows = nullptr;   ///< [n_seq] judged, 0..max_rows
  const std::int64_t* n_ahead = nullptr;  ///< [n_seq] that follow, to be looked at only; null: 0
  /// [n_seq, n_q_heads, max_rows] summed attention of the observed queries (observe_rows); null if
  /// nothing was observed.
  const float* observed = nullptr;
};

/// Queries whose attention is observed: the newest tokens of each sequence.
struct ObservedQueries {
  AnyRows q;                                ///< [tokens, n_q_heads, head_dim], any strides
  const std::int64_t* first = nullptr;      ///< [n_seq] token of q of a sequence's first query
  const std::int64_t* n_queries = nullptr;  ///< [n_seq] 0..the rows that the sequence has
  /// [n_seq] rows before the judged ones that queries see and nobody judges, such as sinks; null: 0.
  const std::int64_t* n_before = nullptr;
  std::int32_t max_queries = 0;  ///< most queries of one sequence, 0..65536
  std::int64_t max_seen = 0;     ///< most rows of one sequence: before, judged and ahead together
  float sm_scale = 1.0f;         ///< a finite factor of q . k
};

/// Bytes of working memory. Throws invalid_argument as observe_rows() does.
std::size_t observe_workspace_bytes(const JudgedRows& rows, const ObservedQueries& queries);

/// observed [n_seq, n_q_heads, max_rows] <- what observe_attention() (kvcodec/policy/observe.hpp) adds up
/// for the judged rows: query j of a sequence sees its rows up to the one that n_queries - 1 - j newer
/// ones follow. Products and weights are f32, totals f64; within 1e-6 of the CPU for logits of ordinary
/// size (their f32 rounding is what differs). Values beyond n_rows are not written. rows.v is not read.
///
/// Three launches. Throws invalid_argument naming the field, cuda_error.
void observe_rows(const JudgedRows& rows, const ObservedQueries& queries, float* observed,
                  void* workspace, std::size_t workspace_bytes, Stream stream = nullptr);

/// Whether a policy is judged on the device: every built-in one. Needs no device.
bool can_select(const AnyPolicy& policy) noexcept;

/// Score rows per sequence that the policy ranks: n_q_heads where every query head chooses by itself,
/// else n_kv_heads; 0 if it has no scores ("window").
std::int32_t score_heads(const AnyPolicy& policy, const HeadShape& shape) noexcept;

/// Bytes of working memory of score_rows(). Throws as score_rows() does.
std::size_t score_workspace_bytes(const AnyPolicy& policy, const JudgedRows& rows);

/// score [n_seq, score_heads, max_rows] <- what the policy ranks by: LagKV's a(K) + w a(V), kvpress's
/// ranks or halves of that sum, -|k|, minus the cosine, pooled weights. Where "lagkv" does not judge a
/// row (see select_rows) its score is infinite. Values beyond n_rows are not written.
///
/// Throws unsupported (not built in, or without scores), invalid_argument naming the argument,
/// cuda_error.
void score_rows(const AnyPolicy& policy, const JudgedRows& rows, double* score, void* workspace,
                std::size_t workspace_bytes, Stream stream = nullptr);

/// keep [n_segments, stride]: kKeptByAll for the n_kept[i] largest scores of segment i, 0 for the others,
/// as kvcodec::keep_largest(): equal scores: the lower position stays; NaN counts as the smallest.
///
/// score [n_segments, stride]; length [n_segments], 0..stride; n_kept [n_segments], cut to 0..length.
/// Masks beyond length are not written. One CTA per segment. Throws invalid_argument, cuda_error.
void keep_largest(std::int64_t n_segments, std::int64_t stride, const double* score,
                  const std::int64_t* length, const std::int64_t* n_kept, KeepMask* keep,
                  Stream stream = nullptr);

/// Bytes of working memory of select_rows(). Throws as select_rows() does. queries: null if
/// rows.observed is set or the policy does not observe.
std::size_t select_workspace_bytes(const AnyPolicy& policy, const JudgedRows& rows,
                                   const ObservedQueries* queries = nullptr);

/// keep [n_seq, n_kv_heads, max_rows] <- the whole judgement: what policy.select() says of each stream.
/// Masks beyond n_rows are not written.
///
/// A policy that observes takes rows.observed or, where that is null, observes `queries` first.
/// "lagkv" judges partitions that a complete one follows; where a sequence's n_rows is no multiple of
/// lag_size, or n_ahead less than that, the CPU throws and this keeps the remaining rows.
/// Throws unsupported (see can_select), invalid_argument naming the argument, cuda_error.
void select_rows(const AnyPolicy& policy, const JudgedRows& rows, const ObservedQueries* queries,
                 KeepMask* keep, void* workspace, std::size_t workspace_bytes,
                 Stream stream = nullptr);
inline void select_rows(const AnyPolicy& policy, const JudgedRows& rows, KeepMask* keep,
                        void* workspace, std::size_t workspace_bytes, Stream stream = nullptr) {
  select_rows(policy, rows, nullptr, keep, workspace, workspace_bytes, stream);
}

/// Where compact_rows() puts the rows that stay.
struct CompactedRows {
  /// [tokens, n_kv_heads, head_dim] of the types of rows.k and rows.v, any strides. Either memory that
  /// nothing here reads, or, for rows to be moved together where they stand, data, strides and `first`
  /// of the input: then n_before is null.
  void* k = nullptr;
  void* v = nullptr;
  std::int64_t k_token_stride = 0;  ///< elements, as k_head_stride and those of v
  std::int64_t k_head_stride = 0;
  std::int64_t v_token_stride = 0;
  std::int64_t v_head_stride = 0;
  const std::int64_t* first = nullptr;  ///< [n_seq] token where a sequence's rows begin
  /// [n_seq, n_kv_heads] rows that stand there already: new ones go behind; null: 0.
  const std::int64_t* n_before = nullptr;
  /// [n_seq, n_kv_heads] out: rows that stand there afterwards; may be the array n_before.
  std::int64_t* n_after = nullptr;
  std::int32_t* pos = nullptr;  ///< [n_seq, n_kv_heads, max_out] positions out; or null
  KeepMask* masks = nullptr;    ///< [n_seq, n_kv_heads, max_out] masks out; or null
  std::int64_t max_out = 0;  ///< rows that a stream has room for; what would go beyond is dropped
};

/// Positions of the judged rows, for compact_rows().
struct RowPositions {
  /// [n_seq, n_kv_heads, max_rows] positions; null: row i of sequence s has first_pos[s] + i.
  const std::int32_t* pos = nullptr;
  const std::int32_t* first_pos = nullptr;  ///< [n_seq]; null: 0
};

/// Bytes of working memory. Throws invalid_argument as compact_rows() does.
std::size_t compact_workspace_bytes(const JudgedRows& rows);

/// Copies the rows whose mask is not 0, K, V, position and mask, in their order, byte for byte, to where
/// `out` says. keep [n_seq, n_kv_heads, max_rows], as select_rows() leaves it.
///
/// Rows ahead are not moved. n_after counts what was written and n_before, at most max_out. Two
/// launches. rows.observed is not read. Throws invalid_argument naming the field, cuda_error.
void compact_rows(const JudgedRows& rows, const RowPositions& positions, const KeepMask* keep,
                  const CompactedRows& out, void* workspace, std::size_t workspace_bytes,
                  Stream stream = nullptr);

}  // namespace kvcodec::cuda
