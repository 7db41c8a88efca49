// One layer of one sequence: windows, encoding, truncation.
#include "src/cache/layer_store.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "kvcodec/codec/encode_tile.hpp"
#include "src/cache/stopwatch.hpp"
#include "src/cpu/transform.hpp"

namespace kvcodec {

LayerStore::LayerStore(const LayerInfo& layer, std::int64_t max_tokens, std::int32_t page_size)
    : n_encoded_(static_cast<std::size_t>(layer.n_streams())),
      sinks_(layer, layer.config.n_sink),
      recent_(layer, layer.capacity()),
      k_center_(layer, Side::key),
      v_center_(layer, Side::value),
      k_books_(layer, Side::key),
      v_books_(layer, Side::value),
      pages_(static_cast<std::size_t>(layer.n_streams())) {
  recent_.resize(window_rows(layer, max_tokens, 0), 0);
  if (layer.stages_rows) {
    const std::int64_t waiting = std::max(layer.leaving(), recent_.capacity() - layer.keep());
    staged_ = StagedRows(layer, kTileRows - 1 + waiting);
  }
  reserve((max_tokens + page_size - 1) / page_size);
}

void LayerStore::reserve(std::int64_t n_pages) {
  for (auto& list : pages_) list.reserve(static_cast<std::size_t>(n_pages));
}

std::int64_t LayerStore::window_rows(const LayerInfo& layer, std::int64_t max_tokens,
                                     std::int64_t held) const noexcept {
  const std::int64_t settled = layer.capacity() + held;
  if (n_centered() == 0) return settled;
  return std::max(settled, std::min(max_tokens, n_centered() + layer.keep() + held));
}

std::int64_t LayerStore::rows_encoded(const LayerInfo& layer) const noexcept {
  std::int64_t n = 0;
  for (const std::int64_t rows : n_encoded_) n += rows * layer.format.span;
  return n;
}

std::int64_t LayerStore::rows_raw(const LayerInfo& layer) const noexcept {
  std::int64_t n = (n_sink_ + n_recent_) * layer.shape.n_kv_heads;
  for (int head = 0; layer.stages_rows && head < layer.shape.n_kv_heads; ++head) {
    n += staged_.n(head);
  }
  return n;
}

std::int64_t LayerStore::n_pages() const noexcept {
  std::int64_t n = 0;
  for (const auto& list : pages_) n += static_cast<std::int64_t>(list.size());
  return n;
}

std::int64_t LayerStore::window_bytes() const noexcept {
  return sinks_.bytes() + recent_.bytes() + staged_.bytes();
}

std::int64_t LayerStore::table_bytes(const LayerInfo& layer) const noexcept {
  std::int64_t per_page = sizeof(std::int32_t);
  if (layer.stages_rows) {
    const std::size_t per_row =
        sizeof(std::int32_t) + (layer.config.policy.per_query_head() ? sizeof(KeepMask) : 0);
    per_page += layer.format.page_size * static_cast<std::int64_t>(per_row);
  }
  return static_cast<std::int64_t>(sizeof(LayerStore) + pages_.size() * sizeof(pages_[0])) +
         k_center_.bytes() + v_center_.bytes() + per_page * n_pages();
}

bool LayerStore::may_leave(const LayerInfo& layer, std::int64_t n) const noexcept {
  if (prompt_ended_) return true;
  // Rows that a center is the mean of must not be taken back once something was encoded with it;
  // those that a truncation may always take back come on top.
  return !layer.judges_at_prompt() &&
         (n_centered() == 0 || n_rows() + n >= n_centered() + keep(layer));
}

std::int64_t LayerStore::pages_needed(const LayerInfo& layer, const PagePool& pool,
                                      std::int64_t n) const noexcept {
  const std::int64_t to_recent = std::max<std::int64_t>(0, n - (layer.config.n_sink - n_sink_));
  if (!may_leave(layer, to_recent)) return 0;
  return pages_for_leaving(layer, pool, to_recent);
}

std::int64_t LayerStore::pages_for_leaving(const LayerInfo& layer, const PagePool& pool,
                                           std::int64_t n) const noexcept {
  const std::int64_t page_size = layer.format.page_size;
  std::int64_t needed = 0;
  for (int stream = 0; stream < layer.n_streams(); ++stream) {
    const auto& list = pages(stream);
    const std::int64_t before = n_encoded(stream);
    const std::int64_t rows = before + n_recent_ + n;
    std::int64_t after = before;
    if (!layer.stages_rows) {
      after = rule(layer).encoded_after(rows, before);
    } else {
      const std::int64_t leaving = std::max<std::int64_t>(0, n_recent_ + n - keep(layer));
      after += (staged_.n(stream) + leaving) / kTileRows * kTileRows;
    }
    needed += std::max<std::int64_t>(
        0, (after + page_size - 1) / page_size - static_cast<std::int64_t>(list.size()));
    const bool writes_last = after > before && before % page_size != 0;
    if (writes_last && pool.is_shared(list.back())) ++needed;
  }
  return needed;
}

void LayerStore::grow_windows(const LayerInfo& layer, std::int64_t n) {
  if (!layer.judges_at_prompt() || prompt_ended_) return;
  const std::int64_t to_recent = std::max<std::int64_t>(0, n - (layer.config.n_sink - n_sink_));
  // A function of the number of rows alone, however they came.
  const auto rows = std::bit_ceil(static_cast<std::uint64_t>(n_recent_ + to_recent));
  recent_.resize(std::max(recent_.capacity(), static_cast<std::int64_t>(rows)), n_recent_);
}

bool LayerStore::append(const LayerInfo& layer, PagePool& pool, AppendScratch& scratch,
                        const AnyRows& k, const AnyRows& v) {
  bool clamped = false;
  for (std::int64_t token = 0; token < k.n_tokens; ++token) {
    clamped |= put_row(layer, scratch, k, Side::key, token);
    clamped |= put_row(layer, scratch, v, Side::value, token);
    ++n_tokens_;
    if (n_sink_ < layer.config.n_sink) {
      ++n_sink_;
      continue;
    }
    ++n_recent_;
    k_center_.count_row();
    v_center_.count_row();
    settle(layer, pool, scratch);
  }
  return clamped;
}

bool LayerStore::put_row(const LayerInfo& layer, AppendScratch& scratch, const AnyRows& rows,
                         Side side, std::int64_t token) noexcept {
  const int head_dim = layer.shape.head_dim;
  const DType type = layer.raw_dtype(side);
  const TransformChain& transform = layer.side(side).transform;
  const bool to_sink = n_sink_ < layer.config.n_sink;
  RawStore& store = to_sink ? sinks_ : recent_;
  const std::int64_t row = to_sink ? n_sink_ : n_recent_;
  float* x = scratch.row.data();
  bool clamped = false;
  for (std::int64_t head = 0; head < layer.shape.n_kv_heads; ++head) {
    clamped |= load_clamped(rows.dtype, rows.row(token, head), head_dim, dtype_max(type), x);
    cpu::transform_forward(transform, head_dim, static_cast<int>(head), x);
    clamped |= store_clamped(type, x, head_dim, store.at(side, head, row));
    if (to_sink || center(side).ready()) continue;
    load_clamped(type, store.at(side, head, row), head_dim, dtype_max(type), x);
    center(side).add(head, x);
  }
  return clamped;
}

void LayerStore::restart_centers(const LayerInfo& layer) noexcept {
  float x[kMaxHeadDim];
  const int head_dim = layer.shape.head_dim;
  for (const Side side : {Side::key, Side::value}) {
    center(side).restart();
    for (std::int64_t row = 0; row < n_recent_ && !center(side).ready(); ++row) {
      const DType type = layer.raw_dtype(side);
      for (std::int64_t head = 0; head < layer.shape.n_kv_heads; ++head) {
        load_clamped(type, recent_.at(side, head, row), head_dim, dtype_max(type), x);
        center(side).add(head, x);
      }
      center(side).count_row();
    }
  }
}

void LayerStore::settle(const LayerInfo& layer, PagePool& pool, AppendScratch& scratch) {
  if (!may_leave(layer, 0)) return;
  if (!layer.stages_rows) {
    const std::int64_t target = rule(layer).encoded_after(n_encoded(0) + n_recent_, n_encoded(0));
    if (n_encoded(0) == target) return;
    const Stopwatch watch(scratch.flush);
    while (n_encoded(0) < target) encode_oldest(layer, pool, scratch);
    return;
  }
  if (n_recent_ >= capacity(layer)) {
    const Stopwatch watch(scratch.flush);
    while (n_recent_ >= capacity(layer)) {
      if (layer.config.policy && !layer.judges_at_prompt() && evicts_) judge_chunk(layer, scratch);
      else stage(layer.leaving(), nullptr);
    }
    encode_staged(layer, pool, scratch);
  }
  drop_old_pages(layer, pool);
}

std::int64_t LayerStore::pages_to_hold(const LayerInfo& layer, const PagePool& pool,
                                       std::int64_t n) noexcept {
  const std::int64_t before = std::exchange(held_, n);
  const std::int64_t pages = may_leave(layer, 0) ? pages_for_leaving(layer, pool, 0) : 0;
  held_ = before;
  return pages;
}

void LayerStore::hold(const LayerInfo& layer, PagePool& pool, AppendScratch& scratch,
                      std::int64_t n, std::int64_t max_tokens, bool* changing) {
  const std::int64_t rows = window_rows(layer, max_tokens, n);
  if (n >= held_) {
    recent_.resize(std::max(recent_.capacity(), rows), n_recent_);
    held_ = n;
    return;
  }
  // Everything that was held may leave at once.
  const std::int64_t staged = layer.stages_rows ? staged_.rows().capacity() : 0;
  if (layer.stages_rows) staged_.resize(std::max(staged, kTileRows - 1 + n_recent_));
  *changing = true;
  held_ = n;
  settle(layer, pool, scratch);
  if (layer.stages_rows) staged_.resize(staged);
  // A prompt that waits to be judged grows its window by itself.
  if (!layer.judges_at_prompt() || prompt_ended_) recent_.resize(rows, n_recent_);
}

void LayerStore::encode_oldest(const LayerInfo& layer, PagePool& pool,
                               AppendScratch& scratch) noexcept {
  const PageFormat& format = layer.format;
  const std::int64_t before = n_encoded(0);
  const int strip = static_cast<int>(before % format.page_size) / kTileRows;
  const int begin = static_cast<int>(before % kTileRows);
  const std::int64_t n = kTileRows - begin;
  for (int stream = 0; stream < layer.n_streams(); ++stream) {
    std::int32_t number = 0;
    std::byte* page = writable_page(layer, pool, stream, &number);
    const int first = stream * format.span;
    for (int head = 0; head < format.span; head += format.k_span) {
      encode_tile(layer, pool, scratch, Side::key, recent_, first + head, 0, begin,
                  format.k_tile(page, strip, head).tile);
    }
    for (int head = 0; head < format.span; head += format.v_span) {
      encode_tile(layer, pool, scratch, Side::value, recent_, first + head, 0, begin,
                  format.v_tile(page, strip, head).tile);
    }
    n_encoded_[static_cast<std::size_t>(stream)] += n;
  }
  for (int head = 0; head < layer.shape.n_kv_heads; ++head) recent_.drop_front(head, n, n_recent_);
  n_recent_ -= n;
  scratch.tiles_encoded += layer.shape.n_kv_heads;
}

std::byte* LayerStore::writable_page(const LayerInfo& layer, PagePool& pool, int stream,
                                     std::int32_t* page) noexcept {
  auto& list = pages_[static_cast<std::size_t>(stream)];
  if (n_encoded(stream) % layer.format.page_size == 0) {
    list.push_back(pool.take());
  } else if (pool.is_shared(list.back())) {
    const std::int32_t copy = pool.take();
    pool.copy_page(list.back(), copy);
    pool.give_back(list.back());
    list.back() = copy;
  }
  *page = list.back();
  return pool.data(list.back());
}

const std::byte* LayerStore::first_tile(const LayerInfo& layer, PagePool& pool, Side side,
                                        int head) const noexcept {
  const PageFormat& format = layer.format;
  const int stream = head / format.span;
  if (n_encoded(stream) == 0) return nullptr;
  const std::byte* page = pool.data(pages(stream).front());
  return side == Side::key ? format.k_tile(page, 0, head % format.span).tile
                           : format.v_tile(page, 0, head % format.span).tile;
}

void LayerStore::encode_tile(const LayerInfo& layer, PagePool& pool, AppendScratch& scratch,
                             Side side, const RawStore& rows, int first_head, std::int64_t first,
                             int begin, std::byte* out) const noexcept {
  const int head_dim = layer.shape.head_dim;
  const AnyCodec& codec = layer.side(side).codec;
  const DType type = layer.raw_dtype(side);
  const int span = side == Side::key ? layer.format.k_span : layer.format.v_span;
  const int width = span * head_dim;
  const float* values = center(side).values();
  float* x = scratch.rows.data();
  std::fill_n(x, begin * width, 0.0f);
  if (span == 1) {  // the rows of a head follow each other
    load_clamped(type, rows.at(side, first_head, first), (kTileRows - begin) * width,
                 dtype_max(type), x + begin * width);
  }
  for (int row = begin; row < kTileRows && (span > 1 || values != nullptr); ++row) {
    for (int h = 0; h < span; ++h) {
      float* to = x + row * width + h * head_dim;
      if (span > 1) {
        load_clamped(type, rows.at(side, first_head + h, first + row - begin), head_dim,
                     dtype_max(type), to);
      }
      if (values == nullptr) continue;
      const float* shift = values + (first_head + h) * head_dim;
      for (int c = 0; c < head_dim; ++c) to[c] -= shift[c];
    }
  }
  const std::byte* oldest = first_tile(layer, pool, side, first_head);
  if (begin == 0) {
    kvcodec::encode_tile(codec, side, head_dim, oldest, x, out);
    return;
  }
  // After a truncation inside a tile: the rows before `begin` keep their bytes.
  kvcodec::encode_tile(codec, side, head_dim, oldest, x, scratch.tile.data());
  codec.copy_rows(side, head_dim, scratch.tile.data(), out, begin, kTileRows);
}

bool LayerStore::can_truncate(const LayerInfo& layer, std::int64_t n_tokens) const noexcept {
  const bool all_raw = n_rows() == n_recent_;
  const std::int64_t rows = std::max<std::int64_t>(0, n_tokens - n_sink_);
  if (n_tokens < n_tokens_ && !all_raw && rows > 0 && rows < n_centered()) return false;
  if (layer.stages_rows) {
    return n_tokens >= n_tokens_ - n_recent_ || all_raw;
  }
  if (rows >= n_encoded(0) || rows % kTileRows == 0) return true;
  return layer.config.k.codec.row_independent() && layer.config.v.codec.row_independent();
}

void LayerStore::truncate(const LayerInfo& layer, PagePool& pool, std::int64_t n_tokens) noexcept {
  const bool shorter = n_tokens < n_tokens_;
  if (layer.stages_rows) {
    n_recent_ = std::max<std::int64_t>(0, n_recent_ - (n_tokens_ - n_tokens));
    n_sink_ = std::min(n_sink_, n_tokens);
  } else {
    const std::int64_t page_size = layer.format.page_size;
    n_sink_ = std::min(n_sink_, n_tokens);
    const std::int64_t rows = n_tokens - n_sink_;
    const std::int64_t encoded = std::min(n_encoded(0), rows);
    std::fill(n_encoded_.begin(), n_encoded_.end(), encoded);
    n_recent_ = rows - encoded;
    const auto n_pages = static_cast<std::size_t>((encoded + page_size - 1) / page_size);
    for (auto& list : pages_) {
      while (list.size() > n_pages) {
        pool.give_back(list.back());
        list.pop_back();
      }
    }
  }
  n_tokens_ = n_tokens;
  if (!shorter) return;
  forget_observed();
  if (n_rows() == n_recent_ && !prompt_ended_) restart_centers(layer);
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
