// The container: sequences of K and V rows over all layers, kept compressed in pages.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kvcodec/cache/cache_config.hpp"
#include "kvcodec/cache/cache_stats.hpp"
#include "kvcodec/core/error.hpp"
#include "kvcodec/core/rows.hpp"
#include "kvcodec/page/kv_view.hpp"

namespace kvcodec {

/// Names an open sequence of a cache.
using SeqId = std::int32_t;

/// The arrays behind a view; grow-only, so that a step allocates only when the cache has grown
/// beyond every earlier view. One per thread that makes views.
struct ViewBuffers {
  std::vector<std::int64_t> indptr;
  std::vector<std::int32_t> indices;
  std::vector<std::int32_t> last_page_len;
  std::vector<std::int32_t> first_pos;
  std::vector<RawRows> sinks;
  std::vector<RawRows> kept;
  std::vector<RawRows> recent;
  std::vector<float> k_center;
  std::vector<float> v_center;
  std::vector<AnyCodec> k_codecs;
  std::vector<AnyCodec> v_codecs;
};

/// Sequences of tokens, each with K and V rows per layer and KV head.
///
/// A row's way: transform, then the window (its first n_sink rows stay, the newest n_recent rows
/// wait), then the policy, which evicts it or not, then the codec, 64 rows at a time, into pages. The
/// token at index i has position i, evicted ones included. Layers with a policy need codecs that do
/// not share scales between heads.
///
/// Guarantees: appending n tokens at once leaves the same bytes as appending them one by one; a
/// call that throws or returns another status than ok changes nothing; closing a sequence gives
/// back exactly the pages it does not share. Bytes do not depend on other sequences.
///
/// One exception: where memory for a growing codebook or inside a policy cannot be had in the middle
/// of append, end_prompt or hold_raw, the sequence can still be read, forked and closed, and every further
/// change of it fails (out_of_memory or std::bad_alloc; truncate: cannot_truncate). No other is touched.
///
/// Thread safety: const members may run at the same time as each other, nothing else.
class Cache {
 public:
  /// Throws invalid_argument or unsupported naming the field; std::bad_alloc.
  explicit Cache(CacheConfig config);
  ~Cache();
  Cache(Cache&&) noexcept;
  Cache& operator=(Cache&&) noexcept;

  const CacheConfig& config() const noexcept;
  std::int32_t n_layers() const noexcept;

  /// A new empty sequence. Throws out_of_pages when max_sequences are open.
  SeqId open();
  /// Forgets the sequence. Throws invalid_argument if it is not open.
  void close(SeqId seq);
  /// A new sequence with the same tokens; pages are shared until one of the two writes to them.
  /// Throws invalid_argument, or out_of_pages when max_sequences are open.
  SeqId fork(SeqId seq);
  bool is_open(SeqId seq) const noexcept;

  /// Appends k.n_tokens tokens to one layer of a sequence.
  ///
  /// k, v [n_tokens, n_kv_heads, head_dim], any strides, after position encoding. NaN is stored as
  /// 0 and what exceeds the raw storage type as its largest value; has_clamped() tells.
  /// Throws invalid_argument, or out_of_pages.
  void append(SeqId seq, std::int32_t layer, const AnyRows& k, const AnyRows& v);
  /// The same without exceptions.
  Status try_append(SeqId seq, std::int32_t layer, const AnyRows& k, const AnyRows& v) noexcept;

  /// Adds to what policies know: the attention that the newest q.n_tokens tokens pay to all tokens
  /// before them and to themselves. For policies at the prompt, after these tokens were appended:
  /// the last observed_rows(layer) tokens of the prompt, in one call, or in several that follow
  /// each other; a call whose tokens do not follow those of the call before starts anew.
  ///
  /// q [n_tokens, n_q_heads, head_dim], any strides, after position encoding; sm_scale > 0. Does
  /// nothing for layers whose policy does not observe, nor after end_prompt. Throws
  /// invalid_argument, std::bad_alloc.
  void observe(SeqId seq, std::int32_t layer, const AnyRows& q, float sm_scale);
  /// Newest tokens of the prompt whose attention the layer's policy wants to know; 0: none.
  std::int32_t observed_rows(std::int32_t layer) const;
  /// Declares the prompt of a sequence complete: policies at the prompt judge now, in all layers.
  /// A second call does nothing. Throws invalid_argument, also where a policy has rows to judge and
  /// other queries were observed than min(observed_rows(layer), n_tokens) newest ones;
  /// out_of_pages, std::bad_alloc or what the policy throws. Then nothing was changed.
  void end_prompt(SeqId seq);

  /// From now on keeps the newest n_rows rows of one layer of a sequence raw, beyond those that the
  /// configuration keeps raw: as if n_recent were larger by n_rows. 0: as configured again; then the
  /// rows that were held leave the window, and the sequence is as if none had ever been held (but
  /// codebooks, which grow by what leaves together). Rows
  /// already encoded stay encoded. Memory for the rows is taken at once. A fork inherits it.
  ///
  /// n_rows: 0..65536; more than max_tokens mean max_tokens. Throws invalid_argument; std::bad_alloc
  /// or what the policy throws; out_of_pages where rows cannot leave, and then nothing has changed.
  void hold_raw(SeqId seq, std::int32_t layer, std::int32_t n_rows);
  /// Rows held by hold_raw. Throws invalid_argument.
  std::int64_t held_rows(SeqId seq, std::int32_t layer) const;
  /// From now on keeps every row of one layer of a sequence that leaves the window, whatever the policy
  /// would say; a policy at the prompt keeps the whole prompt. False: the policy judges again. Rows
  /// kept meanwhile stay, but a `window` policy drops them once they are old. A fork inherits it.
  /// Does nothing in layers without a policy. Throws invalid_argument.
  void stop_evicting(SeqId seq, std::int32_t layer, bool stop);
  /// False while stop_evicting holds. Throws invalid_argument.
  bool evicts(SeqId seq, std::int32_t layer) const;

  /// Takes back the newest tokens of every layer, so that n_tokens remain.
  ///
  /// Exact for tokens still in the window and for codecs with independent rows. Returns
  /// invalid_argument if a layer has fewer tokens, cannot_truncate if a codec that mixes rows
  /// would have to cut a tile, or a policy has judged a token to be taken back.
  Status truncate(SeqId seq, std::int64_t n_tokens) noexcept;

  /// Tokens appended to one layer of a sequence. Throws invalid_argument.
  std::int64_t n_tokens(SeqId seq, std::int32_t layer = 0) const;
  /// Tokens of one KV head that are still there. Throws invalid_argument.
  std::int64_t n_kept(SeqId seq, std::int32_t layer, std::int32_t kv_head) const;
  /// Whether a NaN, an infinity or a value beyond the raw storage type was ever appended to the
  /// sequence. Throws invalid_argument.
  bool has_clamped(SeqId seq) const;

  /// Bytes of everything; shared pages count once.
  CacheBytes bytes() const noexcept;
  /// Bytes that one sequence uses; shared pages count whole. Throws invalid_argument.
  CacheBytes bytes(SeqId seq) const;
  /// Everything that is counted. Allocates nothing; takes time for every open sequence, layer and head.
  /// CacheStats::attend is zero.
  CacheStats stats() const noexcept;
  /// Pages that can still be taken for one layer.
  std::int64_t free_pages(std::int32_t layer) const noexcept;

  /// Fills `buffers` and returns a view of `seqs` in one layer, in transformed space. Valid until
  /// the next non-const call, or the next use of `buffers`. Throws invalid_argument.
  KvView view(std::int32_t layer, std::span<const SeqId> seqs, ViewBuffers& buffers) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvcodec
