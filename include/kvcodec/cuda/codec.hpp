// Encoding and decoding on the device: whole tiles, and rows of many sequences straight into pages.
//
// Bytes are those of the CPU for every codec with bit_exact. All pointers are device pointers unless
// said otherwise. Every call is ordered on its stream, returns before the work is done, allocates
// nothing, waits for nothing and may be captured into a graph. Arguments are checked on the host; what
// stands in device memory is not.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcodec/codec/any_codec.hpp"
#include "kvcodec/core/rows.hpp"
#include "kvcodec/core/shape.hpp"
#include "kvcodec/cuda/memory.hpp"
#include "kvcodec/page/page_format.hpp"

namespace kvcodec::cuda {

/// Whether this build encodes, and decodes, tiles of a codec: every built-in codec at every head_dim
/// that it supports; codebooks are decoded only. Needs no device.
bool can_encode(const AnyCodec& codec, int head_dim) noexcept;
bool can_decode(const AnyCodec& codec, int head_dim) noexcept;

/// Values of whole tiles, dense [n_tiles, kTileRows, head_span * head_dim]. 16-byte alignment is faster
/// and not needed.
struct TileValues {
  void* data = nullptr;
  DType dtype = DType::f32;
};
struct ConstTileValues {
  const void* data = nullptr;
  DType dtype = DType::f32;

  ConstTileValues() = default;
  ConstTileValues(const void* p, DType type) noexcept : data(p), dtype(type) {}
  ConstTileValues(const TileValues& v) noexcept  // NOLINT(google-explicit-constructor): a view
      : data(v.data), dtype(v.dtype) {}
};

/// x -> tiles [n_tiles, tile_bytes], each on a 16-byte boundary and by itself (encode_tile, not
/// encode_tile_after).
///
/// codec: with device tables (DeviceCodec) if it has any. not_finite [n_tiles]: set to 1 for tiles with
/// a NaN or an infinity, others stay; may be null.
/// Throws unsupported (see can_encode), invalid_argument naming the argument, cuda_error.
void encode_tiles(const AnyCodec& codec, Side side, int head_dim, std::int64_t n_tiles,
                  ConstTileValues x, std::byte* tiles, std::uint32_t* not_finite,
                  Stream stream = nullptr);

/// tiles -> x, rounded to its type. Throws as encode_tiles does.
void decode_tiles(const AnyCodec& codec, Side side, int head_dim, std::int64_t n_tiles,
                  const std::byte* tiles, TileValues x, Stream stream = nullptr);

/// How one side (K or V) of a layer is encoded.
struct EncodeSide {
  AnyCodec codec;            ///< with device tables
  TransformChain transform;  ///< with device factors; applied to every row first
  /// Type that rows are rounded to between transform and codec, as a Cache does (SideConfig::raw_dtype,
  /// default_raw_dtype(codec)); f32: not at all.
  DType raw_dtype = DType::f32;
  /// [n_seq, n_kv_heads, head_dim] subtracted before encoding, in transformed space; null: nothing.
  const float* center = nullptr;
  /// [n_tokens, n_kv_heads, head_dim] rows of all sequences, any strides.
  AnyRows rows;
};

/// Rows to be encoded into pages, of n_seq sequences of one layer.
struct EncodeRows {
  HeadShape shape;    ///< n_q_heads is not looked at
  PageFormat format;  ///< make_page_format(k.codec, v.codec, ...)
  EncodeSide k;
  EncodeSide v;

  std::int32_t n_seq = 0;
  /// Most rows that any sequence encodes, a multiple of kTileRows; sizes the launch.
  std::int64_t max_rows = 0;
  /// [n_seq + 1] tokens row_indptr[s] .. row_indptr[s + 1] - 1 of k.rows and v.rows belong to
  /// sequence s; differences are multiples of kTileRows and at most max_rows
  const std::int64_t* row_indptr = nullptr;
  /// [n_seq] rows that stand in the sequence's pages already, a multiple of kTileRows; null: 0
  const std::int64_t* n_encoded = nullptr;

  // The pages, as in KvView; a stream's list reaches as far as its last new row.
  std::byte* pages = nullptr;             ///< page i at pages + i * page_stride, on 16 bytes
  std::int64_t page_stride = 0;           ///< bytes, at least format.page_bytes(), a multiple of 16
  const std::int64_t* indptr = nullptr;   ///< [n_seq * n_kv_heads / format.span + 1] into indices
  const std::int32_t* indices = nullptr;  ///< page numbers, oldest first

  /// [n_seq] set to 1 where a value was NaN, infinite or beyond raw_dtype; others stay; may be null
  std::uint32_t* clamped = nullptr;
};

/// Transforms, quantizes and writes both sides of all sequences: the bytes that a Cache makes of the
/// same rows. One launch if K and V have codecs of one type, two otherwise; qjl, whose later tiles may
/// take something from the first, has two of its own.
///
/// Throws unsupported, invalid_argument naming the field, cuda_error.
void encode_rows(const EncodeRows& job, Stream stream = nullptr);

}  // namespace kvcodec::cuda
