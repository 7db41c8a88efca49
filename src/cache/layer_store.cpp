// One layer of one sequence: windows, encoding, truncation.
#include "src/cache/layer_store.hpp"

#include <algorithm>
#include <cstring>

#include "kvcodec/core/arith.hpp"

namespace kvcodec {
namespace {

std::size_t row_bytes(const LayerInfo& layer, DType type) {
  return static_cast<std::size_t>(layer.shape.head_dim) * dtype_bytes(type);
}

/// Loads one row as f32 with NaN and what exceeds `limit` replaced; true if anything was.
template <class T>
bool load_clamped(const void* from, int n, float limit, float* to) noexcept {
  bool clamped = false;
  for (int i = 0; i < n; ++i) {
    const float x = to_f32(static_cast<const T*>(from)[i]);
    to[i] = clamp_finite(x, limit);
    clamped |= !(abs_of(x) <= limit);
  }
  return clamped;
}

bool load_clamped(DType type, const void* from, int n, float limit, float* to) noexcept {
  switch (type) {
    case DType::f16: return load_clamped<f16>(from, n, limit, to);
    case DType::bf16: return load_clamped<bf16>(from, n, limit, to);
    default: return load_clamped<float>(from, n, limit, to);
  }
}

/// Rounds a row to its storage type; a transform may have pushed values beyond `limit`.
bool store_clamped(DType type, const float* from, int n, void* to) noexcept {
  const float limit = dtype_max(type);
  bool clamped = false;
  for (int i = 0; i < n; ++i) {
    clamped |= !(abs_of(from[i]) <= limit);
    store_value(type, to, i, clamp_finite(from[i], limit));
  }
  return clamped;
}

}  // namespace

std::int64_t LayerInfo::encoded_after(std::int64_t rows, std::int64_t encoded) const noexcept {
  const std::int64_t whole = (rows - keep()) / kTileRows * kTileRows;
  return std::max(encoded, rows >= keep() ? whole : 0);
}

RawStore::RawStore(const LayerInfo& layer, std::int64_t capacity)
    : n_heads_(layer.shape.n_kv_heads),
      capacity_(capacity),
      k_bytes_(row_bytes(layer, layer.k_dtype)),
      v_bytes_(row_bytes(layer, layer.v_dtype)) {
  const auto n_rows = static_cast<std::size_t>(n_heads_ * capacity_);
  k_.resize(n_rows * k_bytes_);
  v_.resize(n_rows * v_bytes_);
}

void RawStore::drop_front(std::int64_t n, std::int64_t n_rows) noexcept {
  const auto kept = static_cast<std::size_t>(n_rows - n);
  for (std::int64_t head = 0; head < n_heads_; ++head) {
    std::memmove(k(head, 0), k(head, n), kept * k_bytes_);
    std::memmove(v(head, 0), v(head, n), kept * v_bytes_);
  }
}

LayerStore::LayerStore(const LayerInfo& layer, std::int64_t max_tokens, std::int32_t page_size)
    : sinks_(layer, layer.config.n_sink),
      recent_(layer, layer.capacity()),
      pages_(static_cast<std::size_t>(layer.n_streams())) {
  reserve((max_tokens + page_size - 1) / page_size);
}

void LayerStore::reserve(std::int64_t n_pages) {
  for (auto& list : pages_) list.reserve(static_cast<std::size_t>(n_pages));
}

std::int64_t LayerStore::n_pages() const noexcept {
  return static_cast<std::int64_t>(pages_.size() * pages_[0].size());
}

std::int64_t LayerStore::table_bytes() const noexcept {
  return static_cast<std::int64_t>(sizeof(LayerStore) + pages_.size() * sizeof(pages_[0])) +
         4 * n_pages();
}

std::int64_t LayerStore::pages_needed(const LayerInfo& layer, const PagePool& pool,
                                      std::int64_t n) const noexcept {
  const std::int64_t page_size = layer.format.page_size;
  const std::int64_t to_sinks = std::min(n, layer.config.n_sink - n_sink_);
  const std::int64_t rows = n_encoded_ + n_recent_ + n - to_sinks;
  const std::int64_t encoded = layer.encoded_after(rows, n_encoded_);
  const std::int64_t pages = (encoded + page_size - 1) / page_size;
  std::int64_t needed = 0;
  for (const auto& list : pages_) {
    needed += pages - static_cast<std::int64_t>(list.size());
    const bool writes_last = encoded > n_encoded_ && n_encoded_ % page_size != 0;
    if (writes_last && pool.is_shared(list.back())) ++needed;
  }
  return needed;
}

bool LayerStore::append(const LayerInfo& layer, PagePool& pool, AppendScratch& scratch,
                        const AnyRows& k, const AnyRows& v) noexcept {
  bool clamped = false;
  for (std::int64_t token = 0; token < k.n_tokens; ++token) {
    clamped |= put_row(layer, scratch, k, Side::key, token);
    clamped |= put_row(layer, scratch, v, Side::value, token);
    if (n_sink_ < layer.config.n_sink) {
      ++n_sink_;
      continue;
    }
    ++n_recent_;
    if (n_recent_ == layer.keep() + kTileRows - n_encoded_ % kTileRows) {
      encode_oldest(layer, pool, scratch);
    }
  }
  return clamped;
}

bool LayerStore::put_row(const LayerInfo& layer, AppendScratch& scratch, const AnyRows& rows,
                         Side side, std::int64_t token) noexcept {
  const int head_dim = layer.shape.head_dim;
  const bool key = side == Side::key;
  const DType type = key ? layer.k_dtype : layer.v_dtype;
  const TransformChain& transform = key ? layer.config.k.transform : layer.config.v.transform;
  const bool to_sink = n_sink_ < layer.config.n_sink;
  RawStore& store = to_sink ? sinks_ : recent_;
  const std::int64_t row = to_sink ? n_sink_ : n_recent_;
  float* x = scratch.row.data();
  bool clamped = false;
  for (std::int64_t head = 0; head < layer.shape.n_kv_heads; ++head) {
    clamped |= load_clamped(rows.dtype, rows.row(token, head), head_dim, dtype_max(type), x);
    transform.forward(head_dim, static_cast<int>(head), x);
    clamped |= store_clamped(type, x, head_dim, key ? store.k(head, row) : store.v(head, row));
  }
  return clamped;
}

void LayerStore::encode_oldest(const LayerInfo& layer, PagePool& pool,
                               AppendScratch& scratch) noexcept {
  const PageFormat& format = layer.format;
  const int strip = static_cast<int>(n_encoded_ % format.page_size) / kTileRows;
  for (int stream = 0; stream < layer.n_streams(); ++stream) {
    std::byte* page = writable_page(layer, pool, stream);
    const int first = stream * format.span;
    for (int head = 0; head < format.span; head += format.k_span) {
      encode_tile(layer, scratch, Side::key, first + head, format.k_tile(page, strip, head).tile);
    }
    for (int head = 0; head < format.span; head += format.v_span) {
      encode_tile(layer, scratch, Side::value, first + head, format.v_tile(page, strip, head).tile);
    }
  }
  const std::int64_t n = kTileRows - n_encoded_ % kTileRows;
  recent_.drop_front(n, n_recent_);
  n_recent_ -= n;
  n_encoded_ += n;
}

std::byte* LayerStore::writable_page(const LayerInfo& layer, PagePool& pool, int stream) noexcept {
  auto& list = pages_[static_cast<std::size_t>(stream)];
  if (n_encoded_ % layer.format.page_size == 0) {
    list.push_back(pool.take());
  } else if (pool.is_shared(list.back())) {
    const std::int32_t copy = pool.take();
    std::memcpy(pool.data(copy), pool.data(list.back()), pool.page_bytes());
    pool.give_back(list.back());
    list.back() = copy;
  }
  return pool.data(list.back());
}

void LayerStore::encode_tile(const LayerInfo& layer, AppendScratch& scratch, Side side,
                             int first_head, std::byte* out) noexcept {
  const bool key = side == Side::key;
  const int head_dim = layer.shape.head_dim;
  const AnyCodec& codec = key ? layer.config.k.codec : layer.config.v.codec;
  const DType type = key ? layer.k_dtype : layer.v_dtype;
  const int span = key ? layer.format.k_span : layer.format.v_span;
  const int width = span * head_dim;
  const int begin = static_cast<int>(n_encoded_ % kTileRows);
  float* x = scratch.rows.data();
  std::fill_n(x, begin * width, 0.0f);
  for (int row = begin; row < kTileRows; ++row) {
    for (int h = 0; h < span; ++h) {
      const std::byte* from =
          key ? recent_.k(first_head + h, row - begin) : recent_.v(first_head + h, row - begin);
      load_clamped(type, from, head_dim, dtype_max(type), x + row * width + h * head_dim);
    }
  }
  if (begin == 0) {
    codec.encode_tile(side, head_dim, x, out);
    return;
  }
  // After a truncation inside a tile: the rows before `begin` keep their bytes.
  codec.encode_tile(side, head_dim, x, scratch.tile.data());
  codec.copy_rows(side, head_dim, scratch.tile.data(), out, begin, kTileRows);
}

bool LayerStore::can_truncate(const LayerInfo& layer, std::int64_t n_tokens) const noexcept {
  const std::int64_t encoded = std::max<std::int64_t>(0, n_tokens - n_sink_);
  if (encoded >= n_encoded_ || encoded % kTileRows == 0) return true;
  return layer.config.k.codec.row_independent() && layer.config.v.codec.row_independent();
}

void LayerStore::truncate(const LayerInfo& layer, PagePool& pool, std::int64_t n_tokens) noexcept {
  const std::int64_t page_size = layer.format.page_size;
  n_sink_ = std::min(n_sink_, n_tokens);
  const std::int64_t rows = n_tokens - n_sink_;
  n_encoded_ = std::min(n_encoded_, rows);
  n_recent_ = rows - n_encoded_;
  const auto n_pages = static_cast<std::size_t>((n_encoded_ + page_size - 1) / page_size);
  for (auto& list : pages_) {
    while (list.size() > n_pages) {
      pool.give_back(list.back());
      list.pop_back();
    }
  }
}

void LayerStore::share_pages(PagePool& pool) noexcept {
  for (const auto& list : pages_) {
    for (const std::int32_t page : list) pool.share(page);
  }
}

void LayerStore::give_back_pages(PagePool& pool) noexcept {
  for (auto& list : pages_) {
    // Newest first, so that the pool hands them out again oldest first.
    for (auto page = list.rbegin(); page != list.rend(); ++page) pool.give_back(*page);
    list.clear();
  }
}

}  // namespace kvcodec
