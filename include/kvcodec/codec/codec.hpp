// What a codec is: the concepts every codec meets, and the laws the tests hold it to.
//
// A codec is a small trivially copyable value (its parameters). Its functions are pure, noexcept
// and run on host and device. The unit of work is a tile: kTileRows tokens of `head_span`
// neighbouring KV heads.
//
// Laws (checked for every codec on the built-in list by tests/conformance/):
//   - encode_tile writes exactly tile_bytes(head_dim) bytes, a multiple of 16; padding is zero.
//   - The bytes depend on the tile's input alone; those of encode_tile_after (ContinuingCodec) on
//     the first tile's bytes as well, and any tile made after a first one can stand for it.
//   - decode_tile never yields NaN or infinity. Non-finite input makes encode_tile return false;
//     NaN is encoded as 0, an infinity as the largest value the codec stores for that sign.
//   - The relative error on unit Gaussian rows lies inside loss(), from both sides.
//   - bit_exact codecs produce the same bytes on every back-end.
//   - With copy_rows (RowCodec) a row's bytes depend on that row alone.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include "kvcodec/codec/tile_layout.hpp"

namespace kvcodec {

/// Bounds of |x - decode(encode(x))|^2 / |x|^2 on independent unit Gaussian values, both sides.
struct LossBounds {
  double low;
  double high;
};

/// Encodes and decodes tiles.
///
///   C::family                    stable name without parameters: "nqkv"
///   C::bit_exact                 same bytes on every back-end
///   c.name()                     name with parameters, parsable by make_codec: "nqkv:g64"
///   c.head_span(head_dim)        neighbouring KV heads per tile, usually 1
///   c.supports(head_dim)         whether tiles of this head size exist
///   c.tile_bytes(head_dim)       bytes of a tile of head_span heads, a multiple of 16
///   c.loss(head_dim)             LossBounds
///   c.encode_tile(side, head_dim, x, out)  x [kTileRows, head_span * head_dim] f32 -> bytes;
///                                returns false when a value of x was not finite
///   c.decode_tile(side, head_dim, in, x)   bytes -> x [kTileRows, head_span * head_dim]
///
/// `head_dim` must be one that supports() accepts; it is not checked again.
template <class C>
concept Codec = std::is_trivially_copyable_v<C> && sizeof(C) <= 48 &&
                requires(const C c, Side side, int head_dim, const float* x, std::byte* out,
                         const std::byte* in, float* y) {
  { C::family } -> std::convertible_to<const char*>;
  { C::bit_exact } -> std::convertible_to<bool>;
  { c.name() } -> std::same_as<std::string>;
  { c.head_span(head_dim) }
  noexcept->std::same_as<int>;
  { c.supports(head_dim) }
  noexcept->std::same_as<bool>;
  { c.tile_bytes(head_dim) }
  noexcept->std::same_as<std::size_t>;
  { c.loss(head_dim) }
  noexcept->std::same_as<LossBounds>;
  { c.encode_tile(side, head_dim, x, out) }
  noexcept->std::same_as<bool>;
  { c.decode_tile(side, head_dim, in, y) }
  noexcept->std::same_as<void>;
};

/// A codec that encodes and decodes a tile in parts, one device thread to a part. Codecs without parts
/// work on a device all the same, with one thread to a tile.
///
///   c.n_parts(side, head_dim)    parts of a tile, usually one per row: kTileRows
///   c.encode_part(side, head_dim, x, row_stride, part, out)
///       x [kTileRows, head_span * head_dim] f32, rows `row_stride` floats apart -> the bits of part
///       0..n_parts-1 at `out`, which is std::byte* or a TileWriter, both of a tile whose padding is
///       zero; false when a value that the part read was not finite
///   c.decode_part(side, head_dim, in, part, x, row_stride)   the part's values of x
///
/// No part reads what another writes. All of them, in any order or at once, are what encode_tile and
/// decode_tile do. TileLayout::put_row and put_scale take either kind of `out`.
template <class C>
concept PartedCodec = Codec<C> && requires(const C c, Side side, int head_dim, const float* x,
                                           std::byte* out, const std::byte* in, float* y, int n) {
  { c.n_parts(side, head_dim) }
  noexcept->std::same_as<int>;
  { c.encode_part(side, head_dim, x, n, n, out) }
  noexcept->std::same_as<bool>;
  { c.decode_part(side, head_dim, in, n, y, n) }
  noexcept->std::same_as<void>;
};

/// encode_tile of a codec with parts and without padding: x dense.
template <class C>
KVCODEC_HD bool encode_parts(const C& codec, Side side, int head_dim, const float* x,
                             std::byte* out) noexcept {
  const int n = codec.n_parts(side, head_dim);
  const int width = codec.head_span(head_dim) * head_dim;
  bool finite = true;
  for (int i = 0; i < n; ++i) finite &= codec.encode_part(side, head_dim, x, width, i, out);
  return finite;
}

/// decode_tile of a codec with parts: x dense.
template <class C>
KVCODEC_HD void decode_parts(const C& codec, Side side, int head_dim, const std::byte* in,
                             float* x) noexcept {
  const int n = codec.n_parts(side, head_dim);
  const int width = codec.head_span(head_dim) * head_dim;
  for (int i = 0; i < n; ++i) codec.decode_part(side, head_dim, in, i, x, width);
}

/// A codec whose rows are independent of each other.
///
///   c.copy_rows(side, head_dim, from, to, begin, end)   copies rows begin..end-1 of a whole tile,
///                                                       bit for bit; other rows of `to` stay
///
/// Caches of such codecs can be truncated at any row.
template <class C>
concept RowCodec = Codec<C> && requires(const C c, Side side, int head_dim, const std::byte* from,
                                        std::byte* to, int begin, int end) {
  { c.copy_rows(side, head_dim, from, to, begin, end) }
  noexcept->std::same_as<void>;
};

/// A codec that fixes something once per sequence and head: which channels are outliers.
///
///   c.encode_tile_after(side, head_dim, first_tile, x, out)   as encode_tile, but takes what is
///       fixed from first_tile, the tile that encode_tile made of the stream's first rows. A stream:
///       the tiles of one sequence and the same head or heads. With the rows that first_tile was
///       made of it makes first_tile again
///
/// What is fixed stands in every tile, so reading needs no first tile, and forks and truncations
/// keep it without knowing. Cache does this by itself. Who owns pages and encodes into them calls
/// AnyCodec::encode_tile_after for every tile, with null for a stream's first one; with encode_tile
/// alone every tile is right by itself but chooses anew.
template <class C>
concept ContinuingCodec = Codec<C> &&
    requires(const C c, Side side, int head_dim, const std::byte* first_tile, const float* x,
             std::byte* out) {
  { c.encode_tile_after(side, head_dim, first_tile, x, out) }
  noexcept->std::same_as<bool>;
};

/// A continuing codec with parts.
///
///   c.encode_part_after(side, head_dim, first_tile, x, row_stride, part, out)   as encode_part
template <class C>
concept ContinuingParts = ContinuingCodec<C> && PartedCodec<C> &&
    requires(const C c, Side side, int head_dim, const std::byte* first_tile, const float* x, int n,
             std::byte* out) {
  { c.encode_part_after(side, head_dim, first_tile, x, n, n, out) }
  noexcept->std::same_as<bool>;
};

/// A key codec that scores queries without decoding.
///
///   c.score_tile(head_dim, tile, head, q, n_q, scores)  q [n_q, head_dim] f32, or prepared queries
///       [n_q, query_width] of a PreparingCodec;
///       scores [n_q, kTileRows] = q . k of head `head` (0..head_span-1) of the tile
template <class C>
concept ScoringCodec = Codec<C> && requires(const C c, int head_dim, const std::byte* tile,
                                            int head, const float* q, int n_q, float* scores) {
  { c.score_tile(head_dim, tile, head, q, n_q, scores) }
  noexcept->std::same_as<void>;
};

/// A value codec that sums weighted rows without decoding.
///
///   c.add_tile(head_dim, tile, head, w, n_q, acc)   w [n_q, kTileRows] f32;
///       acc [n_q, head_dim] += w . v of head `head` of the tile
template <class C>
concept SummingCodec = Codec<C> && requires(const C c, int head_dim, const std::byte* tile,
                                            int head, const float* w, int n_q, float* acc) {
  { c.add_tile(head_dim, tile, head, w, n_q, acc) }
  noexcept->std::same_as<void>;
};

/// A scoring codec that turns every query into something else first, once per step: a sketch.
///
///   c.query_width(head_dim)                   floats of a prepared query, at least head_dim
///   c.prepare_query(head_dim, q, prepared)    q [head_dim] -> prepared [query_width]
template <class C>
concept PreparingCodec = ScoringCodec<C> &&
    requires(const C c, int head_dim, const float* q, float* prepared) {
  { c.query_width(head_dim) }
  noexcept->std::same_as<int>;
  { c.prepare_query(head_dim, q, prepared) }
  noexcept->std::same_as<void>;
};

/// A codec with tables that depend on its parameters and head_dim: a projection, a rotation.
///
///   c.load_tables(head_dim)   makes the value refer to immutable tables that live as long as the
///                             process; pure in (parameters, head_dim), may throw std::bad_alloc
///
/// Encoding, decoding, scoring and prepare_query need the tables of their head_dim; sizes, names and
/// bounds do not. Cache, and whoever uses a codec without one, calls AnyCodec::with_tables.
template <class C>
concept TableCodec = Codec<C> && requires(C c, int head_dim) {
  c.load_tables(head_dim);
};

namespace detail {

/// Anything that each_table may be called with.
struct TableVisitor {
  template <class T>
  void operator()(const T*&, std::size_t) const noexcept {}
};

}  // namespace detail

/// A codec whose value points at arrays, so that they can be copied to where a device reads them.
///
///   c.each_table(head_dim, fn)   fn(pointer, n) for every array of n values, pointer by reference
template <class C>
concept MovableTables = Codec<C> && requires(C c, int head_dim, detail::TableVisitor fn) {
  c.each_table(head_dim, fn);
};

/// Whether C is for keys only (C::key_only = true): on V its error would not average out.
template <Codec C>
constexpr bool is_key_only() noexcept {
  if constexpr (requires { C::key_only; }) return C::key_only;
  else return false;
}

/// Parses the options of a codec spec ("g64", "search") into a codec value.
///
///   C::parse(options)   throws invalid_argument naming the option and what is allowed
///   C::options_help     one line for error messages and --help
template <class C>
concept ListedCodec = Codec<C> && requires(const std::string& options) {
  { C::parse(options) } -> std::same_as<C>;
  { C::options_help } -> std::convertible_to<const char*>;
};

}  // namespace kvcodec
