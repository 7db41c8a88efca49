// Raw rows of all heads of one layer and sequence, in their storage type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "src/cache/layer_info.hpp"

namespace kvcodec {

/// [n_kv_heads, capacity, head_dim] per side. Who uses it counts the rows.
class RawStore {
 public:
  RawStore() = default;
  RawStore(const LayerInfo& layer, std::int64_t capacity);

  std::byte* at(Side side, std::int64_t head, std::int64_t row) noexcept {
    const std::size_t row_bytes = side == Side::key ? k_bytes_ : v_bytes_;
    return (side == Side::key ? k_ : v_).data() +
           static_cast<std::size_t>(head * capacity_ + row) * row_bytes;
  }
  const std::byte* at(Side side, std::int64_t head, std::int64_t row) const noexcept {
    return const_cast<RawStore*>(this)->at(side, head, row);
  }
  std::int64_t capacity() const noexcept { return capacity_; }
  std::int64_t bytes() const noexcept { return static_cast<std::int64_t>(k_.size() + v_.size()); }

  /// Drops the first n of n_rows rows of one head.
  void drop_front(std::int64_t head, std::int64_t n, std::int64_t n_rows) noexcept;
  /// Copies one row of one head, both sides, from another store of the same layer.
  void copy_row(std::int64_t head, std::int64_t to, const RawStore& from,
                std::int64_t from_row) noexcept;
  /// Changes the capacity and keeps the first n_rows rows. Throws std::bad_alloc; then nothing
  /// has changed.
  void resize(std::int64_t capacity, std::int64_t n_rows);

 private:
  std::int64_t n_heads_ = 0;
  std::int64_t capacity_ = 0;
  std::size_t k_bytes_ = 0;  ///< of one row
  std::size_t v_bytes_ = 0;
  std::vector<std::byte> k_;
  std::vector<std::byte> v_;
};

/// Loads n values, a multiple of 16, as f32 with NaN and what exceeds `limit` replaced; true if anything
/// was.
bool load_clamped(DType type, const void* from, std::int64_t n, float limit, float* to) noexcept;

/// Rounds n values, a multiple of 16, to their storage type, limited to what that holds; true if anything
/// was limited.
bool store_clamped(DType type, const float* from, std::int64_t n, void* to) noexcept;

/// Rows that a policy kept and that wait until a tile of their head is full: as RawStore, with
/// positions and masks, and a count per head.
class StagedRows {
 public:
  StagedRows() = default;
  StagedRows(const LayerInfo& layer, std::int64_t capacity);

  std::int64_t n(std::int64_t head) const noexcept { return n_[static_cast<std::size_t>(head)]; }
  const RawStore& rows() const noexcept { return rows_; }
  const std::int32_t* pos(std::int64_t head) const noexcept {
    return pos_.data() + head * rows_.capacity();
  }
  const KeepMask* mask(std::int64_t head) const noexcept {
    return mask_.data() + head * rows_.capacity();
  }
  bool empty() const noexcept;
  std::int64_t bytes() const noexcept;

  void push(std::int64_t head, const RawStore& from, std::int64_t row, std::int32_t pos,
            KeepMask mask) noexcept;
  void drop_front(std::int64_t head, std::int64_t n) noexcept;
  /// As RawStore::resize.
  void resize(std::int64_t capacity);

 private:
  RawStore rows_;
  std::vector<std::int32_t> pos_;  ///< [n_kv_heads, capacity]
  std::vector<KeepMask> mask_;
  std::vector<std::int64_t> n_;  ///< [n_kv_heads]
};

}  // namespace kvcodec
