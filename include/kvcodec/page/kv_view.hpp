// All that attention sees of a cache: a trivially copyable, read-only view.
//
// An engine that owns its paged memory fills one itself; Cache::view fills one for its sequences. With pointers into device memory it is a view
// for kvcodec::cuda.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kvcodec/codec/any_codec.hpp"
#include "kvcodec/core/dtype.hpp"
#include "kvcodec/core/shape.hpp"
#include "kvcodec/page/page_format.hpp"
#include "kvcodec/policy/policy.hpp"

namespace kvcodec {

/// Rows of one (sequence, KV head) that are not encoded: sinks, kept or recent rows, oldest first.
struct RawRows {
  const void* k = nullptr;      ///< [n_rows, head_dim], element (r, c) at r * row_stride + c
  const void* v = nullptr;      ///< the same shape
  std::int64_t row_stride = 0;  ///< elements
  std::int32_t n_rows = 0;
  std::int32_t first_pos = 0;         ///< position of row 0; positions are consecutive, unless
  const std::int32_t* pos = nullptr;  ///< [n_rows] lists them
  const KeepMask* mask = nullptr;  ///< [n_rows] query heads of the group that see a row; null: all
};

/// One layer of n_seq sequences. A stream is one (sequence, group of format.span KV heads);
/// stream s * (n_kv_heads / span) + g belongs to sequence s and heads g * span .. of it.
///
/// Every tile that a stream's length reaches must have been written whole by encode_tile or
/// encode_tile_after.
struct KvView {
  HeadShape shape;
  std::int32_t n_seq = 0;
  AnyCodec k_codec;
  AnyCodec v_codec;
  PageFormat format;

  const std::byte* pages = nullptr;       ///< page i starts at pages + i * page_stride
  std::int64_t page_stride = 0;           ///< bytes, at least format.page_bytes()
  const std::int64_t* indptr = nullptr;   ///< [n_streams + 1] into indices
  const std::int32_t* indices = nullptr;  ///< [indptr[n_streams]] page numbers, oldest first
  /// [n_streams] tokens in the stream's last page, 1..page_size; ignored without pages
  const std::int32_t* last_page_len = nullptr;
  /// [n_streams] encoded tokens; null: as many as the list and last_page_len say. With it lists may be
  /// longer, their further numbers are not looked at, and neither is last_page_len.
  const std::int64_t* n_encoded = nullptr;
  /// [n_streams] position of the first token in the stream's pages; null: 0
  const std::int32_t* first_pos = nullptr;
  /// [n_pages, page_size] positions of the tokens in each page, by page number; null: the tokens
  /// of a stream have consecutive positions from first_pos on
  const std::int32_t* slot_pos = nullptr;
  /// [n_pages, page_size] query heads of the group that see each token; null: all see all
  const KeepMask* slot_mask = nullptr;

  /// [n_seq, n_kv_heads, head_dim] what was subtracted from the encoded K and V rows of a head, in
  /// the view's space; null: nothing. Rows that are not encoded are whole.
  const float* k_center = nullptr;
  const float* v_center = nullptr;
  /// [n_seq, n_kv_heads] codecs with tables of their own per sequence and head; null: k_codec and
  /// v_codec, whose tables are the same for all. Types and sizes are those of k_codec and v_codec.
  const AnyCodec* k_codecs = nullptr;
  const AnyCodec* v_codecs = nullptr;

  const RawRows* sinks = nullptr;  ///< [n_seq, n_kv_heads]; null: none
  const RawRows* kept = nullptr;   ///< [n_seq, n_kv_heads] kept by a policy, to be encoded; or null
  const RawRows* recent = nullptr;  ///< [n_seq, n_kv_heads]; null: none
  DType k_raw_dtype = DType::f32;   ///< storage type of the K rows that are not encoded
  DType v_raw_dtype = DType::f32;

  KVCODEC_HD std::int32_t n_streams_per_seq() const noexcept {
    return shape.n_kv_heads / format.span;
  }

  /// Encoded tokens of stream `stream`.
  KVCODEC_HD std::int64_t encoded_rows(std::int64_t stream) const noexcept {
    if (n_encoded != nullptr) return n_encoded[stream];
    const std::int64_t n_pages = indptr[stream + 1] - indptr[stream];
    return n_pages == 0 ? 0 : (n_pages - 1) * format.page_size + last_page_len[stream];
  }

  /// Number of the page that holds encoded row `row` of stream `stream`.
  KVCODEC_HD std::int32_t page_of(std::int64_t stream, std::int64_t row) const noexcept {
    return indices[indptr[stream] + row / format.page_size];
  }

  const AnyCodec& k_codec_of(std::int64_t seq, std::int32_t kv_head) const noexcept {
    return k_codecs == nullptr ? k_codec : k_codecs[seq * shape.n_kv_heads + kv_head];
  }
  const AnyCodec& v_codec_of(std::int64_t seq, std::int32_t kv_head) const noexcept {
    return v_codecs == nullptr ? v_codec : v_codecs[seq * shape.n_kv_heads + kv_head];
  }

  /// First byte of a page.
  KVCODEC_HD const std::byte* page_data(std::int32_t page) const noexcept {
    return pages + page * page_stride;
  }
};

static_assert(std::is_trivially_copyable_v<KvView>);

}  // namespace kvcodec
