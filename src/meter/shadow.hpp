// The uncompressed rows of watched streams, and attention over one of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kvcodec/attend/attend.hpp"

namespace kvcodec {

/// n_streams times `capacity` rows of K and V of one KV head, as the model made them.
class Shadow {
 public:
  Shadow(const HeadShape& shape, DType dtype, std::int32_t n_streams, std::int64_t capacity);

  std::int64_t capacity() const noexcept { return capacity_; }
  std::int64_t row_bytes() const noexcept { return 2 * side_bytes_; }
  /// Rounds the rows of one KV head to rows first .. of a stream, as caches do: NaN to 0, what the
  /// storage type cannot hold to its largest value.
  void store(std::int32_t stream, std::int64_t first, const AnyRows& k, const AnyRows& v,
             std::int64_t token, std::int64_t n_tokens, std::int32_t kv_head) noexcept;

  /// Attention of one query token over the first n_rows rows of a stream, which have positions 0 ..;
  /// mask [n_rows] query heads that see a row, or null. q, out [gqa_group, head_dim].
  Status attend(std::int32_t stream, std::int64_t n_rows, const KeepMask* mask, const float* q,
                std::int32_t pos, const AttendOptions& options, float* out) noexcept;

 private:
  std::byte* at(Side side, std::int32_t stream, std::int64_t row) noexcept {
    const std::int64_t half = side == Side::key ? 0 : capacity_ * side_bytes_;
    return memory_.get() + 2 * capacity_ * side_bytes_ * stream + half + row * side_bytes_;
  }

  HeadShape shape_;  ///< of one stream: one KV head
  DType dtype_;
  std::int64_t capacity_;
  std::int64_t side_bytes_;  ///< of one row of one side
  std::unique_ptr<std::byte[]> memory_;
  KvView view_;
  AttendWorkspace workspace_;
  std::span<std::byte> bytes_;
};

}  // namespace kvcodec
