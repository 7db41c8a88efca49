// Where the K and V tiles of a page sit. The only file that computes an offset in a page.
//
// A page holds `page_size` tokens of one KV head, or of `span` neighbouring heads when a codec
// shares scales between heads. It is a sequence of page_size / kTileRows strips; a strip is the
// K tiles of its 64 tokens, then their V tiles, in the order attention reads them:
//
//   strip 0: K tile (heads 0..k_span-1) [, K tile (next k_span heads) ...], V tile, ...
//   strip 1: ...
//
// Tiles are multiples of 16 bytes and pages start at multiples of 64 bytes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kvcodec/codec/any_codec.hpp"
#include "kvcodec/core/error.hpp"

namespace kvcodec {

/// A tile in a page, and which of the tile's heads is meant.
template <class Byte>
struct TileRef {
  Byte* tile;
  int head;  ///< 0..head_span-1 of the codec
};

/// Offsets in a page; trivially copyable.
struct PageFormat {
  std::int32_t head_dim = 0;
  std::int32_t page_size = 0;  ///< tokens, a multiple of kTileRows
  std::int32_t span = 1;       ///< KV heads in a page
  std::int32_t k_span = 1;     ///< KV heads in a K tile
  std::int32_t v_span = 1;     ///< KV heads in a V tile
  std::size_t k_tile_bytes = 0;
  std::size_t v_tile_bytes = 0;

  /// Bytes from one strip to the next.
  KVCODEC_HD constexpr std::size_t strip_bytes() const noexcept {
    return static_cast<std::size_t>(span / k_span) * k_tile_bytes +
           static_cast<std::size_t>(span / v_span) * v_tile_bytes;
  }
  KVCODEC_HD constexpr std::size_t page_bytes() const noexcept {
    const std::size_t n_strips = static_cast<std::size_t>(page_size / kTileRows);
    return (n_strips * strip_bytes() + 63) / 64 * 64;
  }

  /// Where in a strip the K tile and the V tile of head `head` (0..span-1) of the page begin.
  KVCODEC_HD constexpr std::size_t k_offset(int head) const noexcept {
    return static_cast<std::size_t>(head / k_span) * k_tile_bytes;
  }
  KVCODEC_HD constexpr std::size_t v_offset(int head) const noexcept {
    return static_cast<std::size_t>(span / k_span) * k_tile_bytes +
           static_cast<std::size_t>(head / v_span) * v_tile_bytes;
  }

  /// K tile of strip `strip` that holds head `head` (0..span-1) of the page.
  template <class Byte>
  KVCODEC_HD constexpr TileRef<Byte> k_tile(Byte* page, int strip, int head) const noexcept {
    return {page + static_cast<std::size_t>(strip) * strip_bytes() + k_offset(head), head % k_span};
  }

  /// V tile of strip `strip` that holds head `head` (0..span-1) of the page.
  template <class Byte>
  KVCODEC_HD constexpr TileRef<Byte> v_tile(Byte* page, int strip, int head) const noexcept {
    return {page + static_cast<std::size_t>(strip) * strip_bytes() + v_offset(head), head % v_span};
  }

  friend constexpr bool operator==(const PageFormat&, const PageFormat&) = default;
};

/// The format of pages for a pair of codecs.
///
/// page_size: tokens, a positive multiple of kTileRows up to 65536.
/// Throws unsupported if a codec has no tiles for head_dim or the heads cannot be grouped as it
/// needs, invalid_argument for page_size.
inline PageFormat make_page_format(const AnyCodec& k, const AnyCodec& v, int head_dim,
                                   int n_kv_heads, int page_size) {
  if (page_size < kTileRows || page_size > 65536 || page_size % kTileRows != 0) {
    throw invalid_argument(bad_value("page format", "page_size", page_size,
                                     "64..65536, a multiple of " + std::to_string(kTileRows)));
  }
  const auto checked_span = [&](const AnyCodec& codec, const char* side) {
    if (!codec.supports(head_dim)) {
      throw unsupported(std::string("page format: codec ") + codec.name() + " for " + side +
                        " has no tiles for head_dim = " + std::to_string(head_dim));
    }
    const int span = codec.head_span(head_dim);
    if (n_kv_heads % span != 0) {
      throw unsupported(std::string("page format: codec ") + codec.name() + " for " + side +
                        " shares scales between " + std::to_string(span) +
                        " heads of head_dim = " + std::to_string(head_dim) +
                        ", so n_kv_heads = " + std::to_string(n_kv_heads) +
                        " must be a multiple of " + std::to_string(span));
    }
    return span;
  };
  PageFormat f;
  f.head_dim = head_dim;
  f.page_size = page_size;
  if (v.key_only()) {
    throw unsupported("page format: codec " + v.name() + " for v: it is for keys only");
  }
  f.k_span = checked_span(k, "k");
  f.v_span = checked_span(v, "v");
  f.span = std::max(f.k_span, f.v_span);
  f.k_tile_bytes = k.tile_bytes(head_dim);
  f.v_tile_bytes = v.tile_bytes(head_dim);
  if (f.span % f.k_span != 0 || f.span % f.v_span != 0) {
    throw unsupported("page format: codecs " + k.name() + " and " + v.name() +
                      " group heads in ways that do not nest");
  }
  return f;
}

}  // namespace kvcodec
