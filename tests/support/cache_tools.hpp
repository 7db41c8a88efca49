// What the property tests of the container share: tokens, layer settings, contents of a cache.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "kvcodec/cache/cache.hpp"
#include "kvcodec/codec/codebook.hpp"
#include "kvcodec/plan/plan.hpp"
#include "tests/support/inputs.hpp"

namespace kvcodec::test {

/// K and V of consecutive tokens, dense [n, n_kv_heads, head_dim].
struct Tokens {
  HeadShape shape;
  std::vector<float> k;
  std::vector<float> v;

  Tokens(const HeadShape& s, std::int64_t n, std::uint64_t seed, Input kind = Input::gauss)
      : shape(s),
        k(make_rows(kind, n, s.n_kv_heads * s.head_dim, seed)),
        v(make_rows(kind, n, s.n_kv_heads * s.head_dim, seed + 1)) {}

  std::int64_t width() const { return std::int64_t{shape.n_kv_heads} * shape.head_dim; }
  std::int64_t size() const { return static_cast<std::int64_t>(k.size()) / width(); }
  AnyRows k_rows(std::int64_t first, std::int64_t n) const {
    return dense_rows(k.data() + first * width(), n, shape.n_kv_heads, shape.head_dim);
  }
  AnyRows v_rows(std::int64_t first, std::int64_t n) const {
    return dense_rows(v.data() + first * width(), n, shape.n_kv_heads, shape.head_dim);
  }
};

/// Appends tokens first .. first + n - 1 to one layer.
inline Status append(Cache& cache, SeqId seq, std::int32_t layer, const Tokens& tokens,
                     std::int64_t first, std::int64_t n) {
  return cache.try_append(seq, layer, tokens.k_rows(first, n), tokens.v_rows(first, n));
}

/// The longest length up to n that layer 0 can always be cut to: n itself, or the edge of a tile where
/// a codec mixes rows.
inline std::int64_t cut_length(const Cache& cache, std::int64_t n) {
  const LayerConfig& l = cache.config().layers[0];
  if (l.k.codec.row_independent() && l.v.codec.row_independent()) return n;
  return n <= l.n_sink ? n : l.n_sink + (n - l.n_sink) / kTileRows * kTileRows;
}

inline void append_bytes(std::vector<std::byte>& to, const void* from, std::size_t n) {
  const auto* bytes = static_cast<const std::byte*>(from);
  to.insert(to.end(), bytes, bytes + n);
}

/// Decoded rows of the first `n_rows` rows of a tile, as bytes.
inline void append_decoded(std::vector<std::byte>& to, const AnyCodec& codec, Side side,
                           const PageFormat& format, const std::byte* tile, int span,
                           std::int64_t n_rows) {
  std::vector<float> x(static_cast<std::size_t>(kTileRows * span * format.head_dim));
  codec.decode_tile(side, format.head_dim, tile, x.data());
  append_bytes(to, x.data(), static_cast<std::size_t>(n_rows * span * format.head_dim) * 4);
}

/// Entries of the codebooks that the heads' codecs read, a table that heads share once. The
/// same indices mean nothing without them.
inline void append_books(std::vector<std::byte>& to, const AnyCodec* codecs, std::int32_t n_heads,
                         std::int32_t head_dim) {
  const f16* last = nullptr;
  for (std::int32_t head = 0; head < n_heads; ++head) {
    const auto* book = codecs[head].as<Codebook>();
    if (head > 0 && book->entries == last) continue;
    last = book->entries;
    append_bytes(to, &book->n_entries, sizeof book->n_entries);
    append_bytes(to, book->entries,
                 sizeof(f16) * book->n_entries * static_cast<std::size_t>(head_dim));
  }
}

/// Everything a sequence of a view means, wherever its pages lie: counts, bytes of whole tiles, decoded
/// rows of a partly used tile, bytes of raw rows, codebooks.
inline std::vector<std::byte> contents(const KvView& view, std::int64_t seq) {
  const PageFormat& f = view.format;
  std::vector<std::byte> out;
  const std::int64_t first_stream = seq * view.n_streams_per_seq();
  for (std::int64_t s = first_stream; s < first_stream + view.n_streams_per_seq(); ++s) {
    const std::int64_t n = view.encoded_rows(s);
    append_bytes(out, &n, sizeof n);
    append_bytes(out, &view.first_pos[s], 4);
    for (std::int64_t row = 0; row < n; row += kTileRows) {
      const std::byte* base = view.page_data(view.page_of(s, row));
      const int strip = static_cast<int>(row % f.page_size) / kTileRows;
      const std::int64_t slot =
          std::int64_t{view.page_of(s, row)} * f.page_size + row % f.page_size;
      const auto listed = static_cast<std::size_t>(std::min<std::int64_t>(kTileRows, n - row));
      if (view.slot_pos != nullptr) append_bytes(out, view.slot_pos + slot, 4 * listed);
      if (view.slot_mask != nullptr) append_bytes(out, view.slot_mask + slot, 2 * listed);
      if (n - row >= kTileRows) {
        append_bytes(out, f.k_tile(base, strip, 0).tile, f.strip_bytes());
        continue;
      }
      for (int h = 0; h < f.span; h += f.k_span) {
        append_decoded(out, view.k_codec, Side::key, f, f.k_tile(base, strip, h).tile, f.k_span,
                       n - row);
      }
      for (int h = 0; h < f.span; h += f.v_span) {
        append_decoded(out, view.v_codec, Side::value, f, f.v_tile(base, strip, h).tile, f.v_span,
                       n - row);
      }
    }
  }
  const auto n_values =
      static_cast<std::size_t>(view.shape.n_kv_heads) * static_cast<std::size_t>(f.head_dim);
  const std::size_t first_value = static_cast<std::size_t>(seq) * n_values;
  const std::int64_t first_head = seq * view.shape.n_kv_heads;
  if (view.k_center != nullptr) append_bytes(out, view.k_center + first_value, 4 * n_values);
  if (view.v_center != nullptr) append_bytes(out, view.v_center + first_value, 4 * n_values);
  for (const AnyCodec* codecs : {view.k_codecs, view.v_codecs}) {
    if (codecs != nullptr)
      append_books(out, codecs + first_head, view.shape.n_kv_heads, f.head_dim);
  }
  for (const RawRows* list : {view.sinks, view.kept, view.recent}) {
    if (list == nullptr) continue;
    for (std::int32_t head = 0; head < view.shape.n_kv_heads; ++head) {
      const RawRows& r = list[first_head + head];
      append_bytes(out, &r.n_rows, 4);
      append_bytes(out, &r.first_pos, 4);
      const auto n = static_cast<std::size_t>(r.n_rows) * static_cast<std::size_t>(r.row_stride);
      if (r.pos != nullptr) append_bytes(out, r.pos, 4 * static_cast<std::size_t>(r.n_rows));
      if (r.mask != nullptr) append_bytes(out, r.mask, 2 * static_cast<std::size_t>(r.n_rows));
      append_bytes(out, r.k, n * dtype_bytes(view.k_raw_dtype));
      append_bytes(out, r.v, n * dtype_bytes(view.v_raw_dtype));
    }
  }
  return out;
}

/// The same of a sequence of a cache, in one layer.
inline std::vector<std::byte> contents(const Cache& cache, SeqId seq, std::int32_t layer) {
  ViewBuffers buffers;
  return contents(cache.view(layer, {&seq, 1}, buffers), 0);
}

/// All layers.
inline std::vector<std::byte> contents(const Cache& cache, SeqId seq) {
  std::vector<std::byte> out;
  for (std::int32_t l = 0; l < cache.n_layers(); ++l) {
    const auto one = contents(cache, seq, l);
    out.insert(out.end(), one.begin(), one.end());
  }
  return out;
}

/// Whether n tokens end at a tile's edge, in the window, or in rows that stand by themselves, and
/// leave the rows that centers are the mean of.
inline bool can_cut(const Cache& cache, SeqId seq, std::int64_t n) {
  const LayerConfig& c = cache.config().layers[0];
  ViewBuffers buffers;
  const KvView view = cache.view(0, {&seq, 1}, buffers);
  const std::int64_t rows = n - view.sinks[0].n_rows;
  if (rows <= 0 || view.encoded_rows(0) == 0) return true;
  for (const Centering& center : {c.k.center, c.v.center}) {
    if (center.kind == Centering::Kind::prompt && rows < center.n_rows) return false;
  }
  if (c.k.codec.row_independent() && c.v.codec.row_independent()) return true;
  return rows % kTileRows == 0 || rows >= view.encoded_rows(0);
}

/// contents() of every open sequence, and where everything lies: page numbers, free pages, bytes.
inline std::vector<std::byte> state_of(const Cache& cache) {
  std::vector<std::byte> out;
  for (SeqId seq = 0; seq < cache.config().max_sequences; ++seq) {
    if (!cache.is_open(seq)) continue;
    const auto one = contents(cache, seq);
    out.insert(out.end(), one.begin(), one.end());
    const bool clamped = cache.has_clamped(seq);
    append_bytes(out, &clamped, sizeof clamped);
    const SeqId seqs[] = {seq};
    for (std::int32_t l = 0; l < cache.n_layers(); ++l) {
      ViewBuffers buffers;
      static_cast<void>(cache.view(l, seqs, buffers));
      append_bytes(out, buffers.indices.data(), buffers.indices.size() * 4);
      append_bytes(out, buffers.indptr.data(), buffers.indptr.size() * 8);
    }
  }
  for (std::int32_t l = 0; l < cache.n_layers(); ++l) {
    const std::int64_t n = cache.free_pages(l);
    append_bytes(out, &n, sizeof n);
  }
  const CacheBytes bytes = cache.bytes();
  append_bytes(out, &bytes, sizeof bytes);
  return out;
}

}  // namespace kvcodec::test
