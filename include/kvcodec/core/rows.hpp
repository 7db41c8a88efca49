// Strided views of K or V rows in the caller's memory.
#pragma once

#include <cstdint>

#include "kvcodec/core/dtype.hpp"

namespace kvcodec {

/// View [n_tokens, n_kv_heads, head_dim] ("NHD"); strides count elements. Channels are contiguous.
template <class T>
struct Rows {
  const T* data = nullptr;
  std::int64_t n_tokens = 0;
  std::int64_t token_stride = 0;  ///< elements from one token to the next
  std::int64_t head_stride = 0;   ///< elements from one head to the next
};

/// The same with the storage type chosen at run time.
struct AnyRows {
  const void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t n_tokens = 0;
  std::int64_t token_stride = 0;
  std::int64_t head_stride = 0;

  AnyRows() = default;
  template <class T>
  AnyRows(const Rows<T>& r) noexcept  // NOLINT(google-explicit-constructor): a view of a view
      : data(r.data),
        dtype(dtype_of<T>),
        n_tokens(r.n_tokens),
        token_stride(r.token_stride),
        head_stride(r.head_stride) {}

  /// First value of one row.
  const void* row(std::int64_t token, std::int64_t head) const noexcept {
    const std::int64_t element = token * token_stride + head * head_stride;
    return static_cast<const char*>(data) + element * static_cast<std::int64_t>(dtype_bytes(dtype));
  }
};

/// Dense rows [n_tokens, n_kv_heads, head_dim].
template <class T>
constexpr Rows<T> dense_rows(const T* data, std::int64_t n_tokens, std::int64_t n_kv_heads,
                             std::int64_t head_dim) noexcept {
  return {data, n_tokens, n_kv_heads * head_dim, head_dim};
}

}  // namespace kvcodec
