// Attention of query rows over a compressed cache, on the CPU.
//
//   logit(r) = sm_scale * q . k_r, or cap * tanh(that / cap) with a soft cap
//   out = sum over visible r of softmax(logit)(r) * v_r,   lse = log(sum of exp(logit(r)))
//
// Row r is visible to a query at position p if pos(r) <= p and, with a window, also
// pos(r) > p - window or pos(r) < window_sinks. A sink logit adds exp(sink) to the softmax sum of
// its head and nothing to the output. An empty sum gives out = 0 and lse = -inf.
//
// All sums are f32. A sequence is cut into splits of fixed length whose results are merged in a
// fixed order, so results depend neither on the number of threads nor on what else is in the call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kvcodec/cache/cache.hpp"
#include "kvcodec/cache/cache_stats.hpp"
#include "kvcodec/core/error.hpp"
#include "kvcodec/core/executor.hpp"
#include "kvcodec/core/rows.hpp"
#include "kvcodec/page/kv_view.hpp"

namespace kvcodec {

/// Encoded rows per split: what one unit of parallel work reads.
inline constexpr int kSplitRows = 1024;

/// How products of queries with keys and of weights with values are computed, where a codec's levels fit
/// in bytes and the machine has the instructions (attends_in_integers); elsewhere f32 in any case.
enum class Arithmetic : std::uint8_t {
  f32,
  /// Queries and weights are rounded to 8 bits, for 8-bit codes to 15: 2 to 4 times as fast. What that
  /// adds to the error of an output is measured in docs/numerics.md.
  integer,
};

/// Settings of one call.
struct AttendOptions {
  float sm_scale = 0.0f;          ///< required, finite and > 0; usually head_dim^-0.5
  float logits_soft_cap = 0.0f;   ///< 0: off
  std::int32_t window = 0;        ///< newest positions visible, the query's own counted; 0: all
  std::int32_t window_sinks = 0;  ///< first positions visible in spite of the window
  const float* sink_logits = nullptr;       ///< [n_q_heads] numbers or -inf; or null
  Arithmetic arithmetic = Arithmetic::f32;  ///< on the CPU; a device has its own
};

/// Whether Arithmetic::integer changes anything for tiles of this codec and side on this machine, with
/// the instruction set in use.
bool attends_in_integers(const AnyCodec& codec, Side side, int head_dim) noexcept;

/// Query tokens of a ragged batch, in the view's (transformed) space.
struct Queries {
  const float* q = nullptr;              ///< [n_tokens, n_q_heads, head_dim]
  const std::int64_t* indptr = nullptr;  ///< [n_seq + 1] first token of each sequence
  const std::int32_t* pos = nullptr;     ///< [n_tokens] position of each token
  /// The query tokens' own K and V, not yet in the cache, [n_tokens, n_kv_heads, head_dim], in
  /// transformed space; null: the cache already holds them. They stay exact (past-only
  /// quantization) and are masked by position like all others.
  const float* k_new = nullptr;
  const float* v_new = nullptr;
};

/// Bytes of working memory that attend needs for these shapes and that many workers.
std::size_t attend_workspace_bytes(const KvView& view, const Queries& queries,
                                   int n_workers = 1) noexcept;

/// Attends over a view.
///
/// out [n_tokens, n_q_heads, head_dim]; lse [n_tokens, n_q_heads] or null. `workspace` is aligned
/// to 64 bytes and holds attend_workspace_bytes(..., executor.n_workers). Allocates nothing.
/// Returns invalid_argument for a null pointer, a decreasing indptr, a bad option or a workspace
/// that is too small, and then writes nothing.
Status attend(const KvView& view, const Queries& queries, float* out, float* lse,
              const AttendOptions& options, std::span<std::byte> workspace,
              const Executor& executor = {}) noexcept;

/// Working memory of the calls below; grow-only. One per thread that attends.
class AttendWorkspace {
 public:
  /// At least n bytes, aligned to 64.
  std::span<std::byte> bytes(std::size_t n);

  ViewBuffers view;
  std::vector<float> q, k, v;
  std::vector<std::int64_t> indptr;
  std::vector<std::int32_t> pos;
  CallTimes times;  ///< calls of attend(cache, ..) with this workspace that succeeded

 private:
  std::vector<std::byte> memory_;
};

/// One step of one layer of a cache: query tokens and, optionally, their own K and V.
struct Step {
  std::span<const SeqId> seqs;
  /// [seqs.size() + 1] first query token of each sequence; empty: one token each.
  std::span<const std::int64_t> indptr;
  AnyRows q;  ///< [n_tokens, n_q_heads, head_dim]
  /// Either both empty: the tokens were appended before, the last query token of a sequence is its
  /// newest token. Or the query tokens' own rows [n_tokens, n_kv_heads, head_dim], which follow
  /// the sequence's tokens and are not appended by this call.
  AnyRows k_new;
  AnyRows v_new;
};

/// Attends over one layer of a cache, with its transforms.
///
/// out [n_tokens, n_q_heads, head_dim]; lse [n_tokens, n_q_heads] or null. Allocates only when the
/// workspace must grow. Throws invalid_argument naming what is wrong; then nothing was written.
void attend(const Cache& cache, std::int32_t layer, const Step& step, float* out, float* lse,
            const AttendOptions& options, AttendWorkspace& workspace,
            const Executor& executor = {});

}  // namespace kvcodec
