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
