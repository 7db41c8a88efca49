// Working memory that a caller gives, and the division that sizes it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcodec/core/config.hpp"

namespace kvcodec::cuda {

KVCODEC_HD constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) noexcept {
  return (a + b - 1) / b;
}

/// Parts of one piece of working memory, each on 256 bytes; the first pass, without memory, counts.
class Workspace {
 public:
  explicit Workspace(void* base = nullptr) noexcept : base_(static_cast<std::byte*>(base)) {}

  /// n values of T; null in the pass that counts.
  template <class T>
  T* take(std::int64_t n) noexcept {
    const std::size_t at = bytes_;
    bytes_ += (static_cast<std::size_t>(n) * sizeof(T) + 255) / 256 * 256;
    return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + at);
  }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  std::byte* base_;
  std::size_t bytes_ = 0;
};

}  // namespace kvcodec::cuda
