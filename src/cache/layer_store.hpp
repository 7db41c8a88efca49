// What a cache holds for one layer of one sequence, and the steps that change it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvcodec/cache/cache_config.hpp"
#include "kvcodec/core/rows.hpp"
#include "kvcodec/page/page_format.hpp"
#include "kvcodec/page/page_pool.hpp"

namespace kvcodec {

/// One layer of a cache: what its sequences share.
struct LayerInfo {
  HeadShape shape;
  LayerConfig config;
  PageFormat format;
  DType k_dtype = DType::f16;
  DType v_dtype = DType::f16;
  std::size_t pool = 0;  ///< index into the cache's pools

  int n_streams() const noexcept { return shape.n_kv_heads / format.span; }
  /// Newest rows that stay raw when a tile leaves.
  std::int64_t keep() const noexcept {
    return std::int64_t{config.n_recent} + config.rollback_rows;
  }
  /// Rows the recent window can hold.
  std::int64_t capacity() const noexcept { return keep() + kTileRows; }
  /// Encoded rows once `rows` rows (sinks not counted) have been appended, if `encoded` are now.
  std::int64_t encoded_after(std::int64_t rows, std::int64_t encoded) const noexcept;
};

/// Working memory of appends; one per cache.
struct AppendScratch {
  std::vector<float> row;       ///< [head_dim]
  std::vector<float> rows;      ///< [kTileRows, kMaxTileWidth]
  std::vector<std::byte> tile;  ///< the largest tile of the cache
};

/// Raw rows of all heads: [n_kv_heads, capacity, head_dim] per side.
class RawStore {
 public:
  RawStore() = default;
  RawStore(const LayerInfo& layer, std::int64_t capacity);

  std::byte* k(std::int64_t head, std::int64_t row) noexcept { return at(k_, k_bytes_, head, row); }
  std::byte* v(std::int64_t head, std::int64_t row) noexcept { return at(v_, v_bytes_, head, row); }
  const std::byte* k(std::int64_t head, std::int64_t row) const noexcept {
    return const_cast<RawStore*>(this)->k(head, row);
  }
  const std::byte* v(std::int64_t head, std::int64_t row) const noexcept {
    return const_cast<RawStore*>(this)->v(head, row);
  }
  /// Drops the first n of n_rows rows of every head.
  void drop_front(std::int64_t n, std::int64_t n_rows) noexcept;
  std::int64_t bytes() const noexcept { return static_cast<std::int64_t>(k_.size() + v_.size()); }

 private:
  std::byte* at(std::vector<std::byte>& side, std::size_t row_bytes, std::int64_t head,
                std::int64_t row) noexcept {
    return side.data() + static_cast<std::size_t>(head * capacity_ + row) * row_bytes;
  }

  std::int64_t n_heads_ = 0;
  std::int64_t capacity_ = 0;
  std::size_t k_bytes_ = 0;  ///< of one row
  std::size_t v_bytes_ = 0;
  std::vector<std::byte> k_;
  std::vector<std::byte> v_;
};

/// One layer of one sequence. Tokens in order: sinks, encoded rows, recent rows.
class LayerStore {
 public:
  /// Reserves what appends will need for max_tokens, so that they never allocate.
  LayerStore(const LayerInfo& layer, std::int64_t max_tokens, std::int32_t page_size);

  std::int64_t n_tokens() const noexcept { return n_sink_ + n_encoded_ + n_recent_; }
  std::int64_t n_sink() const noexcept { return n_sink_; }
  std::int64_t n_encoded() const noexcept { return n_encoded_; }
  std::int64_t n_recent() const noexcept { return n_recent_; }
  const RawStore& sinks() const noexcept { return sinks_; }
  const RawStore& recent() const noexcept { return recent_; }
  const std::vector<std::int32_t>& pages(int stream) const noexcept {
    return pages_[static_cast<std::size_t>(stream)];
  }
  std::int64_t n_pages() const noexcept;
  std::int64_t table_bytes() const noexcept;

  /// Pages that appending n tokens will take.
  std::int64_t pages_needed(const LayerInfo& layer, const PagePool& pool,
                            std::int64_t n) const noexcept;
  /// Appends; the pages must be there. Returns true if a value was clamped.
  bool append(const LayerInfo& layer, PagePool& pool, AppendScratch& scratch, const AnyRows& k,
              const AnyRows& v) noexcept;
  bool can_truncate(const LayerInfo& layer, std::int64_t n_tokens) const noexcept;
  void truncate(const LayerInfo& layer, PagePool& pool, std::int64_t n_tokens) noexcept;
  /// Adds a user to every page: `this` is a fresh copy of another sequence's store.
  void share_pages(PagePool& pool) noexcept;
  void give_back_pages(PagePool& pool) noexcept;
  /// Reserves page lists again after a copy.
  void reserve(std::int64_t n_pages);

 private:
  bool put_row(const LayerInfo& layer, AppendScratch& scratch, const AnyRows& rows, Side side,
               std::int64_t token) noexcept;
  void encode_oldest(const LayerInfo& layer, PagePool& pool, AppendScratch& scratch) noexcept;
  std::byte* writable_page(const LayerInfo& layer, PagePool& pool, int stream) noexcept;
  void encode_tile(const LayerInfo& layer, AppendScratch& scratch, Side side, int first_head,
                   std::byte* out) noexcept;

  std::int64_t n_sink_ = 0;
  std::int64_t n_encoded_ = 0;
  std::int64_t n_recent_ = 0;
  RawStore sinks_;
  RawStore recent_;
  std::vector<std::vector<std::int32_t>> pages_;  ///< per stream
};

}  // namespace kvcodec
