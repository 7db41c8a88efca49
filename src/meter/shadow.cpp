#include "src/meter/shadow.hpp"

#include "kvcodec/codec/raw.hpp"
#include "kvcodec/core/arith.hpp"

namespace kvcodec {
namespace {

template <class From, class To>
void store_row(const void* from, int n, void* to) noexcept {
  const float limit = dtype_max(dtype_of<To>);
  for (int c = 0; c < n; ++c) {
    const float x = clamp_finite(to_f32(static_cast<const From*>(from)[c]), limit);
    static_cast<To*>(to)[c] = from_f32<To>(x);
  }
}

using StoreRow = void (*)(const void*, int, void*) noexcept;

template <class From>
StoreRow row_store(DType to) noexcept {
  return to == DType::f32   ? store_row<From, float>
         : to == DType::f16 ? store_row<From, f16>
                            : store_row<From, bf16>;
}

StoreRow row_store(DType from, DType to) noexcept {
  return from == DType::f32   ? row_store<float>(to)
         : from == DType::f16 ? row_store<f16>(to)
                              : row_store<bf16>(to);
}

constexpr std::int64_t kIndptr[] = {0, 0};
constexpr std::int64_t kOneQuery[] = {0, 1};

}  // namespace

Shadow::Shadow(const HeadShape& shape, DType dtype, std::int32_t n_streams, std::int64_t capacity)
    : shape_{shape.gqa_group(), 1, shape.head_dim},
      dtype_(dtype),
      capacity_(capacity),
      side_bytes_(shape.head_dim * static_cast<std::int64_t>(dtype_bytes(dtype))),
      memory_(std::make_unique_for_overwrite<std::byte[]>(
          static_cast<std::size_t>(2 * capacity * side_bytes_ * n_streams))) {
  // A view without pages: all rows are raw ones.
  view_.shape = shape_;
  view_.n_seq = 1;
  view_.k_codec = RawF32{};
  view_.v_codec = RawF32{};
  view_.format = make_page_format(view_.k_codec, view_.v_codec, shape.head_dim, 1, kTileRows);
  view_.indptr = kIndptr;
  view_.k_raw_dtype = dtype;
  view_.v_raw_dtype = dtype;
  Queries queries;
  queries.indptr = kOneQuery;
  bytes_ = workspace_.bytes(attend_workspace_bytes(view_, queries));
}

void Shadow::store(std::int32_t stream, std::int64_t first, const AnyRows& k, const AnyRows& v,
                   std::int64_t token, std::int64_t n_tokens, std::int32_t kv_head) noexcept {
  const StoreRow store_k = row_store(k.dtype, dtype_);
  const StoreRow store_v = row_store(v.dtype, dtype_);
  for (std::int64_t t = 0; t < n_tokens; ++t) {
    store_k(k.row(token + t, kv_head), shape_.head_dim, at(Side::key, stream, first + t));
    store_v(v.row(token + t, kv_head), shape_.head_dim, at(Side::value, stream, first + t));
  }
}

Status Shadow::attend(std::int32_t stream, std::int64_t n_rows, const KeepMask* mask,
                      const float* q, std::int32_t pos, const AttendOptions& options,
                      float* out) noexcept {
  RawRows rows;
  rows.k = at(Side::key, stream, 0);
  rows.v = at(Side::value, stream, 0);
  rows.row_stride = shape_.head_dim;
  rows.n_rows = static_cast<std::int32_t>(n_rows);
  rows.mask = mask;
  view_.recent = &rows;
  const Status status =
      kvcodec::attend(view_, {q, kOneQuery, &pos, nullptr, nullptr}, out, nullptr, options, bytes_);
  view_.recent = nullptr;
  return status;
}

}  // namespace kvcodec
