#include "src/cache/raw_store.hpp"

#include <algorithm>
#include <cstring>

#include "kvcodec/core/arith.hpp"
#include "src/cpu/kernels.hpp"

namespace kvcodec {
namespace {

template <class T>
bool load_clamped(const void* from, std::int64_t n, float limit, float* to) noexcept {
  bool clamped = false;
  for (std::int64_t i = 0; i < n; ++i) {
    const float x = to_f32(static_cast<const T*>(from)[i]);
    to[i] = clamp_finite(x, limit);
    clamped |= !(abs_of(x) <= limit);
  }
  return clamped;
}

/// `x` [n_heads, capacity, width] with another capacity and the first n_rows rows of each head.
template <class T>
std::vector<T> resized(const std::vector<T>& x, std::int64_t n_heads, std::size_t width,
                       std::int64_t old_capacity, std::int64_t capacity, std::int64_t n_rows) {
  std::vector<T> y(static_cast<std::size_t>(n_heads * capacity) * width);
  for (std::int64_t head = 0; head < n_heads; ++head) {
    std::copy_n(x.begin() + head * old_capacity * static_cast<std::int64_t>(width),
                n_rows * static_cast<std::int64_t>(width),
                y.begin() + head * capacity * static_cast<std::int64_t>(width));
  }
  return y;
}

}  // namespace

bool load_clamped(DType type, const void* from, std::int64_t n, float limit, float* to) noexcept {
  const cpu::LoadClamped kernel = cpu::kernels().load_clamped[static_cast<int>(type)];
  if (kernel != nullptr) return kernel(from, n, limit, to);
  switch (type) {
    case DType::f16: return load_clamped<f16>(from, n, limit, to);
    case DType::bf16: return load_clamped<bf16>(from, n, limit, to);
    default: return load_clamped<float>(from, n, limit, to);
  }
}

bool store_clamped(DType type, const float* from, std::int64_t n, void* to) noexcept {
  const cpu::StoreClamped kernel = cpu::kernels().store_clamped[static_cast<int>(type)];
  if (kernel != nullptr) return kernel(from, n, to);
  const float limit = dtype_max(type);
  bool clamped = false;
  for (std::int64_t i = 0; i < n; ++i) {
    clamped |= !(abs_of(from[i]) <= limit);
    store_value(type, to, i, clamp_finite(from[i], limit));
  }
  return clamped;
}

RawStore::RawStore(const LayerInfo& layer, std::int64_t capacity)
    : n_heads_(layer.shape.n_kv_heads),
      capacity_(capacity),
      k_bytes_(static_cast<std::size_t>(layer.shape.head_dim) * dtype_bytes(layer.k_dtype)),
      v_bytes_(static_cast<std::size_t>(layer.shape.head_dim) * dtype_bytes(layer.v_dtype)) {
  const auto n_rows = static_cast<std::size_t>(n_heads_ * capacity_);
  k_.resize(n_rows * k_bytes_);
  v_.resize(n_rows * v_bytes_);
}

void RawStore::drop_front(std::int64_t head, std::int64_t n, std::int64_t n_rows) noexcept {
  const auto kept = static_cast<std::size_t>(n_rows - n);
  std::memmove(at(Side::key, head, 0), at(Side::key, head, n), kept * k_bytes_);
  std::memmove(at(Side::value, head, 0), at(Side::value, head, n), kept * v_bytes_);
}

void RawStore::copy_row(std::int64_t head, std::int64_t to, const RawStore& from,
                        std::int64_t from_row) noexcept {
  std::memcpy(at(Side::key, head, to), from.at(Side::key, head, from_row), k_bytes_);
  std::memcpy(at(Side::value, head, to), from.at(Side::value, head, from_row), v_bytes_);
}

void RawStore::resize(std::int64_t capacity, std::int64_t n_rows) {
  if (capacity == capacity_) return;
  auto k = resized(k_, n_heads_, k_bytes_, capacity_, capacity, n_rows);
  auto v = resized(v_, n_heads_, v_bytes_, capacity_, capacity, n_rows);
  k_ = std::move(k);
  v_ = std::move(v);
  capacity_ = capacity;
}

StagedRows::StagedRows(const LayerInfo& layer, std::int64_t capacity) : rows_(layer, capacity) {
  const auto n_heads = static_cast<std::size_t>(layer.shape.n_kv_heads);
  pos_.resize(n_heads * static_cast<std::size_t>(capacity));
  mask_.resize(pos_.size());
  n_.resize(n_heads);
}

bool StagedRows::empty() const noexcept {
  return std::all_of(n_.begin(), n_.end(), [](std::int64_t n) { return n == 0; });
}

std::int64_t StagedRows::bytes() const noexcept {
  return rows_.bytes() +
         static_cast<std::int64_t>(pos_.size() * sizeof(pos_[0]) + mask_.size() * sizeof(mask_[0]));
}

void StagedRows::push(std::int64_t head, const RawStore& from, std::int64_t row, std::int32_t pos,
                      KeepMask mask) noexcept {
  std::int64_t& n = n_[static_cast<std::size_t>(head)];
  rows_.copy_row(head, n, from, row);
  const auto at = static_cast<std::size_t>(head * rows_.capacity() + n);
  pos_[at] = pos;
  mask_[at] = mask;
  ++n;
}

void StagedRows::drop_front(std::int64_t head, std::int64_t n) noexcept {
  std::int64_t& count = n_[static_cast<std::size_t>(head)];
  rows_.drop_front(head, n, count);
  const std::int64_t at = head * rows_.capacity();
  std::copy_n(pos_.begin() + at + n, count - n, pos_.begin() + at);
  std::copy_n(mask_.begin() + at + n, count - n, mask_.begin() + at);
  count -= n;
}

void StagedRows::resize(std::int64_t capacity) {
  if (capacity == rows_.capacity()) return;
  const std::int64_t most = n_.empty() ? 0 : *std::max_element(n_.begin(), n_.end());
  const auto n_heads = static_cast<std::int64_t>(n_.size());
  auto pos = resized(pos_, n_heads, 1, rows_.capacity(), capacity, most);
  auto mask = resized(mask_, n_heads, 1, rows_.capacity(), capacity, most);
  rows_.resize(capacity, most);
  pos_ = std::move(pos);
  mask_ = std::move(mask);
}

}  // namespace kvcodec
