// Memory with canaries before and after, so that a write outside is seen in every build.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvcodec::test {

/// n values of T at an address that is a multiple of 64, with 64 canary bytes on both sides.
template <class T = std::byte>
class Guarded {
 public:
  /// `fill` is what the values hold at the start.
  explicit Guarded(std::size_t n, std::byte fill = std::byte{0xee})
      : n_(n), memory_(n * sizeof(T) + 3 * 64, kCanary) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    begin_ = 64 + (64 - address % 64) % 64;
    for (std::size_t i = 0; i < n * sizeof(T); ++i) memory_[begin_ + i] = fill;
  }

  T* data() noexcept { return reinterpret_cast<T*>(memory_.data() + begin_); }
  std::size_t size() const noexcept { return n_; }
  std::span<T> span() noexcept { return {data(), n_}; }
  std::vector<T> copy() { return {data(), data() + n_}; }

  /// Whether nothing outside was written.
  bool intact() const noexcept {
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      const bool inside = i >= begin_ && i < begin_ + n_ * sizeof(T);
      if (!inside && memory_[i] != kCanary) return false;
    }
    return true;
  }

 private:
  static constexpr std::byte kCanary{0xa5};

  std::size_t n_;
  std::size_t begin_ = 0;
  std::vector<std::byte> memory_;
};

}  // namespace kvcodec::test
