// What a cache holds for one layer of one sequence, and the steps that change it.
//
// Rows in order of age: sinks; encoded rows; staged rows (kept by a policy, waiting for their tile);
// recent rows. Layers that keep every row have no staged rows: theirs go from the window into pages,
// and a tile that a truncation cut is completed in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvcodec/core/rows.hpp"
#include "kvcodec/page/page_pool.hpp"
#include "src/cache/books.hpp"
#include "src/cache/center.hpp"
#include "src/cache/layer_info.hpp"
#include "src/cache/raw_store.hpp"

namespace kvcodec {

/// What a policy at the prompt decided, before anything is changed.
struct Judgement {
  std::int64_t n_rows = 0;      ///< oldest recent rows that were judged
  std::vector<KeepMask> masks;  ///< [n_kv_heads, n_rows]
  std::int64_t n_pages = 0;     ///< that carrying it out takes
};

class LayerStore {
 public:
  /// Reserves what appends will need for max_tokens, so that they allocate only while rows wait
  /// for the end of the prompt.
  LayerStore(const LayerInfo& layer, std::int64_t max_tokens, std::int32_t page_size);

  std::int64_t n_tokens() const noexcept { return n_tokens_; }
  std::int64_t n_sink() const noexcept { return n_sink_; }
  std::int64_t n_recent() const noexcept { return n_recent_; }
  std::int64_t n_encoded(int stream) const noexcept {
    return n_encoded_[static_cast<std::size_t>(stream)];
  }
  std::int64_t n_kept(const LayerInfo& layer, int head) const noexcept {
    const std::int64_t staged = layer.stages_rows ? staged_.n(head) : 0;
    return n_sink_ + n_encoded(head / layer.format.span) + staged + n_recent_;
  }
  const RawStore& sinks() const noexcept { return sinks_; }
  const RawStore& recent() const noexcept { return recent_; }
  const StagedRows& staged() const noexcept { return staged_; }
  const Books& books(Side side) const noexcept { return side == Side::key ? k_books_ : v_books_; }
  const Center& center(Side side) const noexcept {
    return side == Side::key ? k_center_ : v_center_;
  }
  const std::vector<std::int32_t>& pages(int stream) const noexcept {
    return pages_[static_cast<std::size_t>(stream)];
  }
  /// Rows of all heads in pages, and not in pages.
  std::int64_t rows_encoded(const LayerInfo& layer) const noexcept;
  std::int64_t rows_raw(const LayerInfo& layer) const noexcept;
  /// Rows of all heads that a policy left out.
  std::int64_t rows_evicted(const LayerInfo& layer) const noexcept {
    return n_tokens_ * layer.shape.n_kv_heads - rows_encoded(layer) - rows_raw(layer);
  }
  std::int64_t n_pages() const noexcept;
  std::int64_t window_bytes() const noexcept;
  std::int64_t table_bytes(const LayerInfo& layer) const noexcept;

  /// Pages that appending n tokens will take, or a little more where a policy decides.
  std::int64_t pages_needed(const LayerInfo& layer, const PagePool& pool,
                            std::int64_t n) const noexcept;
  /// Makes room for n tokens in the windows. Throws std::bad_alloc; then nothing has changed.
  void grow_windows(const LayerInfo& layer, std::int64_t n);
  /// Appends; pages and room must be there. Returns true if a value was clamped. Throws what a policy
  /// or a growing codebook throws; then it can be read and given back, no more.
  bool append(const LayerInfo& layer, PagePool& pool, AppendScratch& scratch, const AnyRows& k,
              const AnyRows& v);

  bool prompt_ended() const noexcept { return prompt_ended_; }
  /// Adds the attention of the newest tokens' queries; q [n_tokens, n_q_heads, head_dim].
  void observe(const LayerInfo& layer, const AnyRows& q, float sm_scale);
  /// What the end of the prompt would do. Throws what the policy throws, or invalid_argument if it
  /// wants to know the attention of other queries than were observed.
  Judgement judge_prompt(const LayerInfo& layer, const PagePool& pool) const;
  /// Throws std::bad_alloc; then it can be read and given back, no more.
  void end_prompt(const LayerInfo& layer, PagePool& pool, AppendScratch& scratch,
                  const Judgement& judgement);

  /// Newest rows kept raw beyond what the configuration says.
  std::int64_t held() const noexcept { return held_; }
  /// Pages that holding n rows from now on takes: some if they are fewer than before.
  std::int64_t pages_to_hold(const LayerInfo& layer, const PagePool& pool, std::int64_t n) noexcept;
  /// Holds n <= max_tokens rows from now on; pages must be there. Throws what append throws. `changing` is set once
  /// it can no longer be undone: then, after an exception, it can be read and given back, no more.
  void hold(const LayerInfo& layer, PagePool& pool, AppendScratch& scratch, std::int64_t n,
            std::int64_t max_tokens, bool* changing);
  bool evicts() const noexcept { return evicts_; }
  void set_evicts(bool evicts) noexcept { evicts_ = evicts; }

  bool can_truncate(const LayerInfo& layer, std::int64_t n_tokens) const noexcept;
  void truncate(const LayerInfo& layer, PagePool& pool, std::int64_t n_tokens) noexcept;
  /// Adds a user to every page: `this` is a fresh copy of another sequence's store.
  void share_pages(PagePool& pool) noexcept;
  void give_back_pages(PagePool& pool) noexcept;
  /// Reserves page lists again after a copy.
  void reserve(std::int64_t n_pages);

 private:
  Center& center(Side side) noexcept { return side == Side::key ? k_center_ : v_center_; }
  bool put_row(const LayerInfo& layer, AppendScratch& scratch, const AnyRows& rows, Side side,
               std::int64_t token) noexcept;
  void restart_centers(const LayerInfo& layer) noexcept;
  /// Pages for what leaves the window when n more rows have come and nothing else holds them back.
  std::int64_t pages_for_leaving(const LayerInfo& layer, const PagePool& pool,
                                 std::int64_t n) const noexcept;
  /// Whether rows may leave the window at all, with n rows more than now.
  bool may_leave(const LayerInfo& layer, std::int64_t n) const noexcept;
  /// Newest rows that stay raw when rows leave the window, and rows it holds at most once nothing
  /// waits for a center or the end of the prompt.
  std::int64_t keep(const LayerInfo& layer) const noexcept { return layer.keep() + held_; }
  std::int64_t capacity(const LayerInfo& layer) const noexcept { return layer.capacity() + held_; }
  /// Of a layer without staged rows.
  WindowRule rule(const LayerInfo& layer) const noexcept {
    return {keep(layer), layer.config.flush_rows};
  }
  /// Rows the window needs memory for with `held` rows held, where no prompt waits to be judged.
  std::int64_t window_rows(const LayerInfo& layer, std::int64_t max_tokens,
                           std::int64_t held) const noexcept;
  /// Rows that centers are the mean of.
  std::int64_t n_centered() const noexcept {
    return std::max(k_center_.n_needed(), v_center_.n_needed());
  }
  std::int64_t n_rows() const noexcept { return n_tokens_ - n_sink_; }
  /// Lets rows leave the window that have to.
  void settle(const LayerInfo& layer, PagePool& pool, AppendScratch& scratch);

  // Layers that keep every row.
  void encode_oldest(const LayerInfo& layer, PagePool& pool, AppendScratch& scratch) noexcept;

  // Layers with staged rows (layer_store_staged.cpp).
  void judge_chunk(const LayerInfo& layer, AppendScratch& scratch);
  /// Moves the n oldest recent rows to the staged ones as `masks` [n_kv_heads, n] say; null: all.
  void stage(std::int64_t n, const KeepMask* masks) noexcept;
  /// Throws invalid_argument unless what was observed is what the policy wants to know.
  void check_observed(const LayerInfo& layer) const;
  void forget_observed() noexcept {
    n_observed_ = 0;
    observed_end_ = 0;
    observed_ = {};
  }
  void load_judged(const LayerInfo& layer, int head, std::int64_t n, float* k, float* v) const;
  void encode_staged(const LayerInfo& layer, PagePool& pool, AppendScratch& scratch);
  void drop_old_pages(const LayerInfo& layer, PagePool& pool) noexcept;

  // Encoding, for both.
  std::byte* writable_page(const LayerInfo& layer, PagePool& pool, int stream,
                           std::int32_t* page) noexcept;
  /// The tile of the oldest encoded rows of a head and its neighbours; null if nothing is encoded.
  const std::byte* first_tile(const LayerInfo& layer, PagePool& pool, Side side,
                              int head) const noexcept;
  /// Encodes the tile that begins at row `first` of `rows`, which is its row `begin`.
  void encode_tile(const LayerInfo& layer, PagePool& pool, AppendScratch& scratch, Side side,
                   const RawStore& rows, int first_head, std::int64_t first, int begin,
                   std::byte* out) const noexcept;

  std::int64_t n_tokens_ = 0;
  std::int64_t n_sink_ = 0;
  std::int64_t n_recent_ = 0;
  std::int64_t held_ = 0;
  bool evicts_ = true;
  bool prompt_ended_ = false;
  std::vector<std::int64_t> n_encoded_;  ///< per stream
  RawStore sinks_;
  RawStore recent_;
  StagedRows staged_;
  Center k_center_, v_center_;
  Books k_books_, v_books_;
  std::vector<std::vector<std::int32_t>> pages_;  ///< per stream

  // What was observed of the prompt's attention.
  std::int64_t n_observed_ = 0;               ///< queries
  std::int64_t observed_end_ = 0;             ///< tokens up to the newest of them
  std::vector<std::vector<float>> observed_;  ///< per query head, per recent row
};

}  // namespace kvcodec
