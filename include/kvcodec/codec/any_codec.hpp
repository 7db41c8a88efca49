// A codec chosen at run time: the codec's value beside a table of its functions.
//
// Attention and the cache work on whole tiles, so one indirect call per tile costs nothing
// measurable, and they need to be compiled once instead of once per pair of codecs.
#pragma once

#include <cstddef>
#include <cstring>
#include <new>
#include <string>

#include "kvcodec/codec/codec.hpp"
#include "kvcodec/codec/scalar_tile.hpp"
#include "kvcodec/codec/tile_format.hpp"

namespace kvcodec {

/// Functions of one codec type; one static instance per type (CodecFunctionsOf<C>).
/// The first argument is the codec's value.
struct CodecFunctions {
  const char* family;
  bool bit_exact;
  bool key_only;
  std::string (*name)(const void*);
  int (*head_span)(const void*, int head_dim);
  bool (*supports)(const void*, int head_dim);
  std::size_t (*tile_bytes)(const void*, int head_dim);
  LossBounds (*loss)(const void*, int head_dim);
  bool (*encode_tile)(const void*, Side, int head_dim, const float* x, std::byte* out);
  void (*decode_tile)(const void*, Side, int head_dim, const std::byte* in, float* x);
  /// Null for codecs that fix nothing per sequence and head (ContinuingCodec).
  bool (*encode_tile_after)(const void*, Side, int head_dim, const std::byte* first_tile,
                            const float* x, std::byte* out);
  /// Null for codecs that mix rows.
  void (*copy_rows)(const void*, Side, int head_dim, const std::byte* from, std::byte* to,
                    int begin, int end);
  /// Null for codecs without tables. The first argument is the value to be changed.
  void (*load_tables)(void*, int head_dim);
  /// Null for codecs whose tiles follow no TileFormat.
  bool (*tile_format)(const void*, Side, int head_dim, TileFormat& format);
  /// Null for codecs that point at no arrays (MovableTables). Replaces every pointer of the value, the
  /// first argument, by move(context, pointer, bytes).
  void (*move_tables)(void*, int head_dim, void* context,
                      const void* (*move)(void* context, const void*, std::size_t bytes));
  /// Null unless the codec prepares queries (PreparingCodec).
  int (*query_width)(const void*, int head_dim);
  void (*prepare_query)(const void*, int head_dim, const float* q, float* prepared);
  /// Whether the two functions below are the codec's own; else they decode and multiply.
  bool scores_itself;
  bool sums_itself;
  /// The codec's own scoring and summing, or decode followed by a plain product.
  void (*score_tile)(const void*, int head_dim, const std::byte* tile, int head, const float* q,
                     int n_q, float* scores);
  void (*add_tile)(const void*, int head_dim, const std::byte* tile, int head, const float* w,
                   int n_q, float* acc);
};

namespace detail {

template <Codec C>
const C& codec_value(const void* p) noexcept {
  return *static_cast<const C*>(p);
}

template <Codec C>
constexpr CodecFunctions make_codec_functions() {
  CodecFunctions f{};
  f.family = C::family;
  f.bit_exact = C::bit_exact;
  f.key_only = is_key_only<C>();
  f.name = [](const void* p) { return codec_value<C>(p).name(); };
  f.head_span = [](const void* p, int d) { return codec_value<C>(p).head_span(d); };
  f.supports = [](const void* p, int d) { return codec_value<C>(p).supports(d); };
  f.tile_bytes = [](const void* p, int d) { return codec_value<C>(p).tile_bytes(d); };
  f.loss = [](const void* p, int d) { return codec_value<C>(p).loss(d); };
  f.encode_tile = [](const void* p, Side s, int d, const float* x, std::byte* out) {
    return codec_value<C>(p).encode_tile(s, d, x, out);
  };
  f.decode_tile = [](const void* p, Side s, int d, const std::byte* in, float* x) {
    codec_value<C>(p).decode_tile(s, d, in, x);
  };
  if constexpr (ContinuingCodec<C>) {
    f.encode_tile_after = [](const void* p, Side s, int d, const std::byte* first, const float* x,
                             std::byte* out) {
      return codec_value<C>(p).encode_tile_after(s, d, first, x, out);
    };
  }
  if constexpr (RowCodec<C>) {
    f.copy_rows = [](const void* p, Side s, int d, const std::byte* from, std::byte* to, int begin,
                     int end) { codec_value<C>(p).copy_rows(s, d, from, to, begin, end); };
  }
  if constexpr (TableCodec<C>) {
    f.load_tables = [](void* p, int d) { static_cast<C*>(p)->load_tables(d); };
  }
  if constexpr (FormattedCodec<C>) {
    f.tile_format = [](const void* p, Side s, int d, TileFormat& format) {
      return codec_value<C>(p).tile_format(s, d, format);
    };
  }
  if constexpr (MovableTables<C>) {
    f.move_tables = [](void* p, int d, void* context,
                       const void* (*move)(void*, const void*, std::size_t)) {
      static_cast<C*>(p)->each_table(d, [&]<class T>(const T*& table, std::size_t n) {
        table = static_cast<const T*>(move(context, table, n * sizeof(T)));
      });
    };
  }
  if constexpr (PreparingCodec<C>) {
    f.query_width = [](const void* p, int d) { return codec_value<C>(p).query_width(d); };
    f.prepare_query = [](const void* p, int d, const float* q, float* prepared) {
      codec_value<C>(p).prepare_query(d, q, prepared);
    };
  }
  f.scores_itself = ScoringCodec<C>;
  f.sums_itself = SummingCodec<C>;
  f.score_tile = [](const void* p, int d, const std::byte* tile, int head, const float* q, int n_q,
                    float* scores) {
    score_tile_scalar(codec_value<C>(p), d, tile, head, q, n_q, scores);
  };
  f.add_tile = [](const void* p, int d, const std::byte* tile, int head, const float* w, int n_q,
                  float* acc) { add_tile_scalar(codec_value<C>(p), d, tile, head, w, n_q, acc); };
  return f;
}

}  // namespace detail

/// The functions of codec type C; their address identifies the type.
template <Codec C>
struct CodecFunctionsOf {
  static const CodecFunctions value;
};
template <Codec C>
constinit const CodecFunctions CodecFunctionsOf<C>::value = detail::make_codec_functions<C>();

/// Any codec by value; trivially copyable, never empty once constructed from a codec.
class AnyCodec {
 public:
  AnyCodec() = default;

  template <Codec C>
  AnyCodec(const C& codec) noexcept
      : functions_(&CodecFunctionsOf<C>::value) {  // NOLINT: a wrapper
    ::new (static_cast<void*>(value_)) C(codec);
  }

  explicit operator bool() const noexcept { return functions_ != nullptr; }

  const CodecFunctions& functions() const noexcept { return *functions_; }
  KVCODEC_HD const void* value() const noexcept { return value_; }

  /// The codec as a C, or null if it is another type.
  template <Codec C>
  const C* as() const noexcept {
    return functions_ == &CodecFunctionsOf<C>::value ? static_cast<const C*>(value()) : nullptr;
  }

  const char* family() const noexcept { return functions_->family; }
  bool bit_exact() const noexcept { return functions_->bit_exact; }
  std::string name() const { return functions_->name(value_); }
  int head_span(int head_dim) const noexcept { return functions_->head_span(value_, head_dim); }
  bool supports(int head_dim) const noexcept { return functions_->supports(value_, head_dim); }
  std::size_t tile_bytes(int head_dim) const noexcept {
    return functions_->tile_bytes(value_, head_dim);
  }
  LossBounds loss(int head_dim) const noexcept { return functions_->loss(value_, head_dim); }
  bool encode_tile(Side side, int head_dim, const float* x, std::byte* out) const noexcept {
    return functions_->encode_tile(value_, side, head_dim, x, out);
  }
  /// Encodes a tile of a stream that begins with first_tile; null: this is the first one. What
  /// encode_tile does unless the codec fixes something per sequence and head (ContinuingCodec).
  bool encode_tile_after(Side side, int head_dim, const std::byte* first_tile, const float* x,
                         std::byte* out) const noexcept {
    if (first_tile == nullptr || functions_->encode_tile_after == nullptr) {
      return encode_tile(side, head_dim, x, out);
    }
    return functions_->encode_tile_after(value_, side, head_dim, first_tile, x, out);
  }
  void decode_tile(Side side, int head_dim, const std::byte* in, float* x) const noexcept {
    functions_->decode_tile(value_, side, head_dim, in, x);
  }
  /// The codec with its tables for head_dim loaded; itself if it has none. Throws std::bad_alloc.
  AnyCodec with_tables(int head_dim) const {
    AnyCodec loaded = *this;
    if (functions_->load_tables != nullptr) functions_->load_tables(loaded.value_, head_dim);
    return loaded;
  }
  /// The format of the tiles of one side (FormattedCodec); false if they have none.
  bool tile_format(Side side, int head_dim, TileFormat& format) const noexcept {
    return functions_->tile_format != nullptr &&
           functions_->tile_format(value_, side, head_dim, format);
  }
  /// Makes the value refer to copies of its arrays for head_dim: move(pointer, bytes) -> const void*, the
  /// copy, for each of them. What uploads codecs to a device.
  template <class F>
  void move_tables(int head_dim, F&& move) {
    if (functions_->move_tables == nullptr) return;
    functions_->move_tables(value_, head_dim, &move,
                            [](void* context, const void* table, std::size_t bytes) -> const void* {
                              return (*static_cast<std::remove_reference_t<F>*>(context))(table,
                                                                                          bytes);
                            });
  }
  /// True for codecs that make no sense for V.
  bool key_only() const noexcept { return functions_->key_only; }
  /// Floats of a query that score_tile takes: head_dim unless the codec prepares queries.
  int query_width(int head_dim) const noexcept {
    return functions_->query_width != nullptr ? functions_->query_width(value_, head_dim)
                                              : head_dim;
  }
  /// q [head_dim] -> prepared [query_width(head_dim)].
  void prepare_query(int head_dim, const float* q, float* prepared) const noexcept {
    if (functions_->prepare_query != nullptr) {
      functions_->prepare_query(value_, head_dim, q, prepared);
    } else {
      memcpy(prepared, q, static_cast<std::size_t>(head_dim) * sizeof(float));
    }
  }
  /// True if rows can be copied one by one (RowCodec).
  bool row_independent() const noexcept { return functions_->copy_rows != nullptr; }
  void copy_rows(Side side, int head_dim, const std::byte* from, std::byte* to, int begin,
                 int end) const noexcept {
    functions_->copy_rows(value_, side, head_dim, from, to, begin, end);
  }

 private:
  const CodecFunctions* functions_ = nullptr;
  alignas(8) std::byte value_[48] = {};
};

static_assert(std::is_trivially_copyable_v<AnyCodec>);

}  // namespace kvcodec
